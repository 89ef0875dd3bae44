use crate::harness::{ok, over_socket, problem, start, start_with};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn an_agent_from_create_to_delete() {
    let server = start().await;
    let body = json!({ "image": "python:3.11", "name": "first", "id": "my-alias", "env": { "SECRET": "s3cr3t" },
        "labels": { "team": "a" } });
    let (status, agent) = ok(server.post("/v1/agents?wait=running", body)).await;
    assert_eq!((status, agent["status"].as_str()), (StatusCode::CREATED, Some("running")), "{agent}");
    assert_eq!((agent["isolation"].as_str(), agent["env_names"][0].as_str()), (Some("vm-emulated"), Some("SECRET")));
    assert!(!agent.to_string().contains("s3cr3t"));
    let id = agent["id"].as_str().expect("id");
    assert_eq!(server.node.env_of(id).expect("env")["SECRET"], "s3cr3t");
    for name in [id, "first", "my-alias"] {
        let (status, found) = ok(server.get(&format!("/v1/agents/{name}"))).await;
        assert_eq!((status, found["id"].as_str()), (StatusCode::OK, Some(id)));
    }
    let (_, shown) = ok(server.get("/v1/agents/first?show=env")).await;
    assert_eq!(shown["env"]["SECRET"], "s3cr3t");
    let (status, listed) = over_socket(&server.socket, "/v1/agents?label=team%3Da&status=running,creating").await;
    assert_eq!((status.as_u16(), listed["total"].as_u64()), (200, Some(1)));
    let (_, none) = ok(server.get("/v1/agents?label=team%3Db")).await;
    assert_eq!(none["total"], 0);
    let stopped = ok(server.request(Method::POST, "/v1/agents/first/stop?wait=stopped")).await;
    assert_eq!((stopped.0, stopped.1["status"].as_str()), (StatusCode::OK, Some("stopped")), "{}", stopped.1);
    let started = ok(server.request(Method::POST, "/v1/agents/first/start?wait=running")).await;
    assert_eq!((started.0, started.1["status"].as_str()), (StatusCode::OK, Some("running")), "{}", started.1);
    let (status, _) = ok(server.request(Method::DELETE, "/v1/agents/first?grace=2s")).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    problem(server.get(&format!("/v1/agents/{id}")), 404, "NOT_FOUND").await;
    problem(server.request(Method::DELETE, "/v1/agents/first"), 404, "NOT_FOUND").await;
}

#[tokio::test]
async fn pages_by_cursor_and_by_number() {
    let server = start().await;
    for n in 0..5 {
        ok(server.post("/v1/agents", json!({ "image": "never", "name": format!("a{n}") }))).await;
    }
    let mut names = Vec::new();
    let mut path = "/v1/agents?per_page=2".to_owned();
    loop {
        let (_, page) = ok(server.get(&path)).await;
        assert_eq!(page["total"], 5);
        names.extend(
            page["data"].as_array().expect("data").iter().map(|a| a["name"].as_str().expect("name").to_owned()),
        );
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/agents?per_page=2&cursor={cursor}");
    }
    assert_eq!(names, ["a4", "a3", "a2", "a1", "a0"]);
    let (_, third) = ok(server.get("/v1/agents?per_page=2&page=3")).await;
    assert_eq!(third["data"][0]["name"], "a0");
    for bad in ["cursor=zzz", "per_page=101", "page=0", "status=zombie", "label=x", "nonsense=1"] {
        problem(server.get(&format!("/v1/agents?{bad}")), 400, "VALIDATION_ERROR").await;
    }
}

#[tokio::test]
async fn bad_creates_are_explained() {
    let server = start().await;
    let bad = json!({ "image": "UPPER", "name": "-", "resources": { "memory_mb": 1, "cpu_count": 65 }, "ttl": "soon" });
    let body = problem(server.post("/v1/agents", bad), 400, "VALIDATION_ERROR").await;
    let fields: Vec<_> = body["errors"].as_array().expect("errors").iter().map(|e| e["field"].as_str()).collect();
    for field in ["image", "name", "resources.memory_mb", "resources.cpu_count", "ttl"] {
        assert!(fields.contains(&Some(field)), "{field} in {fields:?}");
    }
    problem(server.post("/v1/agents", json!({ "image": "a", "imgae": "b" })), 400, "VALIDATION_ERROR").await;
    problem(server.request(Method::POST, "/v1/agents").body("{}"), 415, "UNSUPPORTED_MEDIA_TYPE").await;
    let cut = server.request(Method::POST, "/v1/agents").header("content-type", "application/json").body("{");
    problem(cut, 400, "BAD_REQUEST").await;
    let large = json!({ "image": "a", "workdir": "x".repeat(1 << 20) });
    problem(server.post("/v1/agents", large), 413, "PAYLOAD_TOO_LARGE").await;
    problem(server.post("/v1/agents", json!({ "image": "a", "tenant_id": "other" })), 403, "FORBIDDEN").await;
    let huge = json!({ "image": "a", "resources": { "memory_mb": 131_072 } });
    problem(server.post("/v1/agents?wait=running", huge.clone()), 503, "CAPACITY_UNAVAILABLE").await;
    let (status, agent) = ok(server.post("/v1/agents", huge)).await;
    assert_eq!(status, StatusCode::CREATED, "without wait it is accepted, and explained");
    let path = format!("/v1/agents/{}", agent["id"].as_str().expect("id"));
    server
        .until(|s| {
            let path = path.clone();
            async move { ok(s.get(&path)).await.1["placement_reason"].as_str().is_some_and(|r| r.contains("memory")) }
        })
        .await;
}

#[tokio::test]
async fn names_and_idempotency_keys() {
    let server = start().await;
    let body = json!({ "image": "never", "name": "once" });
    let keyed =
        |key: &str, body: &serde_json::Value| server.post("/v1/agents", body.clone()).header("idempotency-key", key);
    let (_, first) = ok(keyed("k1", &body)).await;
    let (status, again) = ok(keyed("k1", &body)).await;
    assert_eq!((status, &again["id"]), (StatusCode::CREATED, &first["id"]));
    problem(keyed("k1", &json!({ "image": "never", "name": "twice" })), 422, "IDEMPOTENCY_MISMATCH").await;
    problem(keyed("k2", &body), 409, "CONFLICT").await;
    problem(keyed("", &body), 400, "VALIDATION_ERROR").await;
    let (_, made_up) = ok(server.post("/v1/agents", json!({ "image": "never" }))).await;
    assert!(made_up["name"].as_str().is_some_and(|n| n.contains('-')));
    ok(server.request(Method::DELETE, "/v1/agents/once")).await;
    let (status, _) = ok(keyed("k3", &body)).await;
    assert_eq!(status, StatusCode::CREATED, "the name is free as soon as the delete is decided");
}

#[tokio::test]
async fn waits_end() {
    let server = start_with(|cfg| cfg.deadlines.wait = Duration::from_millis(300)).await;
    let (status, agent) = ok(server.post("/v1/agents?wait=running", json!({ "image": "never" }))).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{agent}");
    let (status, agent) = ok(server.post("/v1/agents?wait=true", json!({ "image": "broken" }))).await;
    assert_eq!(status, StatusCode::CREATED, "{agent}");
    assert_eq!((agent["status"].as_str(), agent["error"]["code"].as_str()), (Some("failed"), Some("BOOT_FAILED")));
    assert_eq!(agent["error"]["message"], "no boot", "control characters are gone");
    problem(server.post("/v1/agents?wait=stopped", json!({ "image": "a" })), 400, "VALIDATION_ERROR").await;
}

#[tokio::test]
async fn health_and_stats() {
    let server = start().await;
    let id = server.agent("well").await;
    let (_, health) = ok(server.get(&format!("/v1/agents/{id}/health"))).await;
    assert_eq!(health["healthy"], true);
    let (_, stats) = ok(server.get(&format!("/v1/agents/{id}/stats"))).await;
    assert_eq!(stats["processes"], 3);
    ok(server.post("/v1/agents", json!({ "image": "never", "name": "slow" }))).await;
    let (status, health) = ok(server.get("/v1/agents/slow/health")).await;
    assert_eq!((status, &health["healthy"]), (StatusCode::OK, &json!(false)));
    let conflict = problem(server.get("/v1/agents/slow/stats"), 409, "CONFLICT").await;
    assert!(conflict["remedy"].as_str().is_some_and(|r| r.contains("Wait")));
    let (_, nodes) = over_socket(&server.socket, "/v1/scheduler/nodes").await;
    assert_eq!((nodes[0]["status"].as_str(), nodes[0]["engine"].as_str()), (Some("ready"), Some("qemu")));
}

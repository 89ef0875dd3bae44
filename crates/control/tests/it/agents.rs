use crate::harness::{ok, over_socket, problem, start, start_with};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
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
async fn a_wish_with_a_key_is_one_wish() {
    let server = start().await;
    let id = server.agent("wished").await;
    let keyed = |method: Method, path: &str, key: &str| {
        server.request(method, &format!("/v1/agents/{path}")).header("idempotency-key", key.to_owned())
    };
    let stop = || keyed(Method::POST, "wished/stop?wait=stopped", "s");
    let start = || keyed(Method::POST, "wished/start?wait=running", "t");
    assert_eq!(ok(stop()).await.1["status"], "stopped");
    assert_eq!(ok(start()).await.1["status"], "running");
    let (status, again) = ok(keyed(Method::POST, "wished/stop", "s")).await;
    assert_eq!((status, again["desired"].as_str()), (StatusCode::OK, Some("running")), "a late repeat stops nothing");
    problem(stop().json(&json!({ "timeout": 3 })), 422, "IDEMPOTENCY_MISMATCH").await;
    problem(keyed(Method::POST, "wished/start", "s"), 422, "IDEMPOTENCY_MISMATCH").await;
    problem(keyed(Method::POST, &format!("{id}/stop"), "s"), 422, "IDEMPOTENCY_MISMATCH").await;
    ok(server.request(Method::POST, "/v1/agents/wished/stop?wait=stopped")).await;
    assert_eq!(ok(start()).await.1["desired"], "stopped", "nor does one start anything");
    let delete = || keyed(Method::DELETE, "wished", "d");
    assert_eq!(ok(delete()).await.0, StatusCode::NO_CONTENT);
    assert_eq!(ok(delete()).await.0, StatusCode::NO_CONTENT, "a repeat is told the same");
    server.agent("wished").await;
    assert_eq!(ok(delete()).await.0, StatusCode::NO_CONTENT);
    let (_, newer) = ok(server.get("/v1/agents/wished")).await;
    assert_eq!(newer["status"], "running", "the newer one of that name lives");
    let (status, first) = ok(stop()).await;
    assert_eq!((status, &first["id"], &first["desired"]), (StatusCode::OK, &json!(id), &json!("gone")));
    problem(keyed(Method::DELETE, "absent", "x"), 404, "NOT_FOUND").await;
    let twice = stop().header("idempotency-key", "other");
    problem(twice, 400, "VALIDATION_ERROR").await;
    // A refused wish leaves its key free.
    problem(keyed(Method::POST, "absent/stop", "free"), 404, "NOT_FOUND").await;
    assert_eq!(ok(keyed(Method::POST, "wished/stop", "free")).await.0, StatusCode::OK);
    let stranger = server.key("acme", aether_core::Role::Admin, None).await;
    let foreign = server.as_key(&stranger, Method::POST, "/v1/agents/wished/stop").header("idempotency-key", "s");
    problem(foreign, 404, "NOT_FOUND").await;
}

#[tokio::test]
async fn waits_end() {
    let server = start_with(|cfg| cfg.deadlines.wait = Duration::from_millis(300)).await;
    let (status, agent) = ok(server.post("/v1/agents?wait=running", json!({ "image": "never" }))).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{agent}");
    // With the usual patience: a busy machine may need more than that for what ends by itself.
    let server = start().await;
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
    assert_eq!((&health["healthy"], &health["probe"]), (&json!(true), &json!("healthy")));
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

#[tokio::test]
async fn an_agent_whose_guest_lies_says_so() {
    let server = start().await;
    ok(server.post("/v1/agents?wait=running", json!({ "image": "liar", "name": "liar" }))).await;
    let unwell = |s: Value| s["unhealthy"] == true && s["unhealthy_reason"] == "it lies";
    server.until(|s| async move { unwell(ok(s.get("/v1/agents/liar")).await.1) }).await;
    let (_, listed) = ok(server.get("/v1/agents")).await;
    assert!(unwell(listed["data"][0].clone()), "{listed}");
    let (_, events) = ok(server.get("/v1/events")).await;
    let told = |e: &Value| e["kind"] == "agent.updated" && e["data"]["unhealthy_reason"] == "it lies";
    assert!(events["data"].as_array().is_some_and(|all| all.iter().any(told)), "{events}");
    ok(server.post("/v1/agents/liar/stop", json!({}))).await;
    let stopped = |s: &Value| s["status"] == "stopped" && s["unhealthy"] == false && s["unhealthy_reason"].is_null();
    server.until(|s| async move { stopped(&ok(s.get("/v1/agents/liar")).await.1) }).await;
}

/// More than a pass looks at wait for room that there is not.
#[tokio::test]
async fn a_long_queue_holds_up_nobody_who_fits_and_moves_when_room_comes() {
    let server = start().await;
    let large = |name: String| json!({ "image": "img", "name": name, "resources": { "memory_mb": 8000 } });
    ok(server.post("/v1/agents?wait=running", large("first".into()))).await;
    for part in 0..11 {
        let agents: Vec<_> = (0..100).map(|n| large(format!("queued-{part}-{n}"))).collect();
        ok(server.post("/v1/agents/bulk/create", json!({ "agents": agents }))).await;
    }
    let small = json!({ "image": "img", "name": "small", "resources": { "memory_mb": 128 } });
    let (status, agent) = ok(server.post("/v1/agents?wait=running", small)).await;
    assert_eq!((status, agent["status"].as_str()), (StatusCode::CREATED, Some("running")), "{agent}");
    let (_, last) = ok(server.get("/v1/agents/queued-10-99")).await;
    assert!(last["placement_reason"].as_str().is_some_and(|r| !r.is_empty()), "each is told why: {last}");
    ok(server.request(Method::DELETE, "/v1/agents/first")).await;
    // Before the look at everybody that comes each half minute in any case.
    let moved = server.until(|s| async move {
        let (_, list) = ok(s.get("/v1/agents?status=running")).await;
        let names: Vec<_> = list["data"].as_array().expect("a list").iter().map(|a| a["name"].as_str()).collect();
        // One place, one agent; of those of the first moment, which stand in no order.
        list["total"] == 2 && names.iter().flatten().any(|name| name.starts_with("queued-0-"))
    });
    tokio::time::timeout(Duration::from_secs(20), moved).await.expect("room is seen when it comes");
}

#[tokio::test]
async fn a_patch_says_what_waits_and_minds_the_version() {
    let server = start().await;
    let id = server.agent("one").await;
    let path = "/v1/agents/one";
    let patch = |body: serde_json::Value| server.request(Method::PATCH, path).json(&body);
    let read = server.get(path).send().await.expect("answered");
    let tag = read.headers()["etag"].to_str().expect("text").to_owned();
    let response = patch(json!({ "labels": { "a": "b" }, "env": { "KEY": "s3cr3t" } })).header("if-match", &tag);
    let response = response.send().await.expect("answered");
    assert_eq!(response.status(), StatusCode::OK);
    let next = response.headers()["etag"].to_str().expect("text").to_owned();
    let body: serde_json::Value = response.json().await.expect("JSON");
    assert_eq!((&body["changed"], &body["pending_restart"]), (&json!(["labels", "env"]), &json!(["env"])));
    assert!(next != tag && !body.to_string().contains("s3cr3t"), "{body}");
    let refused =
        problem(patch(json!({ "labels": { "a": "c" } })).header("if-match", &tag), 412, "PRECONDITION_FAILED");
    assert!(refused.await["remedy"].as_str().is_some_and(|r| r.contains("ETag")));
    problem(patch(json!({})).header("if-match", "yesterday"), 400, "VALIDATION_ERROR").await;
    let wrong = problem(patch(json!({ "resources": { "disk_mb": 20_480, "cpu_count": 65 } })), 400, "VALIDATION_ERROR");
    let fields: Vec<_> = wrong.await["errors"].as_array().expect("errors").iter().map(|e| e["field"].clone()).collect();
    assert_eq!(fields, ["resources.cpu_count", "resources.disk_mb"]);
    problem(patch(json!({ "image": "other" })), 400, "VALIDATION_ERROR").await;
    ok(server.post("/v1/agents", json!({ "image": "never", "name": "two" }))).await;
    problem(patch(json!({ "name": "two" })), 409, "CONFLICT").await;
    let (status, renamed) = ok(patch(json!({ "name": "three", "ttl": "1h" }))).await;
    assert_eq!((status, renamed["id"].as_str()), (StatusCode::OK, Some(id.as_str())), "{renamed}");
    assert!(renamed["expires_at"].is_string(), "{renamed}");
    problem(patch(json!({ "name": "one" })), 404, "NOT_FOUND").await;
    let stranger = server.key("acme", aether_core::Role::Admin, None).await;
    problem(server.as_key(&stranger, Method::PATCH, &format!("/v1/agents/{id}")).json(&json!({})), 404, "NOT_FOUND")
        .await;
    let viewer = server.key("default", aether_core::Role::Viewer, None).await;
    problem(server.as_key(&viewer, Method::PATCH, "/v1/agents/three").json(&json!({})), 403, "FORBIDDEN").await;
    // The next start has the new env.
    ok(server.request(Method::POST, "/v1/agents/three/stop?wait=stopped")).await;
    let (_, started) = ok(server.request(Method::POST, "/v1/agents/three/start?wait=running")).await;
    assert_eq!((&started["status"], started.get("pending_restart")), (&json!("running"), None), "{started}");
    assert_eq!(server.node.env_of(&id).expect("env")["KEY"], "s3cr3t");
}

#[tokio::test]
async fn lists_are_filtered() {
    let server = start().await;
    for (name, image) in [("web-1", "never"), ("web-2", "docker.io/library/python:3.11"), ("db", "python:3.11")] {
        let (status, _) = ok(server.post("/v1/agents", json!({ "image": image, "name": name }))).await;
        assert_eq!(status, StatusCode::CREATED);
    }
    for (query, names) in [
        ("image=python:3.11", vec!["db", "web-2"]),
        ("image=library/python:3.11", vec!["db", "web-2"]),
        ("image=never&image=python:3.11", vec!["db", "web-2", "web-1"]),
        ("image=never:latest", vec!["web-1"]),
        ("image=python", vec![]),
        ("name_prefix=web", vec!["web-2", "web-1"]),
        ("created_after=1h", vec!["db", "web-2", "web-1"]),
        ("created_before=1h", vec![]),
        ("created_before=2100-01-01T00:00:00Z&name_prefix=d", vec!["db"]),
        ("state=gone", vec![]),
    ] {
        let (_, page) = ok(server.get(&format!("/v1/agents?{query}"))).await;
        let found: Vec<_> = page["data"].as_array().expect("data").iter().map(|a| a["name"].as_str()).collect();
        assert_eq!(found, names.into_iter().map(Some).collect::<Vec<_>>(), "{query}");
    }
    for bad in ["image=!!", "created_after=yesterday", "state=zombie", "name_prefix=a&name_prefix=b"] {
        problem(server.get(&format!("/v1/agents?{bad}")), 400, "VALIDATION_ERROR").await;
    }
    let long = "a".repeat(65);
    problem(server.get(&format!("/v1/agents?name_prefix={long}")), 400, "VALIDATION_ERROR").await;
}

#[tokio::test]
async fn many_at_once_each_with_its_result() {
    let server = start().await;
    let agents = json!([
        { "image": "never", "name": "a" }, { "image": "UPPER" }, { "image": "never", "name": "a" },
        { "imgae": "never" }, { "image": "never", "tenant_id": "other" }, { "image": "never", "name": "b" },
    ]);
    let keyed = |body: &serde_json::Value| {
        server.post("/v1/agents/bulk/create", body.clone()).header("idempotency-key", "bulk-1")
    };
    let body = json!({ "agents": agents });
    let (status, made) = ok(keyed(&body)).await;
    assert_eq!(status, StatusCode::MULTI_STATUS);
    let results = made["results"].as_array().expect("results").clone();
    let statuses: Vec<_> = results.iter().map(|r| r["status"].as_u64().expect("status")).collect();
    assert_eq!(statuses, [201, 400, 409, 400, 403, 201], "{made}");
    for (index, result) in results.iter().enumerate() {
        assert_eq!(result["index"], index);
        assert_eq!(result["agent"].is_object(), result["status"] == 201, "{result}");
        assert_eq!(result["problem"]["code"].is_string(), result["status"] != 201, "{result}");
    }
    let (_, again) = ok(keyed(&body)).await;
    let ids = |answer: &serde_json::Value| -> Vec<serde_json::Value> {
        answer["results"].as_array().expect("results").iter().map(|r| r["agent"]["id"].clone()).collect()
    };
    assert_eq!(ids(&again), ids(&made), "a repeat answers with the first agents");
    assert_eq!(ok(server.get("/v1/agents")).await.1["total"], 2);
    problem(keyed(&json!({ "agents": [{ "image": "never" }] })), 422, "IDEMPOTENCY_MISMATCH").await;
    // The key that a single create used is not one of a bulk.
    let single = server.post("/v1/agents", json!({ "image": "never" })).header("idempotency-key", "bulk-1");
    problem(single, 422, "IDEMPOTENCY_MISMATCH").await;
    let many: Vec<_> = (0..101).map(|_| json!({ "image": "never" })).collect();
    for bad in [json!({ "agents": [] }), json!({ "agents": many }), json!({}), json!({ "agents": 1 })] {
        problem(server.post("/v1/agents/bulk/create", bad), 400, "VALIDATION_ERROR").await;
    }
}

#[tokio::test]
async fn a_repeated_bulk_delete_does_not_touch_what_came_after() {
    let server = start().await;
    for name in ["a", "b"] {
        ok(server.post("/v1/agents", json!({ "image": "never", "name": name }))).await;
    }
    let keyed = |body: &serde_json::Value| {
        server.post("/v1/agents/bulk/delete", body.clone()).header("idempotency-key", "bulk-2")
    };
    let body = json!({ "ids": ["a", "absent", "b", "a"], "grace": "2s" });
    let statuses = |answer: &serde_json::Value| -> Vec<u64> {
        answer["results"].as_array().expect("results").iter().map(|r| r["status"].as_u64().expect("status")).collect()
    };
    let (status, first) = ok(keyed(&body)).await;
    assert_eq!((status, statuses(&first)), (StatusCode::MULTI_STATUS, vec![204, 404, 204, 204]), "{first}");
    ok(server.post("/v1/agents", json!({ "image": "never", "name": "a" }))).await;
    assert_eq!(statuses(&ok(keyed(&body)).await.1), [204, 404, 204, 204]);
    assert_eq!(ok(server.get("/v1/agents/a")).await.0, StatusCode::OK, "the new one lives");
    problem(keyed(&json!({ "ids": ["b"] })), 422, "IDEMPOTENCY_MISMATCH").await;
    let stranger = server.key("acme", aether_core::Role::Admin, None).await;
    let foreign = server.as_key(&stranger, Method::POST, "/v1/agents/bulk/delete").json(&json!({ "ids": ["a"] }));
    assert_eq!(statuses(&ok(foreign).await.1), [404]);
    for bad in [json!({ "ids": [] }), json!({ "ids": ["a"], "grace": "1h" }), json!({ "ids": ["a"], "x": 1 })] {
        problem(server.post("/v1/agents/bulk/delete", bad), 400, "VALIDATION_ERROR").await;
    }
}

//! Budgets of keys and labels, and the quotas that the store does not count,
//! over HTTP.

use crate::harness::{Server, ok, problem, start};
use aether_core::Role;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

async fn key(server: &Server, body: Value) -> (String, String) {
    let (status, made) = ok(server.post("/v1/auth/keys", body)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    (made["id"].as_str().expect("id").to_owned(), made["key"].as_str().expect("key").to_owned())
}

fn create(server: &Server, key: &str, labels: Value) -> RequestBuilder {
    let body = json!({ "image": "never", "labels": labels, "resources": { "memory_mb": 256, "disk_mb": 1024 } });
    server.as_key(key, Method::POST, "/v1/agents").json(&body)
}

fn detail(problem: &Value) -> &str {
    problem["detail"].as_str().expect("a detail")
}

#[tokio::test]
async fn a_refusal_says_which_budget() {
    let server = start().await;
    let body = json!({ "name": "small", "role": "admin", "budget": { "max_agents": 1, "max_memory_mb": 1024 } });
    let (id, small) = key(&server, body).await;
    assert_eq!(ok(create(&server, &small, json!({}))).await.0, StatusCode::CREATED);
    let refused = problem(create(&server, &small, json!({})), 429, "QUOTA_EXCEEDED").await;
    let expected =
        format!("budget of the key {id} does not allow it: 1 of 1 agents are in use and this asks for 1 more");
    assert!(detail(&refused).contains(&expected), "{refused}");
    let (_, shown) = ok(server.get(&format!("/v1/auth/keys/{id}"))).await;
    assert_eq!(shown["budget"], json!({ "max_agents": 1, "max_memory_mb": 1024 }));
    assert_eq!((shown["usage"]["agents"].as_u64(), shown["usage"]["memory_mb"].as_u64()), (Some(1), Some(256)));
    // It would give itself another one.
    assert!(!shown["permissions"].to_string().contains("key:manage"), "{shown}");
    for (method, path) in [(Method::POST, "/v1/auth/keys".to_owned()), (Method::PATCH, format!("/v1/auth/keys/{id}"))] {
        problem(server.as_key(&small, method, &path).json(&json!({})), 403, "FORBIDDEN").await;
    }
    let patch = |budget: Value| {
        server.request(Method::PATCH, &format!("/v1/auth/keys/{id}")).json(&json!({ "budget": budget }))
    };
    assert_eq!(ok(patch(json!({ "max_agents": 2 }))).await.1["budget"], json!({ "max_agents": 2 }));
    assert_eq!(ok(create(&server, &small, json!({}))).await.0, StatusCode::CREATED);
    problem(create(&server, &small, json!({})), 429, "QUOTA_EXCEEDED").await;
    assert!(ok(patch(Value::Null)).await.1.get("budget").is_none());
    assert_eq!(ok(create(&server, &small, json!({}))).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn labels_have_budgets() {
    let server = start().await;
    let put =
        |label: &str, body: Value| server.request(Method::PUT, &format!("/v1/quotas/me/labels/{label}")).json(&body);
    assert_eq!(ok(create(&server, &server.admin, json!({ "team": "a" }))).await.0, StatusCode::CREATED);
    let (status, set) = ok(put("team=a", json!({ "max_agents": 2 }))).await;
    assert_eq!(
        (status, set["label"].as_str(), set["usage"]["agents"].as_u64()),
        (StatusCode::OK, Some("team=a"), Some(1))
    );
    ok(put("odd%2Fkey=v%20w", json!({ "max_disk_mb": 512 }))).await;
    let large = create(&server, &server.admin, json!({ "odd/key": "v w" }));
    assert!(detail(&problem(large, 403, "QUOTA_EXCEEDED").await).contains("label odd/key=v w"), "can never fit");
    assert_eq!(ok(create(&server, &server.admin, json!({ "team": "a" }))).await.0, StatusCode::CREATED);
    let refused = problem(create(&server, &server.admin, json!({ "team": "a" })), 429, "QUOTA_EXCEEDED").await;
    assert!(detail(&refused).contains("budget of the label team=a"), "{refused}");
    let (_, listed) = ok(server.get("/v1/quotas/me/labels")).await;
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    let path = "/v1/quotas/me/labels/team=a";
    assert_eq!(ok(server.request(Method::DELETE, path)).await.0, StatusCode::NO_CONTENT);
    problem(server.request(Method::DELETE, path), 404, "NOT_FOUND").await;
    assert_eq!(ok(create(&server, &server.admin, json!({ "team": "a" }))).await.0, StatusCode::CREATED);
    for (label, body) in [("team", json!({ "max_agents": 1 })), ("team=a", json!({})), ("team=a", json!({ "max": 1 }))]
    {
        problem(put(label, body), 400, "VALIDATION_ERROR").await;
    }
    let developer = server.key("default", Role::Developer, None).await;
    let by_developer = server.as_key(&developer, Method::PUT, path).json(&json!({ "max_agents": 9 }));
    problem(by_developer, 403, "FORBIDDEN").await;
    let (_, audit) = ok(server.get("/v1/audit?resource=budget")).await;
    assert_eq!(audit["total"], 3, "{audit}");
}

#[tokio::test]
async fn images_and_execs_are_counted() {
    let mut server = start().await;
    server.admin = server.key("default", Role::PlatformAdmin, None).await;
    let acme = server.key("acme", Role::Admin, None).await;
    let limits = json!({ "max_images": 1, "max_exec_sessions": 1, "max_requests_per_minute": null });
    let (status, quota) = ok(server.request(Method::PUT, "/v1/quotas/acme").json(&limits)).await;
    assert_eq!(
        (status, quota["max_images"].as_u64(), quota["max_exec_sessions"].as_u64()),
        (StatusCode::OK, Some(1), Some(1))
    );
    let pull = |name: &str| server.as_key(&acme, Method::POST, "/v1/images").json(&json!({ "reference": name }));
    let first = pull("team/app:1").send().await.expect("answered");
    assert_eq!(first.status(), StatusCode::OK);
    first.bytes().await.expect("body");
    let refused = problem(pull("team/app:2"), 429, "QUOTA_EXCEEDED").await;
    assert!(detail(&refused).contains("1 of 1 images"), "{refused}");
    let archive = server.as_key(&acme, Method::POST, "/v1/images?name=b:1").header("content-type", "application/x-tar");
    problem(archive.body("x"), 429, "QUOTA_EXCEEDED").await;
    let removed = server.as_key(&acme, Method::DELETE, "/v1/images/team/app:1");
    assert_eq!(ok(removed).await.0, StatusCode::NO_CONTENT);
    assert_eq!(pull("team/app:2").send().await.expect("answered").status(), StatusCode::OK, "there is room again");

    let body = json!({ "image": "python:3.11", "name": "a", "resources": { "memory_mb": 256, "disk_mb": 1024 } });
    ok(server.as_key(&acme, Method::POST, "/v1/agents?wait=running").json(&body)).await;
    let exec = |command: &[&str]| {
        let body = json!({ "command": command, "timeout": 60 });
        server.as_key(&acme, Method::POST, "/v1/agents/a/exec").json(&body)
    };
    let long = tokio::spawn(exec(&["sleep"]).send());
    server.until(|s| async move { s.node.all_runs() > 0 }).await;
    let refused = problem(exec(&["echo", "a"]), 429, "QUOTA_EXCEEDED").await;
    assert!(detail(&refused).contains("1 of 1 exec sessions"), "{refused}");
    let scope = aether_core::TenantScope::system("acme".parse().expect("a tenant"), "test");
    let agent = server.store.find_agent(&scope, "a").await.expect("looks").expect("is there").id.clone();
    let running = &server.store.list_execs(&scope, &agent, 1).await.expect("lists")[0];
    let signal = server.as_key(&acme, Method::POST, &format!("/v1/agents/a/execs/{}/signal", running.exec_id));
    assert_eq!(ok(signal.json(&json!({ "signal": "KILL" }))).await.0, StatusCode::NO_CONTENT);
    assert_eq!(long.await.expect("ends").expect("answered").status(), StatusCode::OK);
    assert_eq!(ok(exec(&["echo", "a"])).await.0, StatusCode::OK, "its place is free");
}

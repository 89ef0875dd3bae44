use crate::harness::{Server, ok, over_socket, problem, start, start_with};
use aether_core::{Permission, Role};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;

struct Operation {
    method: Method,
    path: String,
    needs: Option<Permission>,
}

/// Every operation of the document, with what it needs.
fn operations() -> Vec<Operation> {
    let document = serde_json::to_value(aether_control::openapi()).expect("JSON");
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("item") {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            let text = operation["description"].as_str().unwrap_or_default();
            let needs =
                text.split("Needs `").nth(1).and_then(|t| t.split('`').next()).map(|t| t.parse().expect("known"));
            found.push(Operation { method, path: path.clone(), needs });
        }
    }
    assert!(found.len() > 30);
    found
}

fn filled(path: &str, id: &str) -> String {
    path.replace("{id}", id)
        .replace("{exec_id}", "exec0aaaaaaaaaaaaaaaa")
        .replace("{name}", "absent")
        .replace("{port}", "80")
}

fn call(server: &Server, key: Option<&str>, operation: &Operation, id: &str) -> reqwest::RequestBuilder {
    let query = if operation.path.ends_with("/files") { "?path=/a" } else { "" };
    let url = format!("{}{}{query}", server.url, filled(&operation.path, id));
    let request = server.client.request(operation.method.clone(), url);
    let request = match operation.method {
        Method::POST if operation.path.ends_with("/exec") => request.json(&json!({ "command": ["echo", "a"] })),
        Method::POST if operation.path.ends_with("/signal") => request.json(&json!({ "signal": "9" })),
        Method::POST if operation.path == "/v1/agents" => request.json(&json!({ "image": "never" })),
        Method::PUT if operation.path.starts_with("/v1/images") => request.json(&json!({ "source": "absent" })),
        Method::PATCH => request.json(&json!({ "name": "taken-over" })),
        Method::POST if operation.path == "/v1/images" => request.json(&json!({ "reference": "absent" })),
        _ => request,
    };
    match key {
        Some(key) => request.bearer_auth(key),
        None => request,
    }
}

#[tokio::test]
async fn nothing_but_the_open_routes_without_a_key() {
    let server = start().await;
    let open = ["/health", "/v1/health", "/readiness", "/metrics", "/v1/version", "/openapi.json", "/v1/openapi.json"];
    // Their credential is in the body, and there is none.
    let logins = ["/v1/auth/token", "/v1/auth/login", "/v1/auth/refresh"];
    for operation in operations() {
        let status = call(&server, None, &operation, "a").send().await.expect("answered").status();
        let (expected, needs_none) = match operation.path.as_str() {
            path if open.contains(&path) || path == "/.well-known/jwks.json" => (StatusCode::OK, true),
            path if logins.contains(&path) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, true),
            "/v1/auth/logout" => (StatusCode::UNAUTHORIZED, true),
            _ => (StatusCode::UNAUTHORIZED, false),
        };
        assert_eq!(status, expected, "{} {}", operation.method, operation.path);
        assert_eq!(operation.needs.is_none(), needs_none);
    }
}

#[tokio::test]
async fn every_role_may_what_it_may_and_no_more() {
    let server = start().await;
    for role in [Role::PlatformAdmin, Role::Operator, Role::Admin, Role::Developer, Role::Viewer, Role::Auditor] {
        let key = server.key("matrix", role, None).await;
        for operation in operations() {
            let Some(needs) = operation.needs else { continue };
            let status = call(&server, Some(&key), &operation, "absent").send().await.expect("answered").status();
            let allowed = role.permissions().contains(needs);
            assert_eq!(
                status != StatusCode::FORBIDDEN,
                allowed,
                "{role:?} {} {}: {status}",
                operation.method,
                operation.path
            );
            assert_ne!(status, StatusCode::UNAUTHORIZED);
        }
    }
    let narrow = BTreeSet::from([Permission::AgentCreate]);
    let key = server.key("matrix", Role::Admin, Some(narrow)).await;
    let (status, agent) = ok(server.as_key(&key, Method::POST, "/v1/agents").json(&json!({ "image": "never" }))).await;
    assert_eq!(status, StatusCode::CREATED);
    let path = format!("/v1/agents/{}", agent["id"].as_str().expect("id"));
    problem(server.as_key(&key, Method::DELETE, &path), 403, "FORBIDDEN").await;
    problem(server.as_key(&key, Method::POST, &format!("{path}/exec")), 403, "FORBIDDEN").await;
}

#[tokio::test]
async fn another_tenants_agent_is_like_none() {
    let server = start().await;
    let id = server.agent("mine").await;
    let foreign = server.key("foreign", Role::PlatformAdmin, None).await;
    let normal = |mut v: Value| {
        v["request_id"] = Value::Null;
        v
    };
    let mut seen = 0;
    for operation in operations().into_iter().filter(|o| o.path.starts_with("/v1/agents/{id}")) {
        let mut answers = Vec::new();
        for id in [id.as_str(), "mine", "agtc0aaaaaaaaaaaaaaaa"] {
            let response = call(&server, Some(&foreign), &operation, id).send().await.expect("answered");
            let status = response.status();
            let names: BTreeSet<_> = response.headers().keys().map(|k| k.as_str().to_owned()).collect();
            let body = response.bytes().await.expect("body");
            let body = serde_json::from_slice(&body).map(normal).unwrap_or(Value::Null);
            answers.push((status, names, body));
        }
        assert_eq!(answers[0].0, StatusCode::NOT_FOUND, "{} {}: {}", operation.method, operation.path, answers[0].2);
        assert_eq!(answers[0], answers[2], "{} {}", operation.method, operation.path);
        assert_eq!(answers[1], answers[2], "{} {}", operation.method, operation.path);
        seen += 1;
    }
    assert!(seen > 12);
    let (_, mine) = ok(server.get("/v1/agents/mine")).await;
    assert_eq!(mine["status"], "running", "nothing touched it");
    assert_eq!(ok(server.as_key(&foreign, Method::GET, "/v1/agents")).await.1["total"], 0);
    let header = server.as_key(&foreign, Method::GET, "/v1/agents/mine").header("x-tenant-id", "default");
    problem(header, 404, "NOT_FOUND").await;
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked() {
    let server = start().await;
    let body = json!({ "name": "ci", "role": "developer", "scopes": ["agent:read", "agent:create"] });
    let (status, made) = ok(server.post("/v1/auth/keys", body)).await;
    assert_eq!(status, StatusCode::CREATED);
    let (id, key) = (made["id"].as_str().expect("id"), made["key"].as_str().expect("key"));
    for spelling in [key, made["e2b_key"].as_str().expect("key")] {
        assert_eq!(ok(server.as_key(spelling, Method::GET, "/v1/agents")).await.0, StatusCode::OK);
    }
    let header = server.client.get(format!("{}/v1/agents", server.url)).header("x-api-key", key);
    assert_eq!(ok(header).await.0, StatusCode::OK);
    let (_, listed) = ok(server.get("/v1/auth/keys")).await;
    assert!(listed["total"].as_u64() == Some(2) && !listed.to_string().contains(key));
    assert_eq!(ok(server.request(Method::DELETE, &format!("/v1/auth/keys/{id}"))).await.0, StatusCode::NO_CONTENT);
    let revoked = problem(server.as_key(key, Method::GET, "/v1/agents"), 401, "UNAUTHORIZED").await;
    let unknown = problem(server.as_key("aether_sk_x", Method::GET, "/v1/agents"), 401, "UNAUTHORIZED").await;
    assert_eq!(revoked["detail"], unknown["detail"]);
    let more = json!({ "name": "x", "role": "platform_admin" });
    problem(server.post("/v1/auth/keys", more), 403, "FORBIDDEN").await;
    for bad in [
        json!({ "name": "" }),
        json!({ "name": "x", "role": "king" }),
        json!({ "name": "x", "scopes": ["all"] }),
        json!({ "name": "x", "expires_at": "2001-01-01T00:00:00Z" }),
        json!({ "name": "x", "tenant_id": "other" }),
    ] {
        problem(server.post("/v1/auth/keys", bad), 400, "VALIDATION_ERROR").await;
    }
    for absent in ["keyc0aaaaaaaaaaaaaaaa", "nonsense"] {
        problem(server.request(Method::DELETE, &format!("/v1/auth/keys/{absent}")), 404, "NOT_FOUND").await;
    }
    let soon =
        aether_core::Clock::now(&aether_core::source::SystemClock::default()).plus(std::time::Duration::from_secs(1));
    let (_, short) = ok(server.post("/v1/auth/keys", json!({ "name": "short", "expires_at": soon }))).await;
    let short = short["key"].as_str().expect("key").to_owned();
    server
        .until(|s| {
            let short = short.clone();
            async move { ok(s.as_key(&short, Method::GET, "/v1/agents")).await.0 == StatusCode::UNAUTHORIZED }
        })
        .await;
}

#[tokio::test]
async fn the_socket_needs_no_key_and_no_auth_is_for_loopback() {
    let server = start_with(|cfg| cfg.enable_auth = false).await;
    assert_eq!(over_socket(&server.socket, "/v1/agents").await.0.as_u16(), 200);
    let open = server.client.get(format!("{}/v1/agents", server.url));
    assert_eq!(ok(open).await.0, StatusCode::OK);
    problem(server.as_key("wrong", Method::GET, "/v1/agents"), 401, "UNAUTHORIZED").await;
}

#[tokio::test]
async fn metrics_may_need_a_key() {
    let server = start_with(|cfg| cfg.metrics_auth = true).await;
    let bare = server.client.get(format!("{}/metrics", server.url));
    problem(bare, 401, "UNAUTHORIZED").await;
    let text = server.get("/metrics").send().await.expect("answered").text().await.expect("text");
    assert!(text.contains("aether_api_requests_total"), "{text}");
    assert!(!text.contains(&server.admin));
}

#[tokio::test]
async fn metrics_count_the_agents_of_all_tenants() {
    let server = start_with(|cfg| cfg.metrics_auth = true).await;
    let acme = "acme".parse().expect("a tenant");
    server.tenant(&acme).await;
    server.agent("one").await;
    let scope = aether_core::TenantScope::system(acme, "test");
    let mut spec = aether_core::spec::AgentSpec::for_image("a");
    // No node has room for it: it stays pending.
    spec.resources.memory_mb = 131_072;
    let new = aether_store::NewAgent {
        id: aether_core::AgentId::generate("c0", &aether_core::source::OsRng),
        name: "two".parse().expect("a name"),
        alias: None,
        spec,
        env: std::collections::BTreeMap::new(),
        idempotency: None,
    };
    server.store.create_agent(&scope, new).await.expect("creates");
    // Another test of this process may scrape its own server in between.
    server
        .until(|s| async move {
            let text = s.get("/metrics").send().await.expect("answered").text().await.expect("text");
            ["running", "pending"]
                .iter()
                .all(|state| text.contains(&format!("aether_agents_total{{status=\"{state}\"}} 1\n")))
        })
        .await;
}

//! Operators make tenants and act for them; a tenant sees itself alone.

use crate::harness::{Server, ok, problem, start};
use aether_core::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// A server whose requests are an operator's.
pub(crate) async fn operated() -> Server {
    let mut server = start().await;
    server.admin = server.key("default", Role::PlatformAdmin, None).await;
    server
}

/// A tenant made over HTTP, and a key of its admin made by the operator.
async fn tenant(server: &Server, id: &str, tier: &str) -> String {
    let (status, made) = ok(server.post("/v1/tenants", json!({ "id": id, "tier": tier }))).await;
    assert_eq!((status, made["tier"].as_str()), (StatusCode::CREATED, Some(tier)), "{made}");
    // How fast is another test.
    let unhurried = json!({ "max_requests_per_minute": null });
    ok(server.request(Method::PUT, &format!("/v1/quotas/{id}")).json(&unhurried)).await;
    let key = server.post("/v1/auth/keys", json!({ "name": "first", "role": "admin" })).header("aether-tenant", id);
    let (status, key) = ok(key).await;
    assert_eq!(status, StatusCode::CREATED, "{key}");
    key["key"].as_str().expect("key").to_owned()
}

fn agent(name: &str) -> Value {
    json!({ "image": "python:3.11", "name": name, "resources": { "memory_mb": 128 } })
}

#[tokio::test]
async fn a_tenant_sees_itself_alone() {
    let server = operated().await;
    let acme = tenant(&server, "acme", "free").await;
    let other = tenant(&server, "other", "pro").await;
    let (_, me) = ok(server.as_key(&acme, Method::GET, "/v1/tenants/me")).await;
    assert_eq!((me["id"].as_str(), me["quota"]["max_agents"].as_u64()), (Some("acme"), Some(5)), "{me}");
    // Its agents are its own, the operator's are elsewhere, the names do not meet.
    for key in [&acme, &other] {
        let (status, made) = ok(server.as_key(key, Method::POST, "/v1/agents").json(&agent("same"))).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
    }
    assert_eq!(ok(server.get("/v1/agents")).await.1["total"], 0);
    let there = server.get("/v1/agents/same").header("aether-tenant", "acme");
    assert_eq!(ok(there).await.0, StatusCode::OK, "the operator acts for a tenant by naming it");
    let (_, quota) = ok(server.as_key(&acme, Method::GET, "/v1/quotas/me/usage")).await;
    assert_eq!((quota["tenant_id"].as_str(), quota["usage"]["memory_mb"].as_u64()), (Some("acme"), Some(128)));

    // Another's, and one that is not there, are alike; its own limits are not its to set.
    for id in ["other", "nobody", "default", "NOT-AN-ID"] {
        for path in [format!("/v1/quotas/{id}"), format!("/v1/quotas/{id}/usage")] {
            problem(server.as_key(&acme, Method::GET, &path), 404, "NOT_FOUND").await;
        }
        problem(server.as_key(&acme, Method::GET, &format!("/v1/tenants/{id}")), 403, "FORBIDDEN").await;
    }
    for id in ["acme", "other", "nobody"] {
        let raise = server.as_key(&acme, Method::PUT, &format!("/v1/quotas/{id}")).json(&json!({ "max_agents": 99 }));
        problem(raise, 403, "FORBIDDEN").await;
        let named = server.as_key(&acme, Method::GET, "/v1/agents").header("aether-tenant", id);
        if id == "acme" {
            assert_eq!(ok(named).await.0, StatusCode::OK, "its own name changes nothing");
        } else {
            problem(named, 403, "FORBIDDEN").await;
        }
    }
    let strange = server.as_key(&acme, Method::GET, "/v1/agents").header("x-tenant-id", "other");
    assert_eq!(ok(strange).await.1["total"], 1, "a header that is not ours changes nothing");
    problem(server.get("/v1/agents").header("aether-tenant", "nobody"), 404, "NOT_FOUND").await;
    problem(server.get("/v1/agents").header("aether-tenant", "A B"), 400, "VALIDATION_ERROR").await;

    let renamed = server.as_key(&acme, Method::PATCH, "/v1/tenants/me").json(&json!({ "name": "Acme GmbH" }));
    assert_eq!(ok(renamed).await.1["name"], "Acme GmbH");
    for field in ["tier", "status", "quota", "id"] {
        let widened = server.as_key(&acme, Method::PATCH, "/v1/tenants/me").json(&json!({ field: "enterprise" }));
        problem(widened, 400, "VALIDATION_ERROR").await;
    }
}

#[tokio::test]
async fn keys_of_the_platform_are_made_in_default_alone() {
    let server = operated().await;
    let acme = tenant(&server, "acme", "free").await;
    for role in ["platform_admin", "operator"] {
        let body = json!({ "name": "k", "role": role });
        let made = server.post("/v1/auth/keys", body.clone()).header("aether-tenant", "acme");
        problem(made, 400, "VALIDATION_ERROR").await;
        problem(server.as_key(&acme, Method::POST, "/v1/auth/keys").json(&body), 400, "VALIDATION_ERROR").await;
    }
    // An admin of `default` is no operator.
    let admin = server.key("default", Role::Admin, None).await;
    problem(server.as_key(&admin, Method::GET, "/v1/tenants"), 403, "FORBIDDEN").await;
    problem(server.as_key(&admin, Method::GET, "/v1/agents").header("aether-tenant", "acme"), 403, "FORBIDDEN").await;
}

#[tokio::test]
async fn a_quota_error_says_what_is_used_asked_and_allowed() {
    let server = operated().await;
    let acme = tenant(&server, "acme", "free").await;
    let create = |body: Value| server.as_key(&acme, Method::POST, "/v1/agents").json(&body);
    let set = |mut limits: Value| {
        limits["max_requests_per_minute"] = Value::Null;
        server.request(Method::PUT, "/v1/quotas/acme").json(&limits)
    };
    let (status, quota) = ok(set(json!({ "max_agents": 2, "max_disk_mb": null }))).await;
    assert_eq!((status, quota["max_agents"].as_u64()), (StatusCode::OK, Some(2)));
    assert!(quota["max_disk_mb"].is_null(), "{quota}");
    for name in ["a", "b"] {
        assert_eq!(ok(create(agent(name))).await.0, StatusCode::CREATED);
    }
    let full = problem(create(agent("c")), 429, "QUOTA_EXCEEDED").await;
    let detail = full["detail"].as_str().expect("detail");
    assert!(detail.contains("2 of 2 agents are in use and this asks for 1 more"), "{detail}");
    assert_eq!((full["retryable"].as_bool(), full["retry_after"].as_u64()), (Some(true), Some(10)));
    let mut large = agent("c");
    large["resources"]["memory_mb"] = json!(8193);
    ok(set(json!({}))).await;
    let never = problem(create(large), 403, "QUOTA_EXCEEDED").await;
    assert_eq!(never["retryable"], false);
    // In bulk each item has its own.
    let items: Vec<Value> = (0..5).map(|n| agent(&format!("bulk-{n}"))).collect();
    let bulk = server.as_key(&acme, Method::POST, "/v1/agents/bulk/create").json(&json!({ "agents": items }));
    let (_, results) = ok(bulk).await;
    let results = results["results"].as_array().expect("results").clone();
    let made = results.iter().filter(|r| r["status"] == 201).count();
    assert_eq!((made, results.len()), (3, 5), "{results:?}");
    // Deleted ones give it back when their node says so.
    for name in ["a", "b"] {
        let gone = ok(server.as_key(&acme, Method::DELETE, &format!("/v1/agents/{name}"))).await;
        assert_eq!(gone.0, StatusCode::NO_CONTENT, "{}", gone.1);
    }
    server
        .until(|s| async {
            let (_, usage) = ok(s.get("/v1/quotas/acme/usage")).await;
            usage["usage"]["agents"] == 3
        })
        .await;
    for bad in [json!({ "max_agents": -1 }), json!({ "max_agents": "5" }), json!({ "tenant_id": "other" })] {
        let put = server.request(Method::PUT, "/v1/quotas/acme").json(&bad);
        problem(put, 400, "VALIDATION_ERROR").await;
    }
    problem(server.request(Method::PUT, "/v1/quotas/nobody").json(&json!({})), 404, "NOT_FOUND").await;
}

#[tokio::test]
async fn a_suspended_tenant_is_refused_until_it_is_resumed() {
    let server = operated().await;
    let acme = tenant(&server, "acme", "pro").await;
    let path = "/v1/agents";
    assert_eq!(ok(server.as_key(&acme, Method::POST, path).json(&agent("a"))).await.0, StatusCode::CREATED);
    let (status, row) = ok(server.request(Method::POST, "/v1/tenants/acme/suspend")).await;
    assert_eq!((status, row["status"].as_str()), (StatusCode::OK, Some("suspended")));
    for method in [Method::GET, Method::POST] {
        let refused = problem(server.as_key(&acme, method, path).json(&agent("b")), 403, "FORBIDDEN").await;
        assert_eq!(refused["detail"], "The tenant is suspended.");
    }
    // The operator may look, and may not work for it either.
    let look = server.get("/v1/agents/a").header("aether-tenant", "acme");
    assert_eq!(ok(look).await.0, StatusCode::OK);
    let work = server.post(path, agent("b")).header("aether-tenant", "acme");
    problem(work, 403, "FORBIDDEN").await;
    assert_eq!(ok(server.request(Method::POST, "/v1/tenants/acme/resume")).await.1["status"], "active");
    assert_eq!(ok(server.as_key(&acme, Method::POST, path).json(&agent("b"))).await.0, StatusCode::CREATED);
    problem(server.request(Method::POST, "/v1/tenants/default/suspend"), 409, "CONFLICT").await;
    problem(server.request(Method::POST, "/v1/tenants/nobody/suspend"), 404, "NOT_FOUND").await;
}

#[tokio::test]
async fn a_deleted_tenant_is_drained_and_erased() {
    let server = operated().await;
    let acme = tenant(&server, "acme", "pro").await;
    let made = server.as_key(&acme, Method::POST, "/v1/agents?wait=running").json(&agent("a"));
    assert_eq!(ok(made).await.1["status"], "running");
    let (status, report) = ok(server.request(Method::DELETE, "/v1/tenants/acme")).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(report, json!({ "id": "acme", "status": "deleting", "agents_left": 1, "keys_revoked": 1 }));
    problem(server.as_key(&acme, Method::GET, "/v1/agents"), 401, "UNAUTHORIZED").await;
    server.until(|s| async { ok(s.get("/v1/tenants/acme")).await.0 == StatusCode::NOT_FOUND }).await;
    problem(server.request(Method::DELETE, "/v1/tenants/acme"), 404, "NOT_FOUND").await;
    problem(server.request(Method::DELETE, "/v1/tenants/default"), 409, "CONFLICT").await;
    // Its records stay readable to operators, and its id is nobody else's.
    let records = server.get("/v1/audit?action=create&resource=agent").header("aether-tenant", "acme");
    assert_eq!(ok(records).await.1["data"][0]["details"]["name"], "a");
    problem(server.post("/v1/tenants", json!({ "id": "acme" })), 409, "CONFLICT").await;
    let work = server.post("/v1/agents", agent("b")).header("aether-tenant", "acme");
    problem(work, 403, "FORBIDDEN").await;
    assert_eq!(ok(server.get("/v1/tenants")).await.1["total"], 1);
}

#[tokio::test]
async fn tenants_come_in_pages() {
    let server = operated().await;
    for id in ["a", "b", "c"] {
        tenant(&server, id, "free").await;
    }
    let mut ids = Vec::new();
    let mut path = "/v1/tenants?per_page=3".to_owned();
    loop {
        let (_, page) = ok(server.get(&path)).await;
        assert_eq!(page["total"], 4);
        ids.extend(page["data"].as_array().expect("rows").iter().map(|t| t["id"].clone()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/tenants?per_page=3&cursor={next}");
    }
    assert_eq!(json!(ids), json!(["a", "b", "c", "default"]));
    assert_eq!(ok(server.get("/v1/quotas")).await.1["data"][0]["max_agents"], 5);
    problem(server.get("/v1/tenants?per_page=101&cursor=%20"), 400, "VALIDATION_ERROR").await;
    problem(server.post("/v1/tenants", json!({ "id": "a" })), 409, "CONFLICT").await;
    for id in ["", "A", "-a", "me", &"x".repeat(51)] {
        let bad = problem(server.post("/v1/tenants", json!({ "id": id })), 400, "VALIDATION_ERROR").await;
        assert_eq!(bad["errors"][0]["field"], "id", "{bad}");
    }
}

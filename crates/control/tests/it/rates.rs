//! Who asks too fast is told so, and when to come back; nobody else notices.

use crate::harness::{Server, ok, problem, start};
use aether_core::Role;
use aether_core::tenant::Tier;
use aether_store::NewTenant;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// A key of an admin of a tenant of this tier.
async fn admin(server: &Server, tenant: &str, tier: Tier) -> String {
    let id = tenant.parse().expect("an id");
    let by = aether_core::TenantScope::system("default".parse().expect("an id"), "test");
    server.store.create_tenant(&by, NewTenant::new(&id, tier)).await.expect("a tenant");
    server.key(tenant, Role::Admin, None).await
}

fn number(headers: &HeaderMap, name: &str) -> u64 {
    let text = headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().expect("text");
    text.parse().expect("a number")
}

#[tokio::test]
async fn who_asks_too_fast_is_told_when_to_come_back() {
    let server = start().await;
    let key = admin(&server, "acme", Tier::Free).await;
    let calm = admin(&server, "calm", Tier::Free).await;
    let get = |key: &str| server.as_key(key, Method::GET, "/v1/agents");
    let mut passed = 0;
    let refused = loop {
        let answer = get(&key).send().await.expect("answered");
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            break answer;
        }
        passed += 1;
        assert_eq!(number(answer.headers(), "ratelimit-limit"), 10);
        assert!(passed <= 30, "never refused");
    };
    let at = Instant::now();
    assert!(passed >= 10, "refused after {passed}");
    assert_eq!(number(refused.headers(), "ratelimit-remaining"), 0);
    let wait = number(refused.headers(), "retry-after");
    assert!((1..=2).contains(&wait), "{wait}");
    problem(get(&key), 429, "RATE_LIMITED").await;
    // Nobody else notices: another tenant, and the operator of the platform.
    assert_eq!(ok(get(&calm)).await.0, StatusCode::OK);
    let operator = server.key("default", Role::PlatformAdmin, None).await;
    for _ in 0..30 {
        assert_eq!(ok(get(&operator)).await.0, StatusCode::OK);
    }
    tokio::time::sleep(Duration::from_secs(wait).saturating_sub(at.elapsed())).await;
    assert_eq!(ok(get(&key)).await.0, StatusCode::OK, "in time it is let through");
    let metrics = server.client.get(format!("{}/metrics", server.url)).send().await.expect("answered");
    let text = metrics.text().await.expect("text");
    assert!(text.contains("aether_rate_limited_total{class=\"other\",tenant_id=\"acme\"}"), "{text}");
}

#[tokio::test]
async fn each_item_of_a_bulk_request_counts() {
    let server = start().await;
    let key = admin(&server, "acme", Tier::Pro).await;
    let ids: Vec<String> = (0..100).map(|n| format!("nobody-{n}")).collect();
    let bulk = || server.as_key(&key, Method::POST, "/v1/agents/bulk/delete").json(&json!({ "ids": &ids }));
    assert_eq!(ok(bulk()).await.0, StatusCode::MULTI_STATUS);
    let after = server.as_key(&key, Method::GET, "/v1/agents").send().await.expect("answered");
    // A hundred at ten a second, of which two seconds' worth were there.
    assert_eq!(after.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait = number(after.headers(), "retry-after");
    assert!((5..=9).contains(&wait), "{wait}");
    problem(bulk(), 429, "RATE_LIMITED").await;
}

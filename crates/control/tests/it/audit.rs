//! The audit log over HTTP: lists, the chain, and exports that verify.

use crate::harness::{Server, ok, problem, start, start_with};
use aether_core::Role;
use aether_core::audit::{PublicKey, Report, Verifier};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

fn beside(server: &Server, name: &str) -> PathBuf {
    server.database.with_file_name(name)
}

fn verified(server: &Server, log: &str, anchored: bool) -> Report {
    let key = std::fs::read_to_string(beside(server, "audit-signing.pub")).expect("a public key");
    let key: PublicKey = key.trim().parse().expect("a key");
    let mut verifier = Verifier::new(Some(BTreeSet::from([key])));
    if anchored {
        let anchor = std::fs::read_to_string(beside(server, "audit-anchor.jsonl")).expect("anchors");
        (1..).zip(anchor.lines()).for_each(|(n, line)| verifier.anchor(n, line));
    }
    log.lines().for_each(|line| verifier.line(line));
    verifier.finish()
}

async fn export(server: &Server, key: &str, query: &str) -> String {
    let path = format!("/v1/audit/export{query}");
    let response = server.as_key(key, Method::GET, &path).send().await.expect("answered");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    response.text().await.expect("whole")
}

fn actions(page: &Value) -> Vec<&str> {
    page["data"].as_array().expect("data").iter().map(|r| r["action"].as_str().expect("action")).collect()
}

/// Until every record of the list is in the chain.
async fn linked(server: &Server, key: &str) -> Value {
    for _ in 0..600 {
        let (_, page) = ok(server.as_key(key, Method::GET, "/v1/audit?per_page=1000")).await;
        if page["data"].as_array().expect("data").iter().all(|r| r["position"].is_number()) {
            return page;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the records are not linked");
}

#[tokio::test]
async fn a_tenant_sees_its_own_records_newest_first() {
    let server = start().await;
    let id = server.agent("one").await;
    let stranger = server.key("acme", Role::Admin, None).await;
    let auditor = server.key("default", Role::Auditor, None).await;
    ok(server.request(Method::DELETE, &format!("/v1/agents/{id}"))).await;
    let (status, page) = ok(server.as_key(&auditor, Method::GET, &format!("/v1/audit?resource_id={id}"))).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    // Newest first; the node's end of it may be recorded after the wish.
    assert!(actions(&page).contains(&"delete"), "{page}");
    assert_eq!(actions(&page).last(), Some(&"create"));
    assert_eq!(page["total"].as_u64(), Some(actions(&page).len() as u64));
    let wish = |r: &&Value| r["action"] == "delete";
    let newest = page["data"].as_array().expect("data").iter().find(wish).expect("the wish");
    for field in ["id", "time", "tenant", "actor", "result", "address", "details"] {
        assert!(!newest[field].is_null(), "{field} in {newest}");
    }
    // By pages of one the same, each once.
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/audit?resource_id={id}&limit=1{cursor}");
        let (_, one) = ok(server.as_key(&auditor, Method::GET, &path)).await;
        all.extend(one["data"].as_array().expect("data").iter().map(|r| r["id"].clone()));
        let Some(next) = one["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let at_once: Vec<Value> = page["data"].as_array().expect("data").iter().map(|r| r["id"].clone()).collect();
    // The end of the agent may be recorded meanwhile.
    assert!(all.ends_with(&at_once), "{all:?} {at_once:?}");
    let (_, theirs) = ok(server.as_key(&stranger, Method::GET, "/v1/audit")).await;
    assert!(theirs["data"].as_array().expect("data").iter().all(|r| r["tenant"] == "acme"), "{theirs}");
    let (_, none) = ok(server.as_key(&stranger, Method::GET, &format!("/v1/audit?resource_id={id}"))).await;
    assert_eq!((none["data"].clone(), none["total"].clone()), (json!([]), json!(0)));
    let viewer = server.key("default", Role::Viewer, None).await;
    for path in ["/v1/audit", "/v1/audit/export"] {
        problem(server.as_key(&viewer, Method::GET, path), 403, "FORBIDDEN").await;
        problem(server.get(&format!("{path}?platform=true")), 403, "FORBIDDEN").await;
    }
    // The denials are records too.
    server
        .until(|s| async move {
            let (_, denied) = ok(s.get("/v1/audit?result=denied&action=audit:read")).await;
            denied["total"] == json!(2)
        })
        .await;
    for query in ["result=maybe", "since=noon", "cursor=x", "per_page=0", "after=-1", "after=1&cursor=1", "x=1"] {
        problem(server.get(&format!("/v1/audit?{query}")), 400, "VALIDATION_ERROR").await;
    }
    problem(server.get("/v1/audit/export?format=xml"), 400, "VALIDATION_ERROR").await;
}

#[tokio::test]
async fn records_are_linked_within_a_second_and_followed() {
    let server = start().await;
    let (_, from) = ok(server.get("/v1/audit?after=head")).await;
    let from = from["next_cursor"].as_str().expect("a place").to_owned();
    server.agent("one").await;
    let began = tokio::time::Instant::now();
    linked(&server, &server.admin).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let (_, page) = ok(server.get(&format!("/v1/audit?after={from}&action=create"))).await;
    assert!(actions(&page).contains(&"create"), "{page}");
    let end = page["next_cursor"].as_str().expect("a place").to_owned();
    let (_, rest) = ok(server.get(&format!("/v1/audit?after={end}&action=create"))).await;
    assert_eq!((rest["data"].clone(), rest["next_cursor"].as_str()), (json!([]), Some(end.as_str())));
}

#[tokio::test]
async fn exports_verify_and_show_what_was_changed_in_the_database() {
    let server = start_with(|cfg| cfg.audit.digest_interval = Duration::from_millis(200)).await;
    let stranger = server.key("acme", Role::Admin, None).await;
    for n in 0..4 {
        ok(server.post("/v1/agents", json!({ "image": "never", "name": format!("a{n}") }))).await;
    }
    linked(&server, &server.admin).await;
    let anchor = beside(&server, "audit-anchor.jsonl");
    let signed = |tenant: &str| {
        let text = std::fs::read_to_string(&anchor).unwrap_or_default();
        text.contains(&format!("\"tenant\":\"{tenant}\""))
    };
    server.until(|_| async { signed("default") && signed("acme") }).await;
    for (key, tenant) in [(&server.admin, "default"), (&stranger, "acme")] {
        let log = export(&server, key, "").await;
        let report = verified(&server, &log, true);
        assert!(report.is_clean(), "{:?}", report.findings);
        assert_eq!(report.tenant.as_deref(), Some(tenant));
        assert!(report.records > 0 && report.anchored_to.is_some(), "{report:?}");
        assert!(!log.contains(if tenant == "acme" { "\"default\"" } else { "\"acme\"" }), "{log}");
    }
    let events = export(&server, &server.admin, "?format=ocsf").await;
    let first: Value = serde_json::from_str(events.lines().next().expect("an event")).expect("JSON");
    assert_eq!(first["class_uid"], 6003);
    // What somebody changes past us is seen: a row; then the whole tail.
    let database = rusqlite::Connection::open(&server.database).expect("opens");
    let change = "UPDATE audit_logs SET actor = 'mallory' WHERE seq = (SELECT seq FROM audit_chain
        WHERE chain = 'default' AND position = 2)";
    assert_eq!(database.execute(change, []).expect("runs"), 1);
    let report = verified(&server, &export(&server, &server.admin, "").await, true);
    assert_eq!((report.findings.len(), report.findings[0].position), (1, Some(2)), "{:?}", report.findings);
    let cut = "DELETE FROM audit_logs WHERE tenant_id = 'acme'; DELETE FROM audit_chain WHERE chain = 'acme';
        DELETE FROM audit_digests WHERE chain = 'acme'; DELETE FROM audit_heads WHERE chain = 'acme';";
    database.execute_batch(cut).expect("runs");
    let log = export(&server, &stranger, "").await;
    assert!(!verified(&server, &log, true).is_clean(), "the anchor knows of the cut tail");
}

#[tokio::test]
async fn a_later_leader_goes_on_with_the_chain_and_the_anchors() {
    let server = start_with(|cfg| cfg.audit.digest_interval = Duration::from_millis(100)).await;
    server.agent("one").await;
    linked(&server, &server.admin).await;
    // Somebody else led for a moment, and signed nothing.
    server.store.take_leadership("passing-by").await.expect("leads");
    ok(server.post("/v1/agents", json!({ "image": "never", "name": "two" }))).await;
    linked(&server, &server.admin).await;
    let log = export(&server, &server.admin, "").await;
    let report = verified(&server, &log, true);
    assert!(report.is_clean(), "{:?}", report.findings);
}

#[tokio::test]
async fn retention_leaves_a_chain_that_verifies() {
    let server = start_with(|cfg| {
        cfg.audit.digest_interval = Duration::from_millis(100);
        cfg.audit.retention_days = 30;
    })
    .await;
    server.agent("one").await;
    // A month passes: for the rows, before they are linked, that is.
    let database = rusqlite::Connection::open(&server.database).expect("opens");
    database.busy_timeout(Duration::from_secs(10)).expect("waits");
    linked(&server, &server.admin).await;
    database.execute("UPDATE audit_logs SET at_ms = 1000 WHERE tenant_id = 'default'", []).expect("runs");
    let gone = |s: &Server| {
        let store = s.store.clone();
        async move {
            let scope = aether_core::TenantScope::system(aether_core::TenantId::default_tenant(), "test");
            store.audit_head(&aether_store::AuditOf::Tenant(scope)).await.expect("reads").floor > 0
        }
    };
    server.until(gone).await;
    ok(server.post("/v1/agents", json!({ "image": "never", "name": "after" }))).await;
    linked(&server, &server.admin).await;
    let log = export(&server, &server.admin, "").await;
    let report = verified(&server, &log, true);
    assert!(report.is_clean(), "{:?}", report.findings);
    assert!(report.first.is_some_and(|n| n > 1), "{report:?}");
}

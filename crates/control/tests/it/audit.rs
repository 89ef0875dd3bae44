//! The audit log over HTTP: lists, the chain, and exports that verify.

use crate::harness::{Server, ok, problem, start, start_with};
use aether_core::Role;
use aether_core::audit::{Fault, PublicKey, Report, Verifier};
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

const MONTH: Duration = Duration::from_secs(31 * 24 * 3600);

async fn kept_for_a_month() -> Server {
    start_with(|cfg| {
        cfg.audit.digest_interval = Duration::from_millis(100);
        cfg.audit.retention_days = 30;
    })
    .await
}

fn written(server: &Server) -> rusqlite::Connection {
    let database = rusqlite::Connection::open(&server.database).expect("opens");
    database.busy_timeout(Duration::from_secs(10)).expect("waits");
    database
}

async fn head(server: &Server) -> aether_store::AuditHead {
    server.store.audit_head_of_chain(Some("default")).await.expect("reads")
}

async fn anchored(server: &Server) {
    linked(server, &server.admin).await;
    server.until(|s| async move { head(s).await.digest_to == head(s).await.position }).await;
    let anchor = beside(server, "audit-anchor.jsonl");
    let signature = head(server).await.digest_signature.expect("signed").to_string();
    server.until(|_| async { std::fs::read_to_string(&anchor).is_ok_and(|text| text.contains(&signature)) }).await;
}

#[tokio::test]
async fn retention_leaves_a_chain_that_verifies() {
    let server = kept_for_a_month().await;
    server.agent("one").await;
    anchored(&server).await;
    server.clock.pass(MONTH);
    server.until(|s| async move { head(s).await.floor > 0 }).await;
    ok(server.post("/v1/agents", json!({ "image": "never", "name": "after" }))).await;
    linked(&server, &server.admin).await;
    let log = export(&server, &server.admin, "").await;
    let report = verified(&server, &log, true);
    assert!(report.is_clean(), "{:?}", report.findings);
    assert!(report.first.is_some_and(|n| n > 1), "{report:?}");
}

#[tokio::test]
async fn what_is_made_to_look_old_stays() {
    let server = kept_for_a_month().await;
    server.agent("one").await;
    anchored(&server).await;
    let database = written(&server);
    database.execute("UPDATE audit_logs SET at_ms = 1000", []).expect("runs");
    // A digest says when it was signed, and is not believed once it is another.
    let long_ago = "UPDATE audit_digests SET document = json_set(document, '$.time', '2001-01-01T00:00:00Z')";
    database.execute(long_ago, []).expect("runs");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(head(&server).await.floor, 0);
    // Nor after a month, when it would be old by its own time.
    server.clock.pass(MONTH);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(head(&server).await.floor, 0);
}

#[tokio::test]
async fn a_restored_backup_is_seen_and_the_anchors_go_on() {
    let server = start_with(|cfg| cfg.audit.digest_interval = Duration::from_millis(100)).await;
    server.agent("one").await;
    anchored(&server).await;
    let database = written(&server);
    let save = "CREATE TABLE saved AS SELECT * FROM audit_heads;
        CREATE TABLE saved_end AS SELECT (SELECT max(seq) FROM audit_logs) AS seq,
            (SELECT max(id) FROM audit_digests) AS digest, (SELECT seq FROM audit_linked) AS linked;";
    database.execute_batch(save).expect("saves");
    for n in 0..3 {
        ok(server.post("/v1/agents", json!({ "image": "never", "name": format!("lost{n}") }))).await;
        anchored(&server).await;
    }
    let before = head(&server).await;
    let restore = "BEGIN IMMEDIATE;
        DELETE FROM audit_logs WHERE seq > (SELECT seq FROM saved_end);
        DELETE FROM audit_chain WHERE seq > (SELECT linked FROM saved_end);
        DELETE FROM audit_digests WHERE id > (SELECT digest FROM saved_end);
        DELETE FROM audit_heads; INSERT INTO audit_heads SELECT * FROM saved;
        UPDATE audit_linked SET seq = (SELECT linked FROM saved_end); COMMIT;";
    database.execute_batch(restore).expect("restores");
    // As after a start.
    server.store.take_leadership("passing-by").await.expect("leads");
    server.until(|s| async move { head(s).await.digest_number > before.digest_number }).await;
    ok(server.post("/v1/agents", json!({ "image": "never", "name": "after" }))).await;
    anchored(&server).await;
    let log = export(&server, &server.admin, "").await;
    let report = verified(&server, &log, true);
    let told: Vec<_> = report.findings.iter().map(|f| &f.fault).collect();
    assert!(matches!(told[..], [Fault::Restored { .. }]), "{told:?}");
    assert_eq!(report.anchored_to, Some(head(&server).await.digest_to), "what came since is anchored");
}

//! The table of routes, the document and the router are one.

use super::routes::{self, Access, Deadline};
use std::collections::BTreeSet;
use std::path::Path;

fn checked_in() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json")
}

/// Renew it with `UPDATE_OPENAPI=1 cargo test -p aether-control openapi`.
#[test]
fn the_checked_in_openapi_document_is_current() {
    let text = super::openapi().to_pretty_json().expect("serialises") + "\n";
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(checked_in(), &text).expect("written");
    }
    let found = std::fs::read_to_string(checked_in()).unwrap_or_default();
    assert!(found == text, "docs/openapi.json is stale: UPDATE_OPENAPI=1 cargo test -p aether-control openapi");
}

#[test]
fn every_route_is_documented_once_and_says_who_may() {
    let document = serde_json::to_value(super::openapi()).expect("serialises");
    let mut routed = BTreeSet::new();
    for entry in routes::table() {
        let path = super::document::documented(&entry.path);
        let item = serde_json::to_value(entry.document.paths.values().next()).expect("serialises");
        let method = item.as_object().and_then(|o| o.keys().next()).cloned().expect("one method");
        let operation = &document["paths"][&path][&method];
        assert!(operation["operationId"].is_string(), "{method} {path}");
        let text = operation["description"].as_str().unwrap_or_default();
        match entry.rule.access {
            Access::Needs(permission) => assert!(text.contains(permission.as_str()), "{method} {path}"),
            Access::Caller => assert!(text.contains("any key or token"), "{method} {path}"),
            Access::Open | Access::Metrics => assert!(!text.contains("Needs `"), "{method} {path}"),
        }
        assert!(routed.insert((method, path)), "a route stands twice in the table");
    }
    let documented: usize = document["paths"]
        .as_object()
        .expect("paths")
        .values()
        .map(|item| item.as_object().map_or(0, serde_json::Map::len))
        .sum();
    assert_eq!(documented, routed.len());
}

#[test]
fn open_routes_are_the_known_ones() {
    let open: Vec<String> = routes::table()
        .into_iter()
        .filter(|e| !matches!(e.rule.access, Access::Needs(_) | Access::Caller))
        .inspect(|e| assert_eq!(e.rule.deadline, Deadline::Short))
        .map(|e| e.path)
        .collect();
    let known = ["/health", "/v1/health", "/readiness", "/metrics", "/v1/version", "/openapi.json", "/v1/openapi.json"];
    // Their credential is in the body.
    let logins = ["/.well-known/jwks.json", "/v1/auth/token", "/v1/auth/login", "/v1/auth/refresh"];
    assert_eq!(open, [&known[..], &logins].concat());
}

#[test]
fn operation_ids_differ() {
    let document = serde_json::to_value(super::openapi()).expect("serialises");
    let mut ids = BTreeSet::new();
    for item in document["paths"].as_object().expect("paths").values() {
        for operation in item.as_object().expect("item").values() {
            let id = operation["operationId"].as_str().expect("id").to_owned();
            assert!(ids.insert(id.clone()), "{id} stands twice");
        }
    }
}

/// What a handler takes is kept for every request whose body is still to come,
/// and a peer may have a thousand of those.
#[test]
fn handlers_are_small_while_they_wait_for_a_body() {
    fn four<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }
    fn five<A, B, C, D, E, F>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }
    fn six<A, B, C, D, E, G, F>(_: impl Fn(A, B, C, D, E, G) -> F) -> usize {
        size_of::<F>()
    }
    let all = [
        ("create", five(super::agents::create)),
        ("bulk create", five(super::bulk::create)),
        ("exec", six(super::exec::run)),
        ("update", six(super::update::update)),
        ("token", four(super::auth::token)),
        ("login", four(super::auth::login)),
        ("refresh", four(super::auth::refresh)),
    ];
    assert!(all.iter().all(|(_, size)| *size <= 4 * 1024), "{all:?}");
}

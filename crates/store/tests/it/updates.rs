//! Patching agents, and the filters that see the result.

use crate::fixture::{Fixture, new_agent, scope};
use aether_core::api::{AgentPatch, CheckedPatch};
use aether_core::state::{Desired, Observed};
use aether_core::{AgentId, Timestamp};
use aether_store::*;
use std::collections::BTreeMap;
use std::time::Duration;

crate::on_both![
    a_patch_changes_what_it_names,
    a_patch_is_compared_with_the_version,
    a_new_name_is_taken_at_once_and_the_old_one_free,
    what_waits_for_a_restart_is_remembered_until_then,
    a_moved_ttl_moves_the_deadline,
    a_wrong_patch_leaves_nothing,
    another_tenants_agent_is_not_there,
    filters_by_image_name_and_age,
];

fn patch(text: &str) -> CheckedPatch {
    serde_json::from_str::<AgentPatch>(text).expect("parses").check().expect("is well formed")
}

async fn update(fx: &Fixture, id: &AgentId, text: &str) -> Result<Updated, StoreError> {
    fx.store.update_agent(&scope(), id, patch(text), None).await
}

async fn a_patch_changes_what_it_names(fx: Fixture) {
    let mut new = new_agent("one");
    new.env = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())]);
    new.spec.labels.insert("team".to_owned(), "x".to_owned());
    let row = fx.store.create_agent(&scope(), new).await.expect("creates").agent;
    let text = r#"{"labels":{"team":"y","zone":"z"},"metadata":{"m":"1"},"env":{"A":null,"C":"3"},
        "resources":{"memory_mb":1024,"disk_mb":2048},"process_restart":"always","ttl":"1h"}"#;
    let updated = update(&fx, &row.id, text).await.expect("updates");
    assert_eq!(updated.changed, ["labels", "metadata", "env", "resources", "process_restart", "ttl"]);
    assert!(updated.agent.pending_restart.is_empty(), "no run has begun");
    let found = fx.get(&row.id).await;
    assert_eq!((found.clone(), found.version), (updated.agent, row.version + 1));
    assert_eq!((found.env_names, found.spec.resources.memory_mb), (vec!["B".to_owned(), "C".to_owned()], 1024));
    let env = fx.store.agent_env(&scope(), &row.id).await.expect("reads");
    assert_eq!(env, BTreeMap::from([("B".to_owned(), "2".to_owned()), ("C".to_owned(), "3".to_owned())]));
    for (key, value, hits) in [("team", "y", 1), ("team", "x", 0), ("zone", "z", 1)] {
        let labels = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert_eq!(list(&fx, AgentFilter { labels, ..AgentFilter::default() }).await.len(), hits, "{key}={value}");
    }
    let events = fx.events(2).await;
    let event = events.iter().find(|e| e.kind == "agent.updated").expect("an event");
    assert!(event.version == found.version && !event.data.to_string().contains('3'), "{event:?}");
    let again = update(&fx, &row.id, text).await.expect("is so already");
    assert_eq!((again.changed.len(), again.agent.version), (0, found.version));
    let audit =
        fx.store.audit_list(&scope(), AuditFilter { limit: 100, ..AuditFilter::default() }).await.expect("reads");
    assert_eq!(audit.iter().filter(|a| a.action == "update").count(), 1);
}

async fn a_patch_is_compared_with_the_version(fx: Fixture) {
    let row = fx.agent("one").await;
    let labelled = |value: &str| patch(&format!(r#"{{"labels":{{"a":"{value}"}}}}"#));
    let expected = Some(vec![row.version + 7, row.version]);
    let next = fx.store.update_agent(&scope(), &row.id, labelled("1"), expected.clone()).await.expect("fits").agent;
    let refused = fx.store.update_agent(&scope(), &row.id, labelled("2"), expected).await;
    assert_eq!(refused.map(|_| ()), Err(StoreError::VersionConflict { current: next.version }));
    assert_eq!(fx.get(&row.id).await.spec.labels["a"], "1");
    // Of sixteen writers who read the same version, one wins.
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let (store, id, version) = (fx.store.clone(), row.id.clone(), next.version);
            let patch = labelled(&format!("writer {n}"));
            tokio::spawn(async move { store.update_agent(&scope(), &id, patch, Some(vec![version])).await })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        match task.await.expect("runs") {
            Ok(_) => won += 1,
            Err(e) => assert_eq!(e, StoreError::VersionConflict { current: next.version + 1 }),
        }
    }
    assert_eq!(won, 1);
}

async fn a_new_name_is_taken_at_once_and_the_old_one_free(fx: Fixture) {
    let with_alias = NewAgent { alias: Some("alias".parse().expect("a name")), ..new_agent("one") };
    let one = fx.store.create_agent(&scope(), with_alias).await.expect("creates").agent;
    let two = fx.agent("two").await;
    let taken = update(&fx, &one.id, r#"{"name":"two","labels":{"a":"b"}}"#).await;
    assert_eq!(taken.map(|_| ()), Err(StoreError::NameTaken { name: "two".to_owned() }));
    assert!(fx.get(&one.id).await.spec.labels.is_empty(), "a refused patch changes nothing");
    update(&fx, &one.id, r#"{"name":"three"}"#).await.expect("renames");
    let find = async |name: &str| fx.store.find_agent(&scope(), name).await.expect("looks").map(|a| a.id.clone());
    assert_eq!((find("three").await, find("alias").await), (Some(one.id.clone()), Some(one.id.clone())));
    assert_eq!(find("one").await, None);
    update(&fx, &two.id, r#"{"name":"one"}"#).await.expect("the old name is free");
    // Its alias as its name, and back: the alias stays its own throughout.
    update(&fx, &one.id, r#"{"name":"alias"}"#).await.expect("its own alias");
    update(&fx, &one.id, r#"{"name":"three"}"#).await.expect("renames");
    assert_eq!(find("alias").await, Some(one.id.clone()));
    fx.desire(&one.id, Desired::Gone).await.expect("deletes");
    assert_eq!((find("three").await, find("alias").await), (None, None));
}

async fn what_waits_for_a_restart_is_remembered_until_then(fx: Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(8, 8192).await);
    let id = fx.agent("one").await.id;
    fx.place(&epoch, &id, &node).await;
    fx.report(&node, &id, Observed::Running).await;
    let before = fx.reserved(&node).await;
    let generation = fx.get(&id).await.generation;
    let updated = update(&fx, &id, r#"{"env":{"A":"1"},"resources":{"memory_mb":1024},"labels":{"a":"b"}}"#).await;
    assert_eq!(updated.expect("updates").agent.pending_restart, ["env", "resources"]);
    update(&fx, &id, r#"{"env":{"A":"2"},"process_restart":"always"}"#).await.expect("updates");
    let row = fx.get(&id).await;
    assert_eq!(
        (row.pending_restart, row.generation),
        (vec!["env".into(), "process_restart".into(), "resources".into()], generation)
    );
    assert_eq!(fx.reserved(&node).await, before, "what runs goes on with what it has");
    let fixed = update(&fx, &id, r#"{"resources":{"disk_mb":4096}}"#).await.expect_err("the disk is made");
    assert!(matches!(&fixed, StoreError::Invalid { errors } if errors[0].field == "resources.disk_mb"), "{fixed:?}");
    fx.desire(&id, Desired::Stopped).await.expect("stops");
    fx.report(&node, &id, Observed::Stopped).await;
    let stopped = update(&fx, &id, r#"{"resources":{"cpu_count":2}}"#).await.expect("updates").agent;
    fx.desire(&id, Desired::Running).await.expect("starts");
    assert!(fx.get(&id).await.pending_restart.is_empty());
    assert_eq!(stopped.spec.resources.cpu_count, 2);
    fx.place(&epoch, &id, &node).await;
    let held = fx.reserved(&node).await;
    assert_eq!((held.cpu_millicores, held.memory_mb, held.disk_mb), (2000, 1024, 1024));
    let assignment = fx.store.assignments(&node).await.expect("reads").remove(0);
    assert_eq!(assignment.env["A"], "2");
}

async fn a_moved_ttl_moves_the_deadline(fx: Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(8, 8192).await);
    let id = fx.agent("one").await.id;
    fx.place(&epoch, &id, &node).await;
    fx.report(&node, &id, Observed::Running).await;
    let started = fx.get(&id).await.started_at.expect("runs");
    fx.clock.advance(Duration::from_secs(10));
    let row = update(&fx, &id, r#"{"ttl":"1h"}"#).await.expect("updates").agent;
    assert_eq!((row.expires_at, row.pending_restart.len()), (Some(started.plus(Duration::from_secs(3600))), 0));
    let row = update(&fx, &id, r#"{"ttl":null}"#).await.expect("updates").agent;
    assert_eq!((row.expires_at, row.spec.ttl_s), (None, None));
    fx.report(&node, &id, Observed::Running).await;
    assert_eq!(fx.get(&id).await.expires_at, None);
}

async fn a_wrong_patch_leaves_nothing(fx: Fixture) {
    let row = fx.agent("one").await;
    let many = (0..513).map(|n| format!(r#""V{n}":"x""#)).collect::<Vec<_>>().join(",");
    for text in [r#"{"resources":{"memory_mb":1}}"#, r#"{"labels":{"":"x"}}"#, &format!(r#"{{"env":{{{many}}}}}"#)] {
        let refused = update(&fx, &row.id, text).await;
        assert!(matches!(refused, Err(StoreError::Invalid { .. })), "{refused:?}");
    }
    assert_eq!(fx.get(&row.id).await, row);
}

async fn another_tenants_agent_is_not_there(fx: Fixture) {
    let (acme, row) = (fx.other().await, fx.agent("one").await);
    let not_there = Err(StoreError::NotFound { what: "agent" });
    let patch = patch(r#"{"name":"mine"}"#);
    assert_eq!(fx.store.update_agent(&acme, &row.id, patch.clone(), None).await.map(|_| ()), not_there);
    fx.desire(&row.id, Desired::Gone).await.expect("deletes");
    assert_eq!(fx.store.update_agent(&scope(), &row.id, patch, None).await.map(|_| ()), not_there);
}

async fn list(fx: &Fixture, filter: AgentFilter) -> Vec<String> {
    let page = PageRequest { limit: 100, ..PageRequest::default() };
    let page = fx.store.list_agents(&scope(), filter, page).await.expect("lists");
    assert_eq!(page.total, page.rows.len() as u64);
    page.rows.into_iter().map(|a| a.name.to_string()).collect()
}

async fn filters_by_image_name_and_age(fx: Fixture) {
    let mut at = Vec::new();
    for (name, image) in [("web-1", "nginx:1"), ("web_2", "nginx:2"), ("db-1", "postgres:15")] {
        let mut new = new_agent(name);
        new.spec.image = image.to_owned();
        at.push(fx.store.create_agent(&scope(), new).await.expect("creates").agent.created_at);
        fx.clock.advance(Duration::from_secs(60));
    }
    let acme = fx.other().await;
    fx.store.create_agent(&acme, new_agent("web-1")).await.expect("creates");
    let images = |images: &[&str]| AgentFilter {
        images: images.iter().map(|i| (*i).to_owned()).collect(),
        ..AgentFilter::default()
    };
    assert_eq!(list(&fx, images(&["nginx:1", "postgres:15"])).await, ["db-1", "web-1"]);
    assert_eq!(list(&fx, images(&["nginx"])).await, Vec::<String>::new());
    let prefix = |p: &str| AgentFilter { name_prefix: Some(p.to_owned()), ..AgentFilter::default() };
    assert_eq!(list(&fx, prefix("web")).await, ["web_2", "web-1"]);
    assert_eq!(list(&fx, prefix("web_")).await, ["web_2"], "an underscore is no wildcard");
    assert_eq!(list(&fx, prefix("%")).await, Vec::<String>::new());
    let age = |after: Option<Timestamp>, before: Option<Timestamp>| AgentFilter {
        created_after: after,
        created_before: before,
        ..AgentFilter::default()
    };
    assert_eq!(list(&fx, age(Some(at[1]), None)).await, ["db-1", "web_2"]);
    assert_eq!(list(&fx, age(None, Some(at[1]))).await, ["web-1"]);
    assert_eq!(list(&fx, age(Some(at[1]), Some(at[2]))).await, ["web_2"]);
}

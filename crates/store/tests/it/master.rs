//! The key that seals is changed while writers go on.

use crate::fixture::{Fixture, TestClock, new_agent, scope};
use crate::secrets::{name, sealed};
use aether_core::api::AgentPatch;
use aether_core::source::OsRng;
use aether_core::{AgentId, SecretRef};
use aether_store::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

crate::on_both![
    all_is_sealed_anew_while_writers_go_on,
    a_pass_that_was_cut_short_goes_on,
    servers_follow_the_store_and_say_what_they_lack,
];

/// A server with a key file of its own.
async fn server(config: &StoreConfig, clock: &Arc<TestClock>, file: &Path) -> Store {
    let keys = SealKeys::load_or_create(file, &OsRng).expect("keys");
    let store = Store::connect(config.clone(), keys, clock.clone(), Arc::new(OsRng)).await.expect("opens");
    assert_eq!(store.follow_seal_key().await, Ok(true));
    store
}

fn with_env(agent: &str, value: &str) -> NewAgent {
    NewAgent { env: BTreeMap::from([("A".to_owned(), value.to_owned())]), ..new_agent(agent) }
}

async fn fill(store: &Store, agents: u32) -> Vec<AgentId> {
    let mut ids = Vec::new();
    for n in 0..agents {
        let new = with_env(&format!("agent-{n}"), &format!("value {n}"));
        ids.push(store.create_agent(&scope(), new).await.expect("creates").agent.id);
        store.put_secret(&scope(), sealed(&format!("S{}", n % 7), &format!("secret {n}"))).await.expect("sets");
    }
    ids
}

async fn env(store: &Store, id: &AgentId) -> Result<String, StoreError> {
    store.agent_env(&scope(), id).await.map(|env| env["A"].clone())
}

fn patch(value: &str) -> aether_core::api::CheckedPatch {
    let text = serde_json::json!({ "env": { "A": value } });
    serde_json::from_value::<AgentPatch>(text).expect("a patch").check().expect("valid")
}

async fn all_is_sealed_anew_while_writers_go_on(fx: Fixture) {
    fx.store.close().await;
    let file = fx.dir.path().join("seal.key");
    let store = server(&fx.config, &fx.clock, &file).await;
    let ids = fill(&store, 120).await;
    let old = std::fs::read(&file).expect("the file");
    store.add_seal_key(&scope()).await.expect("adds");
    assert_eq!(store.sealed_by_others().await, Ok(0), "it does not seal yet");
    store.activate_seal_key(&scope()).await.expect("activates");
    let before = store.sealed_by_others().await.expect("counts");
    assert_eq!(before, 120 + 70, "each env, and ten versions of each of seven secrets");
    // Writers: envs change, agents go, secrets get versions, until the pass is over.
    let over = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for lane in 0..2usize {
        let (store, over, ids) = (store.clone(), over.clone(), ids.clone());
        writers.push(tokio::spawn(async move {
            let mut written = 0u32;
            while !over.load(Ordering::SeqCst) || written < 20 {
                let id = &ids[(written as usize * 2 + lane) % ids.len()];
                let value = format!("lane {lane} wrote {written}");
                store.update_agent(&scope(), id, patch(&value), None).await.expect("updates");
                assert_eq!(env(&store, id).await, Ok(value));
                store.put_secret(&scope(), sealed("S0", &format!("{lane} {written}"))).await.expect("sets");
                written += 1;
            }
            written
        }));
    }
    for pass in 0.. {
        store.reseal().await.expect("a pass");
        if store.sealed_by_others().await.expect("counts") == 0 {
            break;
        }
        assert!(pass < 100, "the passes do not end");
    }
    over.store(true, Ordering::SeqCst);
    for writer in writers {
        assert!(writer.await.expect("no writer failed") >= 20);
    }
    assert_eq!(store.sealed_by_others().await, Ok(0), "writers seal with the new one");
    store.drop_seal_keys(&scope()).await.expect("drops");
    let new = std::fs::read(&file).expect("the file");
    assert!(new.len() == 32 && new != old, "the old key is gone");
    store.close().await;
    // What is left opens with the new key alone.
    let store = server(&fx.config, &fx.clock, &file).await;
    for id in &ids {
        env(&store, id).await.expect("opens");
    }
    let mut new = new_agent("last");
    new.spec.secrets = vec![SecretRef::named("S3")];
    let agent = store.create_agent(&scope(), new).await.expect("creates").agent;
    let hello = crate::fixture::hello(4, 4096);
    store.register_node(hello.clone()).await.expect("registers");
    let epoch = store.take_leadership("one").await.expect("leads");
    let placed = store.place(&epoch, crate::fixture::place_request(&agent, &hello.node_id)).await.expect("places");
    let given = store.secret_uses((&hello.node_id, 1), (&placed.id, placed.generation)).await.expect("given");
    assert!(matches!(&given.secrets[0].content, HeldContent::Clear(value) if value.starts_with(b"secret ")));
}

async fn a_pass_that_was_cut_short_goes_on(fx: Fixture) {
    fx.store.close().await;
    let file = fx.dir.path().join("seal.key");
    let store = server(&fx.config, &fx.clock, &file).await;
    let ids = fill(&store, 150).await;
    store.add_seal_key(&scope()).await.expect("adds");
    store.activate_seal_key(&scope()).await.expect("activates");
    let all = store.sealed_by_others().await.expect("counts");
    // Cut while it is at work, some way in.
    let pass = tokio::spawn({
        let store = store.clone();
        async move { store.reseal().await }
    });
    while store.sealed_by_others().await.expect("counts") == all {
        tokio::task::yield_now().await;
    }
    pass.abort();
    let _ = pass.await;
    store.close().await;
    // Another process: the store says which key seals, whatever its file has first.
    let store = server(&fx.config, &fx.clock, &file).await;
    assert_eq!(store.seal_keys().active().fingerprint(), store.seal_keys().all()[1].fingerprint());
    for id in &ids {
        env(&store, id).await.expect("both keys open");
    }
    let (_, shut) = store.reseal().await.expect("a pass");
    assert_eq!((store.sealed_by_others().await, shut), (Ok(0), 0));
    store.drop_seal_keys(&scope()).await.expect("drops");
    for id in &ids {
        env(&store, id).await.expect("opens");
    }
}

async fn servers_follow_the_store_and_say_what_they_lack(fx: Fixture) {
    fx.store.close().await;
    // SQLite has one server at a time; here they take turns on one connection each.
    let (one, two) = (fx.dir.path().join("one.key"), fx.dir.path().join("two.key"));
    let first = server(&fx.config, &fx.clock, &one).await;
    std::fs::copy(&one, &two).expect("copies");
    let second = server(&fx.config, &fx.clock, &two).await;
    first.put_secret(&scope(), sealed("A", "x")).await.expect("sets");
    first.add_seal_key(&scope()).await.expect("adds");
    // Activated too early: the second says so and seals with what it has.
    first.activate_seal_key(&scope()).await.expect("activates");
    assert_eq!(second.follow_seal_key().await, Ok(false));
    let id = second.create_agent(&scope(), with_env("late", "v")).await.expect("creates").agent.id;
    assert_eq!(env(&first, &id).await.as_deref(), Ok("v"), "the older key still opens");
    // A key that still seals something is not dropped.
    first.drop_seal_keys(&scope()).await.expect("looks");
    assert_eq!(first.seal_keys().all().len(), 2);
    std::fs::copy(&one, &two).expect("copies");
    second.seal_keys().reload().expect("reads");
    assert_eq!(second.follow_seal_key().await, Ok(true));
    assert_eq!(second.seal_keys().active().fingerprint(), first.seal_keys().active().fingerprint());
    second.reseal().await.expect("a pass");
    first.drop_seal_keys(&scope()).await.expect("drops");
    assert_eq!((first.seal_keys().all().len(), first.sealed_by_others().await), (1, Ok(0)));
    assert_eq!(env(&first, &id).await.as_deref(), Ok("v"));
    // One that never had the new key does not come up.
    let stranger = SealKeys::load_or_create(&fx.dir.path().join("three.key"), &OsRng).expect("keys");
    let third = Store::connect(fx.config.clone(), stranger, fx.clock.clone(), Arc::new(OsRng)).await.expect("opens");
    assert_eq!(third.follow_seal_key().await, Ok(false));
    let steps = AuditFilter { resource: Some("master_key".into()), limit: 100, ..AuditFilter::default() };
    let steps = first.audit_page(&AuditOf::Platform, steps).await.expect("reads").rows;
    let mut steps: Vec<String> = steps.into_iter().map(|r| r.action).collect();
    steps.reverse();
    assert_eq!(steps, ["add", "activate", "drop", "drop"]);
    assert_eq!(first.find_secret(&scope(), &name("A")).await.expect("looks").expect("is there").0.version, 1);
}

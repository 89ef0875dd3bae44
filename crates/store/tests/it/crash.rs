//! kill -9 of a writing process loses nothing that it acknowledged. The
//! child is this test binary again, told by its environment.

use crate::fixture::{Fixture, new_agent, scope, seal};
use aether_core::audit::genesis;
use aether_core::source::{OsRng, SystemClock};
use aether_core::{AgentId, Secret};
use aether_counted::Counted;
use aether_store::*;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

const PATH: &str = "AETHER_STORE_TEST_PATH";
const URL: &str = "AETHER_STORE_TEST_URL";

async fn open(config: StoreConfig) -> Store {
    Store::open(config, seal(), Arc::new(SystemClock::default()), Arc::new(OsRng)).await.expect("opens")
}

/// Not a test of its own: creates agents until it is killed, and says so
/// after each answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_writer() {
    let config = match (std::env::var(PATH), std::env::var(URL)) {
        (Ok(path), _) => StoreConfig::Sqlite { path: path.into() },
        (_, Ok(url)) => StoreConfig::Postgres { url: Secret::new(url), max_connections: 4 },
        _ => return,
    };
    let store = open(config).await;
    let sealer = store.clone();
    tokio::spawn(async move {
        let epoch = sealer.take_leadership("child").await.expect("leads");
        // Until the next one takes over.
        while sealer.audit_link(&epoch).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
    });
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0.. {
                    let new = new_agent(&format!("{}-{w}-{i}", std::process::id()));
                    let id = store.create_agent(&scope(), new).await.expect("creates").agent.id;
                    // One write: lines of four writers must not mix.
                    let line = format!("acknowledged {id}\n");
                    std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()).expect("writes");
                }
            })
        })
        .collect();
    futures::future::join_all(writers).await;
}

/// Kills the child after some answers; returns what it acknowledged.
fn write_until_killed(key: &str, value: &str, answers: usize) -> Vec<AgentId> {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["crash::child_writer", "--exact", "--nocapture", "--test-threads=1"])
        .env(key, value)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the child starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut acknowledged = Vec::new();
    // The harness writes on the same stream, also in mid-line.
    let id_in = |line: &str| line.split_once("acknowledged ").and_then(|(_, id)| id.trim().parse().ok());
    while acknowledged.len() < answers {
        let line = lines.next().expect("the child lives").expect("reads");
        acknowledged.extend(id_in(&line));
    }
    child.kill().expect("kill -9");
    // What it said before it died counts too.
    acknowledged.extend(lines.map_while(Result::ok).filter_map(|line| id_in(&line)));
    child.wait().expect("is reaped");
    acknowledged
}

async fn loses_nothing(fx: &Fixture, key: &'static str, value: String) {
    fx.store.close().await;
    let mut counted = Counted::new("audit", 29, "records of killed writers and sealers", 0);
    let mut all = Vec::new();
    for round in 0..5 {
        let value = value.clone();
        let writing = tokio::task::spawn_blocking(move || write_until_killed(key, &value, 20 + 17 * round));
        let acknowledged = writing.await.expect("runs");
        let store = open(fx.config.clone()).await;
        for id in &acknowledged {
            assert!(store.agent_by_id(id).await.expect("reads").is_some(), "{id} was acknowledged and is lost");
        }
        // The store goes on where the other was cut off.
        store.create_agent(&scope(), new_agent(&format!("after-{round}"))).await.expect("creates");
        store.close().await;
        all.extend(acknowledged);
        counted.faults += 1;
    }
    counted.n = all.len() as u64;
    each_is_recorded_once(fx, &all).await;
}

/// Every acknowledged create has one record, and all of them are one chain.
async fn each_is_recorded_once(fx: &Fixture, acknowledged: &[AgentId]) {
    let store = open(fx.config.clone()).await;
    let (epoch, of) = (store.take_leadership("parent").await.expect("leads"), AuditOf::Tenant(scope()));
    let (mut created, mut prev, mut position) = (BTreeMap::<String, u32>::new(), genesis(Some("default")), 0);
    let mut waited = 0;
    loop {
        while store.audit_link(&epoch).await.expect("links") > 0 {}
        let page = store.audit_export(&of, position, 500).await.expect("reads");
        for record in &page.linked {
            assert_eq!((record.position, record.prev), (Some(position + 1), Some(prev)));
            position += 1;
            prev = record.fields().hash(&prev, position);
            assert_eq!(record.hash, Some(prev));
            if let ("create", Some(id)) = (record.action.as_str(), &record.resource_id) {
                *created.entry(id.clone()).or_default() += 1;
            }
        }
        if page.linked.is_empty() && page.unlinked.is_empty() && !page.more {
            break;
        }
        // On PostgreSQL other tests' transactions hold records back.
        if page.linked.is_empty() {
            waited += 1;
            assert!(waited < 600, "{} records are not linked", page.unlinked.len());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    for id in acknowledged {
        assert_eq!(created.get(id.as_str()), Some(&1), "{id}");
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_a_writer_loses_nothing_on_sqlite() {
    let fx = Fixture::sqlite().await;
    let path = fx.dir.path().join("aether.db").display().to_string();
    loses_nothing(&fx, PATH, path).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_a_writer_loses_nothing_on_postgres() {
    let fx = Fixture::postgres().await;
    let url = fx.url().expect("is PostgreSQL").to_owned();
    loses_nothing(&fx, URL, url).await;
}

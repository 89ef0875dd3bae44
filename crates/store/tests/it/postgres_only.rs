//! What only the configured engine can suffer: cut connections, locks of
//! others, a server that is not there.

use crate::fixture::{Fixture, new_agent, scope, seal};
use aether_core::source::{OsRng, SystemClock};
use aether_core::state::{Desired, Observed};
use aether_core::tenant::{Limits, Tier};
use aether_core::{AgentId, Secret, TenantScope};
use aether_store::*;
use sqlx::Executor;
use std::sync::Arc;
use std::time::Duration;

/// Every connection of the store is killed by the server, the listener's
/// too: operations go on, and wake-ups come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_are_made_anew() {
    let fx = Fixture::postgres().await;
    let mut admin = crate::postgres::connect(fx.url().expect("is PostgreSQL")).await;
    let mut changes = fx.store.changes();
    for round in 0..3 {
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        admin.execute(kill).await.expect("kills");
        fx.agent(&format!("a{round}")).await;
        // Past the wake-up of the reconnect itself.
        let mut woken = 0;
        for i in 0..240 {
            fx.agent(&format!("a{round}-{i}")).await;
            if tokio::time::timeout(Duration::from_millis(500), changes.changed()).await.is_ok() {
                woken += 1;
                if woken == 3 {
                    break;
                }
            }
        }
        assert_eq!(woken, 3, "the listener came back");
    }
}

/// A first request that is still at work holds its key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_whose_first_request_is_at_work_is_in_progress() {
    let fx = Fixture::postgres().await;
    let mut first = crate::postgres::connect(fx.url().expect("is PostgreSQL")).await;
    let claim = "BEGIN; INSERT INTO idempotency_keys VALUES ('default', 'k', 'agent.create', '', 'x', 1700000000000)";
    first.execute(claim).await.expect("holds the key");
    let idempotency = Some(Idempotency { key: "k".to_owned(), request_hash: [1; 32] });
    let second = fx.store.create_agent(&scope(), NewAgent { idempotency, ..new_agent("a") }).await;
    assert_eq!(second.map(|_| ()), Err(StoreError::InProgress));
}

/// A row that somebody holds for too long is reported, not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_of_another_is_waited_for_and_then_reported() {
    let fx = Fixture::postgres().await;
    let (agent, node) = (fx.agent("a").await, fx.node(4, 4096).await);
    let epoch = fx.leader().await;
    let mut other = crate::postgres::connect(fx.url().expect("is PostgreSQL")).await;
    other.execute("BEGIN; SELECT * FROM scheduler_nodes FOR UPDATE").await.expect("holds the node");
    let request = crate::fixture::place_request(&agent, &node);
    let waiting = {
        let (store, epoch, request) = (fx.store.clone(), epoch.clone(), request.clone());
        tokio::spawn(async move { store.place(&epoch, request).await })
    };
    // Longer than one lock time-out: the second try gets it.
    tokio::time::sleep(Duration::from_secs(3)).await;
    other.execute("ROLLBACK").await.expect("lets go");
    waiting.await.expect("runs").expect("is placed in the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_unavailable_and_no_password_is_told() {
    let open = async |url: &str| {
        let config = StoreConfig::Postgres { url: Secret::new(url), max_connections: 2 };
        assert!(!format!("{config:?}").contains("hunter2"));
        Store::open(config, seal(), Arc::new(SystemClock::default()), Arc::new(OsRng)).await.map(|_| ())
    };
    for url in ["postgres://u:hunter2@localhost/x?host=/nowhere", "postgres://u:hunter2@localhost:notaport/x", ""] {
        let error = open(url).await.expect_err("cannot open");
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}

/// Takeover and a stale leader's write in one instant: never both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_waits_for_the_write_or_fences_it() {
    let fx = Fixture::postgres().await;
    let node = fx.node(64, 65536).await;
    for round in 0..20 {
        let old = fx.leader().await;
        let agent = fx.agent(&format!("a{round}")).await;
        let request = crate::fixture::place_request(&agent, &node);
        let store = fx.store.clone();
        let write = tokio::spawn(async move { store.place(&old, request).await });
        fx.leader().await;
        // What the new leader reads now is what stays: the old one's write
        // is in it, or was refused.
        let seen = fx.get(&agent.id).await.assigned;
        match write.await.expect("runs") {
            Ok(_) => assert!(seen, "a write of the old epoch came after the takeover"),
            Err(StoreError::Fenced { .. }) => assert!(!seen),
            Err(e) => panic!("{e}"),
        }
    }
}

/// Two nodes that report of the same two tenants' agents, and of agents of two
/// budgets, in opposite orders: nobody has to be told by the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_over_the_same_counts_do_not_lock_each_other_out() {
    let fx = Fixture::postgres().await;
    let tenants = ["acme", "globex"].map(|id| TenantScope::system(id.parse().expect("an id"), "test"));
    for by in &tenants {
        fx.tenant(by.tenant(), Tier::Free).await;
        let limits = Limits { cpu_millicores: Some(1_000_000), ..Limits::default() };
        fx.store.set_quota(&scope(), by.tenant(), Tier::Free, limits).await.expect("sets");
        for value in ["a", "b"] {
            let pair = ("team".to_owned(), value.to_owned());
            fx.store.set_label_budget(by, by.tenant(), pair, Some(limits)).await.expect("sets");
        }
    }
    let (epoch, nodes) = (fx.leader().await, [fx.node(512, 400_000).await, fx.node(512, 400_000).await]);
    // By id, as batches lock them: of the one tenant before those of the other, and the other way round.
    let mut batches = [Vec::new(), Vec::new()];
    for n in 0..2 {
        let mut ids: Vec<AgentId> = (0..8).map(|_| AgentId::generate("c0", &OsRng)).collect();
        ids.sort();
        for (i, id) in ids.into_iter().enumerate() {
            let (tenant, team) = ((i / 4 + n) % 2, if (i / 2 + n) % 2 == 0 { "a" } else { "b" });
            let mut new = NewAgent { id: id.clone(), ..new_agent(&format!("n{n}-{i}")) };
            new.spec.labels.insert("team".to_owned(), team.to_owned());
            fx.store.create_agent(&tenants[tenant], new).await.expect("creates");
            fx.place(&epoch, &id, &nodes[n]).await;
            batches[n].push(id);
        }
    }
    let tell = async |n: usize, observed: Observed| {
        let mut reports = Vec::new();
        for id in &batches[n] {
            reports.push(ReportRow::of(id.clone(), fx.get(id).await.generation, observed));
        }
        reports
    };
    for _ in 0..6 {
        let both = [tell(0, Observed::Failed).await, tell(1, Observed::Failed).await];
        let [first, second] = both;
        let (a, b) =
            tokio::join!(fx.store.apply_reports(&nodes[0], 1, first), fx.store.apply_reports(&nodes[1], 1, second));
        a.expect("applies");
        b.expect("applies");
        for by in &tenants {
            let used = fx.store.quota(by.tenant()).await.expect("reads").used;
            assert_eq!((used.agents, used.cpu_millicores), (8, 0));
        }
        for (n, ids) in batches.iter().enumerate() {
            for (i, id) in ids.iter().enumerate() {
                let by = &tenants[(i / 4 + n) % 2];
                let options = DesireOptions::default();
                fx.store.set_desired(by, id, Desired::Running, options, None).await.expect("starts");
                fx.place(&epoch, id, &nodes[n]).await;
            }
        }
    }
    let mut admin = crate::postgres::connect(fx.url().expect("is PostgreSQL")).await;
    // What a session has counted is there for others once it has ended.
    fx.store.close().await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let deadlocks: i64 = sqlx::query_scalar(deadlocks).fetch_one(&mut admin).await.expect("reads");
    assert_eq!(deadlocks, 0);
}

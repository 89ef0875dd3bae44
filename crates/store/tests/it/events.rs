//! The outbox: no reader skips an event, however late it commits.

use crate::fixture::{Fixture, new_agent, scope};
use aether_core::Clock;
use aether_core::state::Desired;
use aether_store::*;
use sqlx::Executor;
use std::collections::BTreeSet;
use std::time::Duration;

crate::on_both![
    a_follower_misses_nothing_under_many_writers,
    changes_wake_their_listeners,
    tenants_see_their_own_events,
    retention_removes_the_old_and_says_so,
    tombstones_and_keys_are_pruned,
];

async fn a_follower_misses_nothing_under_many_writers(fx: Fixture) {
    const WRITERS: usize = 8;
    const EACH: usize = 25;
    let writers: Vec<_> = (0..WRITERS)
        .map(|w| {
            let store = fx.store.clone();
            tokio::spawn(async move {
                for i in 0..EACH {
                    store.create_agent(&scope(), new_agent(&format!("w{w}-{i}"))).await.expect("creates");
                }
            })
        })
        .collect();
    let mut seen = BTreeSet::new();
    let mut last = EventCursor::default();
    for _ in 0..3000 {
        let (rows, next) = fx.store.events_after(last, 7).await.expect("reads");
        for row in &rows {
            assert!(row.cursor > last, "in order");
            last = row.cursor;
            assert!(seen.insert(row.agent_id.clone().expect("an agent's")), "once");
        }
        assert_eq!(next, last);
        if seen.len() == WRITERS * EACH {
            break;
        }
        if rows.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    for writer in writers {
        writer.await.expect("runs");
    }
    assert_eq!(seen.len(), WRITERS * EACH);
    let text = last.to_string();
    assert_eq!(text.parse(), Ok(last));
    for bad in ["", "1", "-", "1-", "-1", "1-x", "99999999999999999999-1", "+1-1"] {
        assert_eq!(bad.parse::<EventCursor>(), Err(StoreError::BadCursor), "{bad}");
    }
}

/// Two sessions insert; the second commits first. A reader that goes by
/// number alone would show the second and never the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_commit_is_not_skipped_on_postgres() {
    let fx = Fixture::postgres().await;
    let url = fx.url().expect("is PostgreSQL").to_owned();
    let insert = |kind: &str| {
        format!("INSERT INTO events (at_ms, kind, version, generation, data) VALUES (1, '{kind}', 0, 0, '{{}}')")
    };
    for round in 0..3 {
        let start = fx.store.events_end().await.expect("reads");
        let (mut early, mut late) = (crate::postgres::connect(&url).await, crate::postgres::connect(&url).await);
        early.execute("BEGIN").await.expect("begins");
        early.execute(insert(&format!("first-{round}")).as_str()).await.expect("inserts");
        late.execute("BEGIN").await.expect("begins");
        late.execute(insert(&format!("second-{round}")).as_str()).await.expect("inserts");
        late.execute("COMMIT").await.expect("commits");
        let (rows, cursor) = fx.store.events_after(start, 100).await.expect("reads");
        assert!(rows.is_empty(), "nothing is shown above a transaction that still runs: {rows:?}");
        early.execute("COMMIT").await.expect("commits");
        let mut kinds = Vec::new();
        let mut cursor = cursor;
        for _ in 0..600 {
            let (rows, next) = fx.store.events_after(cursor, 1).await.expect("reads");
            kinds.extend(rows.into_iter().map(|r| r.kind));
            cursor = next;
            if kinds.len() == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(kinds, [format!("first-{round}"), format!("second-{round}")]);
    }
}

async fn changes_wake_their_listeners(fx: Fixture) {
    // A second store on the same database: on PostgreSQL it hears NOTIFY.
    let second = crate::fixture::connect(&fx.config, &fx.clock).await;
    let mut here = fx.store.changes();
    let mut there = second.changes();
    let long = Duration::from_secs(60);
    let mut agents = 0;
    if fx.url().is_some() {
        // The listeners connect in the background: until both hear.
        for listener in [&mut here, &mut there] {
            loop {
                agents += 1;
                fx.agent(&format!("a{agents}")).await;
                if tokio::time::timeout(Duration::from_millis(500), listener.changed()).await.is_ok() {
                    break;
                }
                assert!(agents < 120, "no listener in a minute");
            }
        }
        // The last of those wake-ups has arrived.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    here.mark_unchanged();
    there.mark_unchanged();
    fx.agent("last").await;
    tokio::time::timeout(long, here.changed()).await.expect("wakes").expect("is open");
    if fx.url().is_some() {
        tokio::time::timeout(long, there.changed()).await.expect("wakes").expect("is open");
    }
    second.close().await;
}

async fn tenants_see_their_own_events(fx: Fixture) {
    let acme = fx.other().await;
    fx.node(4, 4096).await;
    let own = fx.agent("a").await.id;
    fx.store.create_agent(&acme, new_agent("a")).await.expect("creates");
    fx.events(3).await;
    let (rows, _) = fx.store.tenant_events_after(&scope(), EventCursor::default(), 100).await.expect("reads");
    assert_eq!(rows.iter().map(|r| r.agent_id.clone()).collect::<Vec<_>>(), [Some(own)]);
}

async fn retention_removes_the_old_and_says_so(fx: Fixture) {
    fx.agent("old").await;
    let old = fx.events(1).await[0].cursor;
    fx.clock.advance(Duration::from_secs(3600));
    fx.agent("new").await;
    fx.events(2).await;
    assert_eq!(fx.store.prune(Duration::from_secs(1800)).await, Ok(1));
    let (rows, _) = fx.store.events_after(EventCursor::default(), 100).await.expect("from the start is allowed");
    assert_eq!(rows.len(), 1);
    assert_eq!(fx.store.events_after(old, 100).await.expect("exactly at the floor").0.len(), 1);
    let before: EventCursor = "0-1".parse().expect("a cursor");
    if before < old {
        assert_eq!(fx.store.events_after(before, 100).await.map(|_| ()), Err(StoreError::CursorExpired));
    }
    fx.clock.advance(Duration::from_secs(3600));
    assert_eq!(fx.store.prune(Duration::from_secs(1800)).await, Ok(1));
    let end = fx.store.events_end().await.expect("reads");
    assert!(end > old, "an empty outbox still has an end");
    assert_eq!(fx.store.events_after(old, 100).await.map(|_| ()), Err(StoreError::CursorExpired));
}

async fn tombstones_and_keys_are_pruned(fx: Fixture) {
    let day = Duration::from_secs(24 * 3600);
    let idempotency = Some(Idempotency { key: "k".to_owned(), request_hash: [1; 32] });
    let new = NewAgent { idempotency, ..new_agent("a") };
    let id = fx.store.create_agent(&scope(), new).await.expect("creates").agent.id;
    let kept = fx.agent("kept").await.id;
    fx.desire(&id, Desired::Gone).await.expect("deletes");
    fx.events(3).await;
    fx.store.prune(Duration::ZERO).await.expect("prunes");
    assert!(fx.store.agent_by_id(&id).await.expect("reads").is_some(), "not younger than asked");
    fx.clock.advance(Duration::from_millis(1));
    fx.store.prune(Duration::ZERO).await.expect("prunes");
    assert_eq!(fx.store.agent_by_id(&id).await, Ok(None));
    assert!(fx.store.agent_by_id(&kept).await.expect("reads").is_some());
    fx.clock.advance(day + day);
    fx.store.prune(day).await.expect("prunes");
    assert!(fx.clock.now() > fx.get(&kept).await.created_at);
}

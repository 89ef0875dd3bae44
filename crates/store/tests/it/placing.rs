//! Placement: capacity is never exceeded, and given back exactly once.

use crate::fixture::{Fixture, place_request};
use aether_core::api::NodeAmounts;
use aether_core::state::{Desired, Observed};
use aether_store::*;
use std::time::Duration;

crate::on_both![
    placing_reserves_and_tells,
    sixty_four_placers_never_exceed_a_node,
    a_refused_request_leaves_its_batch_alone,
    a_started_agent_returns_to_its_disk,
    deleting_gives_back_once,
    who_waits_is_found_by_age_and_by_news,
    reasons_are_written_when_new,
    assignments_are_the_full_set,
];

async fn placing_reserves_and_tells(fx: Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(4, 4096).await);
    let agent = fx.agent("a").await;
    assert_eq!(fx.store.pending_agents(None, 10).await.expect("lists"), std::slice::from_ref(&agent));
    let placed = fx.store.place(&epoch, place_request(&agent, &node)).await.expect("is placed");
    assert_eq!((placed.node_id.as_ref(), placed.assigned, placed.generation), (Some(&node), true, 2));
    assert_eq!(placed.placement_reason.as_deref(), Some("test"));
    assert_eq!(fx.reserved(&node).await, NodeAmounts { cpu_millicores: 1000, memory_mb: 512, disk_mb: 1024 });
    assert_eq!(fx.store.pending_agents(None, 10).await, Ok(Vec::new()));
    let stale = fx.store.place(&epoch, place_request(&agent, &node)).await;
    assert_eq!(stale, Err(StoreError::VersionConflict { current: 2 }));
    let twice = fx.store.place(&epoch, place_request(&placed, &node)).await;
    assert!(matches!(twice, Err(StoreError::IllegalState { .. })));
}

async fn sixty_four_placers_never_exceed_a_node(fx: Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(64, 10 * 512).await);
    let mut agents = Vec::new();
    for i in 0..64 {
        agents.push(fx.agent(&format!("a{i}")).await);
    }
    let tasks: Vec<_> = agents
        .into_iter()
        .map(|agent| {
            let (store, epoch, request) = (fx.store.clone(), epoch.clone(), place_request(&agent, &node));
            tokio::spawn(async move { store.place(&epoch, request).await })
        })
        .collect();
    let (mut placed, mut full) = (0, 0);
    for task in tasks {
        match task.await.expect("runs") {
            Ok(_) => placed += 1,
            Err(StoreError::NoRoom { .. }) => full += 1,
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!((placed, full), (10, 54));
    assert_eq!(fx.reserved(&node).await, NodeAmounts { cpu_millicores: 10_000, memory_mb: 5120, disk_mb: 10_240 });
}

async fn a_refused_request_leaves_its_batch_alone(fx: Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(64, 2 * 512).await);
    let mut requests = Vec::new();
    for i in 0..4 {
        requests.push(place_request(&fx.agent(&format!("a{i}")).await, &node));
    }
    requests[1].expected_version = 9;
    let nowhere = crate::fixture::hello(1, 1).node_id;
    requests.push(place_request(&fx.agent("b").await, &nowhere));
    let results = fx.store.place_batch(&epoch, requests).await.expect("runs");
    let short: Vec<_> = results.iter().map(|r| r.as_ref().map(|_| ()).map_err(|e| e.to_string())).collect();
    assert!(short[0].is_ok() && short[2].is_ok(), "{short:?}");
    assert!(matches!(results[1], Err(StoreError::VersionConflict { current: 1 })));
    assert!(matches!(results[3], Err(StoreError::NoRoom { .. })));
    assert_eq!(results[4], Err(StoreError::NotFound { what: "node" }));
    assert_eq!(fx.reserved(&node).await.memory_mb, 2 * 512);
}

async fn a_started_agent_returns_to_its_disk(fx: Fixture) {
    let (epoch, node, other) = (fx.leader().await, fx.node(4, 512).await, fx.node(4, 4096).await);
    let id = fx.agent("a").await.id;
    fx.place(&epoch, &id, &node).await;
    fx.report(&node, &id, Observed::Running).await;
    fx.report(&node, &id, Observed::Stopped).await;
    let disk_only = NodeAmounts { cpu_millicores: 0, memory_mb: 0, disk_mb: 1024 };
    assert_eq!(fx.reserved(&node).await, disk_only);
    // Its room is taken by another meanwhile.
    let taker = fx.agent("taker").await.id;
    fx.place(&epoch, &taker, &node).await;
    let started = fx.desire(&id, Desired::Running).await.expect("starts");
    assert_eq!((started.observed, started.node_id.as_ref(), started.assigned), (Observed::Pending, Some(&node), false));
    let waiting = fx.store.assignments(&node).await.expect("lists").into_iter().find(|a| a.agent.id == id);
    assert_eq!(waiting.expect("keeps its disk").desired, Desired::Stopped);
    let elsewhere = fx.store.place(&epoch, place_request(&started, &other)).await;
    assert_eq!(elsewhere, Err(StoreError::NoRoom { detail: format!("its disk is on {node}") }));
    let full = fx.store.place(&epoch, place_request(&started, &node)).await;
    assert!(matches!(full, Err(StoreError::NoRoom { .. })));
    // What the node still says of the last run starts and ends nothing.
    assert_eq!(fx.report(&node, &id, Observed::Stopped).await, ReportResult::Stale);
    fx.report(&node, &taker, Observed::Failed).await;
    let placed = fx.store.place(&epoch, place_request(&started, &node)).await.expect("fits now");
    assert_eq!(placed.generation, started.generation + 1);
    assert_eq!(fx.reserved(&node).await, NodeAmounts { cpu_millicores: 1000, memory_mb: 512, disk_mb: 2048 });
}

async fn deleting_gives_back_once(fx: Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(4, 4096).await);
    let id = fx.agent("a").await.id;
    fx.place(&epoch, &id, &node).await;
    fx.report(&node, &id, Observed::Running).await;
    let gone = fx.desire(&id, Desired::Gone).await.expect("deletes");
    assert_eq!(
        (gone.observed, fx.reserved(&node).await.memory_mb),
        (Observed::Running, 512),
        "until the node confirms"
    );
    fx.agent("a").await;
    fx.report(&node, &id, Observed::Stopped).await;
    assert_eq!(fx.reserved(&node).await.memory_mb, 0);
    fx.report(&node, &id, Observed::Gone).await;
    assert_eq!(fx.reserved(&node).await, NodeAmounts::default());
    let again = ReportRow::of(id.clone(), gone.generation, Observed::Gone);
    assert_eq!(fx.send(&node, again).await, ReportResult::NotHere);
    assert_eq!(fx.reserved(&node).await, NodeAmounts::default());
    assert_eq!(fx.store.assignments(&node).await.expect("lists").len(), 0);
}

async fn who_waits_is_found_by_age_and_by_news(fx: Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(8, 8192).await);
    let mut cursor = fx.events(1).await.last().expect("the node's").cursor;
    let mut made = Vec::new();
    for n in 0..5 {
        fx.clock.advance(Duration::from_millis(1));
        made.push(fx.agent(&format!("w{n}")).await);
    }
    let ids = |rows: &[AgentRow]| rows.iter().map(|r| r.id.clone()).collect::<Vec<_>>();
    let first = fx.store.pending_agents(None, 2).await.expect("lists");
    assert_eq!(ids(&first), ids(&made[..2]));
    let after = first.last().map(|r| (r.created_at, r.id.clone()));
    assert_eq!(ids(&fx.store.pending_agents(after, 10).await.expect("lists")), ids(&made[2..]));
    // The same by the events, in two steps, oldest first; then nothing is new.
    fx.events(6).await;
    let mut news = Vec::new();
    while news.len() < 5 {
        let (rows, next) = fx.store.began_to_wait(cursor, 3).await.expect("reads");
        assert!(next > cursor, "{next}");
        news.extend(ids(&rows));
        cursor = next;
    }
    assert_eq!(news, ids(&made));
    assert_eq!(fx.store.began_to_wait(cursor, 100).await, Ok((Vec::new(), cursor)));
    // A reason is no news, a placement neither; waiting anew is.
    fx.store.explain_pending(&epoch, vec![(made[0].id.clone(), "why".into())]).await.expect("explains");
    fx.place(&epoch, &made[1].id, &node).await;
    fx.desire(&made[2].id, Desired::Stopped).await.expect("stops");
    fx.desire(&made[3].id, Desired::Stopped).await.expect("stops");
    fx.desire(&made[3].id, Desired::Running).await.expect("starts");
    let mut seen = Vec::new();
    for _ in 0..100 {
        let (rows, next) = fx.store.began_to_wait(cursor, 100).await.expect("reads");
        seen.extend(ids(&rows));
        if seen.len() == 1 {
            break;
        }
        cursor = next;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(seen, [made[3].id.clone()]);
}

async fn reasons_are_written_when_new(fx: Fixture) {
    let epoch = fx.leader().await;
    let id = fx.agent("a").await.id;
    for _ in 0..3 {
        fx.store.explain_pending(&epoch, vec![(id.clone(), "none of 3 nodes fits".into())]).await.expect("explains");
    }
    let row = fx.get(&id).await;
    assert_eq!((row.version, row.placement_reason.as_deref()), (2, Some("none of 3 nodes fits")));
    fx.desire(&id, Desired::Stopped).await.expect("stops");
    fx.store.explain_pending(&epoch, vec![(id.clone(), "late".into())]).await.expect("is no error");
    assert_eq!(fx.get(&id).await.placement_reason, None);
}

async fn assignments_are_the_full_set(fx: Fixture) {
    let (epoch, node, other) = (fx.leader().await, fx.node(8, 8192).await, fx.node(8, 8192).await);
    let mut new = crate::fixture::new_agent("e");
    new.env.insert("TOKEN".to_owned(), "s3cret".to_owned());
    let with_env = fx.store.create_agent(&crate::fixture::scope(), new).await.expect("creates").agent.id;
    let (stopped, elsewhere, deleted) = (fx.agent("s").await.id, fx.agent("x").await.id, fx.agent("d").await.id);
    for id in [&with_env, &stopped, &deleted] {
        fx.place(&epoch, id, &node).await;
    }
    fx.place(&epoch, &elsewhere, &other).await;
    fx.report(&node, &stopped, Observed::Stopped).await;
    fx.desire(&deleted, Desired::Gone).await.expect("deletes");
    let all = fx.store.assignments(&node).await.expect("lists");
    assert_eq!(all.len(), 3);
    let of = |id| all.iter().find(|a| a.agent.id == id).expect("is assigned");
    assert_eq!(of(with_env.clone()).env.get("TOKEN").map(String::as_str), Some("s3cret"));
    assert!(!format!("{all:?}").contains("s3cret"), "debug output hides the env");
    assert_eq!(of(deleted).desired, Desired::Gone);
    assert_eq!(of(stopped).desired, Desired::Running);
    let some = fx.store.assignments_among(&node, vec![with_env.clone(), elsewhere]).await.expect("lists");
    assert_eq!(some.iter().map(|a| &a.agent.id).collect::<Vec<_>>(), [&with_env]);
    assert_eq!(fx.store.assignments_among(&node, Vec::new()).await, Ok(Vec::new()));
}

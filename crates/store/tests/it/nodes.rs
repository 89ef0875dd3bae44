//! Nodes: registration, leases, epochs.

use crate::fixture::{Fixture, hello, place_request};
use aether_core::Clock;
use aether_core::api::NodeAmounts;
use aether_core::state::{Desired, Observed};
use aether_store::*;
use std::time::Duration;

crate::on_both![
    a_node_registers_and_renews,
    an_older_run_is_fenced,
    heartbeats_do_not_touch_reservations,
    a_delete_does_not_wait_for_a_lost_node_that_never_began,
    a_clock_that_leaps_meanwhile_loses_nobody,
    a_lost_node_loses_what_runs_and_finds_it_again,
];

const LEASE: Duration = Duration::from_secs(6);

async fn a_node_registers_and_renews(fx: Fixture) {
    let hello = hello(4, 4096);
    fx.store.register_node(hello.clone()).await.expect("registers");
    let beat = HeartbeatRow { boots_queued: 1, boots_running: 2, sandboxes: 3, memory_free_mb: 4, disk_free_mb: 5 };
    fx.clock.advance(Duration::from_secs(2));
    fx.store.renew_node(&hello.node_id, 1, beat).await.expect("renews");
    let rows = fx.store.nodes().await.expect("lists");
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!((row.status, row.heartbeat, row.lease_renewed_at), (NodeStatus::Ready, beat, fx.clock.now()));
    assert_eq!((&row.labels, row.capacity, &row.features), (&hello.labels, hello.capacity, &hello.features));
    let unknown = crate::fixture::hello(1, 1).node_id;
    let refused = fx.store.renew_node(&unknown, 1, beat).await;
    assert_eq!(refused, Err(StoreError::NotFound { what: "node" }));
}

async fn an_older_run_is_fenced(fx: Fixture) {
    let mut hello = hello(4, 4096);
    hello.node_epoch = 5;
    fx.store.register_node(hello.clone()).await.expect("registers");
    fx.store.register_node(hello.clone()).await.expect("the same run may come again");
    let (id, fenced) = (hello.node_id.clone(), Err(StoreError::Fenced { held: 4, current: 5 }));
    let old = NodeHelloRow { node_epoch: 4, ..hello };
    assert_eq!(fx.store.register_node(old).await, fenced);
    assert_eq!(fx.store.renew_node(&id, 4, HeartbeatRow::default()).await.map(drop), fenced);
    assert_eq!(fx.store.apply_reports(&id, 4, Vec::new()).await.map(|_| ()), fenced);
}

async fn heartbeats_do_not_touch_reservations(fx: Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(64, 65536).await);
    let beats = {
        let (store, node) = (fx.store.clone(), node.clone());
        tokio::spawn(async move {
            for _ in 0..40 {
                store.renew_node(&node, 1, HeartbeatRow::default()).await.expect("renews");
            }
        })
    };
    for i in 0..20 {
        let agent = fx.agent(&format!("a{i}")).await;
        fx.store.place(&epoch, place_request(&agent, &node)).await.expect("is placed");
    }
    beats.await.expect("runs");
    let reserved = fx.reserved(&node).await;
    assert_eq!((reserved.cpu_millicores, reserved.memory_mb, reserved.disk_mb), (20_000, 20 * 512, 20 * 1024));
    // Neither does a new hello.
    let again = NodeHelloRow { node_id: node.clone(), node_epoch: 2, ..hello(64, 65536) };
    fx.store.register_node(again).await.expect("registers");
    assert_eq!(fx.reserved(&node).await, reserved);
}

async fn a_delete_does_not_wait_for_a_lost_node_that_never_began(fx: Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(8, 8192).await);
    let (before, after, begun) = (fx.agent("b").await.id, fx.agent("a").await.id, fx.agent("r").await.id);
    for id in [&before, &after, &begun] {
        fx.place(&epoch, id, &node).await;
    }
    fx.report(&node, &begun, Observed::Creating).await;
    let live = fx.desire(&before, Desired::Gone).await.expect("is granted");
    assert_eq!(live.observed, Observed::Pending, "a live node confirms it itself");
    fx.clock.advance(LEASE + Duration::from_millis(1));
    fx.store.expire_nodes(&epoch, LEASE, fx.clock.now()).await.expect("expires");
    assert_eq!(fx.get(&before).await.observed, Observed::Gone, "deleted before the node was lost");
    let gone = fx.desire(&after, Desired::Gone).await.expect("is granted");
    assert_eq!(gone.observed, Observed::Gone, "deleted after the node was lost");
    let kept = fx.desire(&begun, Desired::Gone).await.expect("is granted");
    assert_eq!(kept.observed, Observed::Lost, "what the node has begun, it must end");
    assert_eq!(fx.reserved(&node).await, NodeAmounts { cpu_millicores: 1000, memory_mb: 512, disk_mb: 1024 });
    // Should it come back, it is told of nothing but the one it has.
    let here = fx.store.assignments(&node).await.expect("lists");
    assert_eq!(here.into_iter().map(|a| a.agent.id).collect::<Vec<_>>(), [begun]);
    assert_eq!(fx.report(&node, &before, Observed::Creating).await, ReportResult::NotHere);
}

/// Between the look at the clock and the transaction, which may have waited.
async fn a_clock_that_leaps_meanwhile_loses_nobody(fx: Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(8, 8192).await);
    let agent = fx.agent("a").await.id;
    fx.place(&epoch, &agent, &node).await;
    fx.report(&node, &agent, Observed::Running).await;
    let hour = Duration::from_secs(3600);
    let seen = fx.clock.now();
    fx.clock.advance(hour);
    assert_eq!(fx.store.expire_nodes(&epoch, LEASE, seen).await, Ok(Vec::new()), "ahead");
    fx.store.renew_node(&node, 1, HeartbeatRow::default()).await.expect("renews");
    let seen = fx.clock.now();
    fx.clock.set_ms(seen.minus(hour).unix_ms());
    fx.store.renew_node(&node, 1, HeartbeatRow::default()).await.expect("renews");
    assert_eq!(fx.store.expire_nodes(&epoch, LEASE, seen).await, Ok(Vec::new()), "back");
    fx.clock.advance(LEASE + Duration::from_millis(1));
    assert_eq!(fx.store.expire_nodes(&epoch, LEASE, fx.clock.now()).await, Ok(vec![agent]), "silence is another thing");
}

async fn a_lost_node_loses_what_runs_and_finds_it_again(fx: Fixture) {
    let (epoch, node, other) = (fx.leader().await, fx.node(8, 8192).await, fx.node(8, 8192).await);
    let (running, stopped, waiting) = (fx.agent("r").await.id, fx.agent("s").await.id, fx.agent("w").await.id);
    for id in [&running, &stopped, &waiting] {
        fx.place(&epoch, id, &node).await;
    }
    fx.report(&node, &running, Observed::Running).await;
    fx.report(&node, &stopped, Observed::Running).await;
    fx.report(&node, &stopped, Observed::Stopped).await;
    fx.clock.advance(LEASE);
    assert_eq!(
        fx.store.expire_nodes(&epoch, LEASE, fx.clock.now()).await,
        Ok(Vec::new()),
        "not before the lease is over"
    );
    fx.store.renew_node(&other, 1, HeartbeatRow::default()).await.expect("renews");
    fx.clock.advance(Duration::from_millis(1));
    assert_eq!(fx.store.expire_nodes(&epoch, LEASE, fx.clock.now()).await, Ok(vec![running.clone()]));
    assert_eq!(fx.store.expire_nodes(&epoch, LEASE, fx.clock.now()).await, Ok(Vec::new()), "once");
    let states = [fx.get(&running).await.observed, fx.get(&stopped).await.observed, fx.get(&waiting).await.observed];
    assert_eq!(states, [Observed::Lost, Observed::Stopped, Observed::Pending]);
    let status = async |id| fx.store.nodes().await.expect("lists").into_iter().find(|n| n.id == id).map(|n| n.status);
    assert_eq!(status(node.clone()).await, Some(NodeStatus::Lost));
    assert_eq!(status(other.clone()).await, Some(NodeStatus::Ready));
    // Nothing goes to a lost node, and nothing leaves it.
    let fresh = fx.agent("f").await;
    let refused = fx.store.place(&epoch, place_request(&fresh, &node)).await;
    assert_eq!(refused, Err(StoreError::NoRoom { detail: "the node is lost".to_owned() }));
    assert_eq!(fx.reserved(&node).await.memory_mb, 2 * 512);
    // It comes back and says what it has.
    assert_eq!(fx.store.renew_node(&node, 1, HeartbeatRow::default()).await, Ok(true), "it is asked for all it has");
    assert_eq!(fx.store.renew_node(&node, 1, HeartbeatRow::default()).await, Ok(false), "once");
    assert_eq!(status(node.clone()).await, Some(NodeStatus::Ready));
    let back = fx.report(&node, &running, Observed::Running).await;
    assert_eq!(back, ReportResult::Applied { from: Observed::Lost, to: Observed::Running });
}

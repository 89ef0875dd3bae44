//! What nodes report.

use crate::fixture::Fixture;
use aether_core::api::AgentFailure;
use aether_core::source::OsRng;
use aether_core::state::{Desired, Observed};
use aether_core::{AgentId, Clock, NodeId, Timestamp};
use aether_store::*;
use std::time::Duration;

crate::on_both![
    steps_may_be_collapsed_but_not_invented,
    repeated_stale_and_overtaken_reports_change_nothing,
    reports_for_what_is_not_here,
    facts_are_kept,
    ttl_counts_from_the_first_running,
    a_deleted_agent_is_erased_from_every_state,
    nothing_is_erased_unasked,
];

async fn placed(fx: &Fixture) -> (Epoch, NodeId, AgentId) {
    let (epoch, node) = (fx.leader().await, fx.node(8, 8192).await);
    let id = fx.agent("a").await.id;
    fx.place(&epoch, &id, &node).await;
    (epoch, node, id)
}

async fn steps_may_be_collapsed_but_not_invented(fx: Fixture) {
    let (_, node, id) = placed(&fx).await;
    use Observed::{Creating, Failed, Lost, Paused, Pending, Running, Stopped};
    assert_eq!(fx.report(&node, &id, Running).await, ReportResult::Applied { from: Pending, to: Running });
    assert_eq!(fx.report(&node, &id, Paused).await, ReportResult::Applied { from: Running, to: Paused });
    assert_eq!(fx.report(&node, &id, Creating).await, ReportResult::Refused { from: Paused, to: Creating });
    assert_eq!(fx.report(&node, &id, Lost).await, ReportResult::Refused { from: Paused, to: Lost });
    assert_eq!(fx.report(&node, &id, Pending).await, ReportResult::Refused { from: Paused, to: Pending });
    assert_eq!(fx.report(&node, &id, Stopped).await, ReportResult::Applied { from: Paused, to: Stopped });
    for to in [Running, Creating, Failed, Paused] {
        assert_eq!(fx.report(&node, &id, to).await, ReportResult::Refused { from: Stopped, to });
    }
    assert_eq!(fx.get(&id).await.observed, Stopped);
}

async fn repeated_stale_and_overtaken_reports_change_nothing(fx: Fixture) {
    let (_, node, id) = placed(&fx).await;
    let at = |generation, observed, sequence| ReportRow { sequence, ..ReportRow::of(id.clone(), generation, observed) };
    let applied = |from, to| ReportResult::Applied { from, to };
    assert_eq!(fx.send(&node, at(1, Observed::Creating, 0)).await, ReportResult::Stale, "of before the placement");
    assert_eq!(fx.send(&node, at(3, Observed::Creating, 0)).await, ReportResult::Stale, "of a generation to come");
    assert_eq!(fx.send(&node, at(2, Observed::Creating, 1)).await, applied(Observed::Pending, Observed::Creating));
    assert_eq!(fx.send(&node, at(2, Observed::Creating, 2)).await, ReportResult::Unchanged);
    assert_eq!(fx.send(&node, at(2, Observed::Running, 4)).await, applied(Observed::Creating, Observed::Running));
    assert_eq!(fx.send(&node, at(2, Observed::Stopped, 3)).await, ReportResult::Stale, "overtaken");
    assert_eq!(fx.send(&node, at(2, Observed::Stopped, 4)).await, ReportResult::Stale, "heard already");
    let version = fx.get(&id).await.version;
    assert_eq!(fx.send(&node, at(2, Observed::Running, 5)).await, ReportResult::Unchanged);
    assert_eq!(fx.get(&id).await.version, version);
    // A new run of the node counts from one again.
    let again = NodeHelloRow { node_id: node.clone(), node_epoch: 2, ..crate::fixture::hello(8, 8192) };
    fx.store.register_node(again).await.expect("registers");
    let outcome = fx.store.apply_reports(&node, 2, vec![at(2, Observed::Stopped, 1)]).await.expect("applies");
    assert_eq!(outcome[0].result, applied(Observed::Running, Observed::Stopped));
    // A new wish makes what was said before it stale.
    fx.desire(&id, Desired::Gone).await.expect("deletes");
    let outcome = fx.store.apply_reports(&node, 2, vec![at(2, Observed::Gone, 2)]).await.expect("applies");
    assert_eq!(outcome[0].result, ReportResult::Stale);
}

async fn reports_for_what_is_not_here(fx: Fixture) {
    let (_, node, id) = placed(&fx).await;
    let other = fx.node(8, 8192).await;
    let generation = fx.get(&id).await.generation;
    let report = ReportRow::of(id.clone(), generation, Observed::Running);
    assert_eq!(fx.send(&other, report.clone()).await, ReportResult::NotHere, "another node's agent");
    let unknown = ReportRow::of(AgentId::generate("c0", &OsRng), 1, Observed::Running);
    let both = fx.store.apply_reports(&node, 1, vec![unknown, report]).await.expect("applies");
    assert_eq!(both.iter().map(|o| &o.agent_id).collect::<Vec<_>>()[1], &id, "in the order of the reports");
    assert_eq!(both[0].result, ReportResult::NotHere);
    assert!(matches!(both[1].result, ReportResult::Applied { .. }));
}

async fn facts_are_kept(fx: Fixture) {
    let (_, node, id) = placed(&fx).await;
    let generation = fx.get(&id).await.generation;
    let report = |observed| ReportRow {
        isolation: Some("vm-emulated".to_owned()),
        engine: Some("qemu".to_owned()),
        disk_encryption: Some("luks".to_owned()),
        image_digest: Some("sha256:ab".to_owned()),
        ..ReportRow::of(id.clone(), generation, observed)
    };
    fx.send(&node, ReportRow { queue_position: Some(3), ..report(Observed::Creating) }).await;
    assert_eq!(fx.get(&id).await.queue_position, Some(3));
    let moved = ReportRow { queue_position: Some(2), ..report(Observed::Creating) };
    assert_eq!(fx.send(&node, moved).await, ReportResult::Applied { from: Observed::Creating, to: Observed::Creating });
    fx.send(&node, ReportRow { started_at: Some(Timestamp::from_unix_ms(5)), ..report(Observed::Running) }).await;
    let row = fx.get(&id).await;
    assert_eq!((row.queue_position, row.started_at), (None, Some(Timestamp::from_unix_ms(5))));
    assert_eq!((row.engine.as_deref(), row.disk_encryption.as_deref()), (Some("qemu"), Some("luks")));
    let unwell = ReportRow { unhealthy: true, unhealthy_reason: Some("y".repeat(5000)), ..report(Observed::Running) };
    fx.send(&node, unwell).await;
    let row = fx.get(&id).await;
    assert_eq!((row.unhealthy, row.unhealthy_reason.map(|r| r.len())), (true, Some(1024)));
    let well = ReportRow { unhealthy_reason: Some("not so".to_owned()), ..report(Observed::Running) };
    fx.send(&node, well).await;
    let row = fx.get(&id).await;
    assert_eq!((row.unhealthy, row.unhealthy_reason), (false, None));
    let end = ReportRow {
        exit_code: Some(137),
        exit_signal: Some("KILL".to_owned()),
        restarts: 2,
        error: Some(AgentFailure { code: "OUT_OF_MEMORY".to_owned(), message: "x".repeat(5000) }),
        ..report(Observed::Failed)
    };
    fx.clock.advance(Duration::from_secs(1));
    fx.send(&node, end).await;
    let row = fx.get(&id).await;
    assert_eq!((row.exit_code, row.exit_signal.as_deref(), row.restarts), (Some(137), Some("KILL"), 2));
    assert_eq!(row.stopped_at, Some(fx.clock.now()));
    let error = row.error.expect("is kept");
    assert_eq!((error.code.as_str(), error.message.len()), ("OUT_OF_MEMORY", 1024));
    // The next run knows nothing of it.
    let row = fx.desire(&id, Desired::Running).await.expect("starts");
    assert_eq!((row.exit_code, row.error, row.restarts, row.started_at), (None, None, 0, None));
    assert_eq!(row.image_digest.as_deref(), Some("sha256:ab"));
}

async fn ttl_counts_from_the_first_running(fx: Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(8, 8192).await);
    let mut new = crate::fixture::new_agent("a");
    new.spec.ttl_s = Some(60);
    let id = fx.store.create_agent(&crate::fixture::scope(), new).await.expect("creates").agent.id;
    fx.place(&epoch, &id, &node).await;
    fx.report(&node, &id, Observed::Creating).await;
    assert_eq!(fx.get(&id).await.expires_at, None, "waiting does not count");
    fx.clock.advance(Duration::from_secs(100));
    fx.report(&node, &id, Observed::Running).await;
    let expires = fx.clock.now().plus(Duration::from_secs(60));
    assert_eq!(fx.get(&id).await.expires_at, Some(expires));
    fx.clock.advance(Duration::from_secs(10));
    fx.report(&node, &id, Observed::Paused).await;
    fx.report(&node, &id, Observed::Running).await;
    assert_eq!(fx.get(&id).await.expires_at, Some(expires), "absolute");
    fx.report(&node, &id, Observed::Stopped).await;
    assert_eq!(fx.desire(&id, Desired::Running).await.expect("starts").expires_at, None);
}

async fn a_deleted_agent_is_erased_from_every_state(fx: Fixture) {
    use Observed::*;
    let (epoch, node) = (fx.leader().await, fx.node(64, 65536).await);
    let ways: [&[Observed]; 10] = [
        &[],
        &[Creating],
        &[Restoring],
        &[Running],
        &[Running, Pausing],
        &[Running, Paused],
        &[Running, Paused, Resuming],
        &[Running, Stopping],
        &[Running, Stopped],
        &[Failed],
    ];
    for (i, way) in ways.into_iter().enumerate() {
        let id = fx.agent(&format!("a{i}")).await.id;
        fx.place(&epoch, &id, &node).await;
        for state in way {
            assert!(matches!(fx.report(&node, &id, *state).await, ReportResult::Applied { .. }), "{way:?}");
        }
        fx.desire(&id, Desired::Gone).await.expect("deletes");
        assert!(matches!(fx.report(&node, &id, Gone).await, ReportResult::Applied { .. }), "{way:?}");
    }
    assert_eq!(fx.reserved(&node).await, aether_core::api::NodeAmounts::default());
}

async fn nothing_is_erased_unasked(fx: Fixture) {
    let (_, node, id) = placed(&fx).await;
    fx.report(&node, &id, Observed::Running).await;
    let (from, to) = (Observed::Running, Observed::Gone);
    assert_eq!(fx.report(&node, &id, Observed::Gone).await, ReportResult::Refused { from, to });
    assert_eq!(fx.get(&id).await.observed, Observed::Running);
}

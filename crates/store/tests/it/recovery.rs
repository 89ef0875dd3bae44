//! Agents whose sandbox died, and are to be started again.

use crate::fixture::{Fixture, new_agent, scope};
use aether_core::api::{AgentFailure, failure};
use aether_core::spec::Recovery;
use aether_core::state::{Desired, Observed};
use aether_core::{AgentId, NodeId};
use aether_store::*;
use std::time::Duration;

crate::on_both![
    three_tries_apart_and_an_hour_forgives_them,
    only_a_death_unasked_counts_and_only_where_the_spec_says_so,
    a_start_by_hand_begins_anew,
    an_old_leader_recovers_nothing,
];

const HALF_A_MINUTE: Duration = Duration::from_secs(30);

async fn running(fx: &Fixture, epoch: &Epoch, node: &NodeId, name: &str, recovery: Recovery) -> AgentId {
    let mut new = new_agent(name);
    new.spec.recovery = recovery;
    let id = fx.store.create_agent(&scope(), new).await.expect("creates").agent.id;
    run(fx, epoch, node, &id).await;
    id
}

async fn run(fx: &Fixture, epoch: &Epoch, node: &NodeId, id: &AgentId) {
    fx.place(epoch, id, node).await;
    fx.report(node, id, Observed::Running).await;
}

async fn die(fx: &Fixture, node: &NodeId, id: &AgentId, code: &str) {
    let generation = fx.get(id).await.generation;
    let error = Some(AgentFailure { code: code.to_owned(), message: "the VMM died".to_owned() });
    fx.send(node, ReportRow { error, ..ReportRow::of(id.clone(), generation, Observed::Failed) }).await;
    assert_eq!(fx.get(id).await.observed, Observed::Failed);
}

async fn recovered(fx: &Fixture, epoch: &Epoch) -> Vec<AgentId> {
    fx.store.recover_agents(epoch).await.expect("looks")
}

async fn three_tries_apart_and_an_hour_forgives_them(fx: Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(8, 8192).await);
    let id = running(&fx, &epoch, &node, "one", Recovery::Restart).await;
    for attempt in 1..=3 {
        die(&fx, &node, &id, failure::SANDBOX_DIED).await;
        if attempt > 1 {
            assert!(recovered(&fx, &epoch).await.is_empty(), "not at once again");
            fx.clock.advance(HALF_A_MINUTE);
        }
        let generation = fx.get(&id).await.generation;
        assert_eq!(recovered(&fx, &epoch).await, std::slice::from_ref(&id), "try {attempt}");
        let row = fx.get(&id).await;
        assert_eq!((row.observed, row.generation, row.error), (Observed::Pending, generation + 1, None));
        assert_eq!(row.node_id.as_ref(), Some(&node), "where its disk is");
        run(&fx, &epoch, &node, &id).await;
    }
    die(&fx, &node, &id, failure::SANDBOX_DIED).await;
    fx.clock.advance(HALF_A_MINUTE * 2);
    assert!(recovered(&fx, &epoch).await.is_empty(), "three are enough");
    fx.clock.advance(Duration::from_secs(3600));
    assert_eq!(recovered(&fx, &epoch).await, std::slice::from_ref(&id));
    run(&fx, &epoch, &node, &id).await;
    die(&fx, &node, &id, failure::SANDBOX_DIED).await;
    fx.clock.advance(HALF_A_MINUTE);
    assert_eq!(recovered(&fx, &epoch).await, std::slice::from_ref(&id), "and counted from the first again");
    let events = fx.events(10).await;
    let told: Vec<_> = events.iter().filter(|e| e.kind == "agent.recovering").map(|e| &e.data["attempt"]).collect();
    assert_eq!(told, [1, 2, 3, 1, 2]);
}

async fn only_a_death_unasked_counts_and_only_where_the_spec_says_so(fx: Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(8, 8192).await);
    let none = running(&fx, &epoch, &node, "none", Recovery::None).await;
    let oom = running(&fx, &epoch, &node, "oom", Recovery::Restart).await;
    let stopped = running(&fx, &epoch, &node, "stopped", Recovery::Restart).await;
    die(&fx, &node, &none, failure::SANDBOX_DIED).await;
    die(&fx, &node, &oom, failure::OUT_OF_MEMORY).await;
    fx.desire(&stopped, Desired::Stopped).await.expect("stops");
    die(&fx, &node, &stopped, failure::SANDBOX_DIED).await;
    assert!(recovered(&fx, &epoch).await.is_empty());
    // A patch counts from now on.
    let patch = serde_json::from_str::<aether_core::api::AgentPatch>(r#"{"recovery":"restart"}"#).expect("parses");
    let patch = patch.check().expect("is well formed");
    let updated = fx.store.update_agent(&scope(), &none, patch, None).await.expect("updates");
    assert_eq!(updated.changed, ["recovery"]);
    assert_eq!(recovered(&fx, &epoch).await, [none]);
}

async fn a_start_by_hand_begins_anew(fx: Fixture) {
    let (epoch, node) = (fx.leader().await, fx.node(8, 8192).await);
    let id = running(&fx, &epoch, &node, "one", Recovery::Restart).await;
    die(&fx, &node, &id, failure::SANDBOX_DIED).await;
    recovered(&fx, &epoch).await;
    run(&fx, &epoch, &node, &id).await;
    die(&fx, &node, &id, failure::SANDBOX_DIED).await;
    fx.desire(&id, Desired::Running).await.expect("starts");
    run(&fx, &epoch, &node, &id).await;
    die(&fx, &node, &id, failure::SANDBOX_DIED).await;
    assert_eq!(recovered(&fx, &epoch).await, [id], "without a wait: it is a first try");
}

async fn an_old_leader_recovers_nothing(fx: Fixture) {
    let (old, node) = (fx.leader().await, fx.node(8, 8192).await);
    let id = running(&fx, &old, &node, "one", Recovery::Restart).await;
    die(&fx, &node, &id, failure::SANDBOX_DIED).await;
    let new = fx.store.take_leadership("other").await.expect("leads");
    assert!(matches!(fx.store.recover_agents(&old).await, Err(StoreError::Fenced { .. })));
    assert_eq!(recovered(&fx, &new).await, [id]);
}

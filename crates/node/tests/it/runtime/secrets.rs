//! What a run is given of secrets, and what becomes of one that is given none.

use super::exec::{open, start_message};
use super::world::World;
use super::{sh, spec};
use aether_core::{AgentSpec, SecretRef};
use aether_proto::node::exec_request::Message as Ask;
use aether_proto::node::{SecretValue, SecretsResponse};
use std::time::Duration;
use tonic::Status;

fn naming(spec: AgentSpec) -> AgentSpec {
    let file = SecretRef { env: None, file: Some("/etc/kept".into()), mode: None, name: "B".into() };
    AgentSpec { secrets: vec![SecretRef::named("A"), file], ..spec }
}

fn given() -> Result<SecretsResponse, Status> {
    let secret = |name: &str, value: &str| SecretValue { name: name.into(), value: value.as_bytes().to_vec().into() };
    Ok(SecretsResponse { secrets: vec![secret("A", "alpha-7f3kq"), secret("B", "beta-7f3kq")], refusal: String::new() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_its_secrets_and_gets_them_in_the_guest() {
    let mut world = World::new("secrets").await;
    world.import("one:v1", "one").await;
    let refusal = "The agent names the secret A, which is not there any more.";
    let refused = SecretsResponse { secrets: Vec::new(), refusal: refusal.into() };
    world.server.answer_secrets([Ok(refused)]);
    let failed = world.server.create(&naming(spec("one:v1")));
    let report = world.server.observed(&failed, "failed").await;
    assert_eq!((report.error_code.as_str(), report.error_message.as_str()), ("SECRET_UNAVAILABLE", refusal));
    assert_eq!(world.sandboxes_alive(), 0, "it cost no boot");

    // Away twice, then back.
    world.server.answer_secrets([Err(Status::unavailable("Vault is away")), Err(Status::internal("x")), given()]);
    let agent = world.server.create(&naming(sh("one:v1", "echo main $A $(cat /etc/kept); exec sleep 100000")));
    world.server.observed(&agent, "running").await;
    let asked = world.server.asked_for_secrets();
    assert_eq!(asked.len(), 4);
    assert!(asked[1..].iter().all(|a| a.agent_id == agent && a.generation == asked[1].generation && a.node_epoch == 1));
    let start = start_message(&agent, &["/bin/sh", "-c", "echo $A $(cat /etc/kept)"]);
    let mut live = open(&mut world.data().await, Ask::Start(start)).await.expect("starts");
    live.read_until(|_| false).await.expect("ends");
    assert_eq!(live.ran.stdout, "alpha-7f3kq beta-7f3kq\n");

    // One that waits for them can be ended at once.
    let waits = world.server.create(&naming(spec("one:v1")));
    world.server.observed(&waits, "creating").await;
    while !world.server.asked_for_secrets().iter().any(|a| a.agent_id == waits) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for agent in [&waits, &agent, &failed] {
        world.server.want(agent, "gone");
        world.server.observed(agent, "gone").await;
    }
    let log = world.log();
    assert!(!log.contains("alpha-7f3kq") && !log.contains("beta-7f3kq"), "a value is in the log");
    world.assert_nothing_left().await;
}

//! A guest that lies and one that stalls, each behind a living VMM: whoever
//! looks at the agent learns that it is not well, and why.

use super::spec;
use super::world::World;
use crate::channel::scripted::{Lie, Script, Scripted};
use aether_node::channel::{EventKind, wire as guest};
use aether_proto::node as wire;
use buffa::Message as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Good in front of what is none.
fn started(sequence: u64) -> Vec<u8> {
    let event = Some(EventKind::MainStarted(Box::default()));
    guest::Event { sequence, event, ..Default::default() }.encode_to_vec()
}

fn slots(world: &World) -> Vec<PathBuf> {
    let all = std::fs::read_dir(world.setup.base.join("run/slots")).expect("slots").flatten();
    all.map(|entry| entry.path()).filter(|path| path.join("control").exists()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_lies_and_one_that_stalls_are_unhealthy_and_told_why() {
    let mut world = World::new("liar").await;
    world.server.hello(1).await;
    world.import("tiny:v1", "tiny").await;
    let liar = world.server.create(&spec("tiny:v1"));
    assert!(!world.server.observed(&liar, "running").await.unhealthy);
    let (lairs, others) = (slots(&world), world.setup.processes());
    assert_eq!(lairs.len(), 1);
    let staller = world.server.create(&spec("tiny:v1"));
    world.server.observed(&staller, "running").await;
    let held: Vec<Pid> = world.setup.processes().into_iter().filter(|pid| !others.contains(pid)).collect();
    assert!(!held.is_empty());

    // While no node looks, another guest takes the first one's place, and the second's VMM is held.
    world.kill();
    for lane in ["control", "data"] {
        std::fs::remove_file(lairs[0].join(lane)).expect("the lane's socket");
    }
    let script = Script {
        target: "Guest/Events",
        lie: Lie::GarbageAfter,
        good: started,
        absurd: Vec::new(),
        taken: AtomicU64::new(0),
    };
    let _scripted = Scripted::start(&lairs[0], &Arc::new(script));
    held.iter().for_each(|pid| kill(*pid, Signal::SIGSTOP).expect("holds it"));
    world.start(None);

    let report = world.server.health(&liar, false).await;
    assert_eq!(report.observed, "running", "it is left alone");
    assert!(report.unhealthy_reason.contains("broke the protocol"), "{report:?}");
    let asked = wire::AgentRequest { agent_id: liar.clone() };
    let health = world.data().await.health(asked).await.expect("an answer").into_inner();
    assert!(!health.healthy && health.message.contains("broke the protocol"), "{health:?}");

    let report = world.server.health(&staller, false).await;
    assert!(report.unhealthy_reason.contains("not answer"), "{report:?}");
    held.iter().for_each(|pid| kill(*pid, Signal::SIGCONT).expect("goes on"));
    let report = world.server.health(&staller, true).await;
    assert_eq!(report.unhealthy_reason, "");

    for agent in [&liar, &staller] {
        world.server.want(agent, "gone");
        world.server.observed(agent, "gone").await;
    }
    world.assert_nothing_left().await;
}

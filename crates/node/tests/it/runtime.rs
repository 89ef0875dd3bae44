//! A node with the real engine, network and images, driven over the node
//! protocol. The guests are emulated, so there are few and each proves much.

mod adoption;
mod exec;
mod failpoints;
mod faults;
mod liar;
mod life;
mod mtls;
mod orphans;
mod recycle;
mod registry;
mod sagas;
mod secrets;
mod server;
mod ttl;
mod world;

use aether_core::AgentSpec;

fn spec(image: &str) -> AgentSpec {
    let mut spec = AgentSpec::for_image(image);
    spec.resources.memory_mb = 128;
    spec.resources.disk_mb = 1024;
    spec
}

fn sh(image: &str, script: &str) -> AgentSpec {
    AgentSpec { command: vec!["/bin/sh".into(), "-c".into(), script.into()], ..spec(image) }
}

/// Not a test: the node of the tests below, in a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn node_process() {
    if let Ok(setup) = std::env::var("AETHER_TEST_NODE") {
        world::node_process(serde_json::from_str(&setup).expect("a setup")).await;
    }
}

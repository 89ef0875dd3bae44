//! Rows of the journal whose VMM is gone and whose pid is somebody else's,
//! at each step of a sandbox's life.

use super::super::orphans::as_uid;
use super::super::recycle::{Identity, Stranger, identity, spawn_at};
use super::super::world::World;
use aether_core::source::OsRng;
use aether_core::{AgentId, Observed, Timestamp};
use aether_node::engine::{ChannelToken, VmmIdentity};
use aether_node::journal::{Journal, SandboxRow, Step};
use std::sync::Arc;

/// Beyond those that guests of the test have.
const FIRST_SLOT: u32 = 40;

pub(super) struct Planted {
    pub agent: String,
    pub form: String,
    pub stranger: Stranger,
}

const STEPS: [(Step, Observed); 6] = [
    (Step::Up, Observed::Running),
    (Step::Stopping, Observed::Stopping),
    (Step::Guest, Observed::Creating),
    (Step::Identify, Observed::Creating),
    (Step::Erasing, Observed::Stopping),
    (Step::Vmm, Observed::Creating),
];

/// While no node runs.
pub(super) async fn plant(world: &World, count: u64) -> Vec<Planted> {
    let state = world.setup.base.join("state");
    let journal =
        Journal::open(state.join("journal.db"), state.join("node.key"), Arc::new(OsRng)).await.expect("opens");
    let mut planted = Vec::new();
    let mut turn = 0;
    while (planted.len() as u64) < count {
        let slot = FIRST_SLOT + turn;
        let (step, observed) = STEPS[turn as usize % STEPS.len()];
        // Every other one: as if its VMM had begun in the very tick in which the stranger did.
        let to_the_tick = turn % 2 == 1;
        turn += 1;
        assert!(turn < 24, "pids do not come round here");
        let Some((was, stranger)) = recycled(world.setup.uid_base + slot) else { continue };
        let meant = if to_the_tick { &stranger.identity } else { &was };
        let agent = AgentId::generate("c0", &OsRng);
        let mut row = SandboxRow::new(agent.clone(), "default".parse().expect("a tenant"));
        (row.observed, row.step, row.generation, row.slot) = (observed, step, 1, Some(slot));
        row.memory_mb = 1;
        row.started_at = Some(Timestamp::from_unix_ms(1));
        row.secrets.token = Some(ChannelToken([7; 16]));
        row.vmm = Some(VmmIdentity { slot, pid: meant.pid, start_time: meant.start, exe: meant.exe });
        journal.put(&row).await.expect("writes");
        let form = format!("{step:?}, the same tick: {to_the_tick}");
        planted.push(Planted { agent: agent.to_string(), form, stranger });
    }
    planted
}

/// Somebody of that uid who is no more, and who has the pid now: both run the
/// same program.
fn recycled(uid: u32) -> Option<(Identity, Stranger)> {
    let mut vmm = as_uid(uid, "sleep", &["1000"]).spawn().expect("sleep");
    let was = identity(vmm.id()).expect("lives");
    vmm.kill().expect("ends");
    vmm.wait().expect("waits");
    // It may have gone to yet another process of this machine.
    let stranger = spawn_at(was.pid, &["sleep", "1000"]).ok()?;
    Some((was, stranger))
}

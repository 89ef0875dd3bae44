//! From what should be to what is: one task per agent, each the only owner of
//! its sandbox's state.
//!
//! ```text
//! session ──DesiredSet──► Supervisor ──watch: Wish──► Sandbox task ──► engine,
//!    ▲                        │ journal: assignments      │  journal: sandboxes
//!    └──────── Reports ◄──────┴───────────────────────────┘    network, images
//! data service ──────────── reads each task's watch: Status
//! ```
//!
//! A task asks `policy::decide` what to do, does that, and asks again. Each
//! step is journaled before it is taken, so that the first question after a
//! crash is the same as any other.
//!
//! Not here: what is wanted (the control plane), and how a VMM, a slot or a
//! device is made (`engine`, `network`, `images`).

mod adopt;
mod boot;
mod deadline;
mod end;
mod failure;
mod identity;
mod laps;
mod logs;
mod policy;
mod reports;
mod run;
mod sandbox;
mod secrets;
mod slots;
mod spares;
mod supervisor;
mod sweep;
mod wish;

pub(crate) use failure::BootEnd;
pub(crate) use logs::kept as kept_logs;
pub(crate) use reports::Reports;
pub(crate) use sandbox::{Fault, Sandbox, Status};
pub(crate) use secrets::ControlLine;
pub(crate) use slots::Slots;
pub(crate) use spares::Spares;
pub(crate) use supervisor::Supervisor;

use crate::admission::{BootQueue, Ledger};
use crate::config::{BootPolicy, NodeConfig};
use crate::engine::Engine;
use crate::images::Images;
use crate::journal::Journal;
use crate::network::NetworkPool;
use aether_core::{Clock, Live, Rng};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What every sandbox task works with.
pub(crate) struct Host {
    pub config: NodeConfig,
    /// In force for boots that begin now; read from here, not from `config`.
    pub policy: Live<BootPolicy>,
    pub engine: Arc<dyn Engine>,
    pub network: NetworkPool,
    pub images: Images,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
    pub journal: Journal,
    pub queue: BootQueue,
    pub ledger: Ledger,
    pub slots: Slots,
    pub spares: Arc<Spares>,
    pub reports: Reports,
    pub control: ControlLine,
    pub shutdown: CancellationToken,
}

/// A wish for an agent with these secrets.
#[cfg(test)]
pub(crate) fn supervisor_wish(secrets: Vec<aether_core::SecretRef>) -> wish::Wish {
    use aether_core::id::DEFAULT_CELL;
    use aether_core::source::OsRng;
    let spec = aether_core::AgentSpec { secrets, ..aether_core::AgentSpec::for_image("x") };
    let assigned = crate::journal::Assigned {
        agent_id: aether_core::AgentId::generate(DEFAULT_CELL, &OsRng),
        tenant_id: aether_core::TenantId::default_tenant(),
        generation: 1,
        desired: aether_core::Desired::Running,
        name: "x".into(),
        spec,
        expires_at: None,
        image_digest: String::new(),
        stop_timeout_ms: 0,
        force: false,
    };
    wish::Wish { assigned, env: None }
}

impl Host {
    /// A deadline that the guest has a part in: stretched where it is emulated.
    pub(crate) fn stretched(&self, limit: Duration) -> Duration {
        limit * self.engine.isolation().deadline_factor()
    }
}

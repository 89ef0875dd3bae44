//! What the journal's rows hold.

use super::{JournalError, NodeKey};
use crate::engine::{ChannelToken, DiskFormat, VmmIdentity};
use aether_core::{AgentId, AgentSpec, Desired, Observed, Rng, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use zeroize::Zeroizing;

/// What the control plane wants of an agent, without its env.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assigned {
    pub agent_id: AgentId,
    pub tenant_id: TenantId,
    /// Only rises.
    pub generation: u64,
    pub desired: Desired,
    pub name: String,
    pub spec: AgentSpec,
    pub expires_at: Option<Timestamp>,
    /// Empty until an image was resolved for this agent.
    pub image_digest: String,
    pub stop_timeout_ms: u64,
    pub force: bool,
}

/// How far a sandbox has come: what may exist on the host. Written before
/// the side effect it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Nothing but perhaps a disk and an image hold.
    Idle,
    /// An image is being resolved or pulled.
    Image,
    /// Waits for its turn to boot.
    Queued,
    /// A network slot is being claimed.
    Slot,
    /// The disk is being made.
    Disk,
    /// A VMM is being started.
    Vmm,
    /// The VMM runs; the guest has not answered yet.
    Guest,
    /// The guest may have its identity: user code may run from here on.
    Identify,
    /// The guest is ready.
    Up,
    /// The guest was told to end.
    Stopping,
    /// Everything is being removed.
    Erasing,
}

impl Step {
    pub const ALL: [Step; 11] = [
        Step::Idle,
        Step::Image,
        Step::Queued,
        Step::Slot,
        Step::Disk,
        Step::Vmm,
        Step::Guest,
        Step::Identify,
        Step::Up,
        Step::Stopping,
        Step::Erasing,
    ];
}

/// The writable disk; its key is in [`Secrets`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    pub path: PathBuf,
    /// It is whole: a disk whose making was cut short is made anew.
    pub made: bool,
    pub encrypted: bool,
}

/// The image under the disk. Its config is kept too: the tenant's name may
/// have moved on to another digest before the agent starts again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldImage {
    pub digest: String,
    pub config: crate::images::ImageConfig,
}

/// How the last run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub exit_code: Option<i32>,
    pub exit_signal: Option<String>,
    /// A code of `core::api::failure`; empty: none.
    pub error_code: String,
    pub error_message: String,
}

/// When a run's time is over, by the clock that nobody sets. A run does not
/// outlive the host's boot, and neither does what this says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// As it was told: another one is another deadline.
    pub at: Timestamp,
    pub since_boot_ms: u64,
}

/// What must never be read off the disk.
#[derive(Clone, Default)]
pub struct Secrets {
    pub token: Option<ChannelToken>,
    /// While the guest's identity is being given: the token after it.
    pub next_token: Option<ChannelToken>,
    pub disk_key: Option<Zeroizing<Vec<u8>>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(***)")
    }
}

#[derive(Serialize, Deserialize)]
struct SealedForm {
    token: Option<ChannelToken>,
    next_token: Option<ChannelToken>,
    disk_key: Option<Vec<u8>>,
}

/// An agent's sandbox as this node knows it. Written by its task alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxRow {
    pub agent_id: AgentId,
    pub tenant_id: TenantId,
    pub observed: Observed,
    pub step: Step,
    /// The generation whose run has ended: it is not begun again.
    pub settled: u64,
    /// The newest generation acted upon: reports carry it.
    pub generation: u64,
    pub slot: Option<u32>,
    /// Memory counted for it while it has a slot.
    pub memory_mb: u64,
    pub vmm: Option<VmmIdentity>,
    pub disk: Option<DiskRecord>,
    /// Held for as long as the disk lies over it.
    pub image: Option<HeldImage>,
    pub isolation: String,
    pub engine: String,
    pub outcome: Outcome,
    pub started_at: Option<Timestamp>,
    pub stopped_at: Option<Timestamp>,
    #[serde(default)]
    pub ends: Option<Ends>,
    pub restarts: u32,
    /// The last guest event taken in.
    pub guest_event: u64,
    /// The guest's own id of this boot, to tell one boot from another.
    #[serde(default)]
    pub boot_id: String,
    #[serde(skip)]
    pub secrets: Secrets,
}

impl SandboxRow {
    /// A row that holds nothing.
    pub fn new(agent_id: AgentId, tenant_id: TenantId) -> Self {
        Self {
            agent_id,
            tenant_id,
            observed: Observed::Pending,
            step: Step::Idle,
            settled: 0,
            generation: 0,
            slot: None,
            memory_mb: 0,
            vmm: None,
            disk: None,
            image: None,
            isolation: String::new(),
            engine: String::new(),
            outcome: Outcome::default(),
            started_at: None,
            stopped_at: None,
            ends: None,
            restarts: 0,
            guest_event: 0,
            boot_id: String::new(),
            secrets: Secrets::default(),
        }
    }

    /// Whether anything of a run may be on the host: process, slot, uid.
    pub fn holds_run(&self) -> bool {
        self.slot.is_some() || self.vmm.is_some()
    }

    /// The disk as the engine takes it, when it is whole.
    pub fn usable_disk(&self) -> Option<crate::engine::Disk> {
        let record = self.disk.as_ref().filter(|d| d.made)?;
        let format = match (&self.secrets.disk_key, record.encrypted) {
            (Some(key), true) => DiskFormat::Qcow2Luks { key: key.clone() },
            (None, true) => return None,
            (_, false) => DiskFormat::Raw,
        };
        Some(crate::engine::Disk { path: record.path.clone(), format })
    }

    pub(super) fn encode(&self, key: &NodeKey, rng: &dyn Rng) -> Result<(String, Vec<u8>), JournalError> {
        let bad = |reason: String| JournalError::Damaged { agent: self.agent_id.to_string(), reason };
        let body = serde_json::to_string(self).map_err(|e| bad(e.to_string()))?;
        let form = SealedForm {
            token: self.secrets.token.clone(),
            next_token: self.secrets.next_token.clone(),
            disk_key: self.secrets.disk_key.as_ref().map(|k| k.to_vec()),
        };
        let clear = Zeroizing::new(serde_json::to_vec(&form).map_err(|e| bad(e.to_string()))?);
        let sealed = key
            .seal(self.agent_id.as_str(), &clear, rng)
            .ok_or_else(|| bad("its secrets cannot be sealed".to_owned()))?;
        Ok((body, sealed))
    }

    pub(super) fn decode(body: &str, sealed: &[u8], key: &NodeKey) -> Result<Self, String> {
        let mut row: SandboxRow = serde_json::from_str(body).map_err(|e| e.to_string())?;
        let clear = key.open(row.agent_id.as_str(), sealed).ok_or("sealed with another key")?;
        let form: SealedForm = serde_json::from_slice(&clear).map_err(|_| "secrets in an unknown form")?;
        row.secrets =
            Secrets { token: form.token, next_token: form.next_token, disk_key: form.disk_key.map(Zeroizing::new) };
        Ok(row)
    }
}

#[cfg(test)]
mod fuzz;

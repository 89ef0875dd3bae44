//! What runs a sandbox. One trait with few verbs; what differs between
//! engines stays behind it. See docs/adr/0002-engines-and-isolation.md for
//! how Firecracker and containers map onto it.

pub mod doctor;
pub mod qemu;

use crate::cgroup::OutOfMemory;
use crate::memory::HostMemory;
use aether_core::AgentId;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

/// What the tenant gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    VmKvm,
    /// Emulated by TCG: not a security boundary.
    VmEmulated,
}

impl Isolation {
    pub fn as_str(self) -> &'static str {
        match self {
            Isolation::VmKvm => "vm-kvm",
            Isolation::VmEmulated => "vm-emulated",
        }
    }

    /// Deadlines are multiplied by this: emulation is slow.
    pub fn deadline_factor(self) -> u32 {
        match self {
            Isolation::VmKvm => 1,
            Isolation::VmEmulated => 4,
        }
    }
}

/// The secret that opens the channel of one sandbox.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelToken(pub [u8; 16]);

impl std::fmt::Debug for ChannelToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChannelToken(***)")
    }
}

/// A sandbox's writable disk on the host.
#[derive(Clone, Debug)]
pub struct Disk {
    pub path: PathBuf,
    pub format: DiskFormat,
}

#[derive(Clone)]
pub enum DiskFormat {
    /// Raw, sparse, not encrypted.
    Raw,
    /// qcow2 with LUKS inside; the key is random per disk and dies with it.
    Qcow2Luks { key: zeroize::Zeroizing<Vec<u8>> },
}

impl std::fmt::Debug for DiskFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DiskFormat::Raw => "Raw",
            DiskFormat::Qcow2Luks { .. } => "Qcow2Luks(***)",
        })
    }
}

/// All that a boot needs. Nothing in it comes from the tenant but sizes.
#[derive(Debug)]
pub struct BootRequest {
    /// Names the host objects: uid, cgroup, jail folder, namespace.
    pub slot: u32,
    /// For logs only.
    pub agent_id: AgentId,
    pub vcpus: u32,
    pub memory_mb: u64,
    /// Read-only squashfs; several sandboxes share it.
    pub image_device: PathBuf,
    pub disk: Disk,
    /// The tap of the slot's namespace, opened; none for a sandbox without network.
    pub tap: Option<OwnedFd>,
    pub mac: [u8; 6],
    pub token: ChannelToken,
}

/// What finds a VMM again after a restart of the daemon: pid and start time
/// together, since pids recycle. Written to the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmIdentity {
    pub slot: u32,
    pub pid: u32,
    /// Field 22 of /proc/PID/stat, in clock ticks since boot.
    pub start_time: u64,
    /// Device and inode of the executable it runs.
    pub exe: (u64, u64),
}

/// A live VMM, held by a pidfd.
#[derive(Debug)]
pub struct Vmm {
    pub identity: VmmIdentity,
    pub pidfd: std::sync::Arc<OwnedFd>,
    /// Unix sockets of the two lanes, on the host.
    pub control_socket: PathBuf,
    pub data_socket: PathBuf,
}

/// How a VMM ended, as far as it can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmmExit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// The kernel killed it for want of memory.
    pub out_of_memory: Option<OutOfMemory>,
    /// Last lines of the VMM's own stderr, bounded and escaped.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VmmStats {
    pub cpu_usage_us: u64,
    pub memory_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{what} is missing: {remedy}")]
    Missing { what: String, remedy: String },
    #[error("cannot {doing}: {source}")]
    Io { doing: String, source: std::io::Error },
    #[error("the jail refused: {0}")]
    Jail(String),
    #[error("the VMM ended at once: {}", .0.detail)]
    DiedAtOnce(VmmExit),
    #[error("no space left for {0}")]
    NoSpace(String),
}

impl EngineError {
    pub fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> EngineError {
        let doing = doing.into();
        move |source| match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => EngineError::NoSpace(doing),
            _ => EngineError::Io { doing, source },
        }
    }
}

#[async_trait]
pub trait Engine: Send + Sync {
    /// qemu, firecracker, container.
    fn kind(&self) -> &'static str;

    fn isolation(&self) -> Isolation;

    /// Starts a VMM in its jail and returns once its channel sockets exist.
    /// The guest is not ready yet. On error nothing is left behind. The VMM
    /// outlives the daemon.
    async fn boot(&self, request: BootRequest) -> Result<Vmm, EngineError>;

    /// Finds a VMM that an earlier daemon started; `None` when it is gone or
    /// when the process under that pid is another one.
    async fn adopt(&self, identity: &VmmIdentity) -> Result<Option<Vmm>, EngineError>;

    /// Resolves when the VMM has ended.
    async fn wait(&self, vmm: &Vmm) -> VmmExit;

    /// SIGKILL, then waits until it is gone, at most `limit`.
    async fn kill(&self, vmm: &Vmm, limit: Duration) -> Result<VmmExit, EngineError>;

    /// Removes the jail folder, the cgroup and whatever else a slot's
    /// sandbox left. Safe to call again, and on slots that hold nothing. Must
    /// not be called while the VMM lives.
    async fn clean(&self, slot: u32) -> Result<(), EngineError>;

    async fn stats(&self, vmm: &Vmm) -> Result<VmmStats, EngineError>;

    /// What there is for another sandbox.
    fn memory(&self) -> std::io::Result<HostMemory> {
        HostMemory::read(None)
    }

    /// Slots of which any trace (process, jail folder, cgroup) exists, for
    /// the sweep after a crash.
    async fn traces(&self) -> Result<Vec<u32>, EngineError>;

    /// Kills whatever runs as the slot's uid and cleans: for traces without
    /// an owner in the journal.
    async fn reap(&self, slot: u32) -> Result<(), EngineError>;

    /// Removes what lies where slots' things do and is no slot's; answers
    /// what it removed.
    async fn sweep_strays(&self) -> Result<Vec<String>, EngineError> {
        Ok(Vec::new())
    }

    /// The folders whose files are this engine's.
    fn folders(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// A fresh writable disk of `disk_mb`, formatted, sparse.
    async fn make_disk(&self, path: &std::path::Path, disk_mb: u64) -> Result<DiskFormat, EngineError>;

    /// The daemon ends: gives back what all slots share on the host, unless
    /// a sandbox still needs it. The next boot makes it again.
    async fn close(&self) {}
}

//! The engine `qemu`: `-M microvm`, KVM where a probe guest really runs, else
//! TCG.

use super::{BootRequest, Disk, DiskFormat, Engine, EngineError, Isolation, Vmm, VmmExit, VmmIdentity, VmmStats};
use crate::kernel::{GuestBinary, KernelFacts};
use async_trait::async_trait;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM if a probe guest really runs, else TCG.
    #[default]
    Auto,
    Kvm,
    Tcg,
}

/// How the engine is set up. Checked whole by [`QemuEngine::open`].
#[derive(Clone, Debug)]
pub struct QemuConfig {
    /// Durable: kernel, initramfs, probe results, disk templates.
    pub state_dir: PathBuf,
    /// Gone after a host boot: jail folders, sockets.
    pub run_dir: PathBuf,
    /// What is re-executed as `aether jail`.
    pub aether_exe: PathBuf,
    /// A slot's uid is this plus its number. Also names the parent cgroup, so
    /// that two nodes on one host stay apart.
    pub uid_base: u32,
    pub qemu_path: Option<PathBuf>,
    pub kernel_path: Option<PathBuf>,
    pub modules_dir: Option<PathBuf>,
    pub guest_binary: GuestBinary,
    pub accel: Accel,
    pub extra_kernel_args: String,
    pub encrypt_disks: bool,
}

impl QemuConfig {
    pub fn new(
        state_dir: impl Into<PathBuf>,
        run_dir: impl Into<PathBuf>,
        aether_exe: impl Into<PathBuf>,
        guest_binary: GuestBinary,
    ) -> Self {
        Self {
            state_dir: state_dir.into(),
            run_dir: run_dir.into(),
            aether_exe: aether_exe.into(),
            uid_base: 700_000,
            qemu_path: None,
            kernel_path: None,
            modules_dir: None,
            guest_binary,
            accel: Accel::Auto,
            extra_kernel_args: String::new(),
            encrypt_disks: true,
        }
    }
}

/// What this engine will do on this host, and why.
#[derive(Clone, Debug)]
pub struct EngineFacts {
    pub isolation: Isolation,
    /// Why this accelerator, in a sentence.
    pub reason: String,
    pub qemu_path: PathBuf,
    pub qemu_version: (u32, u32, u32),
    pub kernel: KernelFacts,
    /// `luks` or `none`.
    pub disk_encryption: &'static str,
    /// Host memory that a VMM needs beside the guest's.
    pub memory_overhead_mb: u64,
}

#[derive(Debug)]
pub struct QemuEngine {
    config: QemuConfig,
    facts: EngineFacts,
}

impl QemuEngine {
    /// Finds QEMU and the kernel, builds (or finds built) the initramfs and
    /// the private root, and probes KVM once per host boot.
    pub async fn open(config: QemuConfig) -> Result<Self, EngineError> {
        let _ = config;
        Err(EngineError::Jail("not built yet".into()))
    }

    pub fn capabilities(&self) -> EngineFacts {
        self.facts.clone()
    }
}

#[async_trait]
impl Engine for QemuEngine {
    fn kind(&self) -> &'static str {
        "qemu"
    }

    fn isolation(&self) -> Isolation {
        self.facts.isolation
    }

    async fn boot(&self, request: BootRequest) -> Result<Vmm, EngineError> {
        let _ = (request, &self.config, std::mem::size_of::<Disk>());
        Err(EngineError::Jail("not built yet".into()))
    }

    async fn adopt(&self, identity: &VmmIdentity) -> Result<Option<Vmm>, EngineError> {
        let _ = identity;
        Ok(None)
    }

    async fn wait(&self, vmm: &Vmm) -> VmmExit {
        let _ = vmm;
        VmmExit::default()
    }

    async fn kill(&self, vmm: &Vmm, limit: Duration) -> Result<VmmExit, EngineError> {
        let _ = (vmm, limit);
        Ok(VmmExit::default())
    }

    async fn clean(&self, slot: u32) -> Result<(), EngineError> {
        let _ = slot;
        Ok(())
    }

    async fn stats(&self, vmm: &Vmm) -> Result<VmmStats, EngineError> {
        let _ = vmm;
        Ok(VmmStats::default())
    }

    async fn traces(&self) -> Result<Vec<u32>, EngineError> {
        Ok(Vec::new())
    }

    async fn reap(&self, slot: u32) -> Result<(), EngineError> {
        let _ = slot;
        Ok(())
    }

    async fn make_disk(&self, path: &Path, disk_mb: u64) -> Result<DiskFormat, EngineError> {
        let _ = (path, disk_mb);
        Ok(DiskFormat::Raw)
    }
}

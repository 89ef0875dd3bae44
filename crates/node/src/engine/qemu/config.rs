//! How the engine is set up, and what it found on this host.

use super::super::{EngineError, Isolation};
use crate::kernel::{GuestBinary, KernelFacts};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Slots are numbered below this; the probe takes the number itself.
pub const MAX_SLOTS: u32 = 65_000;
/// A Unix socket's path holds 107 bytes, of which ours take `/slots/NNNNN/control`.
const MAX_RUN_DIR: usize = 80;
/// The kernel's command line holds 2048 bytes on x86.
const MAX_KERNEL_ARGS: usize = 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM if a probe guest really runs, else TCG.
    #[default]
    Auto,
    Kvm,
    Tcg,
}

/// How the engine is set up. Checked whole by [`super::QemuEngine::open`].
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
    pub disk_rate: DiskRate,
}

/// What one sandbox may ask of the host's disks, its image and its own disk,
/// reads and writes together; zero means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskRate {
    /// MiB a second.
    pub mb_per_s: u32,
    /// Requests a second.
    pub iops: u32,
}

impl Default for DiskRate {
    fn default() -> Self {
        Self { mb_per_s: 400, iops: 20_000 }
    }
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
            disk_rate: DiskRate::default(),
        }
    }

    /// What can be judged without touching the host.
    pub fn check(&self) -> Result<(), EngineError> {
        let bad = |what: &str| Err(EngineError::Jail(what.to_string()));
        if !self.run_dir.is_absolute() || !self.state_dir.is_absolute() {
            return bad("state_dir and run_dir must be absolute");
        }
        if self.run_dir.as_os_str().as_bytes().len() > MAX_RUN_DIR {
            return bad("run_dir is too long: a Unix socket's path must fit in 107 bytes");
        }
        if self.uid_base < 1000 || self.uid_base.checked_add(MAX_SLOTS + 1).is_none() {
            return bad("uid_base must be at least 1000 and leave room for the slots");
        }
        let args = &self.extra_kernel_args;
        if args.len() > MAX_KERNEL_ARGS || !args.bytes().all(|b| (b' '..0x7f).contains(&b)) {
            return bad("extra_kernel_args must be printable ASCII of at most 1024 bytes");
        }
        Ok(())
    }

    /// The parent of all slots' groups.
    pub fn cgroup_parent(&self) -> String {
        format!("aether-{}", self.uid_base)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> QemuConfig {
        QemuConfig::new("/var/lib/aether", "/run/aether", "/usr/bin/aether", GuestBinary::Embedded(b"\x7fELF"))
    }

    #[test]
    fn the_default_is_good() {
        config().check().expect("good");
        assert_eq!(config().cgroup_parent(), "aether-700000");
    }

    #[test]
    fn each_bad_field_is_named() {
        type Change = fn(&mut QemuConfig);
        let cases: [(Change, &str); 5] = [
            (|c| c.run_dir = "run".into(), "absolute"),
            (|c| c.run_dir = format!("/{}", "x".repeat(90)).into(), "run_dir is too long"),
            (|c| c.uid_base = 0, "uid_base"),
            (|c| c.uid_base = u32::MAX - 5, "uid_base"),
            (|c| c.extra_kernel_args = "quiet\ninit=/bin/sh".into(), "extra_kernel_args"),
        ];
        for (change, named) in cases {
            let mut config = config();
            change(&mut config);
            let error = config.check().expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}

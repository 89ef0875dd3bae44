//! Starting one VMM in its jail.

use super::super::{BootRequest, DiskFormat, EngineError};
use super::args::{self, Devices, Machine, fd};
use super::slot::{self, Sinks};
use super::{QemuConfig, disk};
use crate::jail::{Bundle, Command, JailError, JailLimits, Jailed};
use crate::kernel::Artifacts;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Beside the guest's memory, under TCG: the translation cache (128 MiB), QEMU
/// itself (about 45 MiB), its per-guest tables, and page cache of the disk
/// files that cannot be dropped at once. A used 256 MiB guest was seen at 170
/// MiB private in all; the rest is for guests that use all they have.
pub(super) const OVERHEAD_TCG_MB: u64 = 224;
/// Without the translation cache.
pub(super) const OVERHEAD_KVM_MB: u64 = 96;
/// The main loop and the I/O threads beside the vCPUs.
const EXTRA_CPU_PERCENT: u32 = 25;
/// QEMU keeps at most 64 I/O workers, and a handful of its own threads.
const EXTRA_TASKS: u32 = 80;
const DESCRIPTORS: u64 = 256;
/// Of the guest.
pub(super) const VCPUS: std::ops::RangeInclusive<u32> = 1..=64;
pub(super) const MEMORY_MB: std::ops::RangeInclusive<u64> = 64..=1024 * 1024;

pub(super) struct Parts<'a> {
    pub(super) config: &'a QemuConfig,
    pub(super) artifacts: &'a Artifacts,
    pub(super) bundle: &'a Bundle,
    pub(super) qemu: &'a Path,
    pub(super) kvm: bool,
}

impl Parts<'_> {
    fn machine<'m>(&'m self, vcpus: u32, memory_mb: u64, devices: Option<Devices<'m>>) -> Machine<'m> {
        Machine {
            kvm: self.kvm,
            vcpus,
            memory_mb,
            tsc_khz: args::host_tsc_khz(),
            extra_kernel_args: &self.config.extra_kernel_args,
            devices,
        }
    }

    pub(super) fn limits(&self, vcpus: u32, memory_mb: u64, fsize_bytes: u64) -> JailLimits {
        let overhead = if self.kvm { OVERHEAD_KVM_MB } else { OVERHEAD_TCG_MB };
        JailLimits {
            memory_mb: memory_mb + overhead,
            pids: EXTRA_TASKS + vcpus,
            cpu_percent: vcpus * 100 + EXTRA_CPU_PERCENT,
            fsize_bytes,
            nofile: DESCRIPTORS,
            ..JailLimits::default()
        }
    }

    fn command(&self, slot: u32, machine: &Machine<'_>, limits: JailLimits) -> Result<Command, EngineError> {
        let uid = self.config.uid_base + slot;
        let dir = slot::dir(&self.config.run_dir, slot).join("jail");
        let command = Command::new(self.qemu, dir)
            .args(args::render(machine))
            .uid_gid(uid, uid)
            .ro_bind(&self.artifacts.kernel, args::KERNEL)
            .ro_bind(&self.artifacts.initramfs, args::INITRAMFS)
            .kvm(self.kvm)
            .cgroup(format!("{}/slot-{slot}", self.config.cgroup_parent()))
            .limits(limits);
        self.bundle.show(command).map_err(from_jail)
    }
}

pub(super) fn from_jail(error: JailError) -> EngineError {
    match error {
        JailError::Io { doing, source } => EngineError::io(doing)(source),
        other => EngineError::Jail(other.to_string()),
    }
}

fn check(request: &BootRequest) -> Result<(), EngineError> {
    if !VCPUS.contains(&request.vcpus) || !MEMORY_MB.contains(&request.memory_mb) {
        return Err(EngineError::Jail(format!(
            "{} vCPUs and {} MB are outside {}–{} and {}–{}",
            request.vcpus,
            request.memory_mb,
            VCPUS.start(),
            VCPUS.end(),
            MEMORY_MB.start(),
            MEMORY_MB.end()
        )));
    }
    Ok(())
}

/// Starts it; the caller cleans the slot when this fails.
pub(super) async fn start(parts: &Parts<'_>, request: BootRequest) -> Result<(Jailed, Sinks), EngineError> {
    check(&request)?;
    let image = open(&request.image_device, false)?;
    let disk_file = open(&request.disk.path, true)?;
    let sockets = slot::make(&slot::dir(&parts.config.run_dir, request.slot))?;
    let (sinks, stdout, stderr) = Sinks::make()?;
    let devices = Devices {
        disk: &request.disk.format,
        rate: parts.config.disk_rate,
        tap: request.tap.is_some(),
        mac: request.mac,
    };
    let machine = parts.machine(request.vcpus, request.memory_mb, Some(devices));
    let writes = disk::write_limit(&request.disk.path, &request.disk.format)?;
    let limits = parts.limits(request.vcpus, request.memory_mb, writes);
    let mut command = parts
        .command(request.slot, &machine, limits)?
        .file(args::TOKEN, request.token.0)
        .fd(image, fd::IMAGE)
        .fd(disk_file, fd::DISK)
        .fd(sockets.control, fd::CONTROL)
        .fd(sockets.data, fd::DATA)
        .fd(sockets.qmp, fd::QMP)
        .stdout(stdout)
        .stderr(stderr);
    if let DiskFormat::Qcow2Luks { key } = &request.disk.format {
        command = command.file(args::DISK_KEY, disk::passphrase(key).as_bytes());
    }
    if let Some(tap) = request.tap {
        command = command.fd(tap, fd::TAP);
    }
    let jailed = command.spawn(&parts.config.aether_exe).await.map_err(from_jail)?;
    Ok((jailed, sinks))
}

/// The probe's guest: no devices, and it ends when it reaches our first
/// process or is killed.
pub(super) async fn start_probe(parts: &Parts<'_>, slot: u32) -> Result<(Jailed, Sinks), EngineError> {
    slot::make(&slot::dir(&parts.config.run_dir, slot))?;
    let (sinks, stdout, stderr) = Sinks::make()?;
    let machine = parts.machine(1, 128, None);
    let command = parts.command(slot, &machine, parts.limits(1, 128, 1 << 20))?.stdout(stdout).stderr(stderr);
    let jailed = command.spawn(&parts.config.aether_exe).await.map_err(from_jail)?;
    Ok((jailed, sinks))
}

/// By root, so that the slot's uid needs no way to the file.
fn open(path: &Path, write: bool) -> Result<OwnedFd, EngineError> {
    let doing = || format!("open {}", path.display());
    let file = std::fs::OpenOptions::new().read(true).write(write).open(path).map_err(EngineError::io(doing()))?;
    if !file.metadata().map_err(EngineError::io(doing()))?.is_file() {
        return Err(EngineError::Jail(format!("{} is not a regular file", path.display())));
    }
    Ok(file.into())
}

//! The engine `qemu`: `-M microvm`, KVM where a probe guest really runs, else
//! TCG.
//!
//! A sandbox is one QEMU process in a jail. Of the host it has: its image and
//! disk as descriptors, a tap as a descriptor, three listening sockets as
//! descriptors, its kernel and itself read-only. The engine owns nothing else
//! per sandbox but the entry below, which is made again by `adopt`.
//!
//! ```text
//! boot ─▶ slot folder ─▶ jail ─▶ greeting ─▶ (watched until it ends) ─▶ clean
//!             └─────────── on any error: kill, clean ───────────┘
//! ```
//!
//! Not here: the guest's readiness, deadlines, and when to do what; the node
//! runtime owns those.

mod args;
mod boot;
mod config;
mod disk;
mod find;
mod luks;
mod probe;
mod process;
mod qcow2;
mod qmp;
mod slot;

pub use config::{Accel, DiskRate, EngineFacts, MAX_SLOTS, QemuConfig};

use super::{BootRequest, DiskFormat, Engine, EngineError, Isolation, Vmm, VmmExit, VmmIdentity, VmmStats};
use crate::cgroup;
use crate::jail::{self, Bundle};
use crate::kernel::{self, Artifacts, KernelError};
use crate::memory::HostMemory;
use crate::uids;
use async_trait::async_trait;
use boot::Parts;
use parking_lot::Mutex;
use slot::Sinks;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// QEMU greets after some 70 ms; this is for a machine on its knees.
const GREETING_LIMIT: Duration = Duration::from_secs(30);
/// After SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How a watched VMM ended, once it has.
type Ended = watch::Receiver<Option<VmmExit>>;

#[derive(Debug)]
pub struct QemuEngine {
    config: QemuConfig,
    facts: EngineFacts,
    artifacts: Artifacts,
    bundle: Bundle,
    /// By slot. Written by `boot` and `adopt`, removed by `clean`.
    watched: Mutex<BTreeMap<u32, (VmmIdentity, Ended)>>,
}

impl QemuEngine {
    /// Finds QEMU and the kernel, builds (or finds built) the initramfs and
    /// the private root, and probes KVM once per host boot.
    pub async fn open(mut config: QemuConfig) -> Result<Self, EngineError> {
        config.check()?;
        make_folders(&config)?;
        config.run_dir = config.run_dir.canonicalize().map_err(EngineError::io("resolve run_dir"))?;
        let config = config;
        let (qemu, artifacts, bundle) = {
            let config = config.clone();
            blocking("prepare the engine", move || prepare(&config)).await?
        };
        let parts = Parts { config: &config, artifacts: &artifacts, bundle: &bundle, qemu: &qemu.path, kvm: true };
        let (kvm, reason) = match config.accel {
            Accel::Tcg => (false, "the configuration asks for TCG".to_string()),
            _ => {
                let verdict = probe::run(&parts, async |slot| clean_quietly(&config, slot).await).await;
                (verdict.works, verdict.reason)
            }
        };
        if config.accel == Accel::Kvm && !kvm {
            return Err(EngineError::Missing {
                what: format!("KVM ({reason})"),
                remedy: "use a host with hardware virtualisation, or set the engine's accelerator to `auto`".into(),
            });
        }
        let facts = EngineFacts {
            isolation: if kvm { Isolation::VmKvm } else { Isolation::VmEmulated },
            reason,
            qemu_path: qemu.path.clone(),
            qemu_version: qemu.version,
            kernel: artifacts.facts.clone(),
            disk_encryption: if config.encrypt_disks { "luks" } else { "none" },
            memory_overhead_mb: if kvm { boot::OVERHEAD_KVM_MB } else { boot::OVERHEAD_TCG_MB },
        };
        tracing::info!(isolation = facts.isolation.as_str(), reason = facts.reason, "engine ready");
        Ok(Self { config, facts, artifacts, bundle, watched: Mutex::default() })
    }

    pub fn capabilities(&self) -> EngineFacts {
        self.facts.clone()
    }

    fn parts(&self) -> Parts<'_> {
        Parts {
            config: &self.config,
            artifacts: &self.artifacts,
            bundle: &self.bundle,
            qemu: &self.facts.qemu_path,
            kvm: self.facts.isolation == Isolation::VmKvm,
        }
    }

    /// Watches a VMM to its end, and reaps it where it is our child.
    fn watch(&self, identity: &VmmIdentity, pidfd: Arc<OwnedFd>, sinks: Sinks) -> Ended {
        let (sender, receiver) = watch::channel(None);
        let cgroup = group(&self.config, identity.slot);
        tokio::spawn(async move {
            jail::wait_pidfd(&pidfd).await;
            let status = jail::reap(&pidfd);
            let exit = slot::exit(status, cgroup::out_of_memory(&cgroup), &sinks);
            let _ = sender.send(Some(exit));
        });
        self.watched.lock().insert(identity.slot, (identity.clone(), receiver.clone()));
        receiver
    }

    fn ended(&self, vmm: &Vmm) -> Ended {
        let known = self.watched.lock().get(&vmm.identity.slot).cloned();
        match known {
            Some((identity, ended)) if identity == vmm.identity => ended,
            _ => self.watch(&vmm.identity, vmm.pidfd.clone(), Sinks::of_process(vmm.identity.pid)),
        }
    }

    fn vmm(&self, identity: VmmIdentity, pidfd: Arc<OwnedFd>) -> Vmm {
        let dir = slot::dir(&self.config.run_dir, identity.slot);
        Vmm { identity, pidfd, control_socket: slot::control_socket(&dir), data_socket: slot::data_socket(&dir) }
    }

    async fn boot_watched(&self, request: BootRequest) -> Result<Vmm, EngineError> {
        let number = request.slot;
        let (jailed, sinks) = boot::start(&self.parts(), request).await?;
        let identity = process::identify(number, jailed.pid);
        let identity = match identity {
            Ok(identity) => identity,
            Err(error) => {
                // It ended already: nobody else can have its pid before it is reaped.
                let status = jailed.wait().await;
                tracing::debug!(%error, "the VMM was gone before it could be looked at");
                let oom = cgroup::out_of_memory(&group(&self.config, number));
                return Err(EngineError::DiedAtOnce(slot::exit(status, oom, &sinks)));
            }
        };
        let mut ended = self.watch(&identity, jailed.pidfd.clone(), sinks);
        let socket = slot::qmp_socket(&slot::dir(&self.config.run_dir, number));
        let greeted = tokio::select! {
            biased;
            greeted = tokio::time::timeout(GREETING_LIMIT, qmp::greeting(&socket)) => greeted,
            _ = ended.wait_for(Option::is_some) => Ok(Err(std::io::ErrorKind::UnexpectedEof.into())),
        };
        match greeted {
            Ok(Ok(())) => {
                tokio::spawn(qmp::keep_going(socket, ended, number));
                Ok(self.vmm(identity, jailed.pidfd))
            }
            Ok(Err(error)) => {
                // Most often because it has just ended: then its own words say more.
                match tokio::time::timeout(Duration::from_secs(1), ended.wait_for(Option::is_some)).await {
                    Ok(Ok(exit)) => Err(EngineError::DiedAtOnce(exit.clone().unwrap_or_default())),
                    _ => Err(EngineError::io("read the VMM's greeting")(error)),
                }
            }
            Err(_) => Err(EngineError::Jail(format!("the VMM said nothing within {} s", GREETING_LIMIT.as_secs()))),
        }
    }
}

/// Which QEMU would be used, for the doctor.
pub(crate) fn find_qemu(config: &QemuConfig) -> Result<(std::path::PathBuf, (u32, u32, u32)), EngineError> {
    find::qemu(config.qemu_path.as_deref()).map(|qemu| (qemu.path, qemu.version))
}

fn group(config: &QemuConfig, slot: u32) -> String {
    format!("{}/slot-{slot}", config.cgroup_parent())
}

/// Whatever lies in a folder, as bytes: names need not be text.
fn names_in(dir: &Path) -> Result<Vec<OsString>, EngineError> {
    let entries = std::fs::read_dir(dir).map_err(EngineError::io(format!("read {}", dir.display())))?;
    Ok(entries.flatten().map(|e| e.file_name()).collect())
}

fn folder_slot(name: &OsStr) -> Option<u32> {
    process::slot_named(name.to_str()?, "")
}

fn group_slot(name: &str) -> Option<u32> {
    process::slot_named(name, "slot-")
}

fn make_folders(config: &QemuConfig) -> Result<(), EngineError> {
    for (dir, mode) in
        [(config.state_dir.clone(), 0o700), (config.run_dir.clone(), 0o755), (config.run_dir.join("slots"), 0o700)]
    {
        let doing = format!("make {}", dir.display());
        std::fs::DirBuilder::new().recursive(true).mode(mode).create(&dir).map_err(EngineError::io(doing))?;
    }
    Ok(())
}

fn prepare(config: &QemuConfig) -> Result<(find::Qemu, Artifacts, Bundle), EngineError> {
    let qemu = find::qemu(config.qemu_path.as_deref())?;
    let bundle = find::bundle(&config.state_dir.join("engine"), &qemu)?;
    let artifacts = kernel::prepare(
        &config.state_dir.join("kernel"),
        config.kernel_path.as_deref(),
        config.modules_dir.as_deref(),
        &config.guest_binary,
    )
    .map_err(from_kernel)?;
    Ok((qemu, artifacts, bundle))
}

fn from_kernel(error: KernelError) -> EngineError {
    match error {
        KernelError::Io { doing, source } => EngineError::io(doing)(source),
        other => EngineError::Missing { what: other.to_string(), remedy: other.remedy().to_string() },
    }
}

async fn blocking<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| EngineError::Jail(format!("cannot {doing}: {e}")))?
}

/// Folder and group of a slot; refuses while something runs as its uid.
async fn clean(config: &QemuConfig, slot: u32) -> Result<(), EngineError> {
    let (uid, dir, group) = (config.uid_base + slot, slot::dir(&config.run_dir, slot), group(config, slot));
    blocking("clean the slot", move || {
        if !uids::alive(&(uid..uid + 1)).map_err(EngineError::io("read /proc"))?.is_empty() {
            return Err(EngineError::Jail(format!("slot {slot} still has a process: it cannot be cleaned")));
        }
        jail::remove_dir(&dir).map_err(boot::from_jail)?;
        cgroup::remove(&group).map_err(EngineError::io("remove the cgroup"))
    })
    .await
}

async fn clean_quietly(config: &QemuConfig, slot: u32) {
    if let Err(error) = clean(config, slot).await {
        tracing::warn!(%error, slot, "a slot was not cleaned");
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
        let slot = request.slot;
        if slot >= MAX_SLOTS {
            return Err(EngineError::Jail(format!("slots are numbered below {MAX_SLOTS}, not {slot}")));
        }
        if slot::dir(&self.config.run_dir, slot).symlink_metadata().is_ok() {
            // Not ours to remove: another sandbox may live in it.
            return Err(EngineError::Jail(format!("slot {slot} is not clean")));
        }
        let error = match self.boot_watched(request).await {
            Ok(vmm) => return Ok(vmm),
            Err(error) => error,
        };
        // Whatever was seen of it, the kernel's kill is the cause.
        let error = match (cgroup::out_of_memory(&group(&self.config, slot)), error) {
            (_, error @ EngineError::DiedAtOnce(_)) | (None, error) => error,
            (out_of_memory, _) => EngineError::DiedAtOnce(VmmExit { out_of_memory, ..VmmExit::default() }),
        };
        tracing::warn!(%error, slot, "a VMM did not start");
        self.reap(slot).await?;
        Err(error)
    }

    async fn adopt(&self, identity: &VmmIdentity) -> Result<Option<Vmm>, EngineError> {
        let uid = self.config.uid_base.saturating_add(identity.slot);
        let Some(pidfd) = process::find(identity, uid).map(Arc::new) else { return Ok(None) };
        let ended = self.watch(identity, pidfd.clone(), Sinks::of_process(identity.pid));
        let socket = slot::qmp_socket(&slot::dir(&self.config.run_dir, identity.slot));
        tokio::spawn(qmp::keep_going(socket, ended, identity.slot));
        Ok(Some(self.vmm(identity.clone(), pidfd)))
    }

    async fn wait(&self, vmm: &Vmm) -> VmmExit {
        let mut ended = self.ended(vmm);
        let exit = ended.wait_for(Option::is_some).await;
        exit.ok().and_then(|exit| exit.clone()).unwrap_or_default()
    }

    async fn kill(&self, vmm: &Vmm, limit: Duration) -> Result<VmmExit, EngineError> {
        let mut ended = self.ended(vmm);
        match rustix::process::pidfd_send_signal(&vmm.pidfd, rustix::process::Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => return Err(EngineError::io("kill the VMM")(e.into())),
        }
        let exit = tokio::time::timeout(limit, ended.wait_for(Option::is_some)).await;
        match exit {
            Ok(exit) => Ok(exit.ok().and_then(|exit| exit.clone()).unwrap_or_default()),
            Err(_) => Err(EngineError::Jail(format!("the VMM is not gone {} ms after SIGKILL", limit.as_millis()))),
        }
    }

    async fn clean(&self, slot: u32) -> Result<(), EngineError> {
        clean(&self.config, slot).await?;
        self.watched.lock().remove(&slot);
        Ok(())
    }

    fn memory(&self) -> std::io::Result<HostMemory> {
        HostMemory::read(Some(&self.config.cgroup_parent()))
    }

    async fn stats(&self, vmm: &Vmm) -> Result<VmmStats, EngineError> {
        let usage = cgroup::usage(&group(&self.config, vmm.identity.slot));
        Ok(VmmStats { cpu_usage_us: usage.cpu_usage_us, memory_bytes: usage.memory_bytes })
    }

    async fn traces(&self) -> Result<Vec<u32>, EngineError> {
        let (base, slots) = (self.config.uid_base, self.config.run_dir.join("slots"));
        let parent = self.config.cgroup_parent();
        blocking("look for traces", move || {
            let mut found: BTreeSet<u32> = names_in(&slots)?.iter().filter_map(|name| folder_slot(name)).collect();
            found.extend(cgroup::children(&parent).iter().filter_map(|name| group_slot(name)));
            let alive = uids::alive(&(base..base + MAX_SLOTS)).map_err(EngineError::io("read /proc"))?;
            found.extend(alive.into_iter().map(|(uid, _)| uid - base));
            Ok(found.into_iter().filter(|slot| *slot < MAX_SLOTS).collect())
        })
        .await
    }

    async fn sweep_strays(&self) -> Result<Vec<String>, EngineError> {
        let (slots, parent) = (self.config.run_dir.join("slots"), self.config.cgroup_parent());
        blocking("remove what is no slot's", move || {
            let mut removed = Vec::new();
            for name in names_in(&slots)?.into_iter().filter(|name| folder_slot(name).is_none()) {
                jail::remove_dir(&slots.join(&name)).map_err(boot::from_jail)?;
                removed.push(format!("{} among the slots' folders", name.display()));
            }
            for name in cgroup::children(&parent).into_iter().filter(|name| group_slot(name).is_none()) {
                cgroup::remove(&format!("{parent}/{name}")).map_err(EngineError::io("remove a cgroup"))?;
                removed.push(format!("{name} among the slots' cgroups"));
            }
            Ok(removed)
        })
        .await
    }

    fn folders(&self) -> Vec<PathBuf> {
        vec![self.config.state_dir.clone(), self.config.run_dir.clone()]
    }

    async fn reap(&self, slot: u32) -> Result<(), EngineError> {
        let uid = self.config.uid_base + slot;
        // Ours, if any: waited for, so that no zombie keeps the group busy.
        let watched = self.watched.lock().get(&slot).map(|(_, ended)| ended.clone());
        let kill = move || uids::kill(uid).map_err(EngineError::io("kill the slot's processes"));
        let gone = blocking("kill the slot's processes", kill).await?;
        if !gone {
            return Err(EngineError::Jail(format!("slot {slot} has a process that survives SIGKILL")));
        }
        if let Some(mut ended) = watched {
            let _ = tokio::time::timeout(KILL_LIMIT, ended.wait_for(Option::is_some)).await;
        }
        self.clean(slot).await
    }

    async fn make_disk(&self, path: &Path, disk_mb: u64) -> Result<DiskFormat, EngineError> {
        disk::make(path, disk_mb, self.config.encrypt_disks).await
    }

    async fn close(&self) {
        let parent = self.config.cgroup_parent();
        let removed = blocking("remove the cgroup", move || {
            cgroup::remove_if_empty(&parent).map_err(EngineError::io("remove the cgroup"))
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "the slots' cgroup stays");
        }
    }
}

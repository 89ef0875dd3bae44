//! What this host lacks to run sandboxes, and the remedy for each.
//!
//! Each check looks for itself and fails alone, so that one run names
//! everything that is missing. The last line says which engine and isolation
//! will be used, and why.

use super::qemu::{self, MAX_SLOTS, QemuConfig, QemuEngine};
use super::{EngineError, Isolation};
use crate::memory::HostMemory;
use crate::{cgroup, kernel};
use serde::Serialize;
use std::ops::Range;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    Warn,
    Missing,
}

/// One line of `aether doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub status: Status,
    pub detail: String,
    /// What to do; empty when the status is ok.
    pub remedy: String,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, detail: detail.into(), remedy: String::new() }
    }

    fn warn(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Warn, detail: detail.into(), remedy: remedy.into() }
    }

    fn missing(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Missing, detail: detail.into(), remedy: remedy.into() }
    }

    fn of_error(name: &'static str, error: &EngineError) -> Self {
        match error {
            EngineError::Missing { what, remedy } => Self::missing(name, format!("{what} is missing"), remedy),
            other => Self::missing(name, other.to_string(), "see the cause"),
        }
    }
}

/// Runs every check; changes nothing on the host but the caches in
/// `state_dir` (as root: the KVM probe boots a guest, once per host boot).
pub async fn checks(config: &QemuConfig) -> Vec<Check> {
    let quick = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || quick_checks(&config)).await.unwrap_or_default()
    };
    let mut all = quick;
    all.extend(engine(config).await);
    all
}

fn quick_checks(config: &QemuConfig) -> Vec<Check> {
    let mut all = vec![root(), tun(), control_groups(), qemu(config), guest_kernel(config)];
    for (program, package, what) in [
        ("nft", "nftables", "the rules of the sandboxes' network"),
        ("sqfstar", "squashfs-tools", "turning images into devices"),
        ("mke2fs", "e2fsprogs", "the agents' writable disks"),
    ] {
        all.push(tool(program, package, what));
    }
    all.extend([disk_space(&config.state_dir), memory(), uids(config.uid_base..config.uid_base + MAX_SLOTS + 1)]);
    all
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn root() -> Check {
    match is_root() {
        true => Check::ok("root", "running as root"),
        false => Check::missing(
            "root",
            "not running as root",
            "run `aether server` as root: it makes namespaces, taps and cgroups, and gives each sandbox a user of its own",
        ),
    }
}

fn tun() -> Check {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Check::ok("tun", "/dev/net/tun opens"),
        Err(e) => Check::missing("tun", format!("/dev/net/tun: {e}"), "load the module: `modprobe tun`"),
    }
}

fn control_groups() -> Check {
    let missing = cgroup::missing_controllers();
    match cgroup::version() {
        cgroup::Version::None => {
            Check::missing("cgroup", "no hierarchy is mounted", "mount it: `mount -t cgroup2 none /sys/fs/cgroup`")
        }
        _ if !missing.is_empty() => Check::missing(
            "cgroup",
            format!("without the controllers {}", missing.join(", ")),
            "enable them on the kernel's command line (for memory: `cgroup_enable=memory`)",
        ),
        cgroup::Version::V1 => {
            Check::warn("cgroup", "v1 with all controllers", "it works; v2 starts and restores sandboxes faster")
        }
        cgroup::Version::V2 => Check::ok("cgroup", "v2 with all controllers"),
    }
}

fn qemu(config: &QemuConfig) -> Check {
    match qemu::find_qemu(config) {
        Ok((path, (major, minor, patch))) => {
            Check::ok("qemu", format!("{} is version {major}.{minor}.{patch}", path.display()))
        }
        Err(error) => Check::of_error("qemu", &error),
    }
}

fn guest_kernel(config: &QemuConfig) -> Check {
    match kernel::find(config.kernel_path.as_deref(), config.modules_dir.as_deref()) {
        Ok(facts) => {
            let count = facts.module_order.len();
            Check::ok("kernel", format!("{} with {count} modules for the guest", facts.path.display()))
        }
        Err(error) => Check::missing("kernel", error.to_string(), error.remedy()),
    }
}

fn tool(program: &'static str, package: &str, what: &str) -> Check {
    let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin", "/usr/local/sbin"];
    match places.iter().map(|dir| Path::new(dir).join(program)).find(|path| path.is_file()) {
        Some(path) => Check::ok(program, path.display().to_string()),
        None => Check::missing(
            program,
            format!("not found; needed for {what}"),
            format!("install it: `apt-get install {package}`"),
        ),
    }
}

/// Of the nearest folder that exists.
fn disk_space(state_dir: &Path) -> Check {
    const ENOUGH_GB: u64 = 10;
    let dir: PathBuf = state_dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/")).to_path_buf();
    let remedy = "free some space, or move `server.state_dir` to a larger disk";
    match rustix::fs::statvfs(&dir) {
        Ok(fs) => {
            let free_mb = (fs.f_bavail * fs.f_frsize) >> 20;
            let detail = format!("{} GB free for {}", free_mb / 1024, state_dir.display());
            match free_mb / 1024 {
                0 => Check::missing("disk", format!("{free_mb} MB free for {}", state_dir.display()), remedy),
                1..ENOUGH_GB => Check::warn("disk", detail, remedy),
                _ => Check::ok("disk", detail),
            }
        }
        Err(e) => Check::missing("disk", format!("{}: {e}", dir.display()), "name a folder that can be made"),
    }
}

fn memory() -> Check {
    let available = HostMemory::read(None).map_or(0, |memory| memory.available_mb);
    let detail = format!("{available} MB available");
    match available {
        0..=511 => Check::missing("memory", detail, "a sandbox needs its own size and some 200 MB: free some memory"),
        512..=2047 => Check::warn("memory", detail, "few sandboxes will fit at once"),
        _ => Check::ok("memory", detail),
    }
}

fn uids(range: Range<u32>) -> Check {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let taken = users_within(&read("/etc/passwd"), &range)
        .or_else(|| subids_within(&read("/etc/subuid"), &range))
        .or_else(|| subids_within(&read("/etc/subgid"), &range));
    match taken {
        None => Check::ok("uids", format!("{} to {} are free for sandboxes", range.start, range.end - 1)),
        Some(who) => Check::missing(
            "uids",
            format!("{} to {} overlap with {who}", range.start, range.end - 1),
            "choose another range: `node.uid_base`",
        ),
    }
}

fn users_within(passwd: &str, range: &Range<u32>) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid: u32 = fields.nth(1)?.parse().ok()?;
        range.contains(&uid).then(|| format!("the user {name}"))
    })
}

fn subids_within(text: &str, range: &Range<u32>) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, start, count) = (fields.next()?, fields.next()?, fields.next()?);
        let (start, count): (u64, u64) = (start.parse().ok()?, count.trim().parse().ok()?);
        let overlaps = start < u64::from(range.end) && u64::from(range.start) < start.saturating_add(count);
        overlaps.then(|| format!("the subordinate ids of {name}"))
    })
}

/// Opens the engine as the server would.
async fn engine(config: &QemuConfig) -> Vec<Check> {
    if !is_root() {
        return vec![Check::missing("engine", "not tried without root", "run `aether doctor` as root")];
    }
    match QemuEngine::open(config.clone()).await {
        Ok(engine) => {
            let facts = engine.capabilities();
            let detail = format!("qemu, isolation {}: {}", facts.isolation.as_str(), facts.reason);
            let kvm = match facts.isolation {
                Isolation::VmKvm => Check::ok("kvm", facts.reason.clone()),
                Isolation::VmEmulated => Check::warn(
                    "kvm",
                    facts.reason.clone(),
                    "sandboxes are emulated: slow, and no security boundary; use a host with hardware virtualisation",
                ),
            };
            let disk = match facts.disk_encryption {
                "none" => Check::warn(
                    "disk-encryption",
                    "none",
                    "set `engine.encrypt_disks: true`, or keep `server.state_dir` on an encrypted disk",
                ),
                how => Check::ok("disk-encryption", how),
            };
            vec![kvm, disk, Check::ok("engine", detail)]
        }
        Err(error) => vec![Check::of_error("engine", &error)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_who_has_the_uids() {
        let range = 700_000..765_001;
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:700010:700010::/home/ann:/bin/sh\n";
        assert_eq!(users_within(passwd, &range).as_deref(), Some("the user ann"));
        assert_eq!(users_within("root:x:0:0::/:/bin/sh\nbroken line\n", &range), None);
        assert_eq!(subids_within("bob:655360:65536\n", &range).as_deref(), Some("the subordinate ids of bob"));
        assert_eq!(subids_within("bob:100000:65536\neve:765001:10\nodd:x:y\n", &range), None);
    }

    #[test]
    fn an_absent_tool_comes_with_its_package() {
        let check = tool("no-such-program", "some-package", "nothing");
        assert_eq!(check.status, Status::Missing);
        assert!(check.remedy.contains("apt-get install some-package"));
        assert_eq!(tool("sh", "dash", "all").status, Status::Ok);
    }

    #[test]
    fn a_folder_to_be_made_is_judged_by_its_parent() {
        assert_ne!(disk_space(Path::new("/no/such/folder/yet")).detail, "");
    }
}

//! Control groups: v2, and v1 (also hybrid) where that is all there is.
//!
//! A group is named by a path below each controller's root and is made fresh
//! for one process tree. Everything here is plain file I/O and blocks for
//! well under a millisecond, but for [`remove`], which waits for the kernel
//! to let the last task go.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup";
/// Those of v1 that limit or count something for us. `cpu` and `cpuacct` are
/// one mount on most hosts, two on some.
const V1_CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];
const V2_CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// What v1 says where there is no limit is a little less than all of 63 bits.
const UNLIMITED: u64 = 1 << 62;
/// The most that a group asks for at once: a huge page, or a few dozen small ones.
const ONE_CHARGE: u64 = 2 << 20;
const CPU_PERIOD_US: u64 = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V2,
    V1,
    None,
}

/// Zero means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub memory_bytes: u64,
    pub pids: u32,
    pub cpu_percent: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_usage_us: u64,
    pub memory_bytes: u64,
}

/// What this host offers.
pub fn version() -> Version {
    match rustix::fs::statfs(ROOT) {
        Ok(fs) if fs.f_type == libc::CGROUP2_SUPER_MAGIC => Version::V2,
        Ok(_) if Path::new(ROOT).join("memory/cgroup.procs").exists() => Version::V1,
        _ => Version::None,
    }
}

/// Controllers that are needed and not there.
pub fn missing_controllers() -> Vec<&'static str> {
    match version() {
        Version::V2 => {
            let have = std::fs::read_to_string(Path::new(ROOT).join("cgroup.controllers")).unwrap_or_default();
            V2_CONTROLLERS.into_iter().filter(|c| !have.split_whitespace().any(|h| h == *c)).collect()
        }
        Version::V1 => V1_CONTROLLERS.into_iter().filter(|c| !Path::new(ROOT).join(c).is_dir()).collect(),
        Version::None => V2_CONTROLLERS.to_vec(),
    }
}

fn folders(name: &str) -> Vec<PathBuf> {
    match version() {
        Version::V2 => vec![Path::new(ROOT).join(name)],
        Version::V1 => {
            let present = V1_CONTROLLERS.into_iter().map(|c| Path::new(ROOT).join(c)).filter(|p| p.is_dir());
            present.map(|p| p.join(name)).collect()
        }
        Version::None => Vec::new(),
    }
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    std::fs::write(path, value).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// Makes the group with its limits and puts this process into it. The group
/// may exist (a converter's), its parents too.
pub fn create_and_join(name: &str, limits: &Limits) -> io::Result<()> {
    match version() {
        Version::V2 => create_v2(name, limits),
        Version::V1 => create_v1(name, limits),
        Version::None => Err(io::Error::other("no cgroup hierarchy is mounted at /sys/fs/cgroup")),
    }
}

fn create_v2(name: &str, limits: &Limits) -> io::Result<()> {
    let enable = V2_CONTROLLERS.map(|c| format!("+{c}")).join(" ");
    let mut dir = PathBuf::from(ROOT);
    for part in Path::new(name).iter() {
        // Already enabled in most cases: then the write would only take locks.
        let on = std::fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        if V2_CONTROLLERS.iter().any(|c| !on.split_whitespace().any(|o| o == *c)) {
            write(&dir.join("cgroup.subtree_control"), &enable)?;
        }
        dir.push(part);
        make_dir(&dir)?;
    }
    if limits.memory_bytes > 0 {
        write(&dir.join("memory.max"), &limits.memory_bytes.to_string())?;
        // A memory kill ends the whole sandbox, not one of its threads.
        write(&dir.join("memory.oom.group"), "1")?;
        write_if_present(&dir.join("memory.swap.max"), "0")?;
    }
    if limits.pids > 0 {
        write(&dir.join("pids.max"), &limits.pids.to_string())?;
    }
    if limits.cpu_percent > 0 {
        write(&dir.join("cpu.max"), &format!("{} {CPU_PERIOD_US}", quota(limits.cpu_percent)))?;
        write(&dir.join("cpu.weight"), &limits.cpu_percent.clamp(1, 10_000).to_string())?;
    }
    write(&dir.join("cgroup.procs"), "0")
}

fn create_v1(name: &str, limits: &Limits) -> io::Result<()> {
    for dir in folders(name) {
        std::fs::create_dir_all(&dir).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", dir.display())))?;
        if limits.memory_bytes > 0 && dir.join("memory.limit_in_bytes").exists() {
            write(&dir.join("memory.limit_in_bytes"), &limits.memory_bytes.to_string())?;
            // memory + swap: equal means no swap.
            write_if_present(&dir.join("memory.memsw.limit_in_bytes"), &limits.memory_bytes.to_string())?;
            write_if_present(&dir.join("memory.swappiness"), "0")?;
        }
        if limits.pids > 0 && dir.join("pids.max").exists() {
            write(&dir.join("pids.max"), &limits.pids.to_string())?;
        }
        if limits.cpu_percent > 0 && dir.join("cpu.cfs_quota_us").exists() {
            write(&dir.join("cpu.cfs_period_us"), &CPU_PERIOD_US.to_string())?;
            write(&dir.join("cpu.cfs_quota_us"), &quota(limits.cpu_percent).to_string())?;
            let shares = (u64::from(limits.cpu_percent) * 1024 / 100).clamp(2, 262_144);
            write(&dir.join("cpu.shares"), &shares.to_string())?;
        }
        write(&dir.join("cgroup.procs"), "0")?;
    }
    Ok(())
}

fn quota(cpu_percent: u32) -> u64 {
    u64::from(cpu_percent) * CPU_PERIOD_US / 100
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(io::Error::new(e.kind(), format!("{}: {e}", dir.display())))
        }
        _ => Ok(()),
    }
}

/// Swap accounting is off on many hosts: then its files are absent.
fn write_if_present(path: &Path, value: &str) -> io::Result<()> {
    if path.exists() { write(path, value) } else { Ok(()) }
}

/// Removes the group below every controller, with the groups below it; fine
/// when it does not exist. Waits up to two seconds, since the kernel takes a
/// moment to let go of a process that has just ended. Whoever is still in it
/// then is not ours to end: it is moved out, as a stranger's process may have
/// been put there. Blocks: not for an async task.
pub fn remove(name: &str) -> io::Result<()> {
    for dir in folders(name) {
        let root = hierarchy(&dir);
        remove_tree(&dir, &root)?;
    }
    Ok(())
}

/// The root of the hierarchy that a group's folder is in.
fn hierarchy(dir: &Path) -> PathBuf {
    match version() {
        Version::V1 => dir.iter().take(Path::new(ROOT).iter().count() + 1).collect(),
        _ => PathBuf::from(ROOT),
    }
}

fn remove_tree(dir: &Path, root: &Path) -> io::Result<()> {
    for tries in 0..=200 {
        match std::fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY)) && tries < 200 => {
                for child in subgroups(dir) {
                    remove_tree(&child, root)?;
                }
                if tries == 100 {
                    evict(dir, root);
                }
            }
            Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", dir.display()))),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn subgroups(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

fn evict(dir: &Path, root: &Path) {
    let inside = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in inside.split_whitespace() {
        tracing::warn!(pid, group = %dir.display(), "a process that is not ours is moved out of our cgroup");
        if let Err(e) = std::fs::write(root.join("cgroup.procs"), pid) {
            tracing::debug!(pid, error = %e, "it cannot be moved");
        }
    }
}

/// Removes the group where it has neither tasks nor groups below it.
pub fn remove_if_empty(name: &str) -> io::Result<()> {
    for dir in folders(name) {
        match std::fs::remove_dir(&dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY)) => {}
            Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", dir.display()))),
        }
    }
    Ok(())
}

/// What the group uses; zeros when it is gone.
pub fn usage(name: &str) -> Usage {
    let mut usage = Usage::default();
    for dir in folders(name) {
        if let Some(us) = read_key(&dir.join("cpu.stat"), "usage_usec") {
            usage.cpu_usage_us = us;
        }
        if let Some(ns) = read_number(&dir.join("cpuacct.usage")) {
            usage.cpu_usage_us = ns / 1000;
        }
        if let Some(bytes) =
            read_number(&dir.join("memory.current")).or_else(|| read_number(&dir.join("memory.usage_in_bytes")))
        {
            usage.memory_bytes = bytes;
        }
    }
    usage
}

/// For want of whose memory the kernel killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfMemory {
    /// The group met its own limit.
    Group,
    /// It did not: there was none left on the host, or in a group above.
    Host,
}

/// Whether the kernel killed a task of the group for want of memory. On v1 a
/// group whose page cache ever met the limit counts as [`OutOfMemory::Group`].
pub fn out_of_memory(name: &str) -> Option<OutOfMemory> {
    folders(name).iter().find_map(|dir| {
        let events = dir.join("memory.events");
        let killed = read_key(&events, "oom_kill").or_else(|| read_key(&dir.join("memory.oom_control"), "oom_kill"))?;
        let met = match read_key(&events, "oom") {
            Some(times) => times > 0,
            // v1's counts of failures stay 0 on some kernels.
            None => {
                let limit = read_number(&dir.join("memory.limit_in_bytes"))?;
                read_number(&dir.join("memory.max_usage_in_bytes"))?.saturating_add(ONE_CHARGE) >= limit
            }
        };
        let whose = if met { OutOfMemory::Group } else { OutOfMemory::Host };
        (killed > 0).then_some(whose)
    })
}

/// What a group may use in all, and what of it can still be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBound {
    pub limit_bytes: u64,
    pub left_bytes: u64,
}

/// None where the group has no limit, or is not there. The empty name is the
/// root: of the host, or of the container that this is.
pub fn memory_bound(name: &str) -> Option<MemoryBound> {
    folders(name).iter().find_map(|dir| {
        let limit_bytes =
            read_number(&dir.join("memory.max")).or_else(|| read_number(&dir.join("memory.limit_in_bytes")))?;
        if limit_bytes >= UNLIMITED {
            return None;
        }
        let used =
            read_number(&dir.join("memory.current")).or_else(|| read_number(&dir.join("memory.usage_in_bytes")))?;
        let stat = std::fs::read_to_string(dir.join("memory.stat")).ok()?;
        // v1 has two of each: without and with the groups below.
        let pages = |key: &str| find_key(&stat, &format!("total_{key}")).or_else(|| find_key(&stat, key));
        let cache = pages("inactive_file").unwrap_or(0) + pages("active_file").unwrap_or(0);
        Some(MemoryBound { limit_bytes, left_bytes: limit_bytes.saturating_sub(used.saturating_sub(cache)) })
    })
}

/// Names of the groups directly below `parent`, each once.
pub fn children(parent: &str) -> Vec<String> {
    let mut names = std::collections::BTreeSet::new();
    for dir in folders(parent) {
        names.extend(subgroups(&dir).iter().filter_map(|d| Some(d.file_name()?.to_str()?.to_owned())));
    }
    names.into_iter().collect()
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn read_key(path: &Path, key: &str) -> Option<u64> {
    find_key(&std::fs::read_to_string(path).ok()?, key)
}

fn find_key(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_whole_key_only() {
        let text = "oom 3\noom_kill 2\noom_kill_disable 0\n";
        assert_eq!(find_key(text, "oom_kill"), Some(2));
        assert_eq!(find_key(text, "oom"), Some(3));
        assert_eq!(find_key(text, "kill"), None);
    }

    #[test]
    fn a_quota_is_a_share_of_the_period() {
        assert_eq!(quota(100), 100_000);
        assert_eq!(quota(230), 230_000);
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        remove("aether-test-never-made/slot-1").expect("no such group");
        assert_eq!(usage("aether-test-never-made/slot-1"), Usage::default());
        assert_eq!(out_of_memory("aether-test-never-made/slot-1"), None);
        assert_eq!(memory_bound("aether-test-never-made/slot-1"), None);
    }
}

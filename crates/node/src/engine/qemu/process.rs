//! Finding a VMM among the host's processes, without mistaking another for it.

use super::super::{EngineError, VmmIdentity};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeSet;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

/// Who runs under this pid now.
pub(super) fn identify(slot: u32, pid: u32) -> std::io::Result<VmmIdentity> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let start_time = start_time(&stat).ok_or_else(|| std::io::Error::other("unreadable /proc/PID/stat"))?;
    let exe = std::fs::metadata(format!("/proc/{pid}/exe"))?;
    Ok(VmmIdentity { slot, pid, start_time, exe: (exe.dev(), exe.ino()) })
}

/// Field 22. The second field is the command in brackets, which may hold
/// anything, brackets and spaces included.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The live process that `identity` means. The pidfd is taken first, so that
/// what is compared afterwards is what is held.
pub(super) fn find(identity: &VmmIdentity) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(identity.pid).ok()?)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let same = identify(identity.slot, identity.pid).is_ok_and(|now| now == *identity);
    (same && !crate::jail::has_ended(&pidfd)).then_some(pidfd)
}

/// Live processes of the uids in `range`: (uid, pid). Zombies do not count:
/// they hold nothing any more.
pub(super) fn with_uids(range: &Range<u32>) -> Result<Vec<(u32, u32)>, EngineError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(EngineError::io("read /proc"))?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        // The folder's owner is the process's uid, and costs no read; but the kernel shows root
        // where a process is not dumpable, hence the status.
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        if let Some(uid) = uid_if_alive(&status).filter(|uid| range.contains(uid)) {
            found.push((uid, pid));
        }
    }
    Ok(found)
}

fn uid_if_alive(status: &str) -> Option<u32> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("State:")?.starts_with(['Z', 'X']) {
        return None;
    }
    field("Uid:")?.split_whitespace().next()?.parse().ok()
}

/// SIGKILL to all of a uid, again until none is left or the tries are used
/// up. Blocks; true when none is left.
pub(super) fn kill_uid(uid: u32) -> Result<bool, EngineError> {
    for _ in 0..250 {
        let alive = with_uids(&(uid..uid + 1))?;
        if alive.is_empty() {
            return Ok(true);
        }
        for (_, pid) in alive {
            let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            // Looked at again through the pidfd's own pid: it cannot be somebody else's now.
            let still = with_uids_of(pid).is_some_and(|now| now == uid);
            if still {
                let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(false)
}

fn with_uids_of(pid: Pid) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    uid_if_alive(&status)
}

/// Slots named by folders or groups.
pub(super) fn slots_named(names: impl Iterator<Item = String>) -> BTreeSet<u32> {
    names.filter_map(|name| name.strip_prefix("slot-").unwrap_or(&name).parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_command_name_hides_nothing() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(start_time(&format!("77 (a) b (c) {rest}")), Some(4242));
        assert_eq!(start_time("77 no brackets"), None);
    }

    #[test]
    fn knows_itself_and_nobody_else() {
        let me = identify(1, std::process::id()).expect("myself");
        assert!(find(&me).is_some());
        assert!(find(&VmmIdentity { start_time: me.start_time + 1, ..me.clone() }).is_none(), "a recycled pid");
        assert!(find(&VmmIdentity { exe: (me.exe.0, me.exe.1 + 1), ..me.clone() }).is_none(), "another program");
        assert!(find(&VmmIdentity { pid: 0, ..me }).is_none());
    }

    #[test]
    fn zombies_are_not_alive() {
        assert_eq!(uid_if_alive("Name:\tx\nState:\tS (sleeping)\nUid:\t700003\t1\t1\t1\n"), Some(700_003));
        assert_eq!(uid_if_alive("Name:\tx\nState:\tZ (zombie)\nUid:\t700003\t1\t1\t1\n"), None);
    }

    #[test]
    fn reads_slots_from_names() {
        let names = ["slot-3", "12", "control", "slot-x"].map(str::to_string);
        assert_eq!(slots_named(names.into_iter()), BTreeSet::from([3, 12]));
    }
}

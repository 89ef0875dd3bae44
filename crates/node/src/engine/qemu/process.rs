//! Finding a VMM among the host's processes, without mistaking another for it.

use super::super::VmmIdentity;
use super::MAX_SLOTS;
use crate::uids;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
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

/// The live process that `identity` means, which runs as its slot's `uid`.
/// The pidfd is taken first, so that what is compared afterwards is what is
/// held.
pub(super) fn find(identity: &VmmIdentity, uid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(identity.pid).ok()?)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let same = identify(identity.slot, identity.pid).is_ok_and(|now| now == *identity);
    let same = same && uids::of_process(identity.pid) == Some(uid);
    (same && !crate::jail::has_ended(&pidfd)).then_some(pidfd)
}

/// The slot that a name stands for; none unless it is written as we write it.
pub(super) fn slot_named(name: &str, prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?;
    let slot: u32 = digits.parse().ok()?;
    (slot.to_string() == digits && slot <= MAX_SLOTS).then_some(slot)
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
        let uid = rustix::process::getuid().as_raw();
        assert!(find(&me, uid).is_some());
        assert!(find(&me, uid + 1).is_none(), "another slot's");
        assert!(find(&VmmIdentity { start_time: me.start_time + 1, ..me.clone() }, uid).is_none(), "a recycled pid");
        assert!(find(&VmmIdentity { exe: (me.exe.0, me.exe.1 + 1), ..me.clone() }, uid).is_none(), "another program");
        assert!(find(&VmmIdentity { pid: 0, ..me }, uid).is_none());
    }

    #[test]
    fn reads_slots_from_names() {
        let names = ["3", "12", "012", "+3", "slot-3", "control", "65001", ""];
        assert_eq!(names.map(|name| slot_named(name, "")), [Some(3), Some(12), None, None, None, None, None, None]);
        assert_eq!(slot_named("slot-3", "slot-"), Some(3));
        assert_eq!(slot_named("slot-03", "slot-"), None);
    }
}

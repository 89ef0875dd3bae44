//! The steps that take something away, each a call into the kernel.

#![allow(unsafe_code, reason = "system calls that no safe crate offers in a form that suits a single-threaded exec")]

use super::plan::JailLimits;
use super::verb::own;
use super::{JailError, seccomp_list};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid};
use std::ffi::CString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

fn last_error(doing: &str) -> JailError {
    JailError::io(doing)(io::Error::last_os_error())
}

fn errno(doing: &str) -> impl FnOnce(nix::Error) -> JailError {
    let doing = doing.to_string();
    move |e| JailError::Io { doing, source: e.into() }
}

fn close_range(first: u32, last: u32) -> Result<(), JailError> {
    // SAFETY: closes descriptors that nothing here owns: the callers have let go of theirs.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
    if done == 0 { Ok(()) } else { Err(last_error("close inherited descriptors")) }
}

/// Whatever the daemon leaked into this process ends here.
pub(super) fn close_from(first: u32) -> Result<(), JailError> {
    close_range(first, u32::MAX)
}

/// Closes all but 0 to 2, `keep`, and `also` (which is closed by exec).
pub(super) fn close_all_but(keep: &[RawFd], also: RawFd) -> Result<(), JailError> {
    let mut kept: Vec<u32> = keep.iter().chain([&0, &1, &2, &also]).map(|n| n.unsigned_abs()).collect();
    kept.sort_unstable();
    kept.dedup();
    let mut next = 0;
    for number in kept {
        if next < number {
            close_range(next, number - 1)?;
        }
        next = number + 1;
    }
    close_range(next, u32::MAX)
}

/// A duplicate at `floor` or above, closed by exec.
pub(super) fn park(fd: RawFd, floor: RawFd) -> Result<OwnedFd, JailError> {
    // SAFETY: plain fcntl; the result is checked.
    match unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, floor) } {
        -1 => Err(last_error("move a descriptor")),
        number => Ok(own(number)),
    }
}

/// Puts `fd` under `number`, kept by exec.
pub(super) fn put(fd: RawFd, number: RawFd) -> Result<(), JailError> {
    // SAFETY: replaces a descriptor number that nothing in this process owns any more.
    match unsafe { libc::dup2(fd, number) } {
        -1 => Err(last_error("number a descriptor")),
        _ => Ok(()),
    }
}

/// The pid namespace takes effect for the child. The network namespace is
/// empty: not even its loopback is up.
pub(super) fn new_namespaces() -> Result<(), JailError> {
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(flags).map_err(errno("make namespaces"))?;
    nix::unistd::sethostname("sandbox").map_err(errno("name the sandbox"))
}

pub(super) enum Side {
    Parent { pid: u32, pidfd: OwnedFd },
    Child,
}

/// Like fork, but the child becomes a child of this process's parent, the
/// daemon, which can then read its exit code.
pub(super) fn clone_sibling() -> Result<Side, JailError> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (libc::CLONE_PARENT | libc::CLONE_PIDFD) as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of everything, and this
    // process has one thread, so no lock is held by anybody else.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(last_error("start the jailed process")),
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent { pid: u32::try_from(pid).unwrap_or_default(), pidfd: own(pidfd) }),
    }
}

pub(super) fn limits(limits: &JailLimits) -> Result<(), JailError> {
    let set = |resource, value| setrlimit(resource, value, value).map_err(errno("set a limit"));
    set(Resource::RLIMIT_CORE, 0)?;
    set(Resource::RLIMIT_NOFILE, limits.nofile)?;
    set(Resource::RLIMIT_FSIZE, limits.fsize_bytes)?;
    set(Resource::RLIMIT_MSGQUEUE, 0)?;
    set(Resource::RLIMIT_RTPRIO, 0)
}

/// How soon the kernel ends it for want of memory: by so much sooner than the
/// daemon, whatever the daemon itself was given.
pub(super) fn oom_score(above: i32) -> Result<(), JailError> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let daemons = std::fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse().ok());
    std::fs::write(FILE, score_above(daemons.unwrap_or(0), above).to_string())
        .map_err(JailError::io("set oom_score_adj"))
}

/// A daemon that is kept (below zero) is no reason to keep a sandbox.
fn score_above(daemons: i32, above: i32) -> i32 {
    const MOST: i32 = 1000;
    daemons.max(0).saturating_add(above).min(MOST)
}

/// Its own session: no terminal, no signal meant for the daemon's group.
pub(super) fn own_session() -> Result<(), JailError> {
    nix::unistd::setsid().map_err(errno("start a session"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    // SAFETY: dispositions of this single-threaded process. Rust ignores SIGPIPE and exec would
    // keep that; a file that grows too large is an error to its writer, not its death.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    nix::sys::signal::SigSet::empty().thread_set_mask().map_err(errno("reset the signal mask"))
}

/// Groups, ids, and every capability set, the bounding set included.
pub(super) fn drop_privileges(uid: u32, gid: u32) -> Result<(), JailError> {
    let last = last_capability();
    for capability in 0..=last {
        // SAFETY: prctl with plain numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) } != 0 {
            return Err(last_error("empty the bounding set"));
        }
    }
    // SAFETY: as above.
    if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) } != 0 {
        return Err(last_error("empty the ambient set"));
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    nix::unistd::setgroups(&[]).map_err(errno("leave all groups"))?;
    nix::unistd::setresgid(gid, gid, gid).map_err(errno("take the slot's group"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(errno("take the slot's user"))?;
    empty_capabilities()?;
    // SAFETY: prctl with plain numbers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(last_error("forbid new privileges"));
    }
    Ok(())
}

/// Probed, not read: /proc is gone by now.
fn last_capability() -> u32 {
    // SAFETY: prctl with plain numbers; fails with EINVAL past the last one.
    let known = |n: &u32| unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(*n), 0, 0, 0) } >= 0;
    (0..64).take_while(known).last().unwrap_or(0)
}

fn empty_capabilities() -> Result<(), JailError> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let none = [0u32; 6];
    // SAFETY: the header and two times three words are what version 3 reads.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(last_error("empty the capability sets")) }
}

pub(super) fn seccomp() -> Result<(), JailError> {
    for program in seccomp_list::programs()? {
        seccompiler::apply_filter(&program)
            .map_err(|e| JailError::Refused(format!("cannot install the system call filter: {e}")))?;
    }
    Ok(())
}

/// Returns only when it failed.
pub(super) fn exec(program: &CString, argv: &[CString], envp: &[CString]) -> JailError {
    match nix::unistd::execve(program.as_c_str(), argv, envp) {
        Ok(never) => match never {},
        Err(e) => errno(&format!("execute {}", program.to_string_lossy()))(e),
    }
}

/// Leaves without running the destructors that belong to the other process.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns, touches nothing.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::score_above;

    #[test]
    fn a_sandbox_goes_before_the_daemon_whatever_that_was_given() {
        assert_eq!([-1000, -900, 0].map(|daemons| score_above(daemons, 500)), [500; 3]);
        assert_eq!((score_above(300, 500), score_above(900, 500)), (800, 1000));
    }
}

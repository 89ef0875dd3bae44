//! `aether jail`: the hidden verb. One thread, root, no runtime.

use super::plan::{JailPlan, MAX_FDS};
use super::wire::{self, Report};
use super::{JailError, confine, root};
use crate::cgroup;
use std::ffi::{CString, OsString};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

/// Sources are moved up here before they are put to their numbers.
const PARKING: RawFd = 300;
/// A plan longer than this is not ours.
const MAX_PLAN: u64 = 1 << 20;

/// Runs the verb and never returns. The caller must not have started a
/// thread or a runtime yet. `args` are those behind the verb: there are none.
pub fn main(args: impl Iterator<Item = OsString>) -> ! {
    if args.count() != 0 || !is_our_socket() {
        eprintln!("aether jail is internal: it is started by the server, with a plan on descriptor 0");
        std::process::exit(64);
    }
    let error = match run() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    wire::send(socket(), &Report::Failed(error.to_string()));
    std::process::exit(1);
}

enum Never {}

#[allow(unsafe_code, reason = "descriptor 0 is ours by the verb's contract")]
fn socket() -> BorrowedFd<'static> {
    // SAFETY: descriptor 0 is open for the whole life of the verb; `main` checked what it is.
    unsafe { BorrowedFd::borrow_raw(0) }
}

fn is_our_socket() -> bool {
    matches!(rustix::net::sockopt::socket_type(socket()), Ok(rustix::net::SocketType::SEQPACKET))
}

fn run() -> Result<Never, JailError> {
    confine::close_from(3)?;
    let (plan, fds) = receive()?;
    plan.check()?;
    if plan.fds.len() != fds.len() {
        return Err(JailError::Plan("descriptors and numbers differ in count".into()));
    }
    root::make_dir(&plan.dir)?;
    // First: what joins a group that is short of memory may be what the kernel ends.
    confine::oom_score(plan.limits.oom_score_adj)?;
    if let Some(name) = &plan.cgroup {
        let limits = cgroup::Limits {
            memory_bytes: plan.limits.memory_mb << 20,
            pids: plan.limits.pids,
            cpu_percent: plan.limits.cpu_percent,
        };
        cgroup::create_and_join(name, &limits).map_err(JailError::io("make the cgroup"))?;
    }
    confine::new_namespaces()?;
    root::build(&plan)?;
    let program = c_string(plan.program.as_os_str().as_bytes())?;
    let argv = arguments(&plan)?;
    let envp = environment(&plan)?;
    // From here on nothing of the host is visible.
    match confine::clone_sibling()? {
        confine::Side::Parent { pid, pidfd } => {
            wire::send_with(socket(), &Report::Started { pid }, pidfd.as_fd());
            std::process::exit(0);
        }
        confine::Side::Child => become_program(&plan, fds, &program, &argv, &envp),
    }
}

/// The child: numbers its descriptors, gives everything up, executes.
fn become_program(
    plan: &JailPlan,
    fds: Vec<OwnedFd>,
    program: &CString,
    argv: &[CString],
    envp: &[CString],
) -> Result<Never, JailError> {
    // Moved out of the way of the numbers to come; closed by exec.
    let report = confine::park(socket().as_raw_fd(), PARKING)?;
    let result = (|| {
        place_descriptors(plan, fds, report.as_raw_fd())?;
        confine::limits(&plan.limits)?;
        confine::own_session()?;
        confine::drop_privileges(plan.uid, plan.gid)?;
        confine::seccomp()?;
        Err::<Never, JailError>(confine::exec(program, argv, envp))
    })();
    let Err(error) = result;
    wire::send(report.as_fd(), &Report::Failed(error.to_string()));
    confine::exit_now(1)
}

fn place_descriptors(plan: &JailPlan, fds: Vec<OwnedFd>, report: RawFd) -> Result<(), JailError> {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(JailError::io("open /dev/null in the jail"))?;
    let null = confine::park(opened.as_raw_fd(), PARKING)?;
    drop(opened);
    let mut parked = Vec::with_capacity(fds.len());
    for fd in &fds {
        parked.push(confine::park(fd.as_raw_fd(), PARKING)?);
    }
    drop(fds);
    for number in 0..=2 {
        if !plan.fds.contains(&number) {
            confine::put(null.as_raw_fd(), number)?;
        }
    }
    for (fd, number) in parked.iter().zip(&plan.fds) {
        confine::put(fd.as_raw_fd(), *number)?;
    }
    drop(parked);
    drop(null);
    confine::close_all_but(&plan.fds, report)
}

fn receive() -> Result<(JailPlan, Vec<OwnedFd>), JailError> {
    let mut fds = wire::receive_fds(socket(), MAX_FDS + 1).map_err(JailError::io("receive the plan"))?;
    if fds.is_empty() {
        return Err(JailError::Plan("no plan was passed".into()));
    }
    let mut file = std::fs::File::from(fds.remove(0));
    file.rewind().map_err(JailError::io("read the plan"))?;
    let mut text = Vec::new();
    file.take(MAX_PLAN).read_to_end(&mut text).map_err(JailError::io("read the plan"))?;
    let plan = serde_json::from_slice(&text).map_err(|e| JailError::Plan(e.to_string()))?;
    Ok((plan, fds))
}

fn arguments(plan: &JailPlan) -> Result<Vec<CString>, JailError> {
    let name = plan.program.file_name().unwrap_or(plan.program.as_os_str());
    let mut out = vec![c_string(name.as_bytes())?];
    for arg in &plan.args {
        out.push(c_string(arg.as_bytes())?);
    }
    Ok(out)
}

fn environment(plan: &JailPlan) -> Result<Vec<CString>, JailError> {
    plan.env.iter().map(|(name, value)| c_string(format!("{name}={value}").as_bytes())).collect()
}

fn c_string(bytes: &[u8]) -> Result<CString, JailError> {
    CString::new(bytes).map_err(|_| JailError::Plan("a zero byte in an argument".into()))
}

/// Takes ownership of a descriptor number that a system call just returned.
#[allow(unsafe_code, reason = "turns a fresh descriptor number into an owner")]
pub(super) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass a number that the kernel has just handed out to them alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

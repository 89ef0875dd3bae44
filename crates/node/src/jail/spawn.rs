//! Running the verb, and holding what came of it.

use super::plan::JailPlan;
use super::wire::{self, Report};
use super::{JailError, VERB};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The verb needs milliseconds; this is for a machine on its knees.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A running jailed process, a child of this process. Dropping it does not
/// end it.
#[derive(Clone, Debug)]
pub struct Jailed {
    /// As the host sees it.
    pub pid: u32,
    pub pidfd: Arc<OwnedFd>,
}

impl Jailed {
    /// Waits for its end; (exit code, signal). Both are none when it is not a
    /// child of this process (adopted), or when another call reaped it.
    pub async fn wait(&self) -> (Option<i32>, Option<i32>) {
        wait_pidfd(&self.pidfd).await;
        reap(&self.pidfd)
    }

    /// SIGKILL. Fine when it is gone already.
    pub fn kill(&self) -> Result<(), JailError> {
        match rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(JailError::io("kill the jailed process")(e.into())),
        }
    }
}

/// Resolves when the process has ended, whoever's child it is.
pub(crate) async fn wait_pidfd(pidfd: &OwnedFd) {
    // A duplicate: the reactor takes a descriptor once, and several may wait.
    let Some(watched) = pidfd.try_clone().ok().and_then(watch) else {
        // Out of descriptors: look now and again.
        while !has_ended(pidfd) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        return;
    };
    // Readable stays true once it has ended; an error means that the runtime shuts down.
    let _ = watched.readable().await;
}

#[allow(unsafe_code, reason = "tokio asks for a promise about the descriptor's owner")]
fn watch(pidfd: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd always names the same open descriptor until it is dropped, and `AsyncFd`
    // deregisters before it drops it.
    unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.ok()
}

/// Whether the process has ended.
pub(crate) fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut polled = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut polled, Some(&now)), Ok(n) if n > 0)
}

/// Takes the exit status of an ended child.
pub(crate) fn reap(pidfd: &OwnedFd) -> (Option<i32>, Option<i32>) {
    match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Ok(WaitStatus::Exited(_, code)) => (Some(code), None),
        Ok(WaitStatus::Signaled(_, signal, _)) => (None, Some(signal as i32)),
        _ => (None, None),
    }
}

pub(super) async fn spawn(plan: JailPlan, fds: Vec<OwnedFd>, exe: PathBuf) -> Result<Jailed, JailError> {
    // Blocking calls: fork and exec of a large process, and a wait for the verb.
    tokio::task::spawn_blocking(move || spawn_blocking(&plan, fds, &exe))
        .await
        .map_err(|e| JailError::Protocol(format!("the starting task failed: {e}")))?
}

fn spawn_blocking(plan: &JailPlan, fds: Vec<OwnedFd>, exe: &Path) -> Result<Jailed, JailError> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| JailError::io("make a socket pair")(e.into()))?;
    rustix::net::sockopt::set_socket_timeout(&ours, rustix::net::sockopt::Timeout::Recv, Some(ANSWER_LIMIT))
        .map_err(|e| JailError::io("set a time-out")(e.into()))?;
    let mut verb = std::process::Command::new(exe)
        .arg(VERB)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .map_err(JailError::io(format!("run {} {VERB}", exe.display())))?;
    let answer = match send_plan(&ours, plan, fds) {
        Ok(()) => read_answer(&ours),
        // It ended before it was told anything: what it said, if at all, counts.
        Err(JailError::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => read_answer(&ours),
        Err(e) => Err(e),
    };
    if matches!(answer, Err(JailError::Timeout(_))) {
        let _ = verb.kill();
    }
    // It exits as soon as it has answered; a zombie must not stay.
    let _ = verb.wait();
    answer
}

fn send_plan(socket: &OwnedFd, plan: &JailPlan, fds: Vec<OwnedFd>) -> Result<(), JailError> {
    let memfd = rustix::fs::memfd_create("aether-jail-plan", MemfdFlags::CLOEXEC)
        .map_err(|e| JailError::io("make the plan's memory file")(e.into()))?;
    let mut file = File::from(memfd);
    let text = serde_json::to_vec(plan).map_err(|e| JailError::Plan(e.to_string()))?;
    file.write_all(&text).map_err(JailError::io("write the plan"))?;
    let mut all = vec![file.as_fd()];
    all.extend(fds.iter().map(|fd| fd.as_fd()));
    wire::send_bytes_with(socket.as_fd(), b"J", &all).map_err(JailError::io("pass the plan"))
}

/// Reads up to the end of file that exec causes.
fn read_answer(socket: &OwnedFd) -> Result<Jailed, JailError> {
    let mut started = None;
    let mut failed = None;
    loop {
        match wire::receive_report(socket.as_fd()) {
            Ok(None) => break,
            // It ended without reading the plan: not our verb.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
            Ok(Some((Report::Started { pid }, Some(pidfd)))) => started = Some(Jailed { pid, pidfd: Arc::new(pidfd) }),
            Ok(Some((Report::Started { .. }, None))) => failed = Some(JailError::Protocol("no pidfd came".into())),
            Ok(Some((Report::Failed(reason), _))) => failed = Some(JailError::Refused(reason)),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                failed = Some(JailError::Timeout(ANSWER_LIMIT.as_secs()));
                break;
            }
            Err(e) => {
                failed = Some(JailError::Protocol(e.to_string()));
                break;
            }
        }
    }
    match (started, failed) {
        (Some(jailed), None) => Ok(jailed),
        (Some(jailed), Some(error)) => {
            let _ = jailed.kill();
            let _ = waitid(Id::PIDFd(jailed.pidfd.as_fd()), WaitPidFlag::WEXITED);
            Err(error)
        }
        (None, Some(error)) => Err(error),
        (None, None) => Err(JailError::Protocol("the verb ended without an answer; is this the aether binary?".into())),
    }
}

//! Who learns how a child ended. One place owns `waitpid`.
//!
//! As PID 1 every orphan of the sandbox becomes our child, so one thread
//! waits for *any* child: those that were registered are told, the rest are
//! only reaped. As an ordinary process (tests) there may be children of
//! others, so each registered child has a waiting thread of its own.

use crate::lock;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use tokio::sync::oneshot;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All children, orphans too.
    Everyone,
    Registered,
}

pub struct Reaper {
    scope: Scope,
    /// Held over fork and registration, so that a child that ends at once is
    /// known when the reaper meets it.
    waiting: Mutex<BTreeMap<i32, oneshot::Sender<Ended>>>,
    /// Wakes the thread that found no child at all.
    born: Condvar,
}

impl Reaper {
    pub fn start(scope: Scope) -> io::Result<Arc<Self>> {
        let reaper = Arc::new(Self { scope, waiting: Mutex::default(), born: Condvar::new() });
        if scope == Scope::Everyone {
            let own = reaper.clone();
            std::thread::Builder::new().name("reaper".into()).stack_size(128 * 1024).spawn(move || own.reap_all())?;
        }
        Ok(reaper)
    }

    /// Runs `fork` (which answers the child and something more) and registers
    /// that child, with no moment in between.
    pub fn spawn<T>(
        &self,
        fork: impl FnOnce() -> io::Result<(u32, T)>,
    ) -> io::Result<(u32, T, oneshot::Receiver<Ended>)> {
        let (tell, told) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        let (pid, more) = fork()?;
        let raw = i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidData)?;
        match self.scope {
            Scope::Everyone => {
                waiting.insert(raw, tell);
                self.born.notify_all();
            }
            Scope::Registered => {
                let wait = move || {
                    let _ = tell.send(wait_for(raw));
                };
                std::thread::Builder::new().name("wait".into()).stack_size(64 * 1024).spawn(wait)?;
            }
        }
        Ok((pid, more, told))
    }

    fn reap_all(&self) {
        loop {
            // Look first and leave the zombie: only under the lock is it sure
            // whether anyone has registered it.
            match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                Ok(status) => {
                    let Some(pid) = status.pid() else { continue };
                    let told = {
                        let mut waiting = lock(&self.waiting);
                        let ended = wait_for(pid.as_raw());
                        waiting.remove(&pid.as_raw()).map(|tell| (tell, ended))
                    };
                    if let Some((tell, ended)) = told {
                        let _ = tell.send(ended);
                    }
                }
                Err(nix::errno::Errno::ECHILD) => {
                    let waiting = lock(&self.waiting);
                    if waiting.is_empty() {
                        drop(self.born.wait(waiting));
                    }
                }
                Err(_) => {}
            }
        }
    }
}

fn wait_for(pid: i32) -> Ended {
    loop {
        match waitpid(Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => return Ended::Code(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ended::Signal(signal as i32),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            // Cannot happen while we own waitpid; say that it is not known.
            Err(_) => return Ended::Code(255),
        }
    }
}

//! The guest: the first process of a sandbox.
//!
//! ```text
//! main.rs ── boot ──► mounts, modules, switch of root        (as PID 1 only)
//!            lane ──► port + handshake + HTTP/2, one thread per lane
//!                       control: service::guest     data: service::exec, E2B's, files
//!            Guest ─► what all of them share: identity, exec table, logs, events
//! ```
//!
//! Processes, logs and events are owned by [`Guest`], outside the sessions,
//! so that an exec survives a reconnect. The host is trusted here (it holds
//! the token); programs of the sandbox are not, but they own the sandbox.
//!
//! Not here: anything that decides. The guest does what it is told.

pub mod boot;
pub mod events;
pub mod identity;
pub mod lane;
pub mod logs;
pub mod main_process;
pub mod net;
pub mod oom;
pub mod port;
pub mod probe;
pub mod process;
pub mod reaper;
pub mod server;
pub mod service;
pub mod shutdown;
pub mod sys;
pub mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How much of the machine is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// PID 1 of a sandbox: clock, names, network and power are ours.
    Init,
    /// An ordinary process serving the same services, for tests.
    Ordinary,
}

/// What the lanes and their services share.
pub struct Guest {
    pub role: Role,
    /// Written at identify, read by both lanes for the next hello.
    pub token: Mutex<[u8; 16]>,
    pub identity: Mutex<identity::Identity>,
    pub execs: process::table::ExecTable,
    pub reaper: Arc<reaper::Reaper>,
    pub logs: Arc<logs::LogRing>,
    pub events: Arc<events::EventLog>,
    pub main: main_process::Supervisor,
    pub oom: oom::OomWatch,
    pub probe: probe::Watch,
    pub frozen: service::quiesce::Freezer,
    pub watchers: service::watching::Watchers,
    /// Where processes and their pipes live: the data lane's runtime.
    pub work: tokio::runtime::Handle,
}

impl Guest {
    pub fn new(role: Role, token: [u8; 16], work: tokio::runtime::Handle, reaper: Arc<reaper::Reaper>) -> Arc<Self> {
        let events = Arc::new(events::EventLog::default());
        Arc::new(Self {
            role,
            token: Mutex::new(token),
            identity: Mutex::new(identity::Identity::default()),
            execs: process::table::ExecTable::default(),
            reaper,
            logs: Arc::new(logs::LogRing::new(logs::CAPACITY)),
            main: main_process::Supervisor::default(),
            oom: oom::OomWatch::default(),
            probe: probe::Watch::default(),
            frozen: service::quiesce::Freezer::default(),
            watchers: service::watching::Watchers::default(),
            events,
            work,
        })
    }
}

/// A poisoned lock is taken all the same: a panic in one handler must not
/// take the sandbox's first process with it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The agent's main process: started once at identify, supervised after.
//!
//! ```text
//! start ─► running ─(ended)─► restart? ─no─► over
//!             ▲                  │yes: wait 100 ms, doubling to 30 s,
//!             └──────────────────┘     from the start again after 10 s of life
//! ```

use crate::process::exec::{About, Exec};
use crate::process::table::{MAIN, Start};
use crate::{Guest, lock};
use aether_proto::guest::aether::guest::v1::{MainExited, MainStarted};
use nix::sys::signal::Signal;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A life of this length means that it works.
const GOOD_LIFE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    Never,
    OnFailure,
    Always,
}

impl Restart {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "never" => Some(Self::Never),
            "on_failure" => Some(Self::OnFailure),
            "always" => Some(Self::Always),
            _ => None,
        }
    }

    fn wants(self, failed: bool) -> bool {
        match self {
            Self::Never => false,
            Self::OnFailure => failed,
            Self::Always => true,
        }
    }
}

/// The pause before the next start.
pub fn pause_after(last: Option<Duration>, life: Duration) -> Duration {
    match last {
        Some(last) if life < GOOD_LIFE => (last * 2).min(LONGEST_PAUSE),
        _ => FIRST_PAUSE,
    }
}

#[derive(Clone, Debug)]
pub struct Spec {
    pub about: About,
    pub user: String,
    pub stdin: bool,
    pub tty: bool,
    pub restart: Restart,
}

pub struct Supervisor {
    started: Mutex<bool>,
    /// The next end is not the last, whatever the policy says.
    forced: Mutex<bool>,
    stopping: watch::Sender<bool>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self { started: Mutex::new(false), forced: Mutex::new(false), stopping: watch::Sender::new(false) }
    }
}

impl Supervisor {
    /// No restart from now on.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Who calls this ends the process.
    pub fn force_restart(&self) {
        *lock(&self.forced) = true;
    }

    fn take_forced(&self) -> bool {
        std::mem::take(&mut *lock(&self.forced))
    }

    pub fn stopping(&self) -> bool {
        *self.stopping.borrow()
    }
}

/// Starts it, once per boot, on the runtime that owns processes. Answers its
/// pid, or why it could not be started (told as an event too).
pub fn start(guest: &Arc<Guest>, spec: Spec) -> Result<u32, String> {
    if std::mem::replace(&mut *lock(&guest.main.started), true) {
        return Ok(guest.execs.get(MAIN).map_or(0, |exec| exec.pid));
    }
    let exec = match launch(guest, &spec) {
        Ok(exec) => exec,
        Err(message) => {
            report_failure(guest, 126);
            return Err(message);
        }
    };
    if let Some(exit) = exec.exit().filter(|exit| !exit.error.is_empty()) {
        report_failure(guest, exit.code.unwrap_or(126));
        return Err(exit.error);
    }
    let pid = exec.pid;
    guest.events.push(MainStarted { pid, restarts: 0, ..Default::default() }.into());
    tokio::spawn(supervise(guest.clone(), spec, exec));
    Ok(pid)
}

fn launch(guest: &Arc<Guest>, spec: &Spec) -> Result<Arc<Exec>, String> {
    let start = Start {
        id: MAIN.to_owned(),
        about: spec.about.clone(),
        user: spec.user.clone(),
        stdin: spec.stdin,
        terminal: spec.tty.then_some((80, 24)),
        timeout: None,
        logged: true,
        starter_attaches: false,
        replace_ended: true,
    };
    guest.execs.start(guest, start).map(|(exec, _)| exec).map_err(|error| error.to_string())
}

fn report_failure(guest: &Guest, code: i32) {
    guest.events.push(MainExited { exit_code: Some(code), ..Default::default() }.into());
}

async fn supervise(guest: Arc<Guest>, spec: Spec, mut exec: Arc<Exec>) {
    let mut restarts = 0;
    let mut pause = None;
    let mut stopping = guest.main.stopping.subscribe();
    loop {
        let exit = exec.ended().await;
        // Its last words belong before its end; a background child that
        // holds the pipe does not count.
        let _ = tokio::time::timeout(Duration::from_secs(1), exec.wait_drained()).await;
        guest.logs.flush();
        let killed = exit.signal == Some(Signal::SIGKILL as i32);
        let oom = killed && guest.oom.killed(exec.pid).await;
        let failed = exit.code != Some(0);
        let forced = guest.main.take_forced();
        let again = !guest.main.stopping() && (forced || spec.restart.wants(failed));
        guest.events.push(
            MainExited {
                exit_code: exit.code,
                signal: exit.signal.map(crate::process::signal_name),
                will_restart: again,
                oom,
                ..Default::default()
            }
            .into(),
        );
        if !again {
            return;
        }
        let wait = pause_after(pause, exec.duration());
        pause = Some(wait);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        match launch(&guest, &spec) {
            Ok(next) => exec = next,
            Err(message) => {
                guest.logs.push(2, format!("aether: cannot restart: {message}\n").as_bytes());
                report_failure(&guest, 126);
                return;
            }
        }
        restarts += 1;
        guest.events.push(MainStarted { pid: exec.pid, restarts, ..Default::default() }.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_a_good_life_resets_them() {
        let short = Duration::from_secs(1);
        let mut pause = None;
        let mut seen = Vec::new();
        for _ in 0..11 {
            pause = Some(pause_after(pause, short));
            seen.push(pause.map_or(0, |pause| pause.as_millis()));
        }
        assert_eq!(seen, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(pause_after(pause, GOOD_LIFE), FIRST_PAUSE);
    }

    #[test]
    fn policies() {
        assert_eq!(Restart::parse(""), Some(Restart::Never));
        assert_eq!(Restart::parse("sometimes"), None);
        let table = [Restart::Never, Restart::OnFailure, Restart::Always].map(|it| (it.wants(false), it.wants(true)));
        assert_eq!(table, [(false, false), (false, true), (true, true)]);
    }
}

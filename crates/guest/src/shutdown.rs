//! The end of a sandbox: ask, wait, kill, sync, power off.

use crate::process::exec::Exit;
use crate::process::table::MAIN;
use crate::{Guest, Role, sys};
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::time::Duration;

/// How long killed processes may take to be reaped.
const REAP_LIMIT: Duration = Duration::from_secs(3);
/// The answer must leave before the power goes.
const LAST_WORDS: Duration = Duration::from_millis(150);

/// Ends every process and writes everything to disk; answers how the main
/// process ended, if there was one.
pub async fn end_all(guest: &Arc<Guest>, grace: Duration) -> Option<Exit> {
    guest.main.stop();
    let running = || guest.execs.all().into_iter().filter(|exec| exec.running()).collect::<Vec<_>>();
    let asked = running();
    for exec in &asked {
        let _ = exec.signal(Signal::SIGTERM as i32);
    }
    let all_ended = async {
        for exec in &asked {
            exec.ended().await;
        }
    };
    let _ = tokio::time::timeout(grace, all_ended).await;
    let rest = running();
    match guest.role {
        // Everyone but ourselves, daemons too.
        Role::Init => sys::kill_everyone(),
        Role::Ordinary => rest.iter().for_each(|exec| {
            let _ = exec.signal(Signal::SIGKILL as i32);
        }),
    }
    let gone = async {
        for exec in &rest {
            exec.ended().await;
        }
    };
    let _ = tokio::time::timeout(REAP_LIMIT, gone).await;
    if guest.role == Role::Init {
        guest.frozen.thaw();
        let sync = tokio::task::spawn_blocking(crate::boot::mounts::settle);
        let _ = tokio::time::timeout(Duration::from_secs(20), sync).await;
    }
    guest.execs.get(MAIN).and_then(|exec| exec.exit())
}

/// Powers off a moment later; as an ordinary process, nothing.
pub fn power_off_soon(role: Role) {
    if role == Role::Init {
        tokio::spawn(async {
            tokio::time::sleep(LAST_WORDS).await;
            power_off();
        });
    }
}

/// Never returns as PID 1. The VMM does not restart us, so a machine without
/// a way to power off ends by a reset.
pub fn power_off() {
    use nix::sys::reboot::{RebootMode, reboot};
    let _ = reboot(RebootMode::RB_POWER_OFF);
    let _ = reboot(RebootMode::RB_AUTOBOOT);
}

//! Fork and exec. Everything between the two is plain system calls.

use super::StartError;
use super::users::Account;
use crate::reaper::{Ended, Reaper};
use crate::sys;
use nix::pty::openpty;
use nix::unistd::setsid;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tokio::sync::oneshot;

pub struct Plan {
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: PathBuf,
    pub account: Account,
    pub stdin: bool,
    /// Columns and rows of a terminal in place of pipes.
    pub terminal: Option<(u16, u16)>,
}

pub struct Spawned {
    pub pid: u32,
    pub ended: oneshot::Receiver<Ended>,
    /// Write end of standard input, or the terminal.
    pub input: Option<File>,
    /// Stream number and read end.
    pub outputs: Vec<(u32, File)>,
    /// For resize.
    pub terminal: Option<File>,
}

/// Starts the program as its user, in a session and process group of its own.
pub fn spawn(plan: &Plan, reaper: &Reaper) -> Result<Spawned, StartError> {
    let program = plan.argv.first().ok_or_else(|| StartError::Invalid("no command".into()))?;
    let mut command = Command::new(program);
    command.args(&plan.argv[1..]).env_clear().envs(&plan.env);
    let terminal = match plan.terminal {
        Some(size) => Some(attach_terminal(&mut command, size).map_err(|error| failed(program, &error))?),
        None => {
            command.stdin(if plan.stdin { Stdio::piped() } else { Stdio::null() });
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            None
        }
    };
    before_exec(&mut command, plan);
    let (pid, mut child, ended) =
        reaper.spawn(|| command.spawn().map(|child| (child.id(), child))).map_err(|error| failed(program, &error))?;
    // The command holds the child's end of the terminal: only with it closed
    // is the end of output seen.
    drop(command);
    let mut spawned = Spawned { pid, ended, input: None, outputs: Vec::new(), terminal: None };
    match terminal {
        Some(master) => {
            let copy = |file: &File| file.try_clone().map_err(|error| failed(program, &error));
            spawned.input = Some(copy(&master)?);
            spawned.outputs.push((1, copy(&master)?));
            spawned.terminal = Some(master);
        }
        None => {
            spawned.input = child.stdin.take().map(|pipe| File::from(OwnedFd::from(pipe)));
            spawned.outputs.extend(child.stdout.take().map(|pipe| (1, File::from(OwnedFd::from(pipe)))));
            spawned.outputs.extend(child.stderr.take().map(|pipe| (2, File::from(OwnedFd::from(pipe)))));
        }
    }
    Ok(spawned)
}

fn attach_terminal(command: &mut Command, (cols, rows): (u16, u16)) -> io::Result<File> {
    let pair = openpty(None, None)?;
    let master = File::from(pair.master);
    nix::fcntl::fcntl(&master, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    nix::fcntl::fcntl(&pair.slave, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    sys::resize_terminal(&master, cols, rows)?;
    command.stdin(pair.slave.try_clone()?).stdout(pair.slave.try_clone()?).stderr(pair.slave);
    Ok(master)
}

#[allow(unsafe_code, reason = "pre_exec: only async-signal-safe calls")]
fn before_exec(command: &mut Command, plan: &Plan) {
    let (uid, gid, groups) = (plan.account.uid, plan.account.gid, plan.account.groups.clone());
    let terminal = plan.terminal.is_some();
    // Prepared here: allocation is not allowed in the child.
    let cwd = std::ffi::CString::new(plan.cwd.as_os_str().as_encoded_bytes()).unwrap_or_default();
    let change_user = nix::unistd::geteuid().is_root();
    let child = move || {
        setsid()?;
        if terminal {
            sys::take_terminal(0)?;
            if change_user {
                // The user must be able to open /dev/tty's own device again.
                let _ = sys::own_terminal(uid);
            }
        }
        // Ours is -1000; programs of the sandbox are fair game. Raising it
        // is always allowed; without /proc there is nothing to raise.
        if let Ok(mut score) = File::options().write(true).open("/proc/self/oom_score_adj") {
            let _ = score.write_all(b"0");
        }
        if change_user {
            sys::become_user(uid, gid, &groups)?;
        }
        nix::unistd::chdir(cwd.as_c_str())?;
        Ok(())
    };
    // SAFETY: the closure makes system calls on values prepared before the
    // fork; it neither allocates nor takes locks.
    unsafe {
        command.pre_exec(child);
    }
}

fn failed(program: &str, error: &io::Error) -> StartError {
    let shown: String = program.chars().take(256).collect();
    match error.raw_os_error() {
        Some(nix::libc::ENOENT) => {
            StartError::Program { exit_code: 127, message: format!("{shown:?}: not found in the image") }
        }
        Some(nix::libc::EAGAIN | nix::libc::ENOMEM | nix::libc::EMFILE | nix::libc::ENFILE) => {
            StartError::Full(format!("cannot start {shown:?}: {error}"))
        }
        _ => StartError::Program { exit_code: 126, message: format!("{shown:?} cannot be executed: {error}") },
    }
}

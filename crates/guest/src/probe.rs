//! The agent's health probe: run again and again, judged by failures in a
//! row, and where asked the main process is ended so that it starts again.
//!
//! ```text
//! starting ──ok──► healthy ──failures──► unhealthy ──ok──► healthy
//!    └──failures after the start period──►┘  (main restarted: starting)
//! ```

use crate::process::exec::About;
use crate::process::table::{MAIN, Start};
use crate::{Guest, lock, sys};
use nix::sys::signal::Signal;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The probe's command in the table of processes: one at a time.
pub const ID: &str = "probe";
/// From SIGTERM to SIGKILL for a main process that is to start again.
const TERM_LIMIT: Duration = Duration::from_secs(10);
/// A status line is shorter.
const HEAD_LIMIT: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    Command(Vec<String>),
    Http { port: u16, path: String },
    Tcp { port: u16 },
}

#[derive(Clone, Debug)]
pub struct Probe {
    pub check: Check,
    pub user: String,
    pub cwd: Option<String>,
    pub interval: Duration,
    pub timeout: Duration,
    pub retries: u32,
    pub start_period: Duration,
    pub restart: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// No probe is asked for.
    #[default]
    None,
    Starting,
    Healthy,
    Unhealthy,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What is known. Written by the probe's task, read by the control lane.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub status: Status,
    /// In a row.
    pub failures: u32,
    /// Why the last probe failed.
    pub message: String,
    pub checked_at_ms: u64,
}

#[derive(Default)]
pub struct Watch(Mutex<State>);

impl Watch {
    pub fn state(&self) -> State {
        lock(&self.0).clone()
    }
}

/// What one result makes of what was known. Pure.
fn judge(now: &State, probe: &Probe, since_start: Duration, result: Result<(), String>, at_ms: u64) -> State {
    match result {
        Ok(()) => State { status: Status::Healthy, failures: 0, message: String::new(), checked_at_ms: at_ms },
        Err(message) => {
            let spared = now.status == Status::Starting && since_start < probe.start_period;
            let failures = if spared { 0 } else { now.failures.saturating_add(1) };
            let status = if failures >= probe.retries { Status::Unhealthy } else { now.status };
            State { status, failures, message, checked_at_ms: at_ms }
        }
    }
}

/// Probes for ever. Must run on the runtime that owns processes.
pub async fn run(guest: Arc<Guest>, probe: Probe) {
    let mut started = Instant::now();
    *lock(&guest.probe.0) = State { status: Status::Starting, ..State::default() };
    loop {
        tokio::time::sleep(probe.interval).await;
        if guest.main.stopping() {
            return;
        }
        let result = match tokio::time::timeout(probe.timeout, check(&guest, &probe)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no result within {} s", probe.timeout.as_secs())),
        };
        let next = judge(&guest.probe.state(), &probe, started.elapsed(), result, sys::unix_ms());
        let fallen = next.failures >= probe.retries;
        *lock(&guest.probe.0) = next;
        if fallen && probe.restart && restart_main(&guest).await {
            started = Instant::now();
            // Seen as unhealthy until a probe of the new process succeeds, or
            // as long as it starts.
            let mut state = lock(&guest.probe.0);
            state.failures = 0;
            state.status = if probe.start_period.is_zero() { Status::Unhealthy } else { Status::Starting };
        }
    }
}

/// Ends the main process; its supervisor starts it again. False: there is
/// none that runs.
async fn restart_main(guest: &Arc<Guest>) -> bool {
    let Some(main) = guest.execs.get(MAIN).filter(|main| main.running()) else { return false };
    guest.logs.push(2, b"aether: unhealthy: the main process is started again\n");
    guest.main.force_restart();
    let _ = main.signal(Signal::SIGTERM as i32);
    if tokio::time::timeout(TERM_LIMIT, main.ended()).await.is_err() {
        let _ = main.signal(Signal::SIGKILL as i32);
        main.ended().await;
    }
    true
}

async fn check(guest: &Arc<Guest>, probe: &Probe) -> Result<(), String> {
    match &probe.check {
        Check::Command(argv) => command(guest, probe, argv).await,
        Check::Tcp { port } => connect(*port).await.map(drop).map_err(|e| format!("port {port}: {e}")),
        Check::Http { port, path } => http(*port, path).await,
    }
}

async fn command(guest: &Arc<Guest>, probe: &Probe, argv: &[String]) -> Result<(), String> {
    if let Some(last) = guest.execs.get(ID).filter(|last| last.running()) {
        // Of a probe that took too long.
        let _ = last.signal(Signal::SIGKILL as i32);
        last.ended().await;
    }
    let start = Start {
        id: ID.to_owned(),
        about: About { argv: argv.to_vec(), cwd: probe.cwd.clone(), ..Default::default() },
        user: probe.user.clone(),
        // The line behind the one that is told.
        timeout: Some(probe.timeout + Duration::from_secs(1)),
        replace_ended: true,
        ..Default::default()
    };
    let (exec, _) = guest.execs.start(guest, start).map_err(|error| error.to_string())?;
    let exit = exec.ended().await;
    match (exit.error.as_str(), exit.code, exit.signal) {
        ("", Some(0), _) => Ok(()),
        ("", Some(code), _) => Err(format!("the command exited with {code}")),
        ("", None, signal) => Err(format!("the command was ended by signal {}", signal.unwrap_or_default())),
        (error, ..) => Err(error.to_owned()),
    }
}

async fn connect(port: u16) -> io::Result<TcpStream> {
    match TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            TcpStream::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await.map_err(|_| error)
        }
        other => other,
    }
}

async fn http(port: u16, path: &str) -> Result<(), String> {
    let failed = |error: io::Error| format!("port {port}: {error}");
    let mut stream = connect(port).await.map_err(failed)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: aether-probe\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut head = Vec::new();
    let mut buffer = [0; 256];
    while !head.contains(&b'\n') && head.len() < HEAD_LIMIT {
        match stream.read(&mut buffer).await.map_err(failed)? {
            0 => break,
            count => head.extend_from_slice(&buffer[..count]),
        }
    }
    match status_of(&head) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("the answer's status is {status}")),
        None => Err("the answer is not HTTP".to_owned()),
    }
}

/// `HTTP/1.1 200 OK`
fn status_of(head: &[u8]) -> Option<u16> {
    let line = head.split(|b| *b == b'\n').next()?;
    let rest = std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?;
    rest.split(' ').nth(1)?.trim().parse().ok().filter(|status| (100..600).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(retries: u32, start_period: u64) -> Probe {
        Probe {
            check: Check::Tcp { port: 1 },
            user: String::new(),
            cwd: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            retries,
            start_period: Duration::from_secs(start_period),
            restart: true,
        }
    }

    #[test]
    fn failures_in_a_row_count_and_one_success_forgives_them() {
        let probe = probe(3, 0);
        let mut state = State { status: Status::Starting, ..State::default() };
        let mut seen = Vec::new();
        for ok in [true, false, false, true, false, false, false, false, true] {
            let result = if ok { Ok(()) } else { Err("no".to_owned()) };
            state = judge(&state, &probe, Duration::from_secs(99), result, 7);
            seen.push((state.status, state.failures));
        }
        use Status::{Healthy as H, Unhealthy as U};
        assert_eq!(seen, [(H, 0), (H, 1), (H, 2), (H, 0), (H, 1), (H, 2), (U, 3), (U, 4), (H, 0)]);
    }

    #[test]
    fn the_start_period_spares_until_the_first_success() {
        let probe = probe(1, 10);
        let starting = State { status: Status::Starting, ..State::default() };
        let fail = |state: &State, at: u64| judge(state, &probe, Duration::from_secs(at), Err("no".to_owned()), 7);
        assert_eq!(fail(&starting, 9).status, Status::Starting);
        assert_eq!(fail(&starting, 10).status, Status::Unhealthy);
        let healthy = judge(&starting, &probe, Duration::from_secs(1), Ok(()), 7);
        assert_eq!(fail(&healthy, 2).status, Status::Unhealthy);
    }

    #[test]
    fn status_lines() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status_of(b"HTTP/1.0 200\r\n"), Some(200));
        for wrong in [&b""[..], b"HTTP/2 200\n", b"SSH-2.0\n", b"HTTP/1.1 abc\n", b"HTTP/1.1 99 x\n", b"HTTP/1.1\n"] {
            assert_eq!(status_of(wrong), None);
        }
    }
}

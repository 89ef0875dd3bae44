//! `/init` of a sandbox; as an ordinary process, a server of the same
//! services on two Unix sockets, for tests.

use aether_guest::lane::{Lane, Medium};
use aether_guest::port::Port;
use aether_guest::reaper::{Reaper, Scope};
use aether_guest::{Guest, Role, boot, lane, shutdown};
use std::fs::File;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        if let Err(error) = init() {
            boot::say(&error);
        }
        // PID 1 must not return: the kernel would panic.
        shutdown::power_off();
        return ExitCode::FAILURE;
    }
    match ordinary() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            boot::say(&error);
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Each holds one file transfer or one tree walk.
        .max_blocking_threads(64)
        .thread_stack_size(256 * 1024)
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))
}

fn init() -> Result<(), String> {
    let booted = boot::run()?;
    let reaper = Reaper::start(Scope::Everyone).map_err(|error| format!("cannot start the reaper: {error}"))?;
    serve(Role::Init, booted.token, reaper, booted.control, booted.data, Medium::Port)
}

/// One thread and one runtime for each lane: control never waits behind bulk.
fn serve(
    role: Role,
    token: [u8; 16],
    reaper: Arc<Reaper>,
    control: File,
    data: File,
    medium: Medium,
) -> Result<(), String> {
    let (control_runtime, data_runtime) = (runtime()?, runtime()?);
    let guest = Guest::new(role, token, data_runtime.handle().clone(), reaper);
    if role == Role::Init
        && let Err(error) = guest.oom.start(guest.events.clone())
    {
        boot::say(&format!("out-of-memory kills will not be seen: {error}"));
    }
    let own = guest.clone();
    let data_thread = std::thread::Builder::new()
        .name("data".into())
        .spawn(move || data_runtime.block_on(run(own, data, Lane::Data, medium)))
        .map_err(|error| format!("cannot start the data lane: {error}"))?;
    control_runtime.block_on(run(guest, control, Lane::Control, medium))?;
    data_thread.join().map_err(|_| "the data lane panicked".to_owned())?
}

async fn run(guest: Arc<Guest>, file: File, which: Lane, medium: Medium) -> Result<(), String> {
    let port = Port::new(file).map_err(|error| format!("cannot use the {which:?} port: {error}"))?;
    lane::serve(guest, port, which, medium).await.map_err(|error| format!("the {which:?} lane failed: {error}"))
}

/// `aether-guest --serve-unix CONTROL DATA --token HEX [--reap-all]`: connects
/// to the two sockets, as a VMM's ports would.
fn ordinary() -> Result<(), String> {
    let usage = "usage: aether-guest --serve-unix CONTROL DATA --token HEX [--reap-all]";
    let words: Vec<String> = std::env::args().skip(1).collect();
    let after = |flag: &str, n: usize| {
        let at = words.iter().position(|word| word == flag)?;
        words.get(at + n).cloned()
    };
    let control = after("--serve-unix", 1).ok_or(usage)?;
    let data = after("--serve-unix", 2).ok_or(usage)?;
    let token = after("--token", 1).and_then(|hex| boot::token::parse(hex.as_bytes())).ok_or(usage)?;
    let scope = if words.iter().any(|word| word == "--reap-all") {
        nix::sys::prctl::set_child_subreaper(true).map_err(|error| error.to_string())?;
        Scope::Everyone
    } else {
        Scope::Registered
    };
    let connect = |path: &str| {
        std::os::unix::net::UnixStream::connect(path)
            .map(|stream| File::from(std::os::fd::OwnedFd::from(stream)))
            .map_err(|error| format!("cannot connect to {path}: {error}"))
    };
    let reaper = Reaper::start(scope).map_err(|error| error.to_string())?;
    serve(Role::Ordinary, token, reaper, connect(&control)?, connect(&data)?, Medium::Socket)
}

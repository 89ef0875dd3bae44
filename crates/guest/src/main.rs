//! `/init` of a sandbox; as an ordinary process, a server of the same
//! services on two Unix sockets, for tests.

use aether_guest::lane::Medium;
use aether_guest::reaper::{Reaper, Scope};
use aether_guest::server::serve;
use aether_guest::{Role, boot, shutdown};
use std::fs::File;
use std::process::ExitCode;

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

fn init() -> Result<(), String> {
    let booted = boot::run()?;
    let reaper = Reaper::start(Scope::Everyone).map_err(|error| format!("cannot start the reaper: {error}"))?;
    serve(Role::Init, booted.token, reaper, booted.control, booted.data, Medium::Port)
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

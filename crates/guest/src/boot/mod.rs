//! From the kernel's start of `/init` to a root of our own: once, as PID 1,
//! before any runtime and any thread.
//!
//! ```text
//! /proc /sys /dev ─► modules ─► token ─► disks by serial ─► overlay ─► move root ─► ports
//! ```

pub mod disks;
pub mod modules;
pub mod mounts;
pub mod token;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How long devices may take to appear: emulation is slow.
const DEVICES: Duration = Duration::from_secs(20);

/// What booting finds.
pub struct Booted {
    pub token: [u8; 16],
    pub control: File,
    pub data: File,
}

/// Each step says what it was doing: the message goes to the console, the
/// only place there is.
pub fn run() -> Result<Booted, String> {
    let step = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
    mounts::early().map_err(step("mount /proc, /sys and /dev"))?;
    for failure in modules::load_all().map_err(step("read /modules/order"))? {
        say(&failure);
    }
    let token = token::read().map_err(step("read the channel token"))?;
    let image = find("image")?;
    let disk = find("disk")?;
    mounts::root(&image, &disk).map_err(|error| format!("cannot mount the root: {error}"))?;
    limits().map_err(step("set limits"))?;
    crate::net::loopback_up().map_err(step("bring the loopback up"))?;
    // Programs of the sandbox go first when memory is short.
    std::fs::write("/proc/self/oom_score_adj", "-1000").map_err(step("protect the guest"))?;
    let control = open_port("aether.control")?;
    let data = open_port("aether.data")?;
    Ok(Booted { token, control, data })
}

fn find(serial: &str) -> Result<PathBuf, String> {
    wait_for(DEVICES, || disks::by_serial(serial)).ok_or_else(|| format!("no disk with the serial {serial:?}"))
}

fn open_port(name: &str) -> Result<File, String> {
    let path = wait_for(DEVICES, || disks::port_by_name(name).filter(|path| path.exists()))
        .ok_or_else(|| format!("no port {name:?}"))?;
    File::options().read(true).write(true).open(&path).map_err(|error| format!("cannot open {name}: {error}"))
}

/// To the console: warnings of the early boot, then fatal errors only.
pub fn say(text: &str) {
    use std::io::Write;
    let line: String = text.chars().take(500).collect();
    let _ = writeln!(io::stderr(), "aether-guest: {line}");
}

/// Looks again every few milliseconds until `found` or `limit` is over.
pub fn wait_for<T>(limit: Duration, mut found: impl FnMut() -> Option<T>) -> Option<T> {
    let end = crate::sys::uptime_ms() + u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    loop {
        if let Some(value) = found() {
            return Some(value);
        }
        if crate::sys::uptime_ms() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn limits() -> io::Result<()> {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    setrlimit(Resource::RLIMIT_NOFILE, 65_536, 1_048_576)?;
    setrlimit(Resource::RLIMIT_CORE, 0, RLIM_INFINITY)?;
    Ok(())
}

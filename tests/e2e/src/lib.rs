//! Drives the built `aether` binary as a user would: a server of its own per
//! test, the CLI against it, and the host's state before and after.
//!
//! Not here: anything that links Aether's crates. What these tests see is
//! what a user sees.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a test harness: it waits on the real clock, and a failed expectation is a failed test"
)]

mod attacks;
mod host;
mod http;
mod look;
mod pty;
mod server;
mod tiny;

pub use aether_counted::{Counted, Dice, seed, trials};
pub use attacks::ATTACKS;
pub use host::HostState;
pub use http::http;
pub use look::{files, hits_in, memory};
pub use pty::Pty;
pub use server::{Cli, LONG, Run, Server, Settings};
pub use tiny::tiny_image;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The binary under test: `AETHER_BIN`, as `make e2e` sets it.
pub fn aether_bin() -> PathBuf {
    std::env::var_os("AETHER_BIN").map(PathBuf::from).expect("AETHER_BIN names the built binary: run `make e2e`")
}

/// The folder with the demo's image: `AETHER_DEMO`, as `make e2e` sets it.
pub fn demo_dir() -> PathBuf {
    std::env::var_os("AETHER_DEMO").map(PathBuf::from).expect("AETHER_DEMO names the image folder: run `make e2e`")
}

/// The root of the repository.
pub fn repo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is there")
}

/// The first fenced block of this language on a page.
pub fn fenced<'a>(page: &'a str, language: &str) -> &'a str {
    let fence = format!("\n```{language}\n");
    let start = page.find(&fence).map(|at| at + fence.len()).unwrap_or_else(|| panic!("no {language} block"));
    let length = page[start..].find("```").expect("the block ends");
    &page[start..start + length]
}

/// Polls `done` until it answers `Some`, at most `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < end, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

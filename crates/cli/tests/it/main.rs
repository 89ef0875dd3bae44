//! The built binary from outside: what needs no VM. Those that do are in
//! tests/e2e.

mod access;
mod audit;
mod client;
mod config;
mod database;
mod live;
mod offline;
mod operations;
/// The store's tests and these start PostgreSQL the same way.
#[path = "../../../store/tests/it/postgres.rs"]
mod postgres;
mod reload;
mod server;
mod three_servers;
mod transcript;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A command in a folder of its own, with nothing of ours in its environment.
pub(crate) fn aether(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aether"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("AETHER_") || matches!(&*name, "DATABASE_URL" | "SERVER_ADDRESS" | "JWT_SECRET") {
            command.env_remove(name);
        }
    }
    // Whoever runs the tests may be logged in somewhere.
    command.env("HOME", dir).env_remove("XDG_CONFIG_HOME");
    command.current_dir(dir).args(args).stdin(Stdio::null());
    command
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Run {
    fn from(o: Output) -> Self {
        Self {
            code: o.status.code(),
            stdout: String::from_utf8_lossy(&o.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

pub(crate) fn run(dir: &Path, args: &[&str]) -> Run {
    aether(dir, args).output().expect("the binary starts").into()
}

pub(crate) fn config_in(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("test.yaml");
    std::fs::write(&path, text).expect("writes");
    path
}

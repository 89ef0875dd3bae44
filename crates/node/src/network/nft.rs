//! Runs `nft` in the calling thread's network namespace. Rules are passed on
//! its standard input; nothing from a tenant is ever in them.

use super::NetworkError;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MAX_MESSAGE: usize = 600;

/// sbin is not in every PATH that a daemon is started with.
fn program() -> Result<PathBuf, NetworkError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|dir| dir.join("nft"))
        .find(|p| Path::is_file(p))
        .ok_or(NetworkError::NftMissing)
}

/// Loads a rules text; all of it or nothing.
pub(crate) fn load(what: &str, rules: &str) -> Result<(), NetworkError> {
    run(what, ["-f", "-"], Some(rules)).map(drop)
}

pub(crate) fn run<const N: usize>(
    what: &str,
    args: [&'static str; N],
    input: Option<&str>,
) -> Result<String, NetworkError> {
    let mut child = Command::new(program()?)
        .args(args.map(OsStr::new))
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NetworkError::io("start nft"))?;
    if let (Some(mut pipe), Some(text)) = (child.stdin.take(), input) {
        // A refusal closes the pipe early: the exit code says more than EPIPE.
        let _ = pipe.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(NetworkError::io("wait for nft"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message: String = String::from_utf8_lossy(&output.stderr).chars().take(MAX_MESSAGE).collect();
    Err(NetworkError::Nft { what: what.to_owned(), message })
}

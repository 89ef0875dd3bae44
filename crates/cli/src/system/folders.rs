//! The server's folders, the lock that keeps two servers apart, and the name
//! that a server keeps over restarts.

use crate::config::Config;
use crate::error::CliError;
use aether_core::Rng;
use aether_core::source::OsRng;
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Others may pass through to what is meant for them, and list nothing.
const STATE_MODE: u32 = 0o711;
const RUN_MODE: u32 = 0o755;
/// Of the random end of a server's name.
const ID_BYTES: usize = 6;

/// Held while the process lives; the kernel lets go of it, however we end.
#[derive(Debug)]
pub(super) struct StateLock(#[allow(dead_code, reason = "kept open for its lock")] File);

/// Makes both folders where they are not there.
pub(super) fn make(config: &Config) -> Result<(), CliError> {
    folder(&config.server.state_dir, STATE_MODE, "server.state_dir")?;
    folder(&config.server.run_dir, RUN_MODE, "server.run_dir")
}

fn folder(path: &Path, mode: u32, key: &str) -> Result<(), CliError> {
    let cannot = |doing: &str, e: std::io::Error| {
        CliError::with_remedy(
            format!("cannot {doing} {}: {e}", path.display()),
            format!("Run it as root, or set {key} to a folder of your own."),
        )
    };
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|e| cannot("create", e))?;
    let metadata = path.metadata().map_err(|e| cannot("use", e))?;
    let own = rustix::process::geteuid().as_raw();
    if !metadata.is_dir()
        || (metadata.uid() != own && metadata.uid() != 0)
        || metadata.permissions().mode() & 0o022 != 0
    {
        return Err(CliError::with_remedy(
            format!("{} is not a folder that only its owner can write", path.display()),
            format!("Give it to root with `chown root` and `chmod 0711`, or set {key} to another folder."),
        ));
    }
    Ok(())
}

/// Two servers on one state folder would each undo what the other does.
pub(super) fn lock(config: &Config) -> Result<StateLock, CliError> {
    let path = config.server.state_dir.join("server.lock");
    let cannot = |e: std::io::Error| CliError::failed(format!("cannot lock {}: {e}", path.display()));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(cannot)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = (&file).take(32).read_to_string(&mut pid);
            let pid = pid.trim();
            let who = if pid.is_empty() { String::new() } else { format!(" (process {pid})") };
            return Err(CliError::with_remedy(
                format!("another server uses {}{who}", config.server.state_dir.display()),
                "Stop it first, or give this one its own server.state_dir, server.run_dir, server.address, node.prefix and node.uid_base.",
            ));
        }
        Err(e) => return Err(cannot(e.into())),
    }
    // For who is told of the lock; a full disk is no reason not to start.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(StateLock(file))
}

/// The server's name among those of one store, kept over restarts: a server
/// that comes back after a crash leads again at once, without waiting for its
/// own lease to end. A folder that was copied to another host gets a new one.
pub(super) fn server_id(config: &Config) -> Result<String, CliError> {
    let host: String = host_name().chars().filter(|c| *c != '.').take(40).collect();
    kept_id(&config.server.state_dir.join("server.id"), &host, &OsRng)
}

/// As the system has it, without what no DNS name has.
pub(super) fn host_name() -> String {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    host.chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).take(253).collect()
}

fn kept_id(path: &Path, host: &str, rng: &dyn Rng) -> Result<String, CliError> {
    let cannot = |doing: &str, e: std::io::Error| CliError::failed(format!("cannot {doing} {}: {e}", path.display()));
    let mut text = String::new();
    match File::open(path) {
        // What is no text is not ours: it is replaced, as any other name.
        Ok(file) => drop(file.take(128).read_to_string(&mut text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(cannot("read", e)),
    }
    let known = text.trim();
    let tail = known.strip_prefix(host).and_then(|rest| rest.strip_prefix('-'));
    if tail.is_some_and(|t| t.len() == ID_BYTES * 2 && t.bytes().all(|c| c.is_ascii_hexdigit())) {
        return Ok(known.to_owned());
    }
    let mut random = [0; ID_BYTES];
    rng.fill(&mut random);
    let tail: String = random.iter().map(|b| format!("{b:02x}")).collect();
    let made = format!("{host}-{tail}");
    write_secret(path, &made).map_err(|e| cannot("write", e))?;
    Ok(made)
}

/// Writes a secret for root alone, whole or not at all.
pub(super) fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let _ = std::fs::remove_file(&part);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    std::fs::rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_for_their_owner() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("admin.key");
        write_secret(&path, "one").expect("writes");
        write_secret(&path, "two").expect("writes again");
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), "two\n");
        assert_eq!(path.metadata().expect("metadata").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_server_keeps_its_name_on_its_host() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("server.id");
        let id = |host| kept_id(&path, host, &OsRng).expect("an id");
        let first = id("one");
        assert!(first.starts_with("one-") && first.len() == 16, "{first}");
        assert_eq!(id("one"), first);
        let moved = id("two");
        assert!(moved.starts_with("two-"), "{moved}");
        for damaged in [&b"two-"[..], b"two-zzzzzzzzzzzz", b"\xff\xfe", b"", b"two-0123456789abcdef"] {
            std::fs::write(&path, damaged).expect("writes");
            assert_ne!(id("two"), moved);
            assert_eq!(id("two"), id("two"));
        }
        std::fs::remove_file(&path).expect("removes");
        std::fs::create_dir(&path).expect("creates");
        assert!(kept_id(&path, "two", &OsRng).is_err(), "what cannot be kept is an error, not a new name each time");
    }

    #[test]
    fn a_folder_that_others_write_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let open = dir.path().join("open");
        std::fs::create_dir(&open).expect("creates");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("chmod");
        assert!(folder(&open, STATE_MODE, "server.state_dir").is_err());
        assert!(folder(&dir.path().join("a/b"), STATE_MODE, "server.state_dir").is_ok());
    }
}

//! What a slot's sandbox has on the host: a folder of root's with the channel
//! sockets, two bounded memory files for what the VMM says, and a cgroup.

use super::super::{EngineError, VmmExit};
use crate::cgroup::OutOfMemory;
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The guest's console: the head is kept, the rest is refused by the seal.
const SERIAL_BYTES: u64 = 64 << 10;
const STDERR_BYTES: u64 = 16 << 10;
/// What of each goes into an error.
const TAIL_BYTES: usize = 1200;

/// `<run_dir>/slots/<slot>`
pub(super) fn dir(run_dir: &Path, slot: u32) -> PathBuf {
    run_dir.join("slots").join(slot.to_string())
}

pub(super) struct Sockets {
    pub(super) control: OwnedFd,
    pub(super) data: OwnedFd,
    pub(super) qmp: OwnedFd,
}

pub(super) fn control_socket(dir: &Path) -> PathBuf {
    dir.join("control")
}

pub(super) fn data_socket(dir: &Path) -> PathBuf {
    dir.join("data")
}

pub(super) fn qmp_socket(dir: &Path) -> PathBuf {
    dir.join("qmp")
}

/// Makes the folder, which must not exist, and listens in it. The VMM gets
/// the listening descriptors: it never sees the folder, and nobody but root
/// can connect.
pub(super) fn make(dir: &Path) -> Result<Sockets, EngineError> {
    let doing = format!("make the slot's folder {}", dir.display());
    std::fs::DirBuilder::new().mode(0o700).create(dir).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            EngineError::Jail(format!("{} exists already: the slot was not cleaned", dir.display()))
        }
        _ => EngineError::io(doing)(e),
    })?;
    Ok(Sockets {
        control: listen(&control_socket(dir))?,
        data: listen(&data_socket(dir))?,
        qmp: listen(&qmp_socket(dir))?,
    })
}

fn listen(path: &Path) -> Result<OwnedFd, EngineError> {
    let doing = || format!("listen on {}", path.display());
    let listener = UnixListener::bind(path).map_err(EngineError::io(doing()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(EngineError::io(doing()))?;
    Ok(listener.into())
}

/// What the VMM and the guest's console said. Memory files of fixed size:
/// a hostile guest can fill its own and no more.
#[derive(Debug)]
pub(super) struct Sinks {
    serial: Option<File>,
    stderr: Option<File>,
}

impl Sinks {
    /// With the descriptors for the VMM: (stdout, stderr).
    pub(super) fn make() -> Result<(Sinks, OwnedFd, OwnedFd), EngineError> {
        let serial = sealed("aether-serial", SERIAL_BYTES)?;
        let stderr = sealed("aether-stderr", STDERR_BYTES)?;
        let twin = |file: &File| file.try_clone().map(OwnedFd::from).map_err(EngineError::io("share a memory file"));
        let (out, err) = (twin(&serial)?, twin(&stderr)?);
        Ok((Sinks { serial: Some(serial), stderr: Some(stderr) }, out, err))
    }

    /// Those of a VMM that an earlier daemon started.
    pub(super) fn of_process(pid: u32) -> Sinks {
        let open = |number: u32| File::open(format!("/proc/{pid}/fd/{number}")).ok();
        Sinks { serial: open(1), stderr: open(2) }
    }

    pub(super) fn serial(&self) -> String {
        text(self.serial.as_ref(), SERIAL_BYTES)
    }

    pub(super) fn stderr(&self) -> String {
        text(self.stderr.as_ref(), STDERR_BYTES)
    }

    /// Fit for a log or an error: bounded, one line, no control characters.
    pub(super) fn detail(&self) -> String {
        let (stderr, serial) = (tail(&self.stderr()), tail(&self.serial()));
        match (stderr.is_empty(), serial.is_empty()) {
            (_, true) => stderr,
            (true, false) => format!("console: {serial}"),
            (false, false) => format!("{stderr}; console: {serial}"),
        }
    }
}

fn sealed(name: &str, size: u64) -> Result<File, EngineError> {
    let doing = || format!("make the memory file {name}");
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|e| EngineError::io(doing())(e.into()))?;
    rustix::fs::ftruncate(&fd, size).map_err(|e| EngineError::io(doing())(e.into()))?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)
        .map_err(|e| EngineError::io(doing())(e.into()))?;
    Ok(File::from(fd))
}

/// Reads without moving the offset, which the VMM writes at.
fn text(file: Option<&File>, size: u64) -> String {
    let Some(file) = file else { return String::new() };
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    let mut filled = 0;
    while let Ok(n @ 1..) = file.read_at(&mut bytes[filled..], filled as u64) {
        filled += n;
    }
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn tail(text: &str) -> String {
    let clean: String = text
        .trim()
        .chars()
        .filter(|c| *c != '\r')
        .map(|c| {
            if c == '\n' {
                ' '
            } else if c.is_control() {
                '?'
            } else {
                c
            }
        })
        .collect();
    let mut start = clean.len().saturating_sub(TAIL_BYTES);
    while !clean.is_char_boundary(start) {
        start += 1;
    }
    clean[start..].to_string()
}

/// How a VMM ended, from what is known afterwards.
pub(super) fn exit(status: (Option<i32>, Option<i32>), out_of_memory: Option<OutOfMemory>, sinks: &Sinks) -> VmmExit {
    VmmExit { code: status.0, signal: status.1, out_of_memory, detail: sinks.detail() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_sink_takes_so_much_and_no_more() {
        let (sinks, out, err) = Sinks::make().expect("sinks");
        let mut out = File::from(out);
        let line = [b'x'; 4096];
        let written = std::iter::repeat_with(|| out.write(&line)).take_while(|r| matches!(r, Ok(n) if *n > 0)).count();
        assert_eq!(written as u64, SERIAL_BYTES / 4096);
        File::from(err).write_all(b"cannot\x1b[31m start\r\nat all\n").expect("fits");
        assert_eq!(sinks.serial().len() as u64, SERIAL_BYTES);
        assert!(sinks.detail().starts_with("cannot?[31m start at all; console: xxx"), "{}", sinks.detail());
        assert!(sinks.detail().len() < 3000);
    }

    #[test]
    fn the_folder_must_be_fresh() {
        let base = tempfile::tempdir().expect("temp dir");
        let dir = base.path().join("7");
        std::os::unix::fs::symlink("/etc", &dir).expect("symlink");
        assert!(matches!(make(&dir), Err(EngineError::Jail(_))));
        std::fs::remove_file(&dir).expect("remove");
        make(&dir).expect("made");
        for path in [control_socket(&dir), data_socket(&dir), qmp_socket(&dir)] {
            assert_eq!(std::fs::metadata(path).expect("socket").permissions().mode() & 0o777, 0o600);
        }
        assert!(matches!(make(&dir), Err(EngineError::Jail(_))));
    }
}

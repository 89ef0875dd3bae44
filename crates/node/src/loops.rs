//! Loop devices. The node makes none; one whose backing file lies in the
//! node's folders is a leftover, of an operator's look into a disk or of
//! other software, and would keep the space of a removed disk for ever.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

// linux/loop.h
const LOOP_CLR_FD: libc::c_ulong = 0x4c01;

/// Lets go of every loop device over a file below one of `folders`; says
/// which. One that is mounted goes with its mount. Blocks.
pub(crate) fn sweep(folders: &[PathBuf]) -> io::Result<Vec<String>> {
    let folders: Vec<PathBuf> = folders.iter().filter_map(|dir| std::fs::canonicalize(dir).ok()).collect();
    let mut removed = Vec::new();
    let entries = match std::fs::read_dir("/sys/block") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(removed),
        entries => entries?,
    };
    let ours = |file: &Path| folders.iter().any(|dir| file.starts_with(dir));
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with("loop") || !backing_file(&name).is_some_and(|file| ours(&file)) {
            continue;
        }
        // Opened first: it is nobody else's before we close it.
        let device = File::open(Path::new("/dev").join(&name))?;
        let Some(file) = backing_file(&name).filter(|file| ours(file)) else { continue };
        match clear(&device) {
            Ok(()) => removed.push(format!("{name} over {}", file.display())),
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => {}
            Err(e) => tracing::error!(name, error = %e, "a loop device cannot be detached"),
        }
    }
    Ok(removed)
}

/// The file under a loop device; none while it has none.
fn backing_file(name: &str) -> Option<PathBuf> {
    let mut bytes = std::fs::read(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

#[allow(unsafe_code, reason = "the loop driver is spoken to by ioctl")]
fn clear(device: &File) -> io::Result<()> {
    // SAFETY: this request takes no argument and touches no memory of ours.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

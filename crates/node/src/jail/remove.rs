//! Removing a jail folder, or whatever else lies in its place.

use super::JailError;
use nix::mount::{MntFlags, umount2};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Removes a jail folder that [`super::Command::new`] named, or what lies in
/// its place. Follows no symlink, and is fine when nothing is there. Blocks.
pub fn remove_dir(dir: &Path) -> Result<(), JailError> {
    unmount_below(dir)?;
    match std::fs::symlink_metadata(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(JailError::io(format!("look at {}", dir.display()))(e)),
        Ok(meta) if !meta.is_dir() => {
            std::fs::remove_file(dir).map_err(JailError::io(format!("remove {}", dir.display())))
        }
        // std's own is safe against a race with symlinks.
        Ok(_) => std::fs::remove_dir_all(dir).map_err(JailError::io(format!("remove {}", dir.display()))),
    }
}

/// A jail mounts in a namespace of its own. What is mounted here all the same
/// would keep the folder busy, or have its own files removed through it.
fn unmount_below(dir: &Path) -> Result<(), JailError> {
    let doing = || format!("unmount what is below {}", dir.display());
    // The last part is not followed: it may be a link that somebody planted.
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(JailError::Plan("a jail folder has a parent and a name".into()));
    };
    let parent = match std::fs::canonicalize(parent) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        parent => parent.map_err(JailError::io(doing()))?,
    };
    let dir = parent.join(name);
    let table = std::fs::read("/proc/self/mountinfo").map_err(JailError::io(doing()))?;
    let mut below: Vec<PathBuf> = points(&table).filter(|at| at.starts_with(&dir)).collect();
    // What was mounted last lies on top.
    below.reverse();
    for point in below {
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // It went with the one above it.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(e) => return Err(JailError::io(doing())(e.into())),
        }
    }
    Ok(())
}

/// Where the mounts of a mountinfo table are. Names there are any bytes, with
/// some of them in octal.
fn points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(|at| PathBuf::from(OsString::from_vec(unescaped(at))))
}

fn unescaped(mut text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        text = rest;
        match rest.get(..3).filter(|_| *first == b'\\') {
            Some(&[a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7']) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                text = &rest[3..];
            }
            _ => out.push(*first),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_mounts_are_read_as_the_kernel_writes_them() {
        for (written, meant) in [
            (&b"/a\\040b"[..], &b"/a b"[..]),
            (b"/tab\\011line\\012back\\134040", b"/tab\tline\nback\\040"),
            (b"/\xff\xfe", b"/\xff\xfe"),
            (b"/end\\", b"/end\\"),
            (b"/\\04", b"/\\04"),
        ] {
            assert_eq!(unescaped(written), meant);
        }
        let table = b"22 1 0:5 / /proc rw - proc proc rw\n23 1 0:6 / /run/a\\040b rw - tmpfs x rw\n";
        assert_eq!(points(table).collect::<Vec<_>>(), [PathBuf::from("/proc"), PathBuf::from("/run/a b")]);
    }
}

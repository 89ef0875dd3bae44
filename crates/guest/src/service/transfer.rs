//! Moves a path, also to another file system: where the kernel answers
//! `EXDEV` (another mount, or a folder of the image, which an overlay does
//! not rename), it is copied beside its new place, put there in one step, and
//! only then removed from the old one.
//!
//! ```text
//! rename ── EXDEV ──► copy to .NAME.N.aether ──► rename into place ──► remove the source
//!    done              fails: the copy is removed                       fails: both are there
//! ```
//!
//! Kept: kind, mode, owner, times, extended attributes, holes, and hard links
//! among what is moved.

use nix::sys::stat::{Mode, SFlag, UtimensatFlags, futimens, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Whence, lseek};
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown, symlink,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Deeper ones would cost the thread its stack.
const DEPTH: usize = 256;

/// As `rename`, whatever file systems the two are on.
pub fn rename(source: &Path, destination: &Path) -> io::Result<()> {
    match fs::rename(source, destination) {
        Err(error) if error.kind() == ErrorKind::CrossesDevices => across(source, destination),
        done => done,
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, message)
}

fn across(source: &Path, destination: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(source)?;
    fits(source, metadata.is_dir(), destination)?;
    let name = destination.file_name().ok_or_else(|| invalid("the destination has no name"))?;
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    // A long name would not leave room for more letters.
    let short: String = name.to_string_lossy().chars().take(40).collect();
    let beside = destination.with_file_name(format!(".{short}.{}-{number}.aether", std::process::id()));
    let mut copier = Copier { device: metadata.dev(), linked: BTreeMap::new() };
    let placed = copier.copy(source, &metadata, &beside, 0).and_then(|()| fs::rename(&beside, destination));
    if let Err(error) = placed {
        let _ = remove(&beside);
        return Err(error);
    }
    let kept_both = |error: io::Error| {
        io::Error::new(error.kind(), format!("it was copied, but the source could not be removed: {error}"))
    };
    remove(source).map_err(kept_both)
}

/// Says before the copy what `rename` would say after it.
fn fits(source: &Path, is_folder: bool, destination: &Path) -> io::Result<()> {
    if is_folder
        && let (Ok(source), Some(Ok(parent))) = (fs::canonicalize(source), destination.parent().map(fs::canonicalize))
        && parent.starts_with(&source)
    {
        return Err(invalid("a folder cannot be moved into itself"));
    }
    match fs::symlink_metadata(destination) {
        Ok(there) if there.is_dir() && !is_folder => Err(ErrorKind::IsADirectory.into()),
        Ok(there) if !there.is_dir() && is_folder => Err(ErrorKind::NotADirectory.into()),
        Ok(there) if there.is_dir() && fs::read_dir(destination)?.next().is_some() => {
            Err(ErrorKind::DirectoryNotEmpty.into())
        }
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

struct Copier {
    /// Of the source: what is mounted in it does not move with it.
    device: u64,
    /// Where the first name of a file with several was copied to.
    linked: BTreeMap<(u64, u64), PathBuf>,
}

impl Copier {
    fn copy(&mut self, from: &Path, metadata: &Metadata, to: &Path, depth: usize) -> io::Result<()> {
        if depth > DEPTH {
            return Err(invalid("folders are nested too deep"));
        }
        let kind = metadata.file_type();
        if kind.is_dir() {
            return self.folder(from, metadata, to, depth);
        }
        if metadata.nlink() > 1 {
            if let Some(first) = self.linked.get(&(metadata.dev(), metadata.ino())) {
                return fs::hard_link(first, to);
            }
            self.linked.insert((metadata.dev(), metadata.ino()), to.to_owned());
        }
        if kind.is_file() {
            return file(from, to);
        }
        if kind.is_symlink() {
            symlink(fs::read_link(from)?, to)?;
        } else {
            let flag = match () {
                () if kind.is_fifo() => SFlag::S_IFIFO,
                () if kind.is_socket() => SFlag::S_IFSOCK,
                () if kind.is_char_device() => SFlag::S_IFCHR,
                () => SFlag::S_IFBLK,
            };
            mknod(to, flag, Mode::from_bits_truncate(metadata.mode() & 0o777), metadata.rdev())?;
        }
        let _ = lchown(to, Some(metadata.uid()), Some(metadata.gid()));
        attributes(from, to)?;
        if !kind.is_symlink() {
            fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
        }
        let (accessed, modified) = times(metadata);
        utimensat(nix::fcntl::AT_FDCWD, to, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?;
        Ok(())
    }

    fn folder(&mut self, from: &Path, metadata: &Metadata, to: &Path, depth: usize) -> io::Result<()> {
        // Folders only: under an overlay files may show the number of the layer that they are in.
        if metadata.dev() != self.device {
            return Err(invalid(&format!("another file system is mounted at {}", from.display())));
        }
        fs::DirBuilder::new().mode(0o700).create(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            self.copy(&entry.path(), &entry.metadata()?, &to.join(entry.file_name()), depth + 1)?;
        }
        finish(&File::open(to)?, from, to, metadata)
    }
}

fn file(from: &Path, to: &Path) -> io::Result<()> {
    // Whatever it has become since it was looked at: no link, and no wait for a writer.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let mut source = File::options().read(true).custom_flags(flags).open(from)?;
    let metadata = source.metadata()?;
    if !metadata.is_file() {
        return Err(invalid(&format!("{} changed while it was moved", from.display())));
    }
    let mut target = File::options().write(true).create_new(true).mode(0o600).open(to)?;
    content(&mut source, &mut target)?;
    finish(&target, from, to, &metadata)
}

/// Holes stay holes: a large empty file must not fill the disk.
fn content(source: &mut File, target: &mut File) -> io::Result<()> {
    let mut at = 0_i64;
    loop {
        let start = match lseek(source.as_fd(), at, Whence::SeekData) {
            Ok(start) => start,
            // No data behind here.
            Err(nix::errno::Errno::ENXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = lseek(source.as_fd(), start, Whence::SeekHole)?;
        let (start, length) = (start.unsigned_abs(), (end - start).unsigned_abs());
        source.seek(SeekFrom::Start(start))?;
        target.seek(SeekFrom::Start(start))?;
        io::copy(&mut Read::by_ref(source).take(length), target)?;
        at = end;
    }
    // A hole at the end has no data that would make the file as long.
    target.set_len(source.metadata()?.len())
}

/// Owner, attributes, mode and times of a file or folder that is written.
fn finish(target: &File, from: &Path, to: &Path, metadata: &Metadata) -> io::Result<()> {
    // Only root gives files away; others own what they have copied.
    let owned = fchown(target, Some(metadata.uid()), Some(metadata.gid())).is_ok();
    attributes(from, to)?;
    // After the owner: changing that clears set-id bits, which do not go to another owner.
    let mode = metadata.mode() & if owned { 0o7777 } else { 0o1777 };
    target.set_permissions(fs::Permissions::from_mode(mode))?;
    let (accessed, modified) = times(metadata);
    Ok(futimens(target, &accessed, &modified)?)
}

/// Extended attributes, as far as the other file system takes them.
fn attributes(from: &Path, to: &Path) -> io::Result<()> {
    let tolerated = |error: &io::Error| {
        matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied | ErrorKind::NotFound)
    };
    let names = match xattr::list(from) {
        Err(error) if tolerated(&error) => return Ok(()),
        found => found?,
    };
    for name in names {
        let Ok(Some(value)) = xattr::get(from, &name) else { continue };
        match xattr::set(to, &name, &value) {
            Err(error) if !tolerated(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn times(metadata: &Metadata) -> (TimeSpec, TimeSpec) {
    let accessed = TimeSpec::new(metadata.atime(), metadata.atime_nsec());
    (accessed, TimeSpec::new(metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(test)]
mod tests;

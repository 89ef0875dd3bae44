//! Files that hold a key of this server: made where there is none, whole or
//! not at all, and refused where others can read them.

use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Enough for a key of any kind.
const MAX: u64 = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    #[error("the key file {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the key file {0} can be read by others: chmod 600 it")]
    Readable(PathBuf),
    #[error("the key file {0} is larger than 64 KiB, or no text")]
    NoText(PathBuf),
}

/// Reads the file, or makes it with `text`, which another server that starts
/// at the same time may have done first: theirs it is then.
pub(crate) fn load_or_create(
    path: &Path,
    text: impl FnOnce() -> Zeroizing<String>,
) -> Result<Zeroizing<String>, PrivateFileError> {
    let io = |source| PrivateFileError::Io { path: path.to_owned(), source };
    match read(path) {
        Err(PrivateFileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        other => return other,
    }
    // Written aside and linked into place: nobody reads half a key, and none
    // is written over.
    let aside = aside(path);
    let made = write(&aside, &text(), 0o600).and_then(|()| std::fs::hard_link(&aside, path));
    let _ = std::fs::remove_file(&aside);
    match made {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(io(e)),
        _ => read(path),
    }
}

/// As it is, without the white space around it.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<String>, PrivateFileError> {
    let io = |source| PrivateFileError::Io { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.permissions().mode() & 0o077 != 0 {
        return Err(PrivateFileError::Readable(path.to_owned()));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX + 1).read_to_end(&mut bytes).map_err(io)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) if bytes.len() as u64 <= MAX => Ok(Zeroizing::new(text.trim().to_owned())),
        _ => Err(PrivateFileError::NoText(path.to_owned())),
    }
}

/// Puts a file in the place of another: whole or not at all.
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let aside = aside(path);
    let _ = std::fs::remove_file(&aside);
    write(&aside, text, mode)?;
    std::fs::rename(&aside, path)
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension(format!("new{}", std::process::id()))
}

pub(crate) fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    #[test]
    fn a_file_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("key");
        assert_eq!(*load_or_create(&path, || text("first")).expect("made"), "first");
        assert_eq!(*load_or_create(&path, || text("second")).expect("read"), "first");
        assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("dir").count(), 1, "nothing else stays");
    }

    #[test]
    fn what_others_can_read_is_no_key() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("key");
        write(&path, "x", 0o600).expect("written");
        for mode in [0o640, 0o604] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
            assert!(matches!(load_or_create(&path, || text("y")), Err(PrivateFileError::Readable(_))));
        }
        std::fs::write(&path, vec![b'x'; MAX as usize + 1]).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        assert!(matches!(read(&path), Err(PrivateFileError::NoText(_))));
    }
}

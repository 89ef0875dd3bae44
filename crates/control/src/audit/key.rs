//! The key that signs digests: 32 random bytes in a 0600 file, and its public
//! half in a file beside it, for whoever verifies.

use aether_core::Rng;
use aether_core::audit::{Hash, Signer, SignerError};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum AuditKeyError {
    #[error("the audit key {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the audit key {0} can be read by others: chmod 600 it")]
    Readable(PathBuf),
    #[error("the audit key {0} does not hold 64 hex digits; if it is lost, remove it: a new one is made")]
    Malformed(PathBuf),
    #[error(transparent)]
    Unusable(#[from] SignerError),
}

/// Reads the key, or makes it where there is none; writes its public half
/// where that is missing or another.
pub(crate) fn load_or_create(path: &Path, rng: &dyn Rng) -> Result<Signer, AuditKeyError> {
    let io = |source| AuditKeyError::Io { path: path.to_owned(), source };
    let seed = match std::fs::File::open(path) {
        Ok(file) => read(path, file)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let mut bytes = [0; 32];
            rng.fill(&mut bytes);
            // Written aside and linked into place: nobody reads half a key.
            let aside = path.with_extension(format!("new{}", std::process::id()));
            let made = write(&aside, &Hash(bytes).to_string(), 0o600).and_then(|()| std::fs::hard_link(&aside, path));
            let _ = std::fs::remove_file(&aside);
            match made {
                Ok(()) => bytes,
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                    read(path, std::fs::File::open(path).map_err(io)?)?
                }
                Err(e) => return Err(io(e)),
            }
        }
        Err(e) => return Err(io(e)),
    };
    let signer = Signer::from_seed(&seed)?;
    publish(&path.with_extension("pub"), &signer.public_key().to_string())
        .map_err(|source| AuditKeyError::Io { path: path.with_extension("pub"), source })?;
    Ok(signer)
}

fn read(path: &Path, file: std::fs::File) -> Result<[u8; 32], AuditKeyError> {
    let io = |source| AuditKeyError::Io { path: path.to_owned(), source };
    if file.metadata().map_err(io)?.permissions().mode() & 0o077 != 0 {
        return Err(AuditKeyError::Readable(path.to_owned()));
    }
    let mut text = String::new();
    file.take(1024).read_to_string(&mut text).map_err(io)?;
    let seed: Hash = text.trim().parse().map_err(|_| AuditKeyError::Malformed(path.to_owned()))?;
    Ok(seed.0)
}

fn publish(path: &Path, key: &str) -> std::io::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|text| text.trim() == key) {
        return Ok(());
    }
    let aside = path.with_extension(format!("pub{}", std::process::id()));
    let _ = std::fs::remove_file(&aside);
    write(&aside, key, 0o644)?;
    std::fs::rename(&aside, path)
}

fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::source::OsRng;

    #[test]
    fn a_key_is_made_once_and_its_public_half_is_told() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("audit.key");
        let first = load_or_create(&path, &OsRng).expect("made").public_key();
        assert_eq!(load_or_create(&path, &OsRng).expect("read").public_key(), first);
        assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        let public = dir.path().join("audit.pub");
        assert_eq!(std::fs::read_to_string(&public).expect("told").trim(), first.to_string());
        std::fs::write(&public, "stale").expect("written");
        load_or_create(&path, &OsRng).expect("read");
        assert_eq!(std::fs::read_to_string(&public).expect("told").trim(), first.to_string());
        assert_eq!(std::fs::read_dir(dir.path()).expect("dir").count(), 2);
    }

    #[test]
    fn a_bad_key_file_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("audit.key");
        write(&path, "short", 0o600).expect("written");
        assert!(matches!(load_or_create(&path, &OsRng), Err(AuditKeyError::Malformed(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(load_or_create(&path, &OsRng), Err(AuditKeyError::Readable(_))));
    }
}

//! The key that signs digests: 32 random bytes in a 0600 file, and its public
//! half in a file beside it, for whoever verifies.

use crate::private_file::{self, PrivateFileError};
use aether_core::Rng;
use aether_core::audit::{Hash, Signer, SignerError};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

#[derive(Debug, thiserror::Error)]
pub enum AuditKeyError {
    #[error(transparent)]
    File(#[from] PrivateFileError),
    #[error("the public half of the audit key, {path}: {source}")]
    Public { path: PathBuf, source: std::io::Error },
    #[error("the audit key {0} does not hold 64 hex digits; if it is lost, remove it: a new one is made")]
    Malformed(PathBuf),
    #[error(transparent)]
    Unusable(#[from] SignerError),
}

/// Reads the key, or makes it where there is none; writes its public half
/// where that is missing or another.
pub(crate) fn load_or_create(path: &Path, rng: &dyn Rng) -> Result<Signer, AuditKeyError> {
    let text = private_file::load_or_create(path, || {
        let mut bytes = [0; 32];
        rng.fill(&mut bytes);
        Zeroizing::new(Hash(bytes).to_string())
    })?;
    let seed: Hash = text.parse().map_err(|_| AuditKeyError::Malformed(path.to_owned()))?;
    let signer = Signer::from_seed(&seed.0)?;
    let public = path.with_extension("pub");
    publish(&public, &signer.public_key().to_string())
        .map_err(|source| AuditKeyError::Public { path: public, source })?;
    Ok(signer)
}

fn publish(path: &Path, key: &str) -> std::io::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|text| text.trim() == key) {
        return Ok(());
    }
    let aside = path.with_extension(format!("pub{}", std::process::id()));
    let _ = std::fs::remove_file(&aside);
    private_file::write(&aside, key, 0o644)?;
    std::fs::rename(&aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::source::OsRng;
    use std::os::unix::fs::PermissionsExt;

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
        private_file::write(&path, "short", 0o600).expect("written");
        assert!(matches!(load_or_create(&path, &OsRng), Err(AuditKeyError::Malformed(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(load_or_create(&path, &OsRng), Err(AuditKeyError::File(PrivateFileError::Readable(_)))));
    }
}

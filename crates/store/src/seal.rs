//! Sealing of values that the database must not hold in clear: an agent's env.

use crate::error::StoreError;
use aether_core::Rng;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const FORMAT: u8 = 1;

/// Why a key file is not used. Nothing is repaired: a key that others could
/// read is not a key any more.
#[derive(Debug, thiserror::Error)]
pub enum SealKeyError {
    #[error("the seal key file {path} has mode {mode:04o}; it must be 0600: check who read it, then `chmod 600` it")]
    Mode { path: PathBuf, mode: u32 },
    #[error("the seal key file {path} belongs to uid {owner}, not to uid {us} or root")]
    Owner { path: PathBuf, owner: u32, us: u32 },
    #[error("the seal key file {path} is not a regular file")]
    NotAFile { path: PathBuf },
    #[error("the seal key file {path} has {size} bytes, not 32; restore it from your backup")]
    Size { path: PathBuf, size: u64 },
    #[error("the seal key file {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// The key that seals. Its file is as precious as the database: without it
/// the sealed values are lost.
#[derive(Clone)]
pub struct SealKey {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    /// Written before each sealed value, so that a later version can hold
    /// several keys and tell which one opens.
    id: u8,
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(***)")
    }
}

impl SealKey {
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"aether seal key id");
        hasher.update(bytes);
        let id = hasher.finalize()[0];
        Self { bytes: Zeroizing::new(bytes), id }
    }

    /// Reads the key file, or makes one (mode 0600, synced, never half
    /// written, never over an existing one).
    pub fn load_or_create(path: &Path, rng: &dyn Rng) -> Result<Self, SealKeyError> {
        let io = |source| SealKeyError::Io { path: path.to_owned(), source };
        match Self::load(path) {
            Err(SealKeyError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut bytes = Zeroizing::new([0u8; KEY_BYTES]);
        rng.fill(bytes.as_mut());
        match create(path, &bytes, rng) {
            Ok(()) => {}
            // Somebody made it in the meantime: theirs is the key.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io(e)),
        }
        Self::load(path)
    }

    fn load(path: &Path) -> Result<Self, SealKeyError> {
        let io = |source| SealKeyError::Io { path: path.to_owned(), source };
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let mut file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        let (path, us) = (path.to_owned(), rustix::process::geteuid().as_raw());
        if !meta.is_file() {
            return Err(SealKeyError::NotAFile { path });
        }
        if meta.uid() != us && meta.uid() != 0 {
            return Err(SealKeyError::Owner { path, owner: meta.uid(), us });
        }
        if meta.mode() & 0o077 != 0 {
            return Err(SealKeyError::Mode { path, mode: meta.mode() & 0o7777 });
        }
        if meta.len() != KEY_BYTES as u64 {
            return Err(SealKeyError::Size { path, size: meta.len() });
        }
        let mut bytes = Zeroizing::new([0u8; KEY_BYTES]);
        file.read_exact(bytes.as_mut()).map_err(|source| SealKeyError::Io { path, source })?;
        Ok(Self::from_bytes(*bytes))
    }

    /// `format, key id, nonce, ciphertext`; opens for the same owner alone.
    pub(crate) fn seal(&self, owner: &[&str], clear: &[u8], rng: &dyn Rng) -> Result<Vec<u8>, StoreError> {
        let mut nonce = [0u8; NONCE_BYTES];
        rng.fill(&mut nonce);
        let aad = associated_data(owner);
        let sealed = XChaCha20Poly1305::new(self.bytes.as_ref().into())
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: clear, aad: &aad })
            .map_err(|_| StoreError::internal("sealing failed"))?;
        let mut out = Vec::with_capacity(2 + NONCE_BYTES + sealed.len());
        out.extend([FORMAT, self.id]);
        out.extend(nonce);
        out.extend(sealed);
        Ok(out)
    }

    pub(crate) fn open(&self, owner: &[&str], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let (head, rest) = sealed.split_at_checked(2).ok_or(StoreError::Unsealable)?;
        let (nonce, body) = rest.split_at_checked(NONCE_BYTES).ok_or(StoreError::Unsealable)?;
        if head != [FORMAT, self.id] {
            return Err(StoreError::Unsealable);
        }
        let aad = associated_data(owner);
        XChaCha20Poly1305::new(self.bytes.as_ref().into())
            .decrypt(XNonce::from_slice(nonce), Payload { msg: body, aad: &aad })
            .map(Zeroizing::new)
            .map_err(|_| StoreError::Unsealable)
    }
}

fn associated_data(owner: &[&str]) -> Vec<u8> {
    let mut aad = b"aether-env".to_vec();
    for part in owner {
        aad.push(0);
        aad.extend(part.as_bytes());
    }
    aad
}

/// A full file appears under `path`, or none: written beside it, synced, then
/// linked, which fails where something is there already.
fn create(path: &Path, bytes: &[u8; KEY_BYTES], rng: &dyn Rng) -> std::io::Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut tag = [0u8; 8];
    rng.fill(&mut tag);
    let beside = dir.join(format!(".seal-{:016x}.tmp", u64::from_le_bytes(tag)));
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::hard_link(&beside, path)
    })();
    let removed = std::fs::remove_file(&beside);
    written?;
    removed?;
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::source::OsRng;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn opens_for_its_owner_and_key_alone() {
        let key = SealKey::from_bytes([7; 32]);
        let sealed = key.seal(&["t", "a"], b"TOKEN=1", &OsRng).expect("seals");
        assert!(!sealed.windows(5).any(|w| w == b"TOKEN"));
        assert_eq!(key.open(&["t", "a"], &sealed).expect("opens").as_slice(), b"TOKEN=1");
        for owner in [["t", "b"], ["u", "a"], ["ta", ""]] {
            assert!(key.open(&owner, &sealed).is_err());
        }
        assert!(SealKey::from_bytes([8; 32]).open(&["t", "a"], &sealed).is_err());
        for i in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[i] ^= 1;
            assert!(key.open(&["t", "a"], &bent).is_err(), "byte {i}");
            assert!(key.open(&["t", "a"], &sealed[..i]).is_err(), "cut at {i}");
        }
    }

    #[test]
    fn the_file_is_made_once_and_refused_when_open_to_others() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("seal.key");
        let first = SealKey::load_or_create(&path, &OsRng).expect("makes one");
        let again = SealKey::load_or_create(&path, &OsRng).expect("reads it");
        assert_eq!(first.bytes, again.bytes);
        assert_eq!(std::fs::metadata(&path).expect("is there").mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 1, "no temp file stays");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(matches!(SealKey::load_or_create(&path, &OsRng), Err(SealKeyError::Mode { mode: 0o640, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        std::fs::write(&path, b"short").expect("write");
        assert!(matches!(SealKey::load_or_create(&path, &OsRng), Err(SealKeyError::Size { size: 5, .. })));

        let link = dir.path().join("link.key");
        std::os::unix::fs::symlink(&path, &link).expect("symlink");
        assert!(SealKey::load_or_create(&link, &OsRng).is_err(), "links are not followed");
        assert!(matches!(SealKey::load_or_create(dir.path(), &OsRng), Err(SealKeyError::NotAFile { .. })));
    }
}

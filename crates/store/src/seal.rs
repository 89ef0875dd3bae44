//! Sealing of values that the database must not hold in clear: an agent's env,
//! the data keys of secrets.
//!
//! The key file holds one key, or several while the key is changed: one seals
//! (which, the store says: [`SealKeys::activate`]), all of them open.

use crate::error::StoreError;
use aether_core::Rng;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const FORMAT: u8 = 1;
/// Keys in one file: the one that seals, and those before it that still open.
const MAX_KEYS: usize = 8;

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
    #[error("the seal key file {path} has {size} bytes, not 32 for each of 1 to 8 keys; restore it from your backup")]
    Size { path: PathBuf, size: u64 },
    #[error(
        "the seal key file {path} holds two keys that sealed values cannot tell apart; restore it from your backup"
    )]
    Alike { path: PathBuf },
    #[error("there is no seal key file: the keys are in memory alone")]
    NoFile,
    #[error("the seal key file {path} lacks the key that seals now; restore it, or add it from another server's file")]
    NoActive { path: PathBuf },
    #[error("the seal key file {path} holds 8 keys; drop those that seal nothing any more")]
    Full { path: PathBuf },
    #[error("the seal key file {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// A key that seals. Its file is as precious as the database: without it
/// the sealed values are lost.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKey {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    /// Written before each sealed value: which key opens it.
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

    /// Tells which key it is, and nothing of it.
    pub fn fingerprint(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(b"aether seal key fingerprint");
        hasher.update(self.bytes.as_ref());
        hasher.finalize()[..8].iter().map(|b| format!("{b:02x}")).collect()
    }

    /// How each value begins that it sealed.
    pub(crate) fn mark(&self) -> [u8; 2] {
        [FORMAT, self.id]
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

/// The keys of one file; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct SealKeys(Arc<Shared>);

struct Shared {
    path: Option<PathBuf>,
    ring: RwLock<Ring>,
}

#[derive(Clone)]
struct Ring {
    /// The oldest first; never empty.
    keys: Vec<SealKey>,
    active: usize,
}

impl fmt::Debug for SealKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKeys(***)")
    }
}

impl From<SealKey> for SealKeys {
    fn from(key: SealKey) -> Self {
        Self::of(None, vec![key])
    }
}

impl SealKeys {
    fn of(path: Option<PathBuf>, keys: Vec<SealKey>) -> Self {
        Self(Arc::new(Shared { path, ring: RwLock::new(Ring { keys, active: 0 }) }))
    }

    /// Reads the key file, or makes one (mode 0600, synced, never half
    /// written, never over an existing one).
    pub fn load_or_create(path: &Path, rng: &dyn Rng) -> Result<Self, SealKeyError> {
        let io = |source| SealKeyError::Io { path: path.to_owned(), source };
        match load(path) {
            Err(SealKeyError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            other => return other.map(|keys| Self::of(Some(path.to_owned()), keys)),
        }
        let mut bytes = Zeroizing::new([0u8; KEY_BYTES]);
        rng.fill(bytes.as_mut());
        match create(path, bytes.as_ref(), rng, Place::Free) {
            Ok(()) => {}
            // Somebody made it in the meantime: theirs is the key.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io(e)),
        }
        load(path).map(|keys| Self::of(Some(path.to_owned()), keys))
    }

    fn read(&self) -> Ring {
        self.0.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes these keys; the active one stays, where it is among them.
    fn take(&self, keys: Vec<SealKey>) -> Result<(), SealKeyError> {
        let mut ring = self.0.ring.write().unwrap_or_else(PoisonError::into_inner);
        let held = ring.keys.get(ring.active).cloned();
        let Some(active) = keys.iter().position(|key| Some(key) == held.as_ref()) else {
            return Err(SealKeyError::NoActive { path: self.0.path.clone().unwrap_or_default() });
        };
        *ring = Ring { keys, active };
        Ok(())
    }

    fn path(&self) -> Result<&Path, SealKeyError> {
        self.0.path.as_deref().ok_or(SealKeyError::NoFile)
    }

    /// Reads the file anew; it must still hold the key that seals.
    pub fn reload(&self) -> Result<(), SealKeyError> {
        self.take(load(self.path()?)?)
    }

    /// A new key, at the end of the file: it opens and does not seal yet.
    pub fn add(&self, rng: &dyn Rng) -> Result<(), SealKeyError> {
        let path = self.path()?;
        let mut keys = load(path)?;
        if keys.len() >= MAX_KEYS {
            return Err(SealKeyError::Full { path: path.to_owned() });
        }
        let mut bytes = Zeroizing::new([0u8; KEY_BYTES]);
        let key = loop {
            rng.fill(bytes.as_mut());
            let key = SealKey::from_bytes(*bytes);
            if keys.iter().all(|other| other.id != key.id) {
                break key;
            }
        };
        keys.push(key);
        self.keep(keys, rng)
    }

    /// Takes keys out of the file, but never the one that seals.
    pub fn drop_keys(&self, unused: impl Fn(&SealKey) -> bool, rng: &dyn Rng) -> Result<(), SealKeyError> {
        let active = self.active();
        let keys = load(self.path()?)?.into_iter().filter(|key| *key == active || !unused(key)).collect();
        self.keep(keys, rng)
    }

    fn keep(&self, keys: Vec<SealKey>, rng: &dyn Rng) -> Result<(), SealKeyError> {
        let path = self.path()?;
        let bytes = Zeroizing::new(keys.iter().flat_map(|key| *key.bytes).collect::<Vec<u8>>());
        let io = |source| SealKeyError::Io { path: path.to_owned(), source };
        create(path, &bytes, rng, Place::Over).map_err(io)?;
        self.take(keys)
    }

    /// The one that seals.
    pub fn active(&self) -> SealKey {
        let ring = self.read();
        ring.keys[ring.active].clone()
    }

    /// All of them, the oldest first.
    pub fn all(&self) -> Vec<SealKey> {
        self.read().keys
    }

    /// Seals with this key from here on; false: it is not among them.
    pub fn activate(&self, fingerprint: &str) -> bool {
        let mut ring = self.0.ring.write().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = ring.keys.iter().position(|key| key.fingerprint() == fingerprint) else { return false };
        ring.active = at;
        true
    }

    pub(crate) fn seal(&self, owner: &[&str], clear: &[u8], rng: &dyn Rng) -> Result<Vec<u8>, StoreError> {
        self.active().seal(owner, clear, rng)
    }

    pub(crate) fn open(&self, owner: &[&str], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let ring = self.read();
        let key = ring.keys.iter().find(|key| sealed.get(..2) == Some(&key.mark()));
        key.ok_or(StoreError::Unsealable)?.open(owner, sealed)
    }
}

/// Seals `clear` with a fresh data key; the key is in the answer, to be
/// wrapped.
pub(crate) fn seal_with(
    key: &[u8; KEY_BYTES],
    owner: &[&str],
    clear: &[u8],
    rng: &dyn Rng,
) -> Result<Vec<u8>, StoreError> {
    SealKey::from_bytes(*key).seal(owner, clear, rng)
}

pub(crate) fn open_with(key: &[u8], owner: &[&str], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let key = Zeroizing::new(<[u8; KEY_BYTES]>::try_from(key).map_err(|_| StoreError::Unsealable)?);
    SealKey::from_bytes(*key).open(owner, sealed)
}

fn load(path: &Path) -> Result<Vec<SealKey>, SealKeyError> {
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
    let count = usize::try_from(meta.len()).unwrap_or(usize::MAX) / KEY_BYTES;
    if !meta.len().is_multiple_of(KEY_BYTES as u64) || !(1..=MAX_KEYS).contains(&count) {
        return Err(SealKeyError::Size { path, size: meta.len() });
    }
    let mut bytes = Zeroizing::new(vec![0u8; count * KEY_BYTES]);
    file.read_exact(&mut bytes).map_err(|source| SealKeyError::Io { path: path.clone(), source })?;
    let keys: Vec<SealKey> = bytes.as_chunks().0.iter().map(|key| SealKey::from_bytes(*key)).collect();
    let ids: BTreeSet<u8> = keys.iter().map(|key| key.id).collect();
    if ids.len() != keys.len() { Err(SealKeyError::Alike { path }) } else { Ok(keys) }
}

/// Whether a file may be there already.
enum Place {
    Free,
    Over,
}

/// A full file appears under `path`, or none: written beside it, synced, then
/// linked, which fails where something is there already, or put in its place.
fn create(path: &Path, bytes: &[u8], rng: &dyn Rng, place: Place) -> std::io::Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut tag = [0u8; 8];
    rng.fill(&mut tag);
    let beside = dir.join(format!(".seal-{:016x}.tmp", u64::from_le_bytes(tag)));
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match place {
            Place::Free => std::fs::hard_link(&beside, path),
            Place::Over => std::fs::rename(&beside, path),
        }
    })();
    match std::fs::remove_file(&beside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => written.and(Err(e))?,
        _ => written?,
    }
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
        let first = SealKeys::load_or_create(&path, &OsRng).expect("makes one");
        let again = SealKeys::load_or_create(&path, &OsRng).expect("reads it");
        assert!(first.all() == again.all());
        assert_eq!(std::fs::metadata(&path).expect("is there").mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 1, "no temp file stays");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(matches!(SealKeys::load_or_create(&path, &OsRng), Err(SealKeyError::Mode { mode: 0o640, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        std::fs::write(&path, b"short").expect("write");
        assert!(matches!(SealKeys::load_or_create(&path, &OsRng), Err(SealKeyError::Size { size: 5, .. })));

        let link = dir.path().join("link.key");
        std::os::unix::fs::symlink(&path, &link).expect("symlink");
        assert!(SealKeys::load_or_create(&link, &OsRng).is_err(), "links are not followed");
        assert!(matches!(SealKeys::load_or_create(dir.path(), &OsRng), Err(SealKeyError::NotAFile { .. })));
    }
    #[test]
    fn a_second_key_opens_seals_when_told_and_the_first_is_dropped() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("seal.key");
        let keys = SealKeys::load_or_create(&path, &OsRng).expect("makes one");
        let other = SealKeys::load_or_create(&path, &OsRng).expect("another server's");
        let (first, old) = (keys.active(), keys.seal(&["t"], b"old", &OsRng).expect("seals"));
        keys.add(&OsRng).expect("adds");
        assert!(keys.active() == first, "not yet");
        let second = keys.all()[1].clone();
        assert!(keys.activate(&second.fingerprint()) && !keys.activate("unknown"));
        let new = keys.seal(&["t"], b"new", &OsRng).expect("seals");
        assert_eq!(new[..2], second.mark());
        assert!(other.open(&["t"], &new).is_err(), "it has not read its file");
        other.reload().expect("reads");
        assert!(other.active() == first);
        for keys in [&keys, &other] {
            assert_eq!(keys.open(&["t"], &old).expect("opens").as_slice(), b"old");
            assert_eq!(keys.open(&["t"], &new).expect("opens").as_slice(), b"new");
        }
        keys.drop_keys(|_| true, &OsRng).expect("drops");
        assert!(keys.all() == [second.clone()] && keys.open(&["t"], &old).is_err());
        assert!(matches!(other.reload(), Err(SealKeyError::NoActive { .. })), "it seals with the first still");
        let again = SealKeys::load_or_create(&path, &OsRng).expect("reads");
        assert!(again.all() == [second]);
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 1, "no temp file stays");
        assert_eq!(std::fs::metadata(&path).expect("is there").mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_is_full_or_holds_one_key_twice() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("seal.key");
        let keys = SealKeys::load_or_create(&path, &OsRng).expect("makes one");
        for _ in 1..MAX_KEYS {
            keys.add(&OsRng).expect("adds");
        }
        assert!(matches!(keys.add(&OsRng), Err(SealKeyError::Full { .. })));
        std::fs::write(&path, [9u8; 64]).expect("write");
        assert!(matches!(keys.reload(), Err(SealKeyError::Alike { .. })));
        assert!(matches!(SealKeys::from(keys.active()).add(&OsRng), Err(SealKeyError::NoFile)));
    }
}

//! The node's key: seals channel tokens and disk keys in the journal.

use super::JournalError;
use aether_core::Rng;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use zeroize::Zeroizing;

const KEY_LEN: usize = 32;
/// Random nonces of this length do not collide in any real number of writes.
const NONCE_LEN: usize = 24;

/// 32 random bytes in a file that only root can read.
pub struct NodeKey {
    cipher: XChaCha20Poly1305,
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKey(***)")
    }
}

impl NodeKey {
    /// Reads the key, or makes one: written beside, synced, then renamed, so
    /// that a crash leaves a whole key or none.
    pub fn open_or_create(path: &Path, rng: &dyn Rng) -> Result<Self, JournalError> {
        let bad = |reason: String| JournalError::Key { path: path.to_owned(), reason };
        match std::fs::File::open(path) {
            Ok(mut file) => {
                let mode = file.metadata().map_err(|e| bad(e.to_string()))?.permissions().mode();
                if mode & 0o077 != 0 {
                    return Err(bad(format!("can be read by others (mode {:o}): chmod 600 it", mode & 0o777)));
                }
                let mut key = Zeroizing::new(Vec::with_capacity(KEY_LEN + 1));
                let limit = u64::try_from(KEY_LEN + 1).unwrap_or(u64::MAX);
                Read::by_ref(&mut file).take(limit).read_to_end(&mut key).map_err(|e| bad(e.to_string()))?;
                if key.len() != KEY_LEN {
                    return Err(bad(format!("must hold {KEY_LEN} bytes")));
                }
                Self::from_bytes(&key).ok_or_else(|| bad("is not a key".to_owned()))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let mut key = Zeroizing::new([0u8; KEY_LEN]);
                rng.fill(&mut key[..]);
                write_new(path, &key[..]).map_err(|e| bad(format!("cannot be written: {e}")))?;
                Self::from_bytes(&key[..]).ok_or_else(|| bad("is not a key".to_owned()))
            }
            Err(e) => Err(bad(format!("cannot be read: {e}"))),
        }
    }

    fn from_bytes(key: &[u8]) -> Option<Self> {
        XChaCha20Poly1305::new_from_slice(key).ok().map(|cipher| Self { cipher })
    }

    /// `context` is bound to the text: a blob moved to another row does not open.
    pub fn seal(&self, context: &str, text: &[u8], rng: &dyn Rng) -> Option<Vec<u8>> {
        let mut nonce = [0u8; NONCE_LEN];
        rng.fill(&mut nonce);
        let payload = Payload { msg: text, aad: context.as_bytes() };
        let sealed = self.cipher.encrypt(XNonce::from_slice(&nonce), payload).ok()?;
        Some([nonce.as_slice(), &sealed].concat())
    }

    pub fn open(&self, context: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let payload = Payload { msg: text, aad: context.as_bytes() };
        self.cipher.decrypt(XNonce::from_slice(nonce), payload).ok().map(Zeroizing::new)
    }
}

fn write_new(path: &Path, key: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(key)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    if let Some(parent) = path.parent() {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

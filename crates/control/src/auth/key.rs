//! API keys: 160 random bits and a checksum, in two spellings of one secret.
//!
//! ```text
//! aether_sk_ + base 32 of (secret 20 bytes, checksum 4 bytes)   39 letters
//! e2b_       + hex of the same 24 bytes                        48 digits
//! ```
//!
//! The checksum lets secret scanners, and us before any look-up, tell a key
//! from noise. Stored is HMAC-SHA256 of the secret under the server's pepper,
//! so that a copy of the database alone verifies nothing.

use crate::private_file::{self, PrivateFileError};
use aether_core::{Rng, Secret};
use data_encoding::BASE32_NOPAD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const PREFIX: &str = "aether_sk_";
const E2B_PREFIX: &str = "e2b_";
const SECRET_BYTES: usize = 20;
const CHECK_BYTES: usize = 4;
const PEPPER_BYTES: usize = 32;
/// Shown in lists: enough to tell keys apart, too little to guess from.
const SHOWN_CHARS: usize = 6;

/// A key in clear, for the moment it is made or presented.
pub struct ApiKey([u8; SECRET_BYTES]);

impl ApiKey {
    pub fn generate(rng: &dyn Rng) -> Self {
        let mut secret = [0; SECRET_BYTES];
        rng.fill(&mut secret);
        Self(secret)
    }

    /// Reads either spelling, as it was given out, to the letter; `None` for
    /// anything that is not a key of ours.
    pub fn parse(text: &str) -> Option<Self> {
        // A key has two spellings, and scanners for leaked ones look for those.
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        let bytes = if let Some(rest) = text.strip_prefix(PREFIX) {
            (rest.len() == 39).then(|| BASE32_NOPAD.decode(rest.to_ascii_uppercase().as_bytes()).ok())??
        } else {
            let rest = text.strip_prefix(E2B_PREFIX)?;
            (rest.len() == 2 * (SECRET_BYTES + CHECK_BYTES)).then(|| hex::decode(rest).ok())??
        };
        let (secret, check) = bytes.split_at_checked(SECRET_BYTES)?;
        let secret: [u8; SECRET_BYTES] = secret.try_into().ok()?;
        bool::from(checksum(&secret).ct_eq(check)).then_some(Self(secret))
    }

    fn bytes(&self) -> Vec<u8> {
        [self.0.as_slice(), &checksum(&self.0)].concat()
    }

    /// The spelling for our own clients; shown once.
    pub fn text(&self) -> Secret {
        Secret::new(format!("{PREFIX}{}", BASE32_NOPAD.encode(&self.bytes()).to_ascii_lowercase()))
    }

    /// The same secret as E2B's clients want it.
    pub fn e2b_text(&self) -> Secret {
        Secret::new(format!("{E2B_PREFIX}{}", hex::encode(self.bytes())))
    }

    /// What lists show of it.
    pub fn prefix(&self) -> String {
        self.text().expose().chars().take(PREFIX.len() + SHOWN_CHARS).collect()
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

fn checksum(secret: &[u8; SECRET_BYTES]) -> [u8; CHECK_BYTES] {
    let digest = Sha256::new_with_prefix(b"aether api key checksum v1").chain_update(secret).finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

/// The server's secret behind all key hashes; a 0600 file beside the seal
/// key. All servers of one store need the same.
#[derive(Clone)]
pub struct Pepper(Secret);

#[derive(Debug, thiserror::Error)]
pub enum PepperError {
    #[error(transparent)]
    File(#[from] PrivateFileError),
    #[error("the key file {0} does not hold 64 hex digits; if it is lost, remove it and make new API keys")]
    Malformed(PathBuf),
}

impl Pepper {
    /// Reads the file, or makes it where there is none.
    pub fn load_or_create(path: &Path, rng: &dyn Rng) -> Result<Self, PepperError> {
        let text = private_file::load_or_create(path, || {
            let mut bytes = Zeroizing::new([0; PEPPER_BYTES]);
            rng.fill(bytes.as_mut());
            Zeroizing::new(hex::encode(bytes.as_ref()))
        })?;
        match hex::decode(text.as_str()).map(Zeroizing::new) {
            Ok(bytes) if bytes.len() == PEPPER_BYTES => Ok(Self(Secret::new(text.as_str()))),
            _ => Err(PepperError::Malformed(path.to_owned())),
        }
    }

    /// The keyed hash: what the store knows of a key, and finds it by.
    pub fn hash(&self, key: &ApiKey) -> [u8; 32] {
        self.mac(b"aether api key v1", &[&key.0])
    }

    /// For what else is vouched for by this server. `what` is told apart by
    /// it; of the parts only the last may be of any length.
    pub(super) fn mac(&self, what: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose().as_bytes()).expect("HMAC takes any key length");
        mac.update(what);
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::source::OsRng;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn both_spellings_are_one_key() {
        let key = ApiKey::generate(&OsRng);
        let (ours, e2b) = (key.text(), key.e2b_text());
        assert!(ours.expose().starts_with("aether_sk_") && e2b.expose().starts_with("e2b_"));
        for text in [ours.expose(), e2b.expose()] {
            assert_eq!(ApiKey::parse(text).map(|k| k.0), Some(key.0));
        }
        assert!(ours.expose().starts_with(&key.prefix()) && key.prefix().len() < 20);
    }

    #[test]
    fn capitals_are_no_key() {
        let key = ApiKey::generate(&OsRng);
        for text in [key.text(), key.e2b_text()] {
            let (prefix, rest) = text.expose().rsplit_once('_').expect("a prefix");
            assert!(ApiKey::parse(&format!("{prefix}_{}", rest.to_ascii_uppercase())).is_none());
        }
    }

    #[test]
    fn one_wrong_letter_is_no_key() {
        let text = ApiKey::generate(&OsRng).e2b_text();
        let text = text.expose();
        for at in E2B_PREFIX.len()..text.len() {
            let mut wrong = text.as_bytes().to_vec();
            wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
            assert!(ApiKey::parse(std::str::from_utf8(&wrong).expect("ascii")).is_none());
        }
    }

    #[test]
    fn a_pepper_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("pepper");
        let key = ApiKey::generate(&OsRng);
        let first = Pepper::load_or_create(&path, &OsRng).expect("made").hash(&key);
        assert_eq!(Pepper::load_or_create(&path, &OsRng).expect("read").hash(&key), first);
        assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("dir").count(), 1);
        let other = Pepper::load_or_create(&dir.path().join("other"), &OsRng).expect("made").hash(&key);
        assert_ne!(other, first);
    }

    #[test]
    fn a_bad_pepper_file_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("pepper");
        private_file::write(&path, "short", 0o600).expect("written");
        assert!(matches!(Pepper::load_or_create(&path, &OsRng), Err(PepperError::Malformed(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(Pepper::load_or_create(&path, &OsRng), Err(PepperError::File(PrivateFileError::Readable(_)))));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "(aether_sk_|e2b_)?.{0,60}") {
            let _ = ApiKey::parse(&text);
        }
    }
}

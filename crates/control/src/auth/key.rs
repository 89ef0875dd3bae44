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

use aether_core::{Rng, Secret};
use data_encoding::BASE32_NOPAD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq;

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
    #[error("the key file {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the key file {0} can be read by others: chmod 600 it")]
    Readable(PathBuf),
    #[error("the key file {0} does not hold 64 hex digits; if it is lost, remove it and make new API keys")]
    Malformed(PathBuf),
}

impl Pepper {
    /// Reads the file, or makes it where there is none.
    pub fn load_or_create(path: &Path, rng: &dyn Rng) -> Result<Self, PepperError> {
        let io = |source| PepperError::Io { path: path.to_owned(), source };
        match std::fs::File::open(path) {
            Ok(file) => Self::read(path, file),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let mut bytes = [0; PEPPER_BYTES];
                rng.fill(&mut bytes);
                let text = hex::encode(bytes);
                // Written aside and linked into place: another server that
                // starts at the same time never reads half a file.
                let aside = path.with_extension(format!("new{}", std::process::id()));
                let made = write_private(&aside, &text).and_then(|()| std::fs::hard_link(&aside, path));
                let _ = std::fs::remove_file(&aside);
                match made {
                    Ok(()) => Ok(Self(Secret::new(text))),
                    Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                        Self::read(path, std::fs::File::open(path).map_err(io)?)
                    }
                    Err(e) => Err(io(e)),
                }
            }
            Err(e) => Err(io(e)),
        }
    }

    fn read(path: &Path, file: std::fs::File) -> Result<Self, PepperError> {
        let io = |source| PepperError::Io { path: path.to_owned(), source };
        if file.metadata().map_err(io)?.permissions().mode() & 0o077 != 0 {
            return Err(PepperError::Readable(path.to_owned()));
        }
        let mut text = String::new();
        file.take(1024).read_to_string(&mut text).map_err(io)?;
        let text = text.trim();
        match hex::decode(text) {
            Ok(bytes) if bytes.len() == PEPPER_BYTES => Ok(Self(Secret::new(text))),
            _ => Err(PepperError::Malformed(path.to_owned())),
        }
    }

    /// The keyed hash: what the store knows of a key, and finds it by.
    pub fn hash(&self, key: &ApiKey) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose().as_bytes()).expect("HMAC takes any key length");
        mac.update(b"aether api key v1");
        mac.update(&key.0);
        mac.finalize().into_bytes().into()
    }
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::source::OsRng;
    use proptest::prelude::*;

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
        write_private(&path, "short").expect("written");
        assert!(matches!(Pepper::load_or_create(&path, &OsRng), Err(PepperError::Malformed(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(Pepper::load_or_create(&path, &OsRng), Err(PepperError::Readable(_))));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "(aether_sk_|e2b_)?.{0,60}") {
            let _ = ApiKey::parse(&text);
        }
    }
}

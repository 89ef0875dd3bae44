//! Passwords of local users: Argon2id, in the form that says its own cost. A
//! hash takes 19 MiB and some hundredths of a second, so few are made at one
//! time and few may wait.

use crate::problem::ApiError;
use aether_core::{Rng, Secret};
use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::Semaphore;

pub(crate) const LEAST: usize = 12;
pub(crate) const MOST: usize = 256;
/// Hashes that wait for their turn.
const WAITING: usize = 32;
const SALT_BYTES: usize = 16;

pub(crate) struct Passwords {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Checked where there is no such user: that takes the same time. Made
    /// when it is first needed.
    nobodys: Arc<OnceLock<Secret>>,
    nobodys_salt: [u8; SALT_BYTES],
}

struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Passwords {
    pub(crate) fn new(rng: &dyn Rng) -> Self {
        let turns = std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2));
        Self {
            turns: Arc::new(Semaphore::new(turns)),
            waiting: AtomicUsize::new(0),
            nobodys: Arc::default(),
            nobodys_salt: salt(rng),
        }
    }

    /// For the store.
    pub(crate) async fn hash(&self, password: Secret, rng: &dyn Rng) -> Result<Secret, ApiError> {
        let salt = salt(rng);
        self.in_turn(move || hashed(&password, &salt)).await?.ok_or_else(|| ApiError::internal("hashing failed"))
    }

    /// Whether it is the password of that hash; of none it is never.
    pub(crate) async fn matches(&self, password: Secret, hash: Option<&Secret>) -> Result<bool, ApiError> {
        let (known, hash) = (hash.is_some(), hash.cloned());
        let (nobodys, salt) = (self.nobodys.clone(), self.nobodys_salt);
        let right = move || {
            let nobodys =
                || nobodys.get_or_init(|| hashed(&Secret::new("nobody's"), &salt).unwrap_or_default()).clone();
            match PasswordHash::new(hash.unwrap_or_else(nobodys).expose()) {
                Ok(hash) => Argon2::default().verify_password(password.expose().as_bytes(), &hash).is_ok(),
                Err(_) => false,
            }
        };
        Ok(self.in_turn(right).await? && known)
    }

    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
        let waits = Waits(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::SeqCst) >= WAITING {
            return Err(ApiError::unavailable("Too many logins are at work.", 1));
        }
        let ended = |e: &dyn std::fmt::Display| ApiError::internal(format!("a password was not hashed: {e}"));
        let turn = self.turns.clone().acquire_owned().await.map_err(|e| ended(&e))?;
        let work = move || {
            let _turn = turn;
            work()
        };
        let done = tokio::task::spawn_blocking(work).await.map_err(|e| ended(&e));
        drop(waits);
        done
    }
}

fn salt(rng: &dyn Rng) -> [u8; SALT_BYTES] {
    let mut salt = [0; SALT_BYTES];
    rng.fill(&mut salt);
    salt
}

fn hashed(password: &Secret, salt: &[u8; SALT_BYTES]) -> Option<Secret> {
    let salt = SaltString::encode_b64(salt).ok()?;
    let hash = Argon2::default().hash_password(password.expose().as_bytes(), &salt).ok()?;
    Some(Secret::new(hash.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::source::OsRng;

    #[tokio::test]
    async fn a_password_is_its_own_alone() {
        let passwords = Passwords::new(&OsRng);
        let hash = passwords.hash(Secret::new("correct horse"), &OsRng).await.expect("hashed");
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "the form tells the cost");
        let matches = async |text: &str, hash: Option<&Secret>| {
            passwords.matches(Secret::new(text), hash).await.expect("answers")
        };
        assert!(matches("correct horse", Some(&hash)).await);
        assert!(!matches("correct horsf", Some(&hash)).await);
        assert!(!matches("nobody's", None).await, "nobody has one");
        assert!(!matches("x", Some(&Secret::new("no hash"))).await);
        let again = passwords.hash(Secret::new("correct horse"), &OsRng).await.expect("hashed");
        assert!(again != hash, "salted");
        assert_eq!(passwords.waiting.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn few_wait() {
        let passwords = Passwords::new(&OsRng);
        passwords.waiting.store(WAITING, Ordering::SeqCst);
        let refused = passwords.matches(Secret::new("x"), None).await.expect_err("full").problem;
        assert_eq!((refused.status, refused.retry_after), (503, Some(1)));
        assert_eq!(passwords.waiting.load(Ordering::SeqCst), WAITING);
    }
}

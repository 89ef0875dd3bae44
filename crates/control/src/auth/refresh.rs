//! Refresh tokens. Nothing of one is stored but a keyed hash of its session's
//! secret; which of the session's tokens it is stands in it, and is vouched
//! for by the pepper.
//!
//! ```text
//! aether_rt_ + base 32 of (counter 4, secret 16, MAC 16, id of the session)
//! ```

use super::Pepper;
use aether_core::{Rng, Secret, SessionId};
use data_encoding::BASE32_NOPAD;
use subtle::ConstantTimeEq;

const PREFIX: &str = "aether_rt_";
const SECRET_BYTES: usize = 16;
const MAC_BYTES: usize = 16;
const MAX: usize = 256;

/// One in clear, for the moment it is made or presented.
pub(crate) struct RefreshToken {
    pub(crate) session: SessionId,
    pub(crate) counter: u32,
    secret: [u8; SECRET_BYTES],
}

impl RefreshToken {
    /// The first of a session.
    pub(crate) fn first(session: SessionId, rng: &dyn Rng) -> Self {
        let mut secret = [0; SECRET_BYTES];
        rng.fill(&mut secret);
        Self { session, counter: 0, secret }
    }

    /// The one after it.
    pub(crate) fn with_counter(self, counter: u32) -> Self {
        Self { counter, ..self }
    }

    /// What the store knows of the session's secret.
    pub(crate) fn hash(&self, pepper: &Pepper) -> [u8; 32] {
        pepper.mac(b"aether session secret v1", &[&self.secret])
    }

    fn mac(&self, pepper: &Pepper) -> [u8; MAC_BYTES] {
        let parts = [&self.counter.to_be_bytes()[..], &self.secret, self.session.as_str().as_bytes()];
        let mac = pepper.mac(b"aether refresh token v1", &parts);
        let mut cut = [0; MAC_BYTES];
        cut.copy_from_slice(&mac[..MAC_BYTES]);
        cut
    }

    pub(crate) fn text(&self, pepper: &Pepper) -> Secret {
        let (counter, mac) = (self.counter.to_be_bytes(), self.mac(pepper));
        let bytes = [&counter[..], &self.secret, &mac, self.session.as_str().as_bytes()].concat();
        Secret::new(format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()))
    }

    /// To the letter as it was given out; `None` for what this server, or one
    /// with the same pepper, did not make.
    pub(crate) fn parse(text: &str, pepper: &Pepper) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX).filter(|_| text.len() <= MAX)?;
        if rest.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        let bytes = BASE32_NOPAD.decode(rest.to_ascii_uppercase().as_bytes()).ok()?;
        let (counter, rest) = bytes.split_first_chunk()?;
        let (secret, rest) = rest.split_first_chunk()?;
        let (mac, id) = rest.split_first_chunk::<MAC_BYTES>()?;
        let session = std::str::from_utf8(id).ok()?.parse().ok()?;
        let token = Self { session, counter: u32::from_be_bytes(*counter), secret: *secret };
        bool::from(token.mac(pepper).ct_eq(mac)).then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::source::OsRng;

    #[test]
    fn one_wrong_letter_is_no_token() {
        let dir = tempfile::tempdir().expect("dir");
        let pepper = |name: &str| Pepper::load_or_create(&dir.path().join(name), &OsRng).expect("made");
        let (ours, other) = (pepper("a"), pepper("b"));
        let first = RefreshToken::first(SessionId::generate("c0", &OsRng), &OsRng);
        let (session, hash) = (first.session.clone(), first.hash(&ours));
        let text = first.with_counter(7).text(&ours);
        let text = text.expose();
        let read = RefreshToken::parse(text, &ours).expect("ours");
        assert_eq!((read.session.clone(), read.counter, read.hash(&ours)), (session, 7, hash));
        assert!(RefreshToken::parse(text, &other).is_none(), "another server's");
        assert_ne!(read.hash(&other), hash);
        for at in PREFIX.len()..text.len() {
            let mut wrong = text.as_bytes().to_vec();
            wrong[at] = if wrong[at] == b'a' { b'b' } else { b'a' };
            assert!(RefreshToken::parse(std::str::from_utf8(&wrong).expect("ascii"), &ours).is_none(), "{at}");
            assert!(RefreshToken::parse(&text[..at], &ours).is_none(), "cut at {at}");
        }
        assert!(RefreshToken::parse(&text.to_ascii_uppercase(), &ours).is_none());
    }
}

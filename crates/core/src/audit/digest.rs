//! Signed heads of a chain.
//!
//! ```text
//! signature = Ed25519( text "aether audit digest v1" · text kind
//!   · number number · option tenant · number from · number to
//!   · number unsealed · 32 bytes head · option hex of tail
//!   · option hex of previous · number time in ms · 32 bytes key )
//! ```
//!
//! All but exports are numbered in each chain from 1 without gaps, and each
//! names the signature of the one before: whoever signs an old part again
//! contradicts what was anchored. Intervals cover a chain without gap or
//! overlap, and a cut is made where one of them ends.

use super::bytes::{Hash, PublicKey, Signature};
use crate::Timestamp;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

const DIGEST: &str = "aether audit digest v1";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DigestKind {
    /// What was linked since the one before.
    Interval,
    /// What retention removed: the chain begins after it.
    Cut,
    /// The database is as a backup had it: the chain ends here, and what
    /// earlier digests tell of later positions is lost.
    Restored,
    /// What an exported file holds; no part of the chain of digests.
    Export,
}

impl DigestKind {
    pub fn as_str(self) -> &'static str {
        match self {
            DigestKind::Interval => "interval",
            DigestKind::Cut => "cut",
            DigestKind::Restored => "restored",
            DigestKind::Export => "export",
        }
    }
}

/// Says and signs: the chain of `tenant` has the hash `head` at `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digest {
    pub kind: DigestKind,
    /// Of an export: that of the last one before it, 0 where there is none.
    pub number: u64,
    /// None: of the platform.
    pub tenant: Option<String>,
    /// The first position that it covers.
    pub from: u64,
    /// The last; `from - 1` where it covers none.
    pub to: u64,
    pub count: u64,
    /// Records at the end of an exported file that are not linked yet.
    pub unsealed: u64,
    pub head: Hash,
    /// What those records come to: each hashed after the other, from the head
    /// on, at the position 0.
    pub tail: Option<Hash>,
    pub previous: Option<Signature>,
    pub time: Timestamp,
    pub key: PublicKey,
    pub signature: Signature,
}

/// What a digest is made of.
#[derive(Clone, Debug)]
pub struct Head {
    pub kind: DigestKind,
    pub number: u64,
    pub tenant: Option<String>,
    pub from: u64,
    pub to: u64,
    pub unsealed: u64,
    pub head: Hash,
    pub tail: Option<Hash>,
    pub previous: Option<Signature>,
    pub time: Timestamp,
}

impl Digest {
    fn message(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        let text = |out: &mut Vec<u8>, text: &str| {
            out.extend((text.len() as u64).to_be_bytes());
            out.extend(text.as_bytes());
        };
        let option = |out: &mut Vec<u8>, value: Option<String>| match value {
            None => out.push(0),
            Some(value) => {
                out.push(1);
                text(out, &value);
            }
        };
        text(&mut out, DIGEST);
        text(&mut out, self.kind.as_str());
        out.extend(self.number.to_be_bytes());
        option(&mut out, self.tenant.clone());
        for n in [self.from, self.to, self.unsealed] {
            out.extend(n.to_be_bytes());
        }
        out.extend(self.head.0);
        option(&mut out, self.tail.map(|h| h.to_string()));
        option(&mut out, self.previous.map(|s| s.to_string()));
        out.extend(self.time.unix_ms().to_be_bytes());
        out.extend(self.key.0);
        out
    }

    /// Whether the key it names made it, and its count fits.
    pub fn is_sound(&self) -> bool {
        let counted =
            self.from >= 1 && self.to.checked_add(1).and_then(|n| n.checked_sub(self.from)) == Some(self.count);
        let key = UnparsedPublicKey::new(&ED25519, self.key.0);
        counted && key.verify(&self.message(), &self.signature.0).is_ok()
    }
}

/// Makes digests.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the seed is no Ed25519 key")]
pub struct SignerError;

impl Signer {
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, SignerError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| SignerError)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| SignerError)?;
        Ok(Self { pair, public: PublicKey(public) })
    }

    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    pub fn sign(&self, head: Head) -> Digest {
        let Head { kind, number, tenant, from, to, unsealed, head, tail, previous, time } = head;
        let count = (to + 1).saturating_sub(from);
        let (key, signature) = (self.public, Signature([0; 64]));
        let mut digest =
            Digest { kind, number, tenant, from, to, count, unsealed, head, tail, previous, time, key, signature };
        let made = self.pair.sign(&digest.message());
        // An Ed25519 signature has 64 bytes; were it otherwise, zeros verify nowhere.
        if let Ok(bytes) = made.as_ref().try_into() {
            digest.signature = Signature(bytes);
        }
        digest
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.public)
    }
}

//! The chain that makes changed audit records visible: what is hashed and
//! signed, how it is written to a file, and the verifier of such files.
//!
//! Each tenant has a chain of its own, and the platform one. A record's hash
//! covers every field of it, its position and the hash of the record before:
//!
//! ```text
//! hash(n) = SHA-256( text "aether audit record v1" · 32 bytes hash(n-1)
//!           · option tenant · number position · number sequence
//!           · number time in ms · text actor · text action · text resource
//!           · option resource_id · text result · option address
//!           · text details · option error )
//! hash(0) = SHA-256( text "aether audit chain v1" · option tenant )
//! ```
//!
//! A text is its length in bytes as a number, then its UTF-8; a number is 8
//! bytes, big-endian; an option is a byte 0, or a byte 1 and the text. No two
//! records have the same encoding. `details` is hashed as the text that the
//! store holds, so that no reader has to agree on a form of JSON.
//!
//! A chain alone can be made anew by whoever can write the database. So heads
//! of it are signed ([`Digest`]) and kept elsewhere (the anchor file).
//!
//! Not here: I/O, and who links records when (the store's and the control
//! plane's).

mod bytes;
mod digest;
mod file;
mod ocsf;
mod report;
mod verify;

pub use bytes::{Hash, HexError, PublicKey, Signature};
pub use digest::{Digest, DigestKind, Head, Signer, SignerError};
pub use file::{AnchorLine, Begin, Line};
pub use ocsf::ocsf;
pub use report::{Fault, Finding, Report};
pub use verify::Verifier;

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

const RECORD: &str = "aether audit record v1";
const CHAIN: &str = "aether audit chain v1";

/// One record as it is hashed and exported. The first three fields are of
/// the chain, and absent until the record is linked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub position: Option<u64>,
    pub prev: Option<Hash>,
    pub hash: Option<Hash>,
    /// The store's number of the row.
    pub sequence: u64,
    pub time: Timestamp,
    pub tenant: Option<String>,
    pub actor: String,
    pub action: String,
    pub resource: String,
    pub resource_id: Option<String>,
    pub result: String,
    pub address: Option<String>,
    pub details: Box<RawValue>,
    pub error: Option<String>,
}

/// The fields of a record, wherever they lie.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    pub sequence: u64,
    pub time: Timestamp,
    pub tenant: Option<&'a str>,
    pub actor: &'a str,
    pub action: &'a str,
    pub resource: &'a str,
    pub resource_id: Option<&'a str>,
    pub result: &'a str,
    pub address: Option<&'a str>,
    pub details: &'a str,
    pub error: Option<&'a str>,
}

/// What the first record of a chain follows.
pub fn genesis(tenant: Option<&str>) -> Hash {
    let mut hasher = Encoder::new(CHAIN);
    hasher.option(tenant);
    hasher.finish()
}

impl Fields<'_> {
    /// The hash at `position`, after the record whose hash is `prev`.
    pub fn hash(&self, prev: &Hash, position: u64) -> Hash {
        let mut hasher = Encoder::new(RECORD);
        hasher.raw(&prev.0);
        hasher.option(self.tenant);
        hasher.number(position);
        hasher.number(self.sequence);
        hasher.number(self.time.unix_ms());
        hasher.text(self.actor);
        hasher.text(self.action);
        hasher.text(self.resource);
        hasher.option(self.resource_id);
        hasher.text(self.result);
        hasher.option(self.address);
        hasher.text(self.details);
        hasher.option(self.error);
        hasher.finish()
    }
}

impl Record {
    pub fn fields(&self) -> Fields<'_> {
        Fields {
            sequence: self.sequence,
            time: self.time,
            tenant: self.tenant.as_deref(),
            actor: &self.actor,
            action: &self.action,
            resource: &self.resource,
            resource_id: self.resource_id.as_deref(),
            result: &self.result,
            address: self.address.as_deref(),
            details: self.details.get(),
            error: self.error.as_deref(),
        }
    }

    /// The details as the store holds them, where they are JSON on one line.
    /// What is not was changed behind our back: it is exported as a text, and
    /// the hash tells.
    pub fn details_of(stored: String) -> Box<RawValue> {
        let quoted = || serde_json::value::to_raw_value(&stored).unwrap_or_else(|_| RawValue::NULL.to_owned());
        if stored.contains(['\n', '\r']) {
            return quoted();
        }
        match RawValue::from_string(stored.clone()) {
            Ok(details) => details,
            Err(_) => quoted(),
        }
    }
}

/// Writes the encoding into the hash.
struct Encoder(Sha256);

impl Encoder {
    fn new(domain: &str) -> Self {
        let mut encoder = Self(Sha256::new());
        encoder.text(domain);
        encoder
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn number(&mut self, n: u64) {
        self.raw(&n.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.raw(text.as_bytes());
    }

    fn option(&mut self, text: Option<&str>) {
        match text {
            None => self.raw(&[0]),
            Some(text) => {
                self.raw(&[1]);
                self.text(text);
            }
        }
    }

    fn finish(self) -> Hash {
        Hash(self.0.finalize().into())
    }
}

#[cfg(test)]
mod chain_tests;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tamper_tests;
#[cfg(test)]
mod tests;

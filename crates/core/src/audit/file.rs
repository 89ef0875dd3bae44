//! The lines of an exported log and of an anchor file, each one JSON document:
//! `begin`, then the digests, the records by position, those not linked yet,
//! and `end`.

use super::bytes::{Hash, PublicKey};
use super::{Digest, Record};
use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// One line of an exported log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    Begin(Begin),
    Digest(Digest),
    Record(Box<Record>),
    End(Digest),
}

/// Where the log begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    /// Of the format: 1.
    pub version: u32,
    pub tenant: Option<String>,
    /// The first position; above 1 where retention removed earlier ones.
    pub from: u64,
    /// The hash before it.
    pub prev: Hash,
    pub time: Timestamp,
    pub key: PublicKey,
}

/// One line of an anchor file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorLine {
    /// The store's number of the digest; none for one of an export.
    pub id: Option<u64>,
    pub digest: Digest,
}

impl Line {
    /// With the line break. None for what does not serialise, which is
    /// nothing of ours.
    pub fn text(&self) -> Option<String> {
        serde_json::to_string(self).ok().map(|text| text + "\n")
    }
}

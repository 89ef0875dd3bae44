//! What the verifier found.

use super::{DigestKind, Hash, PublicKey};
use serde::Serialize;

/// What is wrong at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    #[error("the line cannot be read: {why}")]
    Unreadable { why: String },
    #[error("the file does not begin with the line `begin`: its start was removed, or it is no exported log")]
    NoBegin,
    #[error("the chain begins at {from}, and no signed cut says that what came before was removed by retention")]
    BeginsUnfounded { from: u64 },
    #[error("the line `begin` names another hash or position than the first record follows")]
    BeginsElsewhere,
    #[error("a line of this kind does not belong here")]
    OutOfPlace,
    #[error("it is of another tenant")]
    OtherTenant,
    #[error("its content was changed: it does not give its hash")]
    Altered,
    #[error("it does not follow the record before it: that one was replaced, or this one belongs to another chain")]
    Unlinked,
    #[error("the records from {from} to {to} are missing before it")]
    Missing { from: u64, to: u64 },
    #[error("it stands in another order than it was linked in")]
    OutOfOrder,
    #[error("it is there twice")]
    Repeated,
    #[error("there is another record at this position: the chain forks")]
    Forked,
    #[error("the chain was made anew: a signed digest ({kind} {number}) has the hash {signed} here, the file {found}",
        kind = .kind.as_str())]
    Rewritten { kind: DigestKind, number: u64, signed: Hash, found: Hash },
    #[error("the records from {from} to {to} are missing at the end: a signed digest covers them")]
    TailMissing { from: u64, to: u64 },
    #[error("the file has no line `end`: it was cut off")]
    NoEnd,
    #[error("the line `end` tells of other records than the file holds")]
    EndsElsewhere,
    #[error("the signature is not of this digest, or the digest was changed")]
    BadSignature,
    #[error("it is signed with a key that is not trusted: {key}")]
    UnknownKey { key: PublicKey },
    #[error("the digest {number} is missing")]
    DigestMissing { number: u64 },
    #[error("there are two digests of the number {number}: a part was signed again")]
    SignedTwice { number: u64 },
    #[error("the digest does not follow the one before it")]
    DigestUnlinked,
    #[error("a backup was restored here: the records from {from} on that were signed before are lost")]
    Restored { from: u64 },
}

/// A fault with its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Of the log, or of the anchor file; none: of either as a whole.
    pub line: Option<u64>,
    pub in_anchor: bool,
    pub position: Option<u64>,
    pub sequence: Option<u64>,
    pub fault: Fault,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(line) = self.line {
            write!(f, "{} {line}: ", if self.in_anchor { "anchor line" } else { "line" })?;
        } else if self.in_anchor {
            f.write_str("anchor: ")?;
        }
        if let Some(position) = self.position {
            write!(f, "record {position}")?;
            if let Some(sequence) = self.sequence {
                write!(f, " (id {sequence})")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{}", self.fault)
    }
}

/// What was read, and what is wrong with it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// None: of the platform, or not told.
    pub tenant: Option<String>,
    /// Linked records, and where they begin and end.
    pub records: u64,
    pub first: Option<u64>,
    pub last: Option<u64>,
    pub head: Option<Hash>,
    /// Records without a place in the chain yet: their count and first id.
    pub unsealed: u64,
    pub unsealed_from: Option<u64>,
    /// Digests with a good signature.
    pub digests: u64,
    /// Backups that were restored and that the caller knows of.
    pub restores: u64,
    /// The last position that a digest of the anchor file covers.
    pub anchored_to: Option<u64>,
    /// The keys that signed.
    pub keys: Vec<PublicKey>,
    /// Whether those keys were given by the caller. If not, signatures prove
    /// that the file agrees with itself and nothing more.
    pub keys_trusted: bool,
    pub findings: Vec<Finding>,
    /// Beyond those kept.
    pub more_findings: u64,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

//! Rows and requests of the audit log and its chains.

use aether_core::audit::{Digest, Hash, Record, Signature};
use aether_core::{TenantId, TenantScope, Timestamp};

/// Whose records.
#[derive(Clone, Debug)]
pub enum AuditOf {
    Tenant(TenantScope),
    /// Those of no tenant: nodes, for the operators of the platform.
    Platform,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    pub sequence: u64,
    pub at: Timestamp,
    /// None: of the platform.
    pub tenant: Option<TenantId>,
    pub actor: String,
    pub action: String,
    pub resource: String,
    pub resource_id: Option<String>,
    pub result: String,
    pub address: Option<String>,
    pub details: serde_json::Value,
    pub error: Option<String>,
    /// Its place in the chain, once it is linked.
    pub position: Option<u64>,
    pub hash: Option<Hash>,
}

/// Newest first; at most `limit` (1 to 1000) below `before`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    pub actor: Option<String>,
    pub action: Option<String>,
    pub resource: Option<String>,
    pub resource_id: Option<String>,
    pub result: Option<String>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// The `sequence` of the last row of the page before.
    pub before: Option<u64>,
    /// Instead: linked ones alone, oldest first, after this position.
    pub after: Option<u64>,
    pub limit: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditPage {
    pub rows: Vec<AuditRow>,
    /// All that match the filter, counted to 10,000 and no further.
    pub total: u64,
    /// There are more.
    pub more: bool,
}

/// How far a chain is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditHead {
    /// None: the platform's.
    pub tenant: Option<String>,
    pub position: u64,
    pub hash: Hash,
    /// The last position that retention removed, and its hash: what the first
    /// record that is kept follows.
    pub floor: u64,
    pub floor_hash: Hash,
    pub digest_to: u64,
    pub digest_number: u64,
    pub digest_signature: Option<Signature>,
}

/// A page of an exported log, as of one moment.
#[derive(Clone, Debug)]
pub struct AuditExport {
    pub head: AuditHead,
    /// Linked ones, by position.
    pub linked: Vec<Record>,
    /// Where no more linked ones follow: those that are not linked yet.
    pub unlinked: Vec<Record>,
    /// There are more of either kind.
    pub more: bool,
}

/// What retention may remove of a chain: what `signed` covers. `hash` is what
/// the chain has where that ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditCut {
    pub head: AuditHead,
    pub signed: KeptDigest,
    pub hash: Hash,
}

/// A digest as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptDigest {
    /// Rises over all chains, in the order in which they were kept.
    pub id: u64,
    pub digest: Digest,
}

//! The rows and requests of the store, as its callers see them.

mod auth;
mod key;
mod tenant;

pub use auth::{NewSession, NewUser, Refreshed, SessionRow, Subject, UserChange, UserRow};
pub use key::*;
pub use tenant::{NewTenant, QuotaRow, TenantChange, TenantErasure, TenantRow};

use aether_core::api::{AgentFailure, NodeAmounts};
use aether_core::state::{Desired, Observed};
use aether_core::tenant::RunSize;
use aether_core::{AgentId, AgentName, AgentSpec, ExecId, KeyId, NodeId, TenantId, Timestamp};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::error::StoreError;

mod audit;
pub use audit::*;
mod secret;
pub use secret::*;

/// An agent as the store knows it. The env's values are apart, sealed.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentRow {
    pub id: AgentId,
    pub tenant: TenantId,
    pub name: AgentName,
    pub alias: Option<AgentName>,
    pub spec: AgentSpec,
    pub env_names: Vec<String>,
    /// Which versions the run was given when it began.
    pub secret_versions: BTreeMap<String, u64>,
    pub desired: Desired,
    pub observed: Observed,
    /// Rises with every write of the row.
    pub version: u64,
    /// Rises with each change of desire and each placement.
    pub generation: u64,
    /// Fields changed since this run began that hold from the next start on.
    pub pending_restart: Vec<String>,
    /// Set from the first placement on: the writable disk is there.
    pub node_id: Option<NodeId>,
    /// Whether this run of the agent is handed to `node_id`. A started agent
    /// that waits for room on its node has a node and is not assigned.
    pub assigned: bool,
    pub isolation: Option<String>,
    pub engine: Option<String>,
    pub disk_encryption: Option<String>,
    pub image_digest: Option<String>,
    pub placement_reason: Option<String>,
    pub queue_position: Option<u32>,
    pub exit_code: Option<i32>,
    pub exit_signal: Option<String>,
    pub restarts: u32,
    pub unhealthy: bool,
    pub unhealthy_reason: Option<String>,
    pub error: Option<AgentFailure>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub stopped_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub force: bool,
    pub stop_timeout_ms: Option<u32>,
    /// What the run that goes on was begun with, where the spec says otherwise
    /// by now.
    pub run: Option<RunSize>,
    /// The key that made it, and in whose budget it counts.
    pub key: Option<KeyId>,
}

/// What makes a repeated request recognisable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    pub key: String,
    /// SHA-256 of what was asked.
    pub request_hash: [u8; 32],
}

/// An agent to be created. `desired` is running in every case today.
#[derive(Clone)]
pub struct NewAgent {
    pub id: AgentId,
    pub name: AgentName,
    pub alias: Option<AgentName>,
    pub spec: AgentSpec,
    pub env: BTreeMap<String, String>,
    pub idempotency: Option<Idempotency>,
}

impl fmt::Debug for NewAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewAgent").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Created {
    pub agent: AgentRow,
    /// The key was used before: this is what the first request made, as it is
    /// now (`desired` may be gone by now).
    pub replayed: bool,
}

/// An agent after a patch, and which fields that changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Updated {
    pub agent: AgentRow,
    pub changed: Vec<&'static str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentFilter {
    /// Any of these; empty: all.
    pub status: Vec<Observed>,
    /// Exact pairs, all of them.
    pub labels: BTreeMap<String, String>,
    pub metadata: BTreeMap<String, String>,
    /// Any of these, as the specs spell them, or as digests of what runs.
    pub images: Vec<String>,
    pub name_prefix: Option<String>,
    /// At this time or later.
    pub created_after: Option<Timestamp>,
    /// Before this time.
    pub created_before: Option<Timestamp>,
}

/// `cursor` wins over `page` (from 1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    pub limit: u32,
    pub cursor: Option<String>,
    pub page: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AgentPage {
    pub rows: Vec<AgentRow>,
    /// All that match the filter.
    pub total: u64,
    pub next_cursor: Option<String>,
}

/// How to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DesireOptions {
    pub force: bool,
    pub stop_timeout_ms: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecIntent {
    pub exec_id: ExecId,
    /// The store keeps at most 4 KiB of it.
    pub command: Vec<String>,
    pub user: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecIntentOutcome {
    /// The first request's id where replayed.
    pub exec_id: ExecId,
    /// The first request's agent; none: its record is no longer kept.
    pub agent_id: Option<AgentId>,
    pub replayed: bool,
    /// Of the first request.
    pub started_at: Timestamp,
    /// What is recorded of its end so far.
    pub end: Option<ExecEnd>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecEnd {
    /// exited, unknown, refused …
    pub outcome: String,
    pub exit_code: Option<i32>,
    pub exit_signal: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRow {
    pub exec_id: ExecId,
    pub agent_id: AgentId,
    pub command: Vec<String>,
    pub user: Option<String>,
    pub actor: String,
    pub started_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub end: Option<ExecEnd>,
}

/// One audit record to be written by itself: a denial, a log-in, a read.
/// Changes write theirs inside their own transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    pub action: String,
    pub resource: String,
    pub resource_id: Option<String>,
    /// success, failure, denied
    pub result: String,
    pub details: serde_json::Value,
    pub error: Option<String>,
}

/// The fence of the control plane: made by `take_leadership` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    pub(crate) value: u64,
}

impl Epoch {
    pub fn value(&self) -> u64 {
        self.value
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeadershipRow {
    pub epoch: u64,
    pub server_id: Option<String>,
    pub renewed_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceRequest {
    pub agent_id: AgentId,
    pub expected_version: u64,
    pub node_id: NodeId,
    pub reason: String,
}

/// What a node says of itself at the start of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeHelloRow {
    pub node_id: NodeId,
    pub version: String,
    /// Raised by each start of the node.
    pub node_epoch: u64,
    pub features: Vec<String>,
    pub capacity: NodeAmounts,
    pub labels: BTreeMap<String, String>,
    pub engine: String,
    pub isolation: String,
    pub data_address: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatRow {
    pub boots_queued: u32,
    pub boots_running: u32,
    pub sandboxes: u32,
    pub memory_free_mb: u64,
    pub disk_free_mb: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeStatus {
    Ready,
    Cordoned,
    Draining,
    Lost,
}

impl NodeStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            NodeStatus::Ready => "ready",
            NodeStatus::Cordoned => "cordoned",
            NodeStatus::Draining => "draining",
            NodeStatus::Lost => "lost",
        }
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        [NodeStatus::Ready, NodeStatus::Cordoned, NodeStatus::Draining, NodeStatus::Lost]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    pub id: NodeId,
    pub status: NodeStatus,
    pub version: String,
    pub node_epoch: u64,
    pub features: Vec<String>,
    pub capacity: NodeAmounts,
    pub reserved: NodeAmounts,
    /// Agents whose disk is on it.
    pub agents: u64,
    pub labels: BTreeMap<String, String>,
    pub engine: String,
    pub isolation: String,
    pub data_address: Option<String>,
    pub heartbeat: HeartbeatRow,
    pub registered_at: Timestamp,
    pub lease_renewed_at: Timestamp,
}

/// What a node is to do about one agent.
#[derive(Clone, PartialEq)]
pub struct Assignment {
    pub agent: AgentRow,
    /// The row's desire, but `stopped` while it waits for room on its node.
    pub desired: Desired,
    /// In clear, for the guest alone: never logged.
    pub env: BTreeMap<String, String>,
}

impl fmt::Debug for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assignment")
            .field("agent", &self.agent.id)
            .field("generation", &self.agent.generation)
            .field("desired", &self.desired)
            .finish_non_exhaustive()
    }
}

/// What a node says about one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportRow {
    pub agent_id: AgentId,
    pub generation: u64,
    pub observed: Observed,
    pub exit_code: Option<i32>,
    pub exit_signal: Option<String>,
    pub error: Option<AgentFailure>,
    pub started_at: Option<Timestamp>,
    pub stopped_at: Option<Timestamp>,
    pub isolation: Option<String>,
    pub engine: Option<String>,
    pub disk_encryption: Option<String>,
    pub queue_position: Option<u32>,
    pub restarts: u32,
    pub image_digest: Option<String>,
    pub unhealthy: bool,
    pub unhealthy_reason: Option<String>,
    /// Rises with every report of a node epoch; 0: not counted.
    pub sequence: u64,
}

impl ReportRow {
    /// A report of a state and nothing else.
    pub fn of(agent_id: AgentId, generation: u64, observed: Observed) -> Self {
        Self {
            agent_id,
            generation,
            observed,
            exit_code: None,
            exit_signal: None,
            error: None,
            started_at: None,
            stopped_at: None,
            isolation: None,
            engine: None,
            disk_encryption: None,
            queue_position: None,
            restarts: 0,
            image_digest: None,
            unhealthy: false,
            unhealthy_reason: None,
            sequence: 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportOutcome {
    pub agent_id: AgentId,
    pub result: ReportResult,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportResult {
    /// Written; `from == to` where only facts changed.
    Applied { from: Observed, to: Observed },
    /// The row says so already.
    Unchanged,
    /// Of an older generation, or overtaken by a later report.
    Stale,
    /// Unknown, confirmed gone, or not on this node: the node should not
    /// have it.
    NotHere,
    /// No chain of the node's own edges leads there.
    Refused { from: Observed, to: Observed },
}

/// A place in the outbox: everything up to it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventCursor {
    /// PostgreSQL's transaction number; 0 on SQLite, whose one writer numbers
    /// in commit order.
    pub(crate) transaction: u64,
    pub(crate) sequence: u64,
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.transaction, self.sequence)
    }
}

impl FromStr for EventCursor {
    type Err = StoreError;
    fn from_str(text: &str) -> Result<Self, StoreError> {
        let number = |t: &str| -> Option<u64> {
            let plain = !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| t.parse::<u64>().ok()).flatten().filter(|n| i64::try_from(*n).is_ok())
        };
        let (a, b) = text.split_once('-').ok_or(StoreError::BadCursor)?;
        match (number(a), number(b)) {
            (Some(transaction), Some(sequence)) => Ok(Self { transaction, sequence }),
            _ => Err(StoreError::BadCursor),
        }
    }
}

/// One thing that happened. Written in the transaction of the change.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    pub cursor: EventCursor,
    pub at: Timestamp,
    /// None: of the platform (nodes).
    pub tenant: Option<TenantId>,
    /// `agent.created`, `agent.desired`, `agent.placed`, `agent.observed`,
    /// `agent.updated`, `agent.secrets`, `agent.waiting`, `agent.gone`, `node.registered`, `node.lost` …
    pub kind: String,
    pub agent_id: Option<AgentId>,
    /// What the agent is called now; of a tenant's events only.
    pub agent_name: Option<String>,
    pub node_id: Option<NodeId>,
    pub version: u64,
    pub generation: u64,
    pub desired: Option<Desired>,
    pub observed: Option<Observed>,
    pub data: serde_json::Value,
}

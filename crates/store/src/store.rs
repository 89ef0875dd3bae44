//! [`Store`]: the functions that the control plane calls. Each one only names
//! its operation; what it does and guarantees is in `ops`.

use crate::error::StoreError;
use crate::model::*;
use crate::seal::SealKey;
use aether_core::state::Desired;
use aether_core::{AgentId, Clock, KeyId, NodeId, Rng, Secret, TenantId, TenantScope};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Which engine, and where.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    Sqlite { path: PathBuf },
    Postgres { url: Secret, max_connections: u32 },
}

/// The store; cheap to clone.
#[derive(Clone)]
pub struct Store;

fn not_yet<T>() -> Result<T, StoreError> {
    Err(StoreError::internal("being written"))
}

#[allow(unused_variables, clippy::unused_async, reason = "signatures first; bodies follow within minutes")]
impl Store {
    /// Opens a database whose schema fits this program; does not migrate.
    pub async fn open(
        cfg: StoreConfig,
        seal: SealKey,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
    ) -> Result<Store, StoreError> {
        not_yet()
    }
    /// Opens without a look at the schema: for `migrate_up` and friends.
    pub async fn connect(
        cfg: StoreConfig,
        seal: SealKey,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
    ) -> Result<Store, StoreError> {
        not_yet()
    }
    /// Refuses a schema that is too old, too new or changed.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        not_yet()
    }
    /// Applies every migration that is missing; returns their numbers. Safe beside other migrators.
    pub async fn migrate_up(&self) -> Result<Vec<u32>, StoreError> {
        not_yet()
    }
    /// Takes back the newest `steps` migrations and the data in their tables.
    pub async fn migrate_down(&self, steps: u32) -> Result<Vec<u32>, StoreError> {
        not_yet()
    }
    /// (current, newest that this program knows).
    pub async fn schema_version(&self) -> Result<(u32, u32), StoreError> {
        not_yet()
    }
    /// Round trip of the smallest read.
    pub async fn ping(&self) -> Result<Duration, StoreError> {
        not_yet()
    }
    /// Stops background work and closes connections once running operations ended.
    pub async fn close(&self) {}

    pub async fn create_tenant(&self, id: &TenantId, name: &str) -> Result<TenantRow, StoreError> {
        not_yet()
    }
    pub async fn find_tenant(&self, id: &TenantId) -> Result<Option<TenantRow>, StoreError> {
        not_yet()
    }

    pub async fn create_agent(&self, scope: &TenantScope, new: NewAgent) -> Result<Created, StoreError> {
        not_yet()
    }
    pub async fn find_agent(&self, scope: &TenantScope, id_or_name: &str) -> Result<Option<AgentRow>, StoreError> {
        not_yet()
    }
    pub async fn list_agents(
        &self,
        scope: &TenantScope,
        filter: AgentFilter,
        page: PageRequest,
    ) -> Result<AgentPage, StoreError> {
        not_yet()
    }
    pub async fn agent_env(&self, scope: &TenantScope, id: &AgentId) -> Result<BTreeMap<String, String>, StoreError> {
        not_yet()
    }
    pub async fn set_desired(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        desired: Desired,
        options: DesireOptions,
        expected_version: Option<u64>,
    ) -> Result<AgentRow, StoreError> {
        not_yet()
    }

    pub async fn record_exec(
        &self,
        scope: &TenantScope,
        agent: &AgentId,
        intent: ExecIntent,
        idempotency: Option<Idempotency>,
    ) -> Result<ExecIntentOutcome, StoreError> {
        not_yet()
    }
    pub async fn finish_exec(
        &self,
        scope: &TenantScope,
        exec_id: &aether_core::ExecId,
        end: ExecEnd,
    ) -> Result<(), StoreError> {
        not_yet()
    }
    pub async fn list_execs(
        &self,
        scope: &TenantScope,
        agent: &AgentId,
        limit: u32,
    ) -> Result<Vec<ExecRow>, StoreError> {
        not_yet()
    }

    pub async fn audit(&self, scope: &TenantScope, entry: AuditEntry) -> Result<(), StoreError> {
        not_yet()
    }
    pub async fn audit_list(&self, scope: &TenantScope, filter: AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        not_yet()
    }

    pub async fn create_key(&self, scope: &TenantScope, new: NewKey) -> Result<KeyRow, StoreError> {
        not_yet()
    }
    /// Revoked and expired keys too: the caller judges with [`KeyRow::usable`].
    pub async fn find_key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<KeyRow>, StoreError> {
        not_yet()
    }
    pub async fn list_keys(&self, scope: &TenantScope) -> Result<Vec<KeyRow>, StoreError> {
        not_yet()
    }
    pub async fn revoke_key(&self, scope: &TenantScope, id: &KeyId) -> Result<(), StoreError> {
        not_yet()
    }
    pub async fn touch_key(&self, id: &KeyId) -> Result<(), StoreError> {
        not_yet()
    }
    /// Keys of all tenants that are not revoked.
    pub async fn count_keys(&self) -> Result<u64, StoreError> {
        not_yet()
    }

    pub async fn take_leadership(&self, server_id: &str) -> Result<Epoch, StoreError> {
        not_yet()
    }
    pub async fn renew_leadership(&self, epoch: &Epoch) -> Result<(), StoreError> {
        not_yet()
    }
    pub async fn leadership(&self) -> Result<LeadershipRow, StoreError> {
        not_yet()
    }
    pub async fn pending_agents(&self, limit: u32) -> Result<Vec<AgentRow>, StoreError> {
        not_yet()
    }
    pub async fn place(&self, epoch: &Epoch, request: PlaceRequest) -> Result<AgentRow, StoreError> {
        not_yet()
    }
    /// One result per request, in order; one transaction for all.
    pub async fn place_batch(
        &self,
        epoch: &Epoch,
        requests: Vec<PlaceRequest>,
    ) -> Result<Vec<Result<AgentRow, StoreError>>, StoreError> {
        not_yet()
    }
    pub async fn explain_pending(&self, epoch: &Epoch, agent: &AgentId, reason: &str) -> Result<(), StoreError> {
        not_yet()
    }

    pub async fn register_node(&self, hello: NodeHelloRow) -> Result<(), StoreError> {
        not_yet()
    }
    pub async fn renew_node(&self, node: &NodeId, node_epoch: u64, heartbeat: HeartbeatRow) -> Result<(), StoreError> {
        not_yet()
    }
    pub async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        not_yet()
    }
    pub async fn expire_nodes(&self, epoch: &Epoch, lease: Duration) -> Result<Vec<AgentId>, StoreError> {
        not_yet()
    }
    pub async fn assignments(&self, node: &NodeId) -> Result<Vec<Assignment>, StoreError> {
        not_yet()
    }
    /// Those of `agents` that are on the node: for a delta after events.
    pub async fn assignments_among(&self, node: &NodeId, agents: Vec<AgentId>) -> Result<Vec<Assignment>, StoreError> {
        not_yet()
    }
    pub async fn apply_reports(
        &self,
        node: &NodeId,
        node_epoch: u64,
        reports: Vec<ReportRow>,
    ) -> Result<Vec<ReportOutcome>, StoreError> {
        not_yet()
    }
    /// A row by id whatever its tenant, gone or not: for the control plane's own work.
    pub async fn agent_by_id(&self, id: &AgentId) -> Result<Option<AgentRow>, StoreError> {
        not_yet()
    }

    pub async fn events_after(
        &self,
        cursor: EventCursor,
        limit: u32,
    ) -> Result<(Vec<EventRow>, EventCursor), StoreError> {
        not_yet()
    }
    pub async fn tenant_events_after(
        &self,
        scope: &TenantScope,
        cursor: EventCursor,
        limit: u32,
    ) -> Result<(Vec<EventRow>, EventCursor), StoreError> {
        not_yet()
    }
    /// The end of the outbox, to follow from.
    pub async fn events_end(&self) -> Result<EventCursor, StoreError> {
        not_yet()
    }
    /// Wakes after each commit that wrote events. A hint: read by cursor, and poll as a fallback.
    pub fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
    /// Removes events, tombstones and idempotency keys from before `older_than` ago; returns how many rows.
    pub async fn prune(&self, older_than: Duration) -> Result<u64, StoreError> {
        not_yet()
    }
}

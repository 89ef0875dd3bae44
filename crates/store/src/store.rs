//! [`Store`]: the functions that the control plane calls. Each one only names
//! its operation; what it does and guarantees is in `ops`. Those that take an
//! idempotency key are in `keyed`, those whose rows are kept in memory in
//! `kept`, the control plane's own in `scheduling`, tenants in `tenancy`, keys,
//! service accounts and roles in `identity`, users and logins in `logins`,
//! secrets in `secrets`, the audit log's in `audit_log`.

mod audit_log;
mod identity;
mod kept;
mod keyed;
mod logins;
mod scheduling;
mod secrets;
mod tenancy;

pub use audit_log::AUDIT_LINKED_AT_ONCE;
pub use secrets::MasterKeyError;

use crate::error::StoreError;
use crate::migrate;
use crate::model::*;
use crate::ops::{agents, assign, audit, events, execs, listing, nodes, reports, update};
use crate::postgres::Postgres;
use crate::seal::SealKeys;
use crate::sqlite::Sqlite;
use crate::tx::{Context, OpFuture, Tx};
use aether_core::api::CheckedPatch;
use aether_core::state::Desired;
use aether_core::{AgentId, Clock, ExecId, NodeId, Observed, Rng, Secret, TenantScope, Timestamp};
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
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    context: Arc<Context>,
    changes: watch::Sender<u64>,
}

enum Engine {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

impl Store {
    async fn write<P, T, F>(&self, params: P, op: F) -> Result<T, StoreError>
    where
        P: Send + Sync + 'static,
        T: Send + 'static,
        F: for<'a> Fn(&'a mut dyn Tx, &'a Context, &'a P) -> OpFuture<'a, T> + Send + Sync + 'static,
    {
        match &self.inner.engine {
            Engine::Sqlite(engine) => engine.write(&self.inner.context, params, op).await,
            Engine::Postgres(engine) => engine.write(&self.inner.context, params, op).await,
        }
    }

    async fn read<P, T, F>(&self, params: P, op: F) -> Result<T, StoreError>
    where
        P: Send + Sync + 'static,
        T: Send + 'static,
        F: for<'a> Fn(&'a mut dyn Tx, &'a Context, &'a P) -> OpFuture<'a, T> + Send + Sync + 'static,
    {
        match &self.inner.engine {
            Engine::Sqlite(engine) => engine.read(&self.inner.context, params, op).await,
            Engine::Postgres(engine) => engine.read(&self.inner.context, params, op).await,
        }
    }
}

/// Opening, schema, health.
impl Store {
    /// Opens a database whose schema fits this program; does not migrate.
    pub async fn open(
        cfg: StoreConfig,
        seal: impl Into<SealKeys>,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
    ) -> Result<Store, StoreError> {
        let store = Self::connect(cfg, seal, clock, rng).await?;
        if let Err(error) = store.check_schema().await {
            store.close().await;
            return Err(error);
        }
        Ok(store)
    }

    /// Opens without a look at the schema: for `migrate_up` and friends.
    pub async fn connect(
        cfg: StoreConfig,
        seal: impl Into<SealKeys>,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
    ) -> Result<Store, StoreError> {
        let changes = watch::Sender::new(0);
        let engine = match &cfg {
            StoreConfig::Sqlite { path } => Engine::Sqlite(Sqlite::open(path, changes.clone()).await?),
            StoreConfig::Postgres { url, max_connections } => {
                Engine::Postgres(Postgres::open(url, *max_connections, changes.clone()).await?)
            }
        };
        let context = Arc::new(Context { clock, rng, seal: seal.into() });
        Ok(Store { inner: Arc::new(Inner { engine, context, changes }) })
    }

    /// Refuses a schema that is too old, too new or changed.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        self.read((), |tx, _, ()| Box::pin(migrate::check(tx))).await
    }

    /// Applies every step that is missing, each in a transaction of its own;
    /// returns their numbers. Safe beside other migrators.
    pub async fn migrate_up(&self) -> Result<Vec<u32>, StoreError> {
        let mut applied = Vec::new();
        while let Some(version) = self.write((), |tx, cx, ()| Box::pin(migrate::step_up(tx, cx))).await? {
            applied.push(version);
        }
        Ok(applied)
    }

    /// Takes back the newest `steps` steps **with the data in their tables**.
    pub async fn migrate_down(&self, steps: u32) -> Result<Vec<u32>, StoreError> {
        let mut undone = Vec::new();
        for _ in 0..steps {
            match self.write((), |tx, _, ()| Box::pin(migrate::step_down(tx))).await? {
                Some(version) => undone.push(version),
                None => break,
            }
        }
        Ok(undone)
    }

    /// (current, newest that this program knows).
    pub async fn schema_version(&self) -> Result<(u32, u32), StoreError> {
        Ok((self.read((), |tx, _, ()| Box::pin(migrate::version(tx))).await?, migrate::newest()))
    }

    /// The round trip of the smallest read.
    pub async fn ping(&self) -> Result<Duration, StoreError> {
        let start = self.inner.context.clock.monotonic();
        self.read((), |tx, _, ()| Box::pin(migrate::ping(tx))).await?;
        Ok(self.inner.context.clock.monotonic().saturating_sub(start))
    }

    /// Sees to it that a full disk stops no delete and no heartbeat, for some
    /// thousand of them: free pages in the file and a log long enough. Cheap
    /// where they are there; true: they were made. Not for PostgreSQL.
    pub async fn keep_reserve(&self) -> Result<bool, StoreError> {
        match &self.inner.engine {
            Engine::Sqlite(engine) => engine.keep_reserve().await,
            Engine::Postgres(_) => Ok(false),
        }
    }

    /// Takes nothing new; returns when what was taken is committed and the
    /// database is closed.
    pub async fn close(&self) {
        match &self.inner.engine {
            Engine::Sqlite(engine) => engine.close().await,
            Engine::Postgres(engine) => engine.close().await,
        }
    }

    /// Wakes after commits that wrote events. A hint: read by cursor, and
    /// poll each [`Store::poll_interval`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// How long a reader of events waits at most for a wake. Short where other
    /// servers write too and a notification can be missed; the embedded store
    /// has one writer, which wakes by itself.
    pub fn poll_interval(&self) -> Duration {
        match &self.inner.engine {
            Engine::Sqlite(_) => Duration::from_secs(5),
            Engine::Postgres(_) => Duration::from_secs(1),
        }
    }
}

/// A tenant's agents.
impl Store {
    /// One transaction: idempotency key, names, row, sealed env, event, audit.
    pub async fn create_agent(&self, scope: &TenantScope, new: NewAgent) -> Result<Created, StoreError> {
        self.write((scope.clone(), new), |tx, cx, (scope, new)| Box::pin(agents::create(tx, cx, scope, new))).await
    }

    /// For the operator: agents of all tenants by state, without those that
    /// are to be gone. States without any are left out.
    pub async fn count_agents(&self) -> Result<Vec<(Observed, u64)>, StoreError> {
        self.read((), |tx, _, ()| Box::pin(listing::count(tx))).await
    }

    /// The env in clear; the reading is audited.
    pub async fn agent_env(&self, scope: &TenantScope, id: &AgentId) -> Result<BTreeMap<String, String>, StoreError> {
        self.write((scope.clone(), id.clone()), |tx, cx, (scope, id)| Box::pin(agents::env(tx, cx, scope, id))).await
    }

    /// Changes name, labels, metadata, env and the rest of what a patch may
    /// touch; `VersionConflict` unless the row has one of the `expected`
    /// versions. A patch that changes nothing writes nothing.
    pub async fn update_agent(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        patch: CheckedPatch,
        expected: Option<Vec<u64>>,
    ) -> Result<Updated, StoreError> {
        self.write((scope.clone(), id.clone(), patch, expected), |tx, cx, (scope, id, patch, expected)| {
            Box::pin(update::update(tx, cx, scope, id, (patch, expected.as_deref())))
        })
        .await
    }

    /// Raises the generation; a wish that holds already changes nothing. `Gone`
    /// frees the names in the same transaction and works from every state;
    /// `Running` of an ended agent makes it pending, on its node if it has one.
    pub async fn set_desired(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        desired: Desired,
        options: DesireOptions,
        expected_version: Option<u64>,
    ) -> Result<AgentRow, StoreError> {
        self.write(
            (scope.clone(), id.clone(), desired, options, expected_version),
            |tx, cx, (scope, id, desired, options, expected_version)| {
                Box::pin(agents::set_desired(tx, cx, scope, id, (*desired, *options, *expected_version)))
            },
        )
        .await
    }
}

/// Execs and the audit.
impl Store {
    /// The first end counts.
    pub async fn finish_exec(&self, scope: &TenantScope, exec: &ExecId, end: ExecEnd) -> Result<(), StoreError> {
        self.write((scope.clone(), exec.clone(), end), |tx, cx, (scope, exec, end)| {
            Box::pin(execs::finish(tx, cx, scope, exec, end))
        })
        .await
    }

    /// Newest first.
    pub async fn list_execs(
        &self,
        scope: &TenantScope,
        agent: &AgentId,
        limit: u32,
    ) -> Result<Vec<ExecRow>, StoreError> {
        self.read((scope.clone(), agent.clone(), limit), |tx, _, (scope, agent, limit)| {
            Box::pin(execs::list(tx, scope, agent, *limit))
        })
        .await
    }

    /// An entry by itself: a denial, a log-in. Changes write their own.
    pub async fn audit(&self, scope: &TenantScope, entry: AuditEntry) -> Result<(), StoreError> {
        self.write((scope.clone(), entry), |tx, cx, (scope, entry)| Box::pin(audit::record(tx, cx, scope, entry))).await
    }
}

/// Nodes.
impl Store {
    /// A node's hello; an older node epoch is `Fenced`. Reservations stay.
    pub async fn register_node(&self, hello: NodeHelloRow) -> Result<(), StoreError> {
        self.write(hello, |tx, cx, hello| Box::pin(nodes::register(tx, cx, hello))).await
    }

    /// Renews the lease; brings a lost node back. True: it was lost, and what
    /// it has must be asked of it anew.
    pub async fn renew_node(
        &self,
        node: &NodeId,
        node_epoch: u64,
        heartbeat: HeartbeatRow,
    ) -> Result<bool, StoreError> {
        self.write((node.clone(), node_epoch, heartbeat), |tx, cx, (node, node_epoch, heartbeat)| {
            Box::pin(nodes::renew(tx, cx, node, (*node_epoch, *heartbeat)))
        })
        .await
    }

    pub async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        self.read((), |tx, _, ()| Box::pin(nodes::list(tx))).await
    }

    /// Marks nodes without renewal since `lease` as lost, and what runs there;
    /// returns the agents. `seen` is what the wall clock said when the caller
    /// last knew it to be right: where it leaps between that and the
    /// transaction, nobody is lost.
    pub async fn expire_nodes(
        &self,
        epoch: &Epoch,
        lease: Duration,
        seen: Timestamp,
    ) -> Result<Vec<AgentId>, StoreError> {
        self.write((epoch.clone(), lease, seen), |tx, cx, (epoch, lease, seen)| {
            Box::pin(nodes::expire(tx, cx, epoch, *lease, *seen))
        })
        .await
    }

    /// Every agent on the node that is not confirmed gone: the full set.
    pub async fn assignments(&self, node: &NodeId) -> Result<Vec<Assignment>, StoreError> {
        self.read(node.clone(), |tx, cx, node| Box::pin(assign::assignments(tx, cx, node, None))).await
    }

    /// Those of `agents` that are on the node: a delta, after events.
    pub async fn assignments_among(&self, node: &NodeId, agents: Vec<AgentId>) -> Result<Vec<Assignment>, StoreError> {
        self.read((node.clone(), agents), |tx, cx, (node, agents)| {
            Box::pin(assign::assignments(tx, cx, node, Some(agents)))
        })
        .await
    }

    /// One outcome per report, in order. Stale generations are ignored, illegal
    /// moves refused; the call as a whole is fenced by the node epoch.
    pub async fn apply_reports(
        &self,
        node: &NodeId,
        node_epoch: u64,
        reports: Vec<ReportRow>,
    ) -> Result<Vec<ReportOutcome>, StoreError> {
        self.write((node.clone(), node_epoch, reports), |tx, cx, (node, node_epoch, reports)| {
            Box::pin(reports::apply(tx, cx, node, (*node_epoch, reports)))
        })
        .await
    }
}

/// The outbox.
impl Store {
    /// Events of all tenants after the cursor (default: from the start), at most
    /// `limit` (1000), and where to go on. Skips none, also none that commit
    /// late.
    pub async fn events_after(
        &self,
        cursor: EventCursor,
        limit: u32,
    ) -> Result<(Vec<EventRow>, EventCursor), StoreError> {
        self.read((cursor, limit), |tx, _, (cursor, limit)| Box::pin(events::after(tx, None, *cursor, *limit))).await
    }

    /// The same of one tenant.
    pub async fn tenant_events_after(
        &self,
        scope: &TenantScope,
        cursor: EventCursor,
        limit: u32,
    ) -> Result<(Vec<EventRow>, EventCursor), StoreError> {
        self.read((scope.clone(), cursor, limit), |tx, _, (scope, cursor, limit)| {
            Box::pin(events::after(tx, Some(scope), *cursor, *limit))
        })
        .await
    }

    /// The end of the outbox, to follow from.
    pub async fn events_end(&self) -> Result<EventCursor, StoreError> {
        self.read((), |tx, _, ()| Box::pin(events::end(tx))).await
    }
}

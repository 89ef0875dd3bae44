//! Reading, locking and writing rows of `agents`.

use super::{audit, events};
use crate::error::StoreError;
use crate::model::AgentRow;
use crate::tx::{Context, Row, Tx, params, query_one, to_json};
use aether_core::api::AgentFailure;
use aether_core::state::Observed;
use aether_core::{AgentId, TenantScope};
use std::collections::BTreeMap;

/// In the order in which they are read.
pub(crate) const COLUMNS: &str = "error_code, error_message, id, tenant_id, name, alias, spec, env_names, desired, \
    observed, version, generation, pending_restart, node_id, assigned, isolation, engine, disk_encryption, \
    image_digest, placement_reason, queue_position, exit_code, exit_signal, restarts, unhealthy, unhealthy_reason, \
    created_ms, updated_ms, started_ms, stopped_ms, expires_ms, stop_force, stop_timeout_ms, report_epoch, \
    report_sequence";

pub(crate) fn decode(row: &Row) -> Result<AgentRow, StoreError> {
    let error = row.text_opt("error_code")?;
    let message = row.text_opt("error_message")?;
    Ok(AgentRow {
        id: row.parse("id")?,
        tenant: row.parse("tenant_id")?,
        name: row.parse("name")?,
        alias: row.parse_opt("alias")?,
        spec: row.json("spec")?,
        env_names: row.json("env_names")?,
        desired: row.parse("desired")?,
        observed: row.parse("observed")?,
        version: row.uint("version")?,
        generation: row.uint("generation")?,
        pending_restart: row.json("pending_restart")?,
        node_id: row.parse_opt("node_id")?,
        assigned: row.flag("assigned")?,
        isolation: row.text_opt("isolation")?,
        engine: row.text_opt("engine")?,
        disk_encryption: row.text_opt("disk_encryption")?,
        image_digest: row.text_opt("image_digest")?,
        placement_reason: row.text_opt("placement_reason")?,
        queue_position: row.small_opt("queue_position")?,
        exit_code: row.i32_opt("exit_code")?,
        exit_signal: row.text_opt("exit_signal")?,
        restarts: row.small("restarts")?,
        unhealthy: row.flag("unhealthy")?,
        unhealthy_reason: row.text_opt("unhealthy_reason")?,
        error: error.map(|code| AgentFailure { code, message: message.unwrap_or_default() }),
        created_at: row.time("created_ms")?,
        updated_at: row.time("updated_ms")?,
        started_at: row.time_opt("started_ms")?,
        stopped_at: row.time_opt("stopped_ms")?,
        expires_at: row.time_opt("expires_ms")?,
        force: row.flag("stop_force")?,
        stop_timeout_ms: row.small_opt("stop_timeout_ms")?,
    })
}

/// The latest report that was taken: its node epoch and its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReportMark {
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
}

/// Locks the row of a live agent of the tenant.
pub(crate) async fn lock_own(tx: &mut dyn Tx, scope: &TenantScope, id: &AgentId) -> Result<AgentRow, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM agents WHERE id = $1 AND tenant_id = $2 AND desired <> 'gone'{}",
        tx.dialect().for_update()
    );
    let row = query_one(tx, &sql, params![id.as_str(), scope.tenant().as_str()]).await?;
    decode(&row.ok_or(StoreError::no_agent())?)
}

/// Locks the row whatever its tenant and state: the control plane's own work.
pub(crate) async fn lock_any(tx: &mut dyn Tx, id: &AgentId) -> Result<Option<(AgentRow, ReportMark)>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM agents WHERE id = $1{}", tx.dialect().for_update());
    let Some(row) = query_one(tx, &sql, params![id.as_str()]).await? else { return Ok(None) };
    let mark = ReportMark { epoch: row.uint("report_epoch")?, sequence: row.uint("report_sequence")? };
    Ok(Some((decode(&row)?, mark)))
}

/// Whether the agent waits and no node has ever reported of it.
pub(crate) async fn never_begun(tx: &mut dyn Tx, row: &AgentRow) -> Result<bool, StoreError> {
    if row.observed != Observed::Pending {
        return Ok(false);
    }
    let sql = "SELECT id FROM agents WHERE id = $1 AND report_epoch = 0 AND report_sequence = 0";
    Ok(query_one(tx, sql, params![row.id.as_str()]).await?.is_some())
}

/// What a change leaves behind beside the row itself.
pub(crate) struct Trace<'a> {
    pub(crate) event: &'a str,
    pub(crate) data: serde_json::Value,
    /// None: facts that the node refreshes all the time; no audit record.
    pub(crate) action: Option<&'a str>,
}

/// Writes the row, its event and its audit record; raises the version.
pub(crate) async fn save(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    mut row: AgentRow,
    trace: Trace<'_>,
) -> Result<AgentRow, StoreError> {
    let held = row.version;
    row.version += 1;
    row.updated_at = cx.now();
    let error = row.error.as_ref();
    let changed = tx
        .execute(
            "UPDATE agents SET desired = $1, observed = $2, version = $3, generation = $4, node_id = $5, assigned = $6,
                isolation = $7, engine = $8, disk_encryption = $9, image_digest = $10, placement_reason = $11,
                queue_position = $12, exit_code = $13, exit_signal = $14, restarts = $15, unhealthy = $16,
                error_code = $17, error_message = $18, updated_ms = $19, started_ms = $20, stopped_ms = $21,
                expires_ms = $22, stop_force = $23, stop_timeout_ms = $24, name = $25, spec = $26, env_names = $27,
                pending_restart = $28, recovery = $29, unhealthy_reason = $30
             WHERE id = $31 AND version = $32",
            params![
                row.desired.as_str(),
                row.observed.as_str(),
                row.version,
                row.generation,
                row.node_id.as_ref().map(|n| n.as_str()),
                row.assigned,
                row.isolation.as_deref(),
                row.engine.as_deref(),
                row.disk_encryption.as_deref(),
                row.image_digest.as_deref(),
                row.placement_reason.as_deref(),
                row.queue_position,
                row.exit_code,
                row.exit_signal.as_deref(),
                row.restarts,
                row.unhealthy,
                error.map(|e| e.code.as_str()),
                error.map(|e| e.message.as_str()),
                row.updated_at,
                row.started_at,
                row.stopped_at,
                row.expires_at,
                row.force,
                row.stop_timeout_ms,
                row.name.as_str(),
                to_json(&row.spec)?,
                to_json(&row.env_names)?,
                to_json(&row.pending_restart)?,
                row.spec.recovery.as_str(),
                row.unhealthy_reason.as_deref(),
                row.id.as_str(),
                held,
            ],
        )
        .await?;
    if changed != 1 {
        // Locked before it was read: somebody wrote past the lock.
        return Err(StoreError::VersionConflict { current: held });
    }
    events::of_agent(tx, cx, &row, trace.event, &trace.data).await?;
    if let Some(action) = trace.action {
        audit::success(tx, cx, scope, action, "agent", Some(row.id.as_str()), trace.data).await?;
    }
    Ok(row)
}

/// Inserts a new row with its sealed env, names and labels.
pub(crate) async fn insert(tx: &mut dyn Tx, row: &AgentRow, env_sealed: Option<Vec<u8>>) -> Result<(), StoreError> {
    let inserted = tx
        .execute(
            "INSERT INTO agents (id, tenant_id, name, alias, spec, env_names, env_sealed, desired, observed, version,
                generation, assigned, restarts, unhealthy, created_ms, updated_ms, stop_force, image, recovery)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, 0, 0, $12, $13, 0, $14, $15)
             ON CONFLICT DO NOTHING",
            params![
                row.id.as_str(),
                row.tenant.as_str(),
                row.name.as_str(),
                row.alias.as_ref().map(|a| a.as_str()),
                to_json(&row.spec)?,
                to_json(&row.env_names)?,
                env_sealed,
                row.desired.as_str(),
                row.observed.as_str(),
                row.version,
                row.generation,
                row.created_at,
                row.updated_at,
                &row.spec.image,
                row.spec.recovery.as_str(),
            ],
        )
        .await?;
    if inserted != 1 {
        return Err(StoreError::AlreadyExists { what: "agent" });
    }
    for (kind, pairs) in [("label", &row.spec.labels), ("metadata", &row.spec.metadata)] {
        insert_labels(tx, row, kind, pairs).await?;
    }
    Ok(())
}

/// Writes pairs of one kind, of which there are none yet.
pub(crate) async fn insert_labels(
    tx: &mut dyn Tx,
    row: &AgentRow,
    kind: &str,
    pairs: &BTreeMap<String, String>,
) -> Result<(), StoreError> {
    for (key, value) in pairs {
        tx.execute(
            "INSERT INTO agent_labels (agent_id, tenant_id, kind, key, value) VALUES ($1, $2, $3, $4, $5)",
            params![row.id.as_str(), row.tenant.as_str(), kind, key, value],
        )
        .await?;
    }
    Ok(())
}

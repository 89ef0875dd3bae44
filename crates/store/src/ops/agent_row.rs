//! Reading, locking and writing rows of `agents`.

use super::{audit, events, quota, reach};
use crate::error::StoreError;
use crate::model::AgentRow;
use crate::tx::{Context, Row, Tx, Value, params, query_one, to_json};
use aether_core::api::AgentFailure;
use aether_core::state::Observed;
use aether_core::tenant::{RunSize, TenantStatus};
use aether_core::{AgentId, TenantScope};
use std::collections::BTreeMap;

/// In the order in which they are read.
pub(crate) const COLUMNS: &str = "error_code, error_message, id, tenant_id, name, alias, spec, env_names, secret_versions, desired, \
    observed, version, generation, pending_restart, node_id, assigned, isolation, engine, disk_encryption, \
    image_digest, placement_reason, queue_position, exit_code, exit_signal, restarts, unhealthy, unhealthy_reason, \
    created_ms, updated_ms, started_ms, stopped_ms, expires_ms, stop_force, stop_timeout_ms, \
    run_cpu_millicores, run_memory_mb, key_id, report_epoch, report_sequence";

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
        secret_versions: row.json("secret_versions")?,
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
        run: run_size(row)?,
        key: row.parse_opt("key_id")?,
    })
}

pub(crate) fn run_size(row: &Row) -> Result<Option<RunSize>, StoreError> {
    let (cpu, memory) = (row.int_opt("run_cpu_millicores")?, row.int_opt("run_memory_mb")?);
    let size = |(cpu, memory): (i64, i64)| {
        Some(RunSize { cpu_millicores: u64::try_from(cpu).ok()?, memory_mb: u64::try_from(memory).ok()? })
    };
    Ok(cpu.zip(memory).and_then(size))
}

/// The latest report that was taken: its node epoch and its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReportMark {
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
}

/// Locks the row of a live agent of the tenant, within the caller's reach.
pub(crate) async fn lock_own(tx: &mut dyn Tx, scope: &TenantScope, id: &AgentId) -> Result<AgentRow, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM agents WHERE id = $1 AND tenant_id = $2 AND desired <> 'gone'{}",
        tx.dialect().for_update()
    );
    let row = query_one(tx, &sql, params![id.as_str(), scope.tenant().as_str()]).await?;
    reach::found(scope, decode(&row.ok_or(StoreError::no_agent())?)?)
}

/// That there is a live agent of the tenant within the caller's reach, and
/// stays until the transaction ends, and that the tenant may begin something.
pub(crate) async fn lock_presence(tx: &mut dyn Tx, scope: &TenantScope, id: &AgentId) -> Result<(), StoreError> {
    let share = tx.dialect().for_share();
    let of = if share.is_empty() { "" } else { " OF a" };
    let mut values = params![id.as_str(), scope.tenant().as_str()];
    let within = match reach::condition(scope, &mut values).as_str() {
        "" => String::new(),
        condition => format!(" AND a.id IN (SELECT id FROM agents WHERE tenant_id = $2{condition})"),
    };
    let sql = format!(
        "SELECT t.status FROM agents a JOIN tenants t ON t.id = a.tenant_id
         WHERE a.id = $1 AND a.tenant_id = $2 AND a.desired <> 'gone'{within}{share}{of}"
    );
    let row = query_one(tx, &sql, values).await?;
    match row.ok_or(StoreError::no_agent())?.parse("status")? {
        TenantStatus::Active => Ok(()),
        status => Err(StoreError::TenantInactive { status }),
    }
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

/// Columns that a change may touch, with what is stored in them; the spec is
/// apart, since it is large and seldom changes.
fn columns(row: &AgentRow) -> [(&'static str, Value); 26] {
    let error = row.error.as_ref();
    [
        ("desired", row.desired.as_str().into()),
        ("observed", row.observed.as_str().into()),
        ("generation", row.generation.into()),
        ("node_id", row.node_id.as_ref().map(|n| n.as_str()).into()),
        ("assigned", row.assigned.into()),
        ("isolation", row.isolation.as_deref().into()),
        ("engine", row.engine.as_deref().into()),
        ("disk_encryption", row.disk_encryption.as_deref().into()),
        ("image_digest", row.image_digest.as_deref().into()),
        ("placement_reason", row.placement_reason.as_deref().into()),
        ("queue_position", row.queue_position.into()),
        ("exit_code", row.exit_code.into()),
        ("exit_signal", row.exit_signal.as_deref().into()),
        ("restarts", row.restarts.into()),
        ("unhealthy", row.unhealthy.into()),
        ("unhealthy_reason", row.unhealthy_reason.as_deref().into()),
        ("error_code", error.map(|e| e.code.as_str()).into()),
        ("error_message", error.map(|e| e.message.as_str()).into()),
        ("started_ms", row.started_at.into()),
        ("stopped_ms", row.stopped_at.into()),
        ("expires_ms", row.expires_at.into()),
        ("stop_force", row.force.into()),
        ("stop_timeout_ms", row.stop_timeout_ms.into()),
        ("run_cpu_millicores", row.run.map_or(Value::Int(None), |run| run.cpu_millicores.into())),
        ("run_memory_mb", row.run.map_or(Value::Int(None), |run| run.memory_mb.into())),
        ("name", row.name.as_str().into()),
    ]
}

/// What differs between the two. A column that is written anew costs an entry
/// in each index that has it, also where it says the same as before.
fn changes(before: &AgentRow, after: &AgentRow) -> Result<Vec<(&'static str, Value)>, StoreError> {
    let pairs = columns(before).into_iter().zip(columns(after));
    let mut changed: Vec<_> = pairs.filter(|(old, new)| old != new).map(|(_, new)| new).collect();
    if before.spec != after.spec {
        changed.push(("spec", to_json(&after.spec)?.into()));
        changed.push(("recovery", after.spec.recovery.as_str().into()));
    }
    if before.env_names != after.env_names {
        changed.push(("env_names", to_json(&after.env_names)?.into()));
    }
    if before.secret_versions != after.secret_versions {
        changed.push(("secret_versions", to_json(&after.secret_versions)?.into()));
    }
    if before.pending_restart != after.pending_restart {
        changed.push(("pending_restart", to_json(&after.pending_restart)?.into()));
    }
    Ok(changed)
}

/// Writes what differs from the row as it was locked, with its event, its audit
/// record and what the tenant holds; raises the version.
pub(crate) async fn save(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    before: &AgentRow,
    mut row: AgentRow,
    trace: Trace<'_>,
) -> Result<AgentRow, StoreError> {
    // First: what a quota refuses has written nothing.
    quota::moved(tx, before, &row).await?;
    row.version = before.version + 1;
    row.updated_at = cx.now();
    let mut values = params![row.version, row.updated_at];
    let mut sql = "UPDATE agents SET version = $1, updated_ms = $2".to_owned();
    for (column, value) in changes(before, &row)? {
        values.push(value);
        sql.push_str(&format!(", {column} = ${}", values.len()));
    }
    values.extend(params![row.id.as_str(), before.version]);
    sql.push_str(&format!(" WHERE id = ${} AND version = ${}", values.len() - 1, values.len()));
    if tx.execute(&sql, values).await? != 1 {
        // Locked before it was read: somebody wrote past the lock.
        return Err(StoreError::VersionConflict { current: before.version });
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
                generation, assigned, restarts, unhealthy, created_ms, updated_ms, stop_force, image, recovery,
                key_id, image_ref)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, 0, 0, $12, $13, 0, $14, $15, $16, $17)
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
                row.key.as_ref().map(|key| key.as_str()),
                aether_core::reach::canonical(&row.spec.image),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NewAgent;
    use crate::ops::agents;
    use crate::sqlite::memory;
    use aether_core::api::AgentConfig;
    use aether_core::id::DEFAULT_CELL;
    use aether_core::state::Desired;
    use aether_core::{NodeId, TenantId};
    use futures::FutureExt;

    /// Differs from `row` in all that a change may touch.
    fn changed(cx: &Context, row: &AgentRow) -> AgentRow {
        let (text, at) = (|t: &str| Some(t.to_owned()), row.created_at);
        let mut spec = row.spec.clone();
        spec.ttl_s = Some(60);
        spec.recovery = aether_core::spec::Recovery::Restart;
        AgentRow {
            name: "other".parse().expect("a name"),
            spec,
            env_names: vec!["A".into()],
            secret_versions: BTreeMap::from([("S".to_owned(), 8)]),
            desired: Desired::Stopped,
            observed: Observed::Failed,
            generation: 7,
            pending_restart: vec!["env".into()],
            node_id: Some(NodeId::generate(DEFAULT_CELL, &*cx.rng)),
            assigned: true,
            isolation: text("i"),
            engine: text("e"),
            disk_encryption: text("d"),
            image_digest: text("g"),
            placement_reason: text("p"),
            queue_position: Some(1),
            exit_code: Some(2),
            exit_signal: text("s"),
            restarts: 3,
            unhealthy: true,
            unhealthy_reason: text("u"),
            error: Some(AgentFailure { code: "c".into(), message: "m".into() }),
            started_at: Some(at),
            stopped_at: Some(at),
            expires_at: Some(at),
            force: true,
            stop_timeout_ms: Some(4),
            run: Some(RunSize { cpu_millicores: 5, memory_mb: 6 }),
            // What never changes, and what `save` sets.
            id: row.id.clone(),
            tenant: row.tenant.clone(),
            alias: row.alias.clone(),
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
            key: row.key.clone(),
        }
    }

    #[test]
    fn what_differs_is_written_and_nothing_else() {
        let cx = memory::context();
        let mut connection = memory::migrated(&cx);
        let mut tx = memory::tx(&mut connection);
        let scope = TenantScope::system(TenantId::default_tenant(), "test");
        let spec = AgentConfig::for_image("x").check().expect("valid").spec;
        let work = async {
            let new = NewAgent {
                id: AgentId::generate(DEFAULT_CELL, &*cx.rng),
                name: "one".parse().expect("a name"),
                alias: None,
                spec,
                env: BTreeMap::new(),
                idempotency: None,
            };
            let row = agents::create(&mut tx, &cx, &scope, &new).await?.agent;
            let mut explained = row.clone();
            explained.placement_reason = Some("no room".into());
            let named = |before, after| changes(before, after).map(|c| c.iter().map(|(n, _)| *n).collect::<Vec<_>>());
            assert_eq!(named(&row, &row)?, [""; 0]);
            assert_eq!(named(&row, &explained)?, ["placement_reason"]);
            let other = changed(&cx, &row);
            assert_eq!(named(&row, &other)?.len(), columns(&row).len() + 5);
            for next in [other, row.clone()] {
                let (before, _) = lock_any(&mut tx, &row.id).await?.expect("is there");
                let trace = Trace { event: "agent.updated", data: serde_json::json!({}), action: None };
                let saved = save(&mut tx, &cx, &scope, &before, next, trace).await?;
                let (read, _) = lock_any(&mut tx, &row.id).await?.expect("is there");
                assert_eq!(read, saved);
                assert_eq!(read.version, before.version + 1);
            }
            Ok::<_, StoreError>(())
        };
        work.now_or_never().expect("never waits").expect("saves");
    }
}

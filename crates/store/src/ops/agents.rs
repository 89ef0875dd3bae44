//! Creating and finding agents, their env, and what the user wants of them.

use super::agent_row::{self, COLUMNS, Trace, decode};
use super::desire::{self, Held};
use super::{audit, events, idempotency, nodes, quota, reach, reservation, secrets};
use crate::error::StoreError;
use crate::model::{AgentRow, Created, DesireOptions, NewAgent, NodeStatus};
use crate::tx::{Context, Tx, from_json, params, query_one, to_json};
use aether_core::state::{Desired, Observed};
use aether_core::{AgentId, AgentName, NodeId, TenantScope};
use serde_json::json;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// Kind of the idempotency keys of creates.
const KIND: &str = "agent.create";

/// One transaction: idempotency key, names, row, sealed env, event, audit.
pub(crate) async fn create(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    new: &NewAgent,
) -> Result<Created, StoreError> {
    let entered = quota::enter(tx, scope.tenant()).await?;
    if let Some(key) = &new.idempotency
        && let Some(first) = idempotency::claim(tx, cx, scope, KIND, key, new.id.as_str()).await?
    {
        let id: AgentId = first.parse().map_err(|_| StoreError::internal("an idempotency key names no agent"))?;
        // Gone too: the answer is about what the first request made.
        let (agent, _) = agent_row::lock_any(tx, &id).await?.ok_or(StoreError::no_agent())?;
        return Ok(Created { agent: reach::found(scope, agent)?, replayed: true });
    }
    entered.require_active()?;
    secrets::require(tx, scope.tenant(), &new.spec.secrets).await?;
    let mut row = fresh_row(cx, scope, new);
    reach::narrow(scope, &mut row.spec)?;
    let sealed = seal_env(cx, &row, &new.env)?;
    agent_row::insert(tx, &row, sealed).await?;
    claim_name(tx, &row, &row.name).await?;
    if let Some(alias) = row.alias.as_ref().filter(|a| **a != row.name) {
        claim_name(tx, &row, alias).await?;
    }
    let data = json!({ "name": row.name.as_str(), "image": &row.spec.image });
    events::of_agent(tx, cx, &row, "agent.created", &data).await?;
    audit::success(tx, cx, scope, "create", "agent", Some(row.id.as_str()), data).await?;
    quota::take(tx, &entered, &row).await?;
    Ok(Created { agent: row, replayed: false })
}

fn fresh_row(cx: &Context, scope: &TenantScope, new: &NewAgent) -> AgentRow {
    let now = cx.now();
    AgentRow {
        id: new.id.clone(),
        tenant: scope.tenant().clone(),
        name: new.name.clone(),
        alias: new.alias.clone(),
        spec: new.spec.clone(),
        env_names: new.env.keys().cloned().collect(),
        secret_versions: BTreeMap::new(),
        desired: Desired::Running,
        observed: Observed::Pending,
        version: 1,
        generation: 1,
        pending_restart: Vec::new(),
        node_id: None,
        assigned: false,
        isolation: None,
        engine: None,
        disk_encryption: None,
        image_digest: None,
        placement_reason: None,
        queue_position: None,
        exit_code: None,
        exit_signal: None,
        restarts: 0,
        unhealthy: false,
        unhealthy_reason: None,
        error: None,
        created_at: now,
        updated_at: now,
        started_at: None,
        stopped_at: None,
        expires_at: None,
        force: false,
        stop_timeout_ms: None,
        run: None,
        key: scope.key().cloned(),
    }
}

pub(crate) async fn claim_name(tx: &mut dyn Tx, row: &AgentRow, name: &AgentName) -> Result<(), StoreError> {
    let claimed = tx
        .execute(
            "INSERT INTO agent_names (tenant_id, name, agent_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            params![row.tenant.as_str(), name.as_str(), row.id.as_str()],
        )
        .await?;
    if claimed == 1 { Ok(()) } else { Err(StoreError::NameTaken { name: name.to_string() }) }
}

/// None where there is nothing to hide.
pub(crate) fn seal_env(
    cx: &Context,
    row: &AgentRow,
    env: &BTreeMap<String, String>,
) -> Result<Option<Vec<u8>>, StoreError> {
    if env.is_empty() {
        return Ok(None);
    }
    let clear = Zeroizing::new(to_json(env)?);
    let owner = [row.tenant.as_str(), row.id.as_str()];
    cx.seal.seal(&owner, clear.as_bytes(), &*cx.rng).map(Some)
}

/// Opens what [`seal_env`] closed.
pub(crate) fn open_env(
    cx: &Context,
    row: &AgentRow,
    sealed: Option<&[u8]>,
) -> Result<BTreeMap<String, String>, StoreError> {
    let Some(sealed) = sealed else { return Ok(BTreeMap::new()) };
    let clear = cx.seal.open(&[row.tenant.as_str(), row.id.as_str()], sealed)?;
    let text = std::str::from_utf8(&clear).map_err(|_| StoreError::Unsealable)?;
    from_json(text, "a sealed env")
}

/// By id, name or alias; live agents of the tenant only, whatever the caller
/// reaches: what is found is kept for all of the tenant's callers.
pub(crate) async fn find(
    tx: &mut dyn Tx,
    scope: &TenantScope,
    id_or_name: &str,
) -> Result<Option<AgentRow>, StoreError> {
    let tenant = scope.tenant().as_str();
    // Names never have the form of an id.
    let row = if id_or_name.parse::<AgentId>().is_ok() {
        let sql = format!("SELECT {COLUMNS} FROM agents WHERE id = $1 AND tenant_id = $2 AND desired <> 'gone'");
        query_one(tx, &sql, params![id_or_name, tenant]).await?
    } else if id_or_name.parse::<AgentName>().is_ok() {
        let sql = format!(
            "SELECT {COLUMNS} FROM agents WHERE desired <> 'gone' AND tenant_id = $1
             AND id = (SELECT agent_id FROM agent_names WHERE tenant_id = $1 AND name = $2)"
        );
        query_one(tx, &sql, params![tenant, id_or_name]).await?
    } else {
        None
    };
    row.as_ref().map(decode).transpose()
}

pub(crate) async fn by_id(tx: &mut dyn Tx, id: &AgentId) -> Result<Option<AgentRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM agents WHERE id = $1");
    query_one(tx, &sql, params![id.as_str()]).await?.as_ref().map(decode).transpose()
}

/// Values in clear, not audited: for changing them.
pub(crate) async fn read_env(
    tx: &mut dyn Tx,
    cx: &Context,
    row: &AgentRow,
) -> Result<BTreeMap<String, String>, StoreError> {
    let sealed = query_one(tx, "SELECT env_sealed FROM agents WHERE id = $1", params![row.id.as_str()]).await?;
    let sealed = sealed.map(|r| r.bytes_opt("env_sealed")).transpose()?.flatten();
    open_env(cx, row, sealed.as_deref())
}

/// Values in clear; the reading is audited in the same transaction.
pub(crate) async fn env(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    id: &AgentId,
) -> Result<BTreeMap<String, String>, StoreError> {
    let row = agent_row::lock_own(tx, scope, id).await?;
    let env = read_env(tx, cx, &row).await?;
    audit::success(tx, cx, scope, "read_env", "agent", Some(id.as_str()), json!({})).await?;
    Ok(env)
}

/// The node of a waiting agent, locked, where its lease is over.
async fn lost_node_of(tx: &mut dyn Tx, scope: &TenantScope, id: &AgentId) -> Result<Option<NodeId>, StoreError> {
    let sql = "SELECT node_id FROM agents WHERE id = $1 AND tenant_id = $2 AND observed = 'pending'";
    let row = query_one(tx, sql, params![id.as_str(), scope.tenant().as_str()]).await?;
    let Some(node) = row.map(|r| r.parse_opt::<NodeId>("node_id")).transpose()?.flatten() else { return Ok(None) };
    let locked = nodes::lock(tx, &node).await?;
    Ok(locked.is_none_or(|n| n.status == NodeStatus::Lost).then_some(node))
}

/// Changes what the user wants; [`desire::next`] judges. Repeating a wish
/// changes nothing.
pub(crate) async fn set_desired(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    id: &AgentId,
    (wanted, options, expected): (Desired, DesireOptions, Option<u64>),
) -> Result<AgentRow, StoreError> {
    // The node before the agent: everyone locks in this order.
    let lost = if wanted == Desired::Gone { lost_node_of(tx, scope, id).await? } else { None };
    let row = agent_row::lock_own(tx, scope, id).await?;
    if expected.is_some_and(|version| version != row.version) {
        return Err(StoreError::VersionConflict { current: row.version });
    }
    let never_begun = lost.is_some() && row.node_id == lost && agent_row::never_begun(tx, &row).await?;
    let held = if never_begun { Held::No } else { Held::Perhaps };
    let Some(next) = desire::next(&row, wanted, options, cx.now(), held)? else { return Ok(row) };
    if wanted == Desired::Running {
        quota::enter(tx, &row.tenant).await?.require_active()?;
        if let Some(name) = secrets::missing(tx, &row).await? {
            return Err(StoreError::SecretMissing { name });
        }
    }
    if held == Held::No {
        // Should the node come back, its full set does not have the agent.
        reservation::release_all(tx, id).await?;
    }
    if wanted == Desired::Gone {
        tx.execute("DELETE FROM agent_names WHERE agent_id = $1", params![id.as_str()]).await?;
        tx.execute("UPDATE agents SET env_sealed = NULL WHERE id = $1", params![id.as_str()]).await?;
    }
    if wanted == Desired::Running {
        // Who starts it by hand starts from the first try.
        let afresh = "UPDATE agents SET recoveries = 0, recovered_ms = NULL WHERE id = $1";
        tx.execute(afresh, params![id.as_str()]).await?;
    }
    let action = match wanted {
        Desired::Running => "start",
        Desired::Paused => "pause",
        Desired::Stopped => "stop",
        Desired::Gone => "delete",
    };
    let event = if next.observed == Observed::Gone { "agent.gone" } else { "agent.desired" };
    let data = json!({ "from": row.desired.as_str(), "to": wanted.as_str(), "force": next.force });
    agent_row::save(tx, cx, scope, &row, next, Trace { event, data, action: Some(action) }).await
}

//! Changing an agent that is there. What a patch means is judged in `core`;
//! here it is written: names, labels, sealed env, row, event and audit record
//! in one transaction.

use super::agent_row::{self, Trace};
use super::{agents, reach};
use crate::error::StoreError;
use crate::model::{AgentRow, Updated};
use crate::tx::{Context, Tx, params};
use aether_core::api::{CheckedPatch, Patchable, patch_field, waits_for_restart};
use aether_core::state::{Desired, Observed};
use aether_core::tenant::RunSize;
use aether_core::{AgentId, TenantScope};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// `expected`: the versions of which the row must have one. A patch that
/// changes nothing writes nothing.
pub(crate) async fn update(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    id: &AgentId,
    (patch, expected): (&CheckedPatch, Option<&[u64]>),
) -> Result<Updated, StoreError> {
    let row = agent_row::lock_own(tx, scope, id).await?;
    if expected.is_some_and(|versions| !versions.contains(&row.version)) {
        return Err(StoreError::VersionConflict { current: row.version });
    }
    let env = if patch.env.is_empty() { BTreeMap::new() } else { agents::read_env(tx, cx, &row).await? };
    let now = Patchable { name: row.name.clone(), spec: row.spec.clone(), env };
    // The disk is made by the first node that takes the agent.
    let has_disk = row.node_id.is_some();
    let (patched, changed) = patch.apply(&now, has_disk).map_err(|errors| StoreError::Invalid { errors })?;
    if changed.is_empty() {
        return Ok(Updated { agent: row, changed });
    }
    reach::keeps(scope, &patched.spec)?;
    let next = next_row(&row, &patched, &changed);
    write_names(tx, &row, &next).await?;
    write_spec(tx, cx, &next, &changed, &patched.env).await?;
    let data = json!({ "changed": &changed, "name": next.name.as_str() });
    let trace = Trace { event: "agent.updated", data, action: Some("update") };
    let agent = agent_row::save(tx, cx, scope, &row, next, trace).await?;
    Ok(Updated { agent, changed })
}

/// Whether a run has begun, or may have, on what the row said before.
fn run_began(row: &AgentRow) -> bool {
    row.assigned && row.desired != Desired::Gone && !matches!(row.observed, Observed::Stopped | Observed::Failed)
}

fn next_row(row: &AgentRow, patched: &Patchable, changed: &[&'static str]) -> AgentRow {
    let mut next = row.clone();
    next.name.clone_from(&patched.name);
    next.spec.clone_from(&patched.spec);
    if changed.contains(&patch_field::ENV) {
        next.env_names = patched.env.keys().cloned().collect();
    }
    if changed.contains(&patch_field::TTL) {
        // From the start of the run, as when it was created with it.
        let ttl = patched.spec.ttl_s.map(Duration::from_secs);
        next.expires_at = row.started_at.filter(|_| run_began(row)).zip(ttl).map(|(at, ttl)| at.plus(ttl));
    }
    if run_began(row) {
        if next.run.is_none() && changed.contains(&patch_field::RESOURCES) {
            next.run = Some(RunSize::of(row.spec.resources));
        }
        let waiting = changed.iter().filter(|field| waits_for_restart(field));
        next.pending_restart.extend(waiting.map(|field| (*field).to_owned()));
        next.pending_restart.sort();
        next.pending_restart.dedup();
    }
    next
}

/// Frees the old name, unless it is the alias too, and takes the new one.
async fn write_names(tx: &mut dyn Tx, row: &AgentRow, next: &AgentRow) -> Result<(), StoreError> {
    if row.name == next.name {
        return Ok(());
    }
    if row.alias.as_ref() != Some(&row.name) {
        tx.execute(
            "DELETE FROM agent_names WHERE tenant_id = $1 AND name = $2 AND agent_id = $3",
            params![row.tenant.as_str(), row.name.as_str(), row.id.as_str()],
        )
        .await?;
    }
    if row.alias.as_ref() == Some(&next.name) {
        return Ok(());
    }
    agents::claim_name(tx, next, &next.name).await
}

async fn write_spec(
    tx: &mut dyn Tx,
    cx: &Context,
    next: &AgentRow,
    changed: &[&'static str],
    env: &BTreeMap<String, String>,
) -> Result<(), StoreError> {
    for (field, kind, pairs) in
        [(patch_field::LABELS, "label", &next.spec.labels), (patch_field::METADATA, "metadata", &next.spec.metadata)]
    {
        if changed.contains(&field) {
            let clear = "DELETE FROM agent_labels WHERE agent_id = $1 AND kind = $2";
            tx.execute(clear, params![next.id.as_str(), kind]).await?;
            agent_row::insert_labels(tx, next, kind, pairs).await?;
        }
    }
    if changed.contains(&patch_field::ENV) {
        let sealed = agents::seal_env(cx, next, env)?;
        tx.execute("UPDATE agents SET env_sealed = $1 WHERE id = $2", params![sealed, next.id.as_str()]).await?;
    }
    Ok(())
}

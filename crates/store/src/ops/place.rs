//! The scheduler's writes, each fenced by its epoch.

use super::agent_row::{self, Trace};
use super::{events, leadership, nodes, quota, reservation};
use crate::error::StoreError;
use crate::model::{AgentRow, Epoch, NodeStatus, PlaceRequest};
use crate::tx::{Context, Tx};
use aether_core::state::{Desired, Observed};
use aether_core::{AgentId, NodeId, TenantScope};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// One result per request, in order. A refused one has written nothing and
/// does not touch the others; any other failure undoes all.
pub(crate) async fn place(
    tx: &mut dyn Tx,
    cx: &Context,
    epoch: &Epoch,
    requests: &[PlaceRequest],
) -> Result<Vec<Result<AgentRow, StoreError>>, StoreError> {
    leadership::check(tx, epoch).await?;
    let wanted: BTreeSet<&NodeId> = requests.iter().map(|r| &r.node_id).collect();
    let mut status = BTreeMap::new();
    for id in wanted {
        if let Some(node) = nodes::lock(tx, id).await? {
            status.insert(id.clone(), node.status);
        }
    }
    let mut results = Vec::with_capacity(requests.len());
    for request in requests {
        let placed = place_one(tx, cx, request, status.get(&request.node_id).copied()).await;
        match placed {
            Err(e) if !refusal(&e) => return Err(e),
            result => results.push(result),
        }
    }
    Ok(results)
}

fn refusal(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::NotFound { .. }
            | StoreError::VersionConflict { .. }
            | StoreError::IllegalState { .. }
            | StoreError::NoRoom { .. }
            | StoreError::TenantInactive { .. }
    )
}

async fn place_one(
    tx: &mut dyn Tx,
    cx: &Context,
    request: &PlaceRequest,
    node: Option<NodeStatus>,
) -> Result<AgentRow, StoreError> {
    let status = node.ok_or(StoreError::NotFound { what: "node" })?;
    let (before, _) = agent_row::lock_any(tx, &request.agent_id).await?.ok_or(StoreError::no_agent())?;
    let mut row = before.clone();
    if row.version != request.expected_version {
        return Err(StoreError::VersionConflict { current: row.version });
    }
    if row.desired != Desired::Running || row.observed != Observed::Pending || row.assigned {
        let (observed, desired) = (row.observed, row.desired);
        return Err(StoreError::IllegalState { observed, desired, wanted: Desired::Running });
    }
    if status != NodeStatus::Ready {
        return Err(StoreError::NoRoom { detail: format!("the node is {}", status.as_str()) });
    }
    quota::enter(tx, &row.tenant).await?.require_active()?;
    reservation::reserve(tx, cx, &row, &request.node_id).await?;
    row.node_id = Some(request.node_id.clone());
    row.assigned = true;
    row.generation += 1;
    row.placement_reason = Some(request.reason.clone());
    let scope = TenantScope::system(row.tenant.clone(), "scheduler");
    let data = json!({ "node": request.node_id.as_str(), "reason": &request.reason });
    agent_row::save(tx, cx, &scope, &before, row, Trace { event: "agent.placed", data, action: Some("place") }).await
}

/// Says why agents wait; writes only what is new, and nothing of those that
/// wait no more.
pub(crate) async fn explain(
    tx: &mut dyn Tx,
    cx: &Context,
    epoch: &Epoch,
    reasons: &[(AgentId, String)],
) -> Result<(), StoreError> {
    leadership::check(tx, epoch).await?;
    for (agent, reason) in reasons {
        explain_one(tx, cx, agent, reason).await?;
    }
    Ok(())
}

async fn explain_one(tx: &mut dyn Tx, cx: &Context, agent: &AgentId, reason: &str) -> Result<(), StoreError> {
    let Some((before, _)) = agent_row::lock_any(tx, agent).await? else { return Ok(()) };
    let mut row = before.clone();
    let waits = row.observed == Observed::Pending && !row.assigned && row.desired == Desired::Running;
    if !waits || row.placement_reason.as_deref() == Some(reason) {
        return Ok(());
    }
    row.placement_reason = Some(reason.to_owned());
    let scope = TenantScope::system(row.tenant.clone(), "scheduler");
    let data = json!({ "reason": reason });
    agent_row::save(tx, cx, &scope, &before, row, Trace { event: events::WAITING, data, action: None }).await?;
    Ok(())
}

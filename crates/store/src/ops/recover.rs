//! Starting agents again whose sandbox died unasked, where their spec says
//! so: three tries, half a minute apart; an hour of peace forgives them.
//! The disk is on the agent's node, so that is where it starts.

use super::agent_row::{self, Trace};
use super::{counts, desire, leadership};
use crate::error::StoreError;
use crate::model::Epoch;
use crate::tx::{Context, Tx, params};
use aether_core::api::failure;
use aether_core::spec::Recovery;
use aether_core::state::{Desired, Observed};
use aether_core::{AgentId, TenantScope};
use serde_json::json;
use std::time::Duration;

pub(crate) const TRIES: u32 = 3;
pub(crate) const APART: Duration = Duration::from_secs(30);
/// A sandbox that lived so long after its recovery did not die of it.
pub(crate) const FORGIVEN: Duration = Duration::from_secs(3600);
const BATCH: u32 = 100;

/// The agents whose turn it is, with the tries that count.
async fn due(tx: &mut dyn Tx, cx: &Context) -> Result<Vec<(AgentId, u32)>, StoreError> {
    let now = cx.now();
    let sql = "SELECT id, recoveries, recovered_ms FROM agents
         WHERE observed = 'failed' AND desired = 'running' AND recovery = 'restart' AND error_code = $1
            AND (recovered_ms IS NULL OR recovered_ms <= $2 AND (recoveries < $3 OR recovered_ms <= $4))
            AND tenant_id IN (SELECT id FROM tenants WHERE status = 'active')
         ORDER BY updated_ms, id LIMIT $5";
    let values = params![failure::SANDBOX_DIED, now.minus(APART), TRIES, now.minus(FORGIVEN), BATCH];
    let mut found = Vec::new();
    for row in tx.query(sql, values).await? {
        let forgiven = row.time_opt("recovered_ms")?.is_none_or(|at| now.since(at) >= FORGIVEN);
        found.push((row.parse::<AgentId>("id")?, if forgiven { 0 } else { row.small("recoveries")? }));
    }
    Ok(found)
}

/// Whether [`recover`] has anything to do.
pub(crate) async fn any(tx: &mut dyn Tx, cx: &Context) -> Result<bool, StoreError> {
    Ok(!due(tx, cx).await?.is_empty())
}

/// Makes those pending whose turn it is; tells which.
pub(crate) async fn recover(tx: &mut dyn Tx, cx: &Context, epoch: &Epoch) -> Result<Vec<AgentId>, StoreError> {
    leadership::check(tx, epoch).await?;
    let now = cx.now();
    let mut found = due(tx, cx).await?;
    // Agents are locked in one order by everyone.
    found.sort();
    counts::hold(tx, &found.iter().map(|(id, _)| (id.clone(), Observed::Pending)).collect()).await?;
    let mut recovered = Vec::new();
    for (id, tried) in found {
        let Some((row, _)) = agent_row::lock_any(tx, &id).await? else { continue };
        let still = row.observed == Observed::Failed
            && row.desired == Desired::Running
            && row.spec.recovery == Recovery::Restart
            && row.error.as_ref().is_some_and(|e| e.code == failure::SANDBOX_DIED);
        if !still {
            continue;
        }
        let attempt = tried + 1;
        let error = row.error.clone();
        let scope = TenantScope::system(row.tenant.clone(), "recovery");
        let Some(next) = desire::started_again(&row)? else { continue };
        let reason = error.map(|e| e.message).unwrap_or_default();
        let data = json!({ "attempt": attempt, "of": TRIES, "reason": reason });
        let trace = Trace { event: "agent.recovering", data, action: Some("recover") };
        let saved = agent_row::save(tx, cx, &scope, &row, next, trace).await;
        // Somebody else took what it held: no try, and another look later.
        let refused = matches!(saved, Err(StoreError::QuotaExceeded { .. }));
        if !refused {
            saved?;
        }
        tx.execute(
            "UPDATE agents SET recoveries = $1, recovered_ms = $2 WHERE id = $3",
            params![if refused { tried } else { attempt }, now, id.as_str()],
        )
        .await?;
        if !refused {
            recovered.push(id);
        }
    }
    Ok(recovered)
}

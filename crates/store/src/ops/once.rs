//! Start, stop and delete under an idempotency key: the wish, once. Without
//! one a repeat that comes late would start again what somebody has stopped
//! since, or delete the newer agent of the same name.

use super::{agents, idempotency, reach};
use crate::error::StoreError;
use crate::model::{AgentRow, DesireOptions, Idempotency};
use crate::tx::{Context, Tx};
use aether_core::state::Desired;
use aether_core::{AgentId, TenantScope};

/// Kind of the idempotency keys of each wish.
fn kind(wanted: Desired) -> &'static str {
    match wanted {
        Desired::Running => "agent.start",
        Desired::Paused => "agent.pause",
        Desired::Stopped => "agent.stop",
        Desired::Gone => "agent.delete",
    }
}

/// One transaction: the key, and what [`agents::set_desired`] does.
pub(crate) async fn set_desired(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    id: &AgentId,
    (wanted, options, key): (Desired, DesireOptions, &Idempotency),
) -> Result<AgentRow, StoreError> {
    match idempotency::claim(tx, cx, scope, kind(wanted), key, id.as_str()).await? {
        None => agents::set_desired(tx, cx, scope, id, (wanted, options, None)).await,
        Some(first) => agent_of(tx, scope, &first).await,
    }
}

/// The agent of an earlier wish with this key; changes nothing.
pub(crate) async fn known(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    wanted: Desired,
    key: &Idempotency,
) -> Result<Option<AgentRow>, StoreError> {
    match idempotency::lookup(tx, cx, scope, kind(wanted), key).await? {
        None => Ok(None),
        Some(first) => agent_of(tx, scope, &first).await.map(Some),
    }
}

/// Gone too: the answer is about what the first request meant.
async fn agent_of(tx: &mut dyn Tx, scope: &TenantScope, first: &str) -> Result<AgentRow, StoreError> {
    let id: AgentId = first.parse().map_err(|_| StoreError::internal("an idempotency key names no agent"))?;
    reach::found(scope, agents::by_id(tx, &id).await?.ok_or(StoreError::no_agent())?)
}

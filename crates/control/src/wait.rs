//! Waiting for an agent's state by change notifications, not by polling.

use crate::api::Caller;
use crate::app::App;
use crate::problem::ApiError;
use aether_core::{Desired, Observed};
use aether_store::AgentRow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A busy store wakes waiters far more often than their own agent changes:
/// each reads its row at most this often.
const READ_EVERY: Duration = Duration::from_millis(20);
/// Where the wake-up gets lost (another server wrote, and the notification
/// with it), the row is read this often all the same.
const FALLBACK: Duration = Duration::from_secs(1);

/// How a wait ended.
pub(crate) enum Waited {
    /// The condition holds, or can never hold any more.
    Settled(Arc<AgentRow>),
    /// The time is over; the state as it is.
    RanOut(Arc<AgentRow>),
}

impl Waited {
    pub(crate) fn row(self) -> Arc<AgentRow> {
        match self {
            Waited::Settled(row) | Waited::RanOut(row) => row,
        }
    }
}

/// Waits until `settled` says so of the agent's row. An agent that goes away
/// meanwhile is a 404.
pub(crate) async fn until(
    app: &App,
    caller: &Caller,
    id: &str,
    limit: Duration,
    settled: impl Fn(&AgentRow) -> bool,
) -> Result<Waited, ApiError> {
    let deadline = Instant::now() + limit;
    // Subscribed before the first read: a change between the two wakes.
    let mut changes = app.store.changes();
    loop {
        changes.mark_unchanged();
        let row = app.agent(caller, id).await?;
        if settled(&row) {
            return Ok(Waited::Settled(row));
        }
        let read_at = Instant::now();
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => return Ok(Waited::RanOut(row)),
            () = app.draining.cancelled() => return Ok(Waited::RanOut(row)),
            changed = tokio::time::timeout(FALLBACK, changes.changed()) => {
                if let Ok(Err(_closed)) = changed {
                    return Err(ApiError::unavailable("The server is shutting down.", 2));
                }
            }
        }
        tokio::time::sleep_until((read_at + READ_EVERY).min(deadline)).await;
    }
}

/// Running, or on a way that does not lead there by itself.
pub(crate) fn running_settled(row: &AgentRow) -> bool {
    match row.observed {
        Observed::Running => row.desired == Desired::Running,
        Observed::Stopped | Observed::Failed => true,
        _ => row.desired != Desired::Running,
    }
}

/// No longer doing anything.
pub(crate) fn stop_settled(row: &AgentRow) -> bool {
    matches!(row.observed, Observed::Stopped | Observed::Failed | Observed::Gone) || row.desired != Desired::Stopped
}

//! What a wish of the user makes of an agent's row. Pure: a row in, a row,
//! nothing, or a refusal out.

use crate::error::StoreError;
use crate::model::{AgentRow, DesireOptions};
use aether_core::Timestamp;
use aether_core::state::{Desired, Observed, Owner, may_move};

/// Whether a node has anything of the agent that it must give up first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Perhaps,
    /// Placed on a node that was lost before it said a word of the agent.
    No,
}

/// The row after the wish; `None`: it is so already.
pub(crate) fn next(
    row: &AgentRow,
    wanted: Desired,
    options: DesireOptions,
    now: Timestamp,
    held: Held,
) -> Result<Option<AgentRow>, StoreError> {
    match wanted {
        Desired::Gone => gone(row, options, held).map(Some),
        Desired::Stopped => stopped(row, options, now),
        Desired::Running => running(row),
        Desired::Paused => paused(row),
    }
}

fn wish(row: &AgentRow, desired: Desired) -> AgentRow {
    AgentRow { desired, generation: row.generation + 1, ..row.clone() }
}

fn illegal(row: &AgentRow, wanted: Desired) -> StoreError {
    StoreError::IllegalState { observed: row.observed, desired: row.desired, wanted }
}

fn move_to(row: &mut AgentRow, to: Observed) -> Result<(), StoreError> {
    if !may_move(row.observed, to, Owner::Control) {
        return Err(illegal(row, row.desired));
    }
    row.observed = to;
    Ok(())
}

/// Works from every state. Where no node ever held it, it is over at once.
fn gone(row: &AgentRow, options: DesireOptions, held: Held) -> Result<AgentRow, StoreError> {
    let mut next = wish(row, Desired::Gone);
    next.force = options.force;
    next.stop_timeout_ms = options.stop_timeout_ms;
    if row.node_id.is_none() || held == Held::No {
        move_to(&mut next, Observed::Gone)?;
    }
    Ok(next)
}

fn stopped(row: &AgentRow, options: DesireOptions, now: Timestamp) -> Result<Option<AgentRow>, StoreError> {
    let ended = matches!(row.observed, Observed::Stopped | Observed::Failed);
    let harder = options.force && !row.force && !ended;
    if row.desired == Desired::Stopped && !harder {
        return Ok(None);
    }
    let mut next = wish(row, Desired::Stopped);
    next.force = options.force;
    next.stop_timeout_ms = options.stop_timeout_ms;
    if row.observed == Observed::Pending && !row.assigned {
        move_to(&mut next, Observed::Stopped)?;
        next.stopped_at = Some(now);
        next.placement_reason = None;
    }
    Ok(Some(next))
}

fn running(row: &AgentRow) -> Result<Option<AgentRow>, StoreError> {
    match row.observed {
        Observed::Stopped | Observed::Failed => {
            let mut next = wish(row, Desired::Running);
            move_to(&mut next, Observed::Pending)?;
            start_afresh(&mut next);
            Ok(Some(next))
        }
        // Only its node, or whoever deletes it, ends this.
        Observed::Lost => Err(illegal(row, Desired::Running)),
        _ if row.desired == Desired::Running => Ok(None),
        Observed::Pausing | Observed::Paused | Observed::Resuming if row.desired == Desired::Paused => {
            Ok(Some(wish(row, Desired::Running)))
        }
        // A stop is under way: a start may follow it, not overtake it.
        _ => Err(illegal(row, Desired::Running)),
    }
}

/// As if the user had started it: for a run that ended unasked.
pub(crate) fn started_again(row: &AgentRow) -> Result<Option<AgentRow>, StoreError> {
    running(row)
}

/// Forgets the last run; keeps the node, which has the disk.
fn start_afresh(row: &mut AgentRow) {
    row.assigned = false;
    row.pending_restart.clear();
    row.placement_reason = None;
    row.queue_position = None;
    row.exit_code = None;
    row.exit_signal = None;
    row.restarts = 0;
    row.unhealthy = false;
    row.unhealthy_reason = None;
    row.error = None;
    row.started_at = None;
    row.stopped_at = None;
    row.expires_at = None;
    row.force = false;
    row.stop_timeout_ms = None;
    row.run = None;
}

fn paused(row: &AgentRow) -> Result<Option<AgentRow>, StoreError> {
    match row.observed {
        Observed::Running | Observed::Pausing | Observed::Paused | Observed::Resuming => match row.desired {
            Desired::Paused => Ok(None),
            Desired::Running => Ok(Some(wish(row, Desired::Paused))),
            Desired::Stopped | Desired::Gone => Err(illegal(row, Desired::Paused)),
        },
        _ => Err(illegal(row, Desired::Paused)),
    }
}

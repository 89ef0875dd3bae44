//! What nodes report, judged against the table of legal moves.
//!
//! A report says what *is*, so several steps may have happened since the last
//! one: a move is taken where a short chain of the node's own edges leads to
//! it. Repeating a report changes nothing.

use super::agent_row::{self, ReportMark, Trace};
use super::{counts, nodes, reservation};
use crate::error::StoreError;
use crate::model::{AgentRow, ReportOutcome, ReportResult, ReportRow};
use crate::tx::{Context, Tx, params};
use aether_core::state::{Desired, EDGES, Observed, Owner, may_move};
use aether_core::{NodeId, TenantScope, Timestamp};
use serde_json::json;
use std::time::Duration;

/// pending → creating → running → pausing → paused is the longest that a node
/// may have to tell of at once.
const LONGEST_CHAIN: usize = 4;
/// Of texts that come from a node.
const MAX_TEXT: usize = 1024;

/// Whether the node's own edges lead from one to the other in a few steps.
pub(crate) fn reachable(from: Observed, to: Observed) -> bool {
    let mut front = vec![from];
    for _ in 0..LONGEST_CHAIN {
        let own = |(f, t, owner, _): &(Observed, Observed, Owner, &str)| {
            (front.contains(f) && *owner == Owner::Node).then_some(*t)
        };
        front = EDGES.iter().filter_map(own).collect();
        if front.contains(&to) {
            return true;
        }
    }
    false
}

/// Outcomes in the order of the reports. Fenced as a whole by the node epoch.
pub(crate) async fn apply(
    tx: &mut dyn Tx,
    cx: &Context,
    node: &NodeId,
    (node_epoch, reports): (u64, &[ReportRow]),
) -> Result<Vec<ReportOutcome>, StoreError> {
    nodes::lock_epoch(tx, node, node_epoch).await?;
    // Agents are locked in one order by everyone.
    let mut order: Vec<usize> = (0..reports.len()).collect();
    order.sort_by(|a, b| reports[*a].agent_id.cmp(&reports[*b].agent_id));
    counts::hold(tx, &reports.iter().map(|report| (report.agent_id.clone(), report.observed)).collect()).await?;
    let mut outcomes: Vec<Option<ReportOutcome>> = vec![None; reports.len()];
    for index in order {
        let report = &reports[index];
        let result = apply_one(tx, cx, node, node_epoch, report).await?;
        outcomes[index] = Some(ReportOutcome { agent_id: report.agent_id.clone(), result });
    }
    Ok(outcomes.into_iter().flatten().collect())
}

async fn apply_one(
    tx: &mut dyn Tx,
    cx: &Context,
    node: &NodeId,
    node_epoch: u64,
    report: &ReportRow,
) -> Result<ReportResult, StoreError> {
    let Some((row, mark)) = agent_row::lock_any(tx, &report.agent_id).await? else {
        return Ok(ReportResult::NotHere);
    };
    if row.node_id.as_ref() != Some(node) || row.observed == Observed::Gone {
        return Ok(ReportResult::NotHere);
    }
    let this = ReportMark { epoch: node_epoch, sequence: report.sequence };
    if report.generation != row.generation || (report.sequence > 0 && this <= mark) {
        return Ok(ReportResult::Stale);
    }
    let (from, to) = (row.observed, report.observed);
    if !row.assigned && to != Observed::Gone {
        // It waits for room: what its node still says is of the last run.
        return Ok(ReportResult::Stale);
    }
    // Nothing is erased that nobody deleted.
    let erased_unasked = to == Observed::Gone && row.desired != Desired::Gone;
    if erased_unasked || !(may_move(from, to, Owner::Node) || reachable(from, to)) {
        return Ok(ReportResult::Refused { from, to });
    }
    let next = with_facts(&row, report, cx.now());
    if next == row {
        return Ok(ReportResult::Unchanged);
    }
    write(tx, cx, node, this, &row, next).await?;
    Ok(ReportResult::Applied { from, to })
}

async fn write(
    tx: &mut dyn Tx,
    cx: &Context,
    node: &NodeId,
    mark: ReportMark,
    before: &AgentRow,
    next: AgentRow,
) -> Result<(), StoreError> {
    let (id, from, to) = (next.id.clone(), before.observed, next.observed);
    match to {
        Observed::Gone => reservation::release_all(tx, &id).await?,
        Observed::Stopped | Observed::Failed => reservation::release_compute(tx, &id).await?,
        _ => {}
    }
    let mut data = json!({ "from": from.as_str(), "to": to.as_str(), "node": node.as_str() });
    if from == to {
        data["unhealthy"] = json!(next.unhealthy);
    }
    if let Some(reason) = &next.unhealthy_reason {
        data["unhealthy_reason"] = json!(reason);
    }
    if let Some(error) = &next.error {
        data["error"] = json!({ "code": error.code, "message": error.message });
    }
    if let (Some(code), true) = (next.exit_code, to == Observed::Stopped) {
        data["exit_code"] = json!(code);
    }
    let (event, action) = match to {
        Observed::Gone => ("agent.gone", Some("erase")),
        _ if from == to => ("agent.updated", None),
        _ => ("agent.observed", Some("observe")),
    };
    let scope = TenantScope::system(next.tenant.clone(), "node");
    agent_row::save(tx, cx, &scope, before, next, Trace { event, data, action }).await?;
    tx.execute(
        "UPDATE agents SET report_epoch = $1, report_sequence = $2 WHERE id = $3",
        params![mark.epoch, mark.sequence, id.as_str()],
    )
    .await?;
    Ok(())
}

fn bounded(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// The row as the report makes it. What a report leaves out stays as it was.
fn with_facts(row: &AgentRow, report: &ReportRow, now: Timestamp) -> AgentRow {
    let mut next = row.clone();
    let to = report.observed;
    next.observed = to;
    let keep = |new: &Option<String>, old: &mut Option<String>| {
        if let Some(new) = new.as_deref().filter(|t| !t.is_empty()) {
            *old = Some(bounded(new));
        }
    };
    keep(&report.isolation, &mut next.isolation);
    keep(&report.engine, &mut next.engine);
    keep(&report.disk_encryption, &mut next.disk_encryption);
    keep(&report.image_digest, &mut next.image_digest);
    keep(&report.exit_signal, &mut next.exit_signal);
    next.exit_code = report.exit_code.or(next.exit_code);
    next.restarts = report.restarts;
    next.unhealthy = report.unhealthy;
    next.unhealthy_reason = report.unhealthy_reason.as_deref().filter(|_| report.unhealthy).map(bounded);
    let queued = matches!(to, Observed::Pending | Observed::Creating | Observed::Restoring);
    next.queue_position = report.queue_position.filter(|_| queued);
    if let Some(error) = &report.error {
        let (code, message) = (bounded(&error.code), bounded(&error.message));
        next.error = Some(aether_core::api::AgentFailure { code, message });
    }
    next.started_at = report.started_at.or(next.started_at);
    if to == Observed::Running {
        next.started_at = next.started_at.or(Some(now));
        // Absolute from here on; the node judges it too.
        let ttl = row.spec.ttl_s.map(|s| now.plus(Duration::from_secs(s)));
        next.expires_at = next.expires_at.or(ttl);
    }
    if matches!(to, Observed::Stopped | Observed::Failed) {
        next.stopped_at = report.stopped_at.or(next.stopped_at).or(Some(now));
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_short_and_the_nodes_own() {
        use Observed::*;
        for (from, to) in [(Pending, Running), (Pending, Stopped), (Pending, Gone), (Running, Paused), (Lost, Running)]
        {
            assert!(reachable(from, to), "{from} to {to}");
        }
        // Whatever a node is the first to tell, the store may have seen nothing of it.
        for to in Observed::ALL.iter().filter(|to| !matches!(to, Pending | Resuming | Lost)) {
            assert!(reachable(Pending, *to), "pending to {to}");
        }
        for (from, to) in [
            (Stopped, Running),
            (Failed, Running),
            (Running, Pending),
            (Running, Creating),
            (Running, Lost),
            (Gone, Running),
        ] {
            assert!(!reachable(from, to), "{from} to {to}");
        }
    }
}

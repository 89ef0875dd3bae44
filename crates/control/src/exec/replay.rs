//! A repeated request with an idempotency key. It attaches to the first
//! one's exec, on whatever agent that was, and never starts another:
//!
//! ```text
//! the agent is gone or does not run ────────────► the recorded end, else unknown
//! the guest knows the exec ─────────────────────► attach to it
//! it does not: ── an end is recorded ───────────► that end
//!              ── the intent is young ──────────► the first request may be
//!              │                                  about to start it: ask again
//!              └─ else the server died between ─► unknown
//! ```

use super::{Begun, Call, Ledger, Opened, attach, call};
use crate::api::Caller;
use crate::app::App;
use crate::problem::ApiError;
use aether_core::api::ExecResult;
use aether_core::{ExecId, Observed};
use aether_store::{AgentRow, ExecEnd, ExecIntentOutcome};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

const ASK_AGAIN: Duration = Duration::from_millis(100);

/// An exec that is over, and of which only the record is left.
pub(crate) struct Past {
    pub(crate) exec_id: ExecId,
    pub(crate) end: ExecEnd,
}

impl Past {
    /// What there is to say beside the outcome.
    pub(crate) fn reason(&self) -> String {
        if self.end.outcome == "exited" {
            "its output is no longer kept".to_owned()
        } else {
            "the command may have run or not: its sandbox does not know it any more".to_owned()
        }
    }

    pub(crate) fn result(self) -> ExecResult {
        let reason = self.reason();
        let known = self.end.outcome == "exited";
        ExecResult {
            exec_id: self.exec_id.to_string(),
            outcome: self.end.outcome,
            exit_code: self.end.exit_code,
            exit_signal: self.end.exit_signal,
            stdout: String::new(),
            stderr: String::new(),
            truncated: known,
            timed_out: false,
            duration_ms: 0,
            error: Some(reason),
        }
    }
}

/// The first request's agent, where it runs: the one that was asked for now,
/// unless its name has moved on.
async fn running(
    app: &App,
    caller: &Caller,
    asked: Option<&Arc<AgentRow>>,
    known: &ExecIntentOutcome,
) -> Result<Option<Arc<AgentRow>>, ApiError> {
    let Some(first) = &known.agent_id else { return Ok(None) };
    let agent = match asked {
        Some(agent) if agent.id == *first => Some(agent.clone()),
        _ => app.store.find_agent(&caller.scope(), first.as_str()).await?,
    };
    Ok(agent.filter(|agent| agent.observed == Observed::Running))
}

/// Attaches, or tells what is recorded. There is no guest to ask where the
/// agent does not run, and nothing else can be answered.
pub(super) async fn begin(
    app: &App,
    caller: &Caller,
    asked: Option<&Arc<AgentRow>>,
    known: ExecIntentOutcome,
) -> Result<Begun, ApiError> {
    let agent = running(app, caller, asked, &known).await?;
    let ledger = Ledger::new(app, caller, &known.exec_id);
    let ExecIntentOutcome { exec_id, started_at, end, .. } = known;
    let Some(agent) = agent else { return past(exec_id, end).map(Begun::Over) };
    let mut client = app.live_client(&agent).await?;
    // As long as the first request may take from its intent to the guest.
    let age = app.clock.now().since(started_at);
    let until = Instant::now() + app.cfg().deadlines.exec_margin.saturating_sub(age);
    loop {
        match call(&mut client, attach(&agent, &exec_id, 0)).await {
            Ok(Call { to_node, from_node }) => {
                return Ok(Begun::Running(Box::new(Opened {
                    agent,
                    attached: true,
                    exec_id,
                    to_node,
                    from_node,
                    ledger,
                })));
            }
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(ApiError::from(status).instance(ledger.instance(&agent))),
        }
        if end.is_some() {
            return past(exec_id, end).map(Begun::Over);
        }
        if Instant::now() >= until {
            ledger.unknown();
            return past(exec_id, None).map(Begun::Over);
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Without a recorded end nobody can tell.
fn past(exec_id: ExecId, end: Option<ExecEnd>) -> Result<Past, ApiError> {
    let end = end.unwrap_or_else(|| ExecEnd { outcome: "unknown".to_owned(), ..ExecEnd::default() });
    if end.outcome == "refused" {
        return Err(ApiError::conflict(
            "The first request with this key was refused, and its command did not run.",
            "Send it again with another key.",
        ));
    }
    Ok(Past { exec_id, end })
}

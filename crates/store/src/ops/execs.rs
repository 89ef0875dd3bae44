//! Execs: an intent before the node is asked, an end afterwards.

use super::{agent_row, audit, idempotency, reach};
use crate::error::StoreError;
use crate::model::{ExecEnd, ExecIntent, ExecIntentOutcome, ExecRow, Idempotency};
use crate::tx::{Context, Row, Tx, from_json, params, query_one, to_json};
use aether_core::{AgentId, ExecId, TenantScope, Timestamp};
use serde_json::json;

const KIND: &str = "agent.exec";
const COLUMNS: &str = "id, agent_id, command, run_as, actor, started_ms, finished_ms, outcome, exit_code, exit_signal";
/// Of the command line that is kept.
const MAX_COMMAND_BYTES: usize = 4096;

/// As many whole arguments as fit, the last one cut where it must be.
fn shortened(command: &[String]) -> Vec<String> {
    let mut left = MAX_COMMAND_BYTES;
    let mut kept = Vec::new();
    for argument in command {
        if argument.len() <= left {
            left -= argument.len();
            kept.push(argument.clone());
            continue;
        }
        let end = (0..=left).rev().find(|i| argument.is_char_boundary(*i)).unwrap_or(0);
        kept.push(format!("{}…", &argument[..end]));
        break;
    }
    kept
}

pub(crate) async fn record(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    agent: &AgentId,
    (intent, key): (&ExecIntent, Option<&Idempotency>),
) -> Result<ExecIntentOutcome, StoreError> {
    agent_row::lock_presence(tx, scope, agent).await?;
    if let Some(key) = key
        && let Some(first) = idempotency::claim(tx, cx, scope, KIND, key, intent.exec_id.as_str()).await?
    {
        return replayed(tx, scope, &first).await;
    }
    let made = tx
        .execute(
            "INSERT INTO execs (id, tenant_id, agent_id, command, run_as, actor, started_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
            params![
                intent.exec_id.as_str(),
                scope.tenant().as_str(),
                agent.as_str(),
                to_json(&shortened(&intent.command))?,
                intent.user.as_deref(),
                scope.actor(),
                cx.now(),
            ],
        )
        .await?;
    if made != 1 {
        return Err(StoreError::AlreadyExists { what: "exec" });
    }
    // The command stays in `execs`: it may hold what an audit reader of
    // another role must not see.
    let details = json!({ "exec_id": intent.exec_id.as_str(), "user": intent.user.as_deref() });
    audit::success(tx, cx, scope, "exec", "agent", Some(agent.as_str()), details).await?;
    Ok(ExecIntentOutcome {
        exec_id: intent.exec_id.clone(),
        agent_id: Some(agent.clone()),
        replayed: false,
        started_at: cx.now(),
        end: None,
    })
}

/// What an earlier request with this key made; asks nothing of the agent's
/// state, and records nothing.
pub(crate) async fn known(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    key: &Idempotency,
) -> Result<Option<ExecIntentOutcome>, StoreError> {
    match idempotency::lookup(tx, cx, scope, KIND, key).await? {
        Some(first) => replayed(tx, scope, &first).await.map(Some),
        None => Ok(None),
    }
}

/// The agent is the first request's: its name may mean another one by now.
async fn replayed(tx: &mut dyn Tx, scope: &TenantScope, first: &str) -> Result<ExecIntentOutcome, StoreError> {
    let exec_id: ExecId = first.parse().map_err(|_| StoreError::internal("an idempotency key names no exec"))?;
    let sql = format!("SELECT {COLUMNS} FROM execs WHERE id = $1 AND tenant_id = $2");
    let row = query_one(tx, &sql, params![exec_id.as_str(), scope.tenant().as_str()]).await?;
    Ok(match row.as_ref().map(decode).transpose()? {
        Some(row) => ExecIntentOutcome {
            exec_id,
            agent_id: Some(row.agent_id),
            replayed: true,
            started_at: row.started_at,
            end: row.end,
        },
        // A pruned one ended long ago; how, nobody knows any more.
        None => ExecIntentOutcome {
            exec_id,
            agent_id: None,
            replayed: true,
            started_at: Timestamp::default(),
            end: Some(ExecEnd { outcome: "unknown".to_owned(), ..ExecEnd::default() }),
        },
    })
}

/// The first end counts; a second one changes nothing.
pub(crate) async fn finish(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    exec: &ExecId,
    end: &ExecEnd,
) -> Result<(), StoreError> {
    let (id, tenant) = (exec.as_str(), scope.tenant().as_str());
    let done = tx
        .execute(
            "UPDATE execs SET finished_ms = $1, outcome = $2, exit_code = $3, exit_signal = $4
             WHERE id = $5 AND tenant_id = $6 AND finished_ms IS NULL",
            params![cx.now(), &end.outcome, end.exit_code, end.exit_signal.as_deref(), id, tenant],
        )
        .await?;
    if done == 1 {
        return Ok(());
    }
    let known = query_one(tx, "SELECT id FROM execs WHERE id = $1 AND tenant_id = $2", params![id, tenant]).await?;
    known.map(|_| ()).ok_or(StoreError::NotFound { what: "exec" })
}

/// Newest first.
pub(crate) async fn list(
    tx: &mut dyn Tx,
    scope: &TenantScope,
    agent: &AgentId,
    limit: u32,
) -> Result<Vec<ExecRow>, StoreError> {
    let mut values = params![agent.as_str(), scope.tenant().as_str(), limit.clamp(1, 1000)];
    let within = reach::condition(scope, &mut values);
    let sql = format!(
        "SELECT {COLUMNS} FROM execs WHERE agent_id IN (SELECT id FROM agents WHERE id = $1 AND tenant_id = $2{within})
         ORDER BY started_ms DESC, id DESC LIMIT $3"
    );
    let rows = tx.query(&sql, values).await?;
    rows.iter().map(decode).collect()
}

fn decode(row: &Row) -> Result<ExecRow, StoreError> {
    let outcome = row.text_opt("outcome")?;
    let (exit_code, exit_signal) = (row.i32_opt("exit_code")?, row.text_opt("exit_signal")?);
    Ok(ExecRow {
        exec_id: row.parse("id")?,
        agent_id: row.parse("agent_id")?,
        command: from_json(&row.text("command")?, "an exec's command")?,
        user: row.text_opt("run_as")?,
        actor: row.text("actor")?,
        started_at: row.time("started_ms")?,
        finished_at: row.time_opt("finished_ms")?,
        end: outcome.map(|outcome| ExecEnd { outcome, exit_code, exit_signal }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_commands_are_cut_at_characters() {
        let short = vec!["echo".to_owned(), "ü".to_owned()];
        assert_eq!(shortened(&short), short);
        let long = vec!["a".repeat(MAX_COMMAND_BYTES - 1), "ü".repeat(10), "never".to_owned()];
        let cut = shortened(&long);
        assert_eq!((cut.len(), cut[1].as_str()), (2, "…"));
    }
}

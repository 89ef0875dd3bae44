//! The outbox: written with each change, read by cursor.
//!
//! On PostgreSQL the numbers of two transactions say nothing about which
//! commits first: a reader that goes by number alone would skip the late one.
//! So rows are ordered by (transaction, number), and only those of
//! transactions below the oldest one still running are shown: nothing can
//! appear below what was read. A transaction that stays open holds events
//! back; the session's time-outs bound that.

use super::reach;
use crate::error::StoreError;
use crate::model::{AgentRow, EventCursor, EventRow};
use crate::tx::{Context, Dialect, Row, Tx, Value, params, query_one, to_json};
use aether_core::{NodeId, Observed, TenantId, TenantScope};
use std::collections::BTreeSet;

const MAX_LIMIT: u32 = 1000;
/// The scheduler's own: why an agent waits.
pub(crate) const WAITING: &str = "agent.waiting";

/// Everything an event may carry, before it has a number.
struct NewEvent<'a> {
    tenant: Option<&'a str>,
    kind: &'a str,
    agent: Option<&'a AgentRow>,
    node: Option<&'a NodeId>,
    data: &'a serde_json::Value,
}

pub(crate) async fn of_agent(
    tx: &mut dyn Tx,
    cx: &Context,
    row: &AgentRow,
    kind: &str,
    data: &serde_json::Value,
) -> Result<(), StoreError> {
    let (tenant, node) = (Some(row.tenant.as_str()), row.node_id.as_ref());
    write(tx, cx, NewEvent { tenant, kind, agent: Some(row), node, data }).await
}

pub(crate) async fn of_node(
    tx: &mut dyn Tx,
    cx: &Context,
    node: &NodeId,
    kind: &str,
    data: &serde_json::Value,
) -> Result<(), StoreError> {
    write(tx, cx, NewEvent { tenant: None, kind, agent: None, node: Some(node), data }).await
}

async fn write(tx: &mut dyn Tx, cx: &Context, event: NewEvent<'_>) -> Result<(), StoreError> {
    let agent = event.agent;
    tx.execute(
        "INSERT INTO events (at_ms, tenant_id, kind, agent_id, node_id, version, generation, desired, observed, data)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        params![
            cx.now(),
            event.tenant,
            event.kind,
            agent.map(|a| a.id.as_str()),
            event.node.map(NodeId::as_str),
            agent.map_or(0, |a| a.version),
            agent.map_or(0, |a| a.generation),
            agent.map(|a| a.desired.as_str()),
            agent.map(|a| a.observed.as_str()),
            to_json(event.data)?,
        ],
    )
    .await?;
    tx.mark_changed();
    Ok(())
}

/// Transaction and number as two numbers, what may be read after the two in `$1`
/// and `$2`, and in which order; of any table that is numbered as `events` is.
pub(super) fn dialect_parts(dialect: Dialect) -> (&'static str, &'static str, &'static str) {
    match dialect {
        Dialect::Sqlite => ("0", "seq > $2 AND $1 >= 0", "seq"),
        Dialect::Postgres => (
            "xid::text::bigint",
            "xid < pg_snapshot_xmin(pg_current_snapshot()) AND (xid, seq) > ($1::text::xid8, $2)",
            "xid, seq",
        ),
    }
}

/// Events after the cursor, of one tenant or of all, and where to go on.
pub(crate) async fn after(
    tx: &mut dyn Tx,
    scope: Option<&TenantScope>,
    cursor: EventCursor,
    limit: u32,
) -> Result<(Vec<EventRow>, EventCursor), StoreError> {
    check_kept(tx, cursor).await?;
    let (txn, readable, order) = dialect_parts(tx.dialect());
    let mut values = params![cursor.transaction, cursor.sequence, limit.clamp(1, MAX_LIMIT)];
    let (own, name) = match scope {
        Some(scope) => {
            values.push(Value::from(scope.tenant().as_str()));
            let within = match reach::condition(scope, &mut values).as_str() {
                "" => String::new(),
                condition => format!(" AND agent_id IN (SELECT id FROM agents WHERE tenant_id = $4{condition})"),
            };
            (format!("AND tenant_id = $4{within}"), "(SELECT name FROM agents WHERE agents.id = events.agent_id)")
        }
        None => (String::new(), "CAST(NULL AS TEXT)"),
    };
    let sql = format!(
        "SELECT {txn} AS txn, seq, at_ms, tenant_id, kind, agent_id, {name} AS agent_name, node_id, version,
            generation, desired, observed, data FROM events WHERE {readable} {own} ORDER BY {order} LIMIT $3"
    );
    let rows = tx.query(&sql, values).await?.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    let next = rows.last().map_or(cursor, |row| row.cursor);
    Ok((rows, next))
}

/// The ids of agents that the next events name as pending, and where to go
/// on. That one still waits, with a reason, is no news.
pub(crate) async fn pending_agents(
    tx: &mut dyn Tx,
    cursor: EventCursor,
    limit: u32,
) -> Result<(BTreeSet<String>, EventCursor), StoreError> {
    check_kept(tx, cursor).await?;
    let (txn, readable, order) = dialect_parts(tx.dialect());
    let sql = format!(
        "SELECT {txn} AS txn, seq, kind, agent_id, observed FROM events WHERE {readable} ORDER BY {order} LIMIT $3"
    );
    let rows = tx.query(&sql, params![cursor.transaction, cursor.sequence, limit.clamp(1, MAX_LIMIT)]).await?;
    let next = rows.last().map_or(Ok(cursor), cursor_of)?;
    let mut agents = BTreeSet::new();
    for row in &rows {
        let pending = row.text_opt("observed")?.as_deref() == Some(Observed::Pending.as_str());
        if let (true, Some(agent)) = (pending && row.text("kind")? != WAITING, row.text_opt("agent_id")?) {
            agents.insert(agent);
        }
    }
    Ok((agents, next))
}

fn decode(row: &Row) -> Result<EventRow, StoreError> {
    Ok(EventRow {
        cursor: cursor_of(row)?,
        at: row.time("at_ms")?,
        tenant: row.parse_opt::<TenantId>("tenant_id")?,
        kind: row.text("kind")?,
        agent_id: row.parse_opt("agent_id")?,
        agent_name: row.text_opt("agent_name")?,
        node_id: row.parse_opt("node_id")?,
        version: row.uint("version")?,
        generation: row.uint("generation")?,
        desired: row.parse_opt("desired")?,
        observed: row.parse_opt("observed")?,
        data: row.json("data")?,
    })
}

fn cursor_of(row: &Row) -> Result<EventCursor, StoreError> {
    Ok(EventCursor { transaction: row.uint("txn")?, sequence: row.uint("seq")? })
}

/// The last event that may be read now.
pub(crate) async fn end(tx: &mut dyn Tx) -> Result<EventCursor, StoreError> {
    let sql = match tx.dialect() {
        Dialect::Sqlite => "SELECT 0 AS txn, seq FROM events ORDER BY seq DESC LIMIT 1",
        Dialect::Postgres => {
            "SELECT xid::text::bigint AS txn, seq FROM events
             WHERE xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid DESC, seq DESC LIMIT 1"
        }
    };
    match query_one(tx, sql, Vec::new()).await? {
        Some(row) => cursor_of(&row),
        None => floor(tx).await,
    }
}

/// Refuses a cursor after which retention has removed events, and one of
/// another cluster, whose transactions this one has not had.
async fn check_kept(tx: &mut dyn Tx, cursor: EventCursor) -> Result<(), StoreError> {
    if cursor == EventCursor::default() {
        return Ok(());
    }
    let ours = match tx.dialect() {
        Dialect::Sqlite => "$1 >= 0",
        Dialect::Postgres => "$1::text::xid8 < pg_snapshot_xmax(pg_current_snapshot())",
    };
    let sql = format!("SELECT txn, seq FROM events_floor WHERE id = 1 AND {ours}");
    match query_one(tx, &sql, params![cursor.transaction]).await? {
        Some(row) if cursor >= cursor_of(&row)? => Ok(()),
        _ => Err(StoreError::CursorExpired),
    }
}

/// The newest event that retention removed.
async fn floor(tx: &mut dyn Tx) -> Result<EventCursor, StoreError> {
    let row = query_one(tx, "SELECT txn, seq FROM events_floor WHERE id = 1", Vec::new()).await?;
    row.as_ref().map_or(Ok(EventCursor::default()), cursor_of)
}

/// Removes at most `batch` events from before `cutoff_ms`, oldest first, and
/// raises the floor to the last of them. An event is never removed before
/// one that precedes it in the order of reading.
pub(crate) async fn prune(tx: &mut dyn Tx, cutoff_ms: u64, batch: u32) -> Result<u64, StoreError> {
    let (txn, readable, order) = dialect_parts(tx.dialect());
    let sql = format!("SELECT {txn} AS txn, seq, at_ms FROM events WHERE {readable} ORDER BY {order} LIMIT $3");
    let mut last = None;
    for row in tx.query(&sql, params![0u64, 0u64, batch]).await? {
        if row.uint("at_ms")? >= cutoff_ms {
            break;
        }
        last = Some(cursor_of(&row)?);
    }
    let Some(last) = last else { return Ok(0) };
    let delete = match tx.dialect() {
        Dialect::Sqlite => "DELETE FROM events WHERE seq <= $2 AND $1 >= 0",
        Dialect::Postgres => "DELETE FROM events WHERE (xid, seq) <= ($1::text::xid8, $2)",
    };
    let removed = tx.execute(delete, params![last.transaction, last.sequence]).await?;
    let raise = "UPDATE events_floor SET txn = $1, seq = $2 WHERE id = 1";
    tx.execute(raise, params![last.transaction, last.sequence]).await?;
    Ok(removed)
}

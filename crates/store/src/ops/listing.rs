//! Pages of a tenant's agents, newest first; what waits for a node.

use super::agent_row::{COLUMNS, decode};
use super::{events, reach};
use crate::error::StoreError;
use crate::model::{AgentFilter, AgentPage, AgentRow, EventCursor, PageRequest};
use crate::tx::{Tx, Value, params, query_one};
use aether_core::{AgentId, Observed, TenantScope, Timestamp};

const MAX_LIMIT: u32 = 1000;
/// In one statement, which is always the same: it is prepared once.
const IDS_AT_ONCE: usize = 64;
/// A page by number skips rows one by one: bounded.
const MAX_PAGE: u32 = 10_000;

/// The SQL and parameters of a filter, without the place in the list.
struct Where {
    sql: String,
    params: Vec<Value>,
}

impl Where {
    fn push(&mut self, value: impl Into<Value>) -> String {
        self.params.push(value.into());
        format!("${}", self.params.len())
    }

    fn of(scope: &TenantScope, filter: &AgentFilter) -> Self {
        let mut w = Where { sql: String::new(), params: Vec::new() };
        let tenant = w.push(scope.tenant().as_str());
        w.sql = format!("tenant_id = {tenant} AND desired <> 'gone'");
        let within = reach::condition(scope, &mut w.params);
        w.sql.push_str(&within);
        if !filter.status.is_empty() {
            let states: Vec<_> = filter.status.iter().map(|s| w.push(s.as_str())).collect();
            w.sql.push_str(&format!(" AND observed IN ({})", states.join(", ")));
        }
        if !filter.images.is_empty() {
            let names: Vec<_> = filter.images.iter().map(|image| w.push(image)).collect();
            let names = names.join(", ");
            w.sql.push_str(&format!(" AND (image IN ({names}) OR image_digest IN ({names}))"));
        }
        if let Some(prefix) = &filter.name_prefix {
            // Not LIKE: `_` is a letter of names.
            let (length, prefix) = (w.push(prefix.chars().count() as u64), w.push(prefix));
            w.sql.push_str(&format!(" AND substr(name, 1, CAST({length} AS INTEGER)) = {prefix}"));
        }
        for (condition, at) in [(">=", filter.created_after), ("<", filter.created_before)] {
            if let Some(at) = at {
                let at = w.push(at);
                w.sql.push_str(&format!(" AND created_ms {condition} {at}"));
            }
        }
        for (kind, pairs) in [("label", &filter.labels), ("metadata", &filter.metadata)] {
            for (key, value) in pairs {
                let (kind, key, value) = (w.push(kind), w.push(key), w.push(value));
                w.sql.push_str(&format!(
                    " AND id IN (SELECT agent_id FROM agent_labels
                       WHERE tenant_id = {tenant} AND kind = {kind} AND key = {key} AND value = {value})"
                ));
            }
        }
        w
    }
}

/// How many match the filter.
pub(crate) async fn total(tx: &mut dyn Tx, scope: &TenantScope, filter: &AgentFilter) -> Result<u64, StoreError> {
    let w = Where::of(scope, filter);
    let count = format!("SELECT count(*) AS n FROM agents WHERE {}", w.sql);
    query_one(tx, &count, w.params).await?.map_or(Ok(0), |row| row.uint("n"))
}

/// `known`: what [`total`] said before, where nothing was written since.
pub(crate) async fn list(
    tx: &mut dyn Tx,
    scope: &TenantScope,
    filter: &AgentFilter,
    page: &PageRequest,
    known: Option<u64>,
) -> Result<AgentPage, StoreError> {
    let limit = page.limit.clamp(1, MAX_LIMIT);
    let total = match known {
        Some(total) => total,
        None => total(tx, scope, filter).await?,
    };
    let mut w = Where::of(scope, filter);
    let mut skip = 0;
    if let Some(cursor) = &page.cursor {
        let (created, id) = parse_cursor(cursor)?;
        let (created, id) = (w.push(created), w.push(id.as_str()));
        w.sql.push_str(&format!(" AND (created_ms, id) < ({created}, {id})"));
    } else if let Some(number) = page.page {
        skip = u64::from(number.clamp(1, MAX_PAGE) - 1) * u64::from(limit);
    }
    // One more than asked: whether there is a next page.
    let (most, skip) = (w.push(limit + 1), w.push(skip));
    let sql = format!(
        "SELECT {COLUMNS} FROM agents WHERE {} ORDER BY created_ms DESC, id DESC LIMIT {most} OFFSET {skip}",
        w.sql
    );
    let mut rows = tx.query(&sql, w.params).await?.iter().map(decode).collect::<Result<Vec<AgentRow>, _>>()?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next_cursor = rows.last().filter(|_| more).map(|last| format!("{}-{}", last.created_at.unix_ms(), last.id));
    Ok(AgentPage { rows, total, next_cursor })
}

fn parse_cursor(text: &str) -> Result<(Timestamp, AgentId), StoreError> {
    let (created, id) = text.split_once('-').ok_or(StoreError::BadCursor)?;
    if !created.bytes().all(|b| b.is_ascii_digit()) {
        return Err(StoreError::BadCursor);
    }
    let created = created.parse().map_err(|_| StoreError::BadCursor)?;
    Ok((Timestamp::from_unix_ms(created), id.parse().map_err(|_| StoreError::BadCursor)?))
}

/// How many agents of all tenants are in each state; states without any are
/// left out.
pub(crate) async fn count(tx: &mut dyn Tx) -> Result<Vec<(Observed, u64)>, StoreError> {
    let sql = "SELECT observed, count(*) AS n FROM agents WHERE desired <> 'gone' GROUP BY observed";
    tx.query(sql, Vec::new()).await?.iter().map(|row| Ok((row.parse("observed")?, row.uint("n")?))).collect()
}

/// Those of a suspended tenant wait too, but for its operator.
const WAITS: &str = "observed = 'pending' AND assigned = 0 AND desired = 'running'
    AND tenant_id IN (SELECT id FROM tenants WHERE status = 'active')";

/// Agents that wait for a node, oldest first, those after `after`.
pub(crate) async fn waiting(
    tx: &mut dyn Tx,
    after: Option<&(Timestamp, AgentId)>,
    limit: u32,
) -> Result<Vec<AgentRow>, StoreError> {
    let (from, values) = match after {
        None => ("", params![limit]),
        Some((created, id)) => ("AND (created_ms, id) > ($2, $3)", params![limit, *created, id.as_str()]),
    };
    let sql = format!("SELECT {COLUMNS} FROM agents WHERE {WAITS} {from} ORDER BY created_ms, id LIMIT $1");
    tx.query(&sql, values).await?.iter().map(decode).collect()
}

/// Those that wait of which one of the next `limit` events after the cursor
/// tells that they began to, oldest first; and where to go on, which is the
/// cursor itself when there is nothing new.
pub(crate) async fn began_to_wait(
    tx: &mut dyn Tx,
    cursor: EventCursor,
    limit: u32,
) -> Result<(Vec<AgentRow>, EventCursor), StoreError> {
    let (agents, next) = events::pending_agents(tx, cursor, limit).await?;
    let mut rows = Vec::new();
    let agents: Vec<String> = agents.into_iter().collect();
    let marks: Vec<String> = (1..=IDS_AT_ONCE).map(|n| format!("${n}")).collect();
    let sql = format!("SELECT {COLUMNS} FROM agents WHERE {WAITS} AND id IN ({})", marks.join(", "));
    for some in agents.chunks(IDS_AT_ONCE) {
        let padded = some.iter().chain(std::iter::repeat(&some[0])).take(IDS_AT_ONCE);
        let values = padded.map(|id| Value::from(id.as_str())).collect();
        for row in tx.query(&sql, values).await? {
            rows.push(decode(&row)?);
        }
    }
    rows.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    Ok((rows, next))
}

#[cfg(test)]
mod fuzz;

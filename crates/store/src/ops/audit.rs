//! Plain audit rows, written in the transaction of what they record.

use super::audit_chain::FIELDS;
use crate::error::StoreError;
use crate::model::{AuditEntry, AuditFilter, AuditOf, AuditPage, AuditRow};
use crate::tx::{Context, Row, Tx, Value, params, query_one, to_json};
use aether_core::TenantScope;
use aether_core::audit::Hash;

const MAX_LIMIT: u32 = 1000;

/// A change that succeeds, if its transaction does.
pub(crate) async fn success(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    action: &str,
    resource: &str,
    resource_id: Option<&str>,
    details: serde_json::Value,
) -> Result<(), StoreError> {
    let entry = AuditEntry {
        action: action.to_owned(),
        resource: resource.to_owned(),
        resource_id: resource_id.map(str::to_owned),
        result: "success".to_owned(),
        details,
        error: None,
    };
    write(tx, cx, Some(scope.tenant().as_str()), scope.actor(), scope.address(), &entry).await
}

/// A change of the platform: no tenant's.
pub(crate) async fn platform(
    tx: &mut dyn Tx,
    cx: &Context,
    actor: &str,
    action: &str,
    resource: &str,
    resource_id: &str,
    details: serde_json::Value,
) -> Result<(), StoreError> {
    let entry = AuditEntry {
        action: action.to_owned(),
        resource: resource.to_owned(),
        resource_id: Some(resource_id.to_owned()),
        result: "success".to_owned(),
        details,
        error: None,
    };
    write(tx, cx, None, actor, None, &entry).await
}

/// An entry by itself: a denial, a log-in.
pub(crate) async fn record(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    entry: &AuditEntry,
) -> Result<(), StoreError> {
    write(tx, cx, Some(scope.tenant().as_str()), scope.actor(), scope.address(), entry).await
}

async fn write(
    tx: &mut dyn Tx,
    cx: &Context,
    tenant: Option<&str>,
    actor: &str,
    address: Option<&str>,
    entry: &AuditEntry,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO audit_logs (at_ms, tenant_id, actor, action, resource, resource_id, result, address, details, error)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        params![
            cx.now(),
            tenant,
            actor,
            &entry.action,
            &entry.resource,
            entry.resource_id.as_deref(),
            &entry.result,
            address,
            to_json(&entry.details)?,
            entry.error.as_deref(),
        ],
    )
    .await?;
    Ok(())
}

/// All that match, counted to here.
const COUNTED: u32 = 10_000;

/// Conditions with their parameters.
#[derive(Clone)]
struct Where {
    sql: String,
    values: Vec<Value>,
}

impl Where {
    fn of(of: &AuditOf, filter: &AuditFilter) -> Self {
        let mut w = match of {
            AuditOf::Tenant(s) => Self { sql: "a.tenant_id = $1".to_owned(), values: params![s.tenant().as_str()] },
            AuditOf::Platform => Self { sql: "a.tenant_id IS NULL".to_owned(), values: Vec::new() },
        };
        for (condition, value) in [
            ("a.actor =", &filter.actor),
            ("a.action =", &filter.action),
            ("a.resource =", &filter.resource),
            ("a.resource_id =", &filter.resource_id),
            ("a.result =", &filter.result),
        ] {
            w.and(condition, value.as_deref().map(Value::from));
        }
        w.and("a.at_ms >=", filter.since.map(Value::from));
        w.and("a.at_ms <", filter.until.map(Value::from));
        w
    }

    fn and(&mut self, condition: &str, value: Option<Value>) {
        if let Some(value) = value {
            let place = self.push(value);
            self.sql.push_str(&format!(" AND {condition} {place}"));
        }
    }

    fn push(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("${}", self.values.len())
    }
}

pub(crate) async fn page(tx: &mut dyn Tx, of: &AuditOf, filter: &AuditFilter) -> Result<AuditPage, StoreError> {
    let mut w = Where::of(of, filter);
    let mut counted = w.clone();
    w.and("a.seq <", filter.before.map(Value::from));
    w.and("c.position >", filter.after.map(Value::from));
    let limit = filter.limit.clamp(1, MAX_LIMIT);
    // One more than asked: whether there is more.
    let most = w.push(Value::from(limit + 1));
    // By position the chain leads, so that a follower reads what is new alone.
    let (join, order) = match filter.after {
        Some(_) => ("JOIN", "c.chain, c.position"),
        None => ("LEFT JOIN", "a.seq DESC"),
    };
    let own = match of {
        AuditOf::Tenant(_) => "c.chain = $1",
        AuditOf::Platform => "c.chain = ''",
    };
    let rows = format!(
        "SELECT {FIELDS}, c.position, c.hash FROM audit_logs a {join} audit_chain c ON c.seq = a.seq AND {own}
         WHERE {} ORDER BY {order} LIMIT {most}",
        w.sql
    );
    let mut rows = tx.query(&rows, w.values).await?.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let most = counted.push(Value::from(COUNTED));
    let count = format!(
        "SELECT count(*) AS n FROM (SELECT 1 FROM audit_logs a WHERE {} LIMIT {most}) AS matching",
        counted.sql
    );
    let total = query_one(tx, &count, counted.values).await?.map_or(Ok(0), |row| row.uint("n"))?;
    Ok(AuditPage { rows, total, more })
}

fn decode(row: &Row) -> Result<AuditRow, StoreError> {
    Ok(AuditRow {
        sequence: row.uint("seq")?,
        at: row.time("at_ms")?,
        tenant: row.parse_opt("tenant_id")?,
        actor: row.text("actor")?,
        action: row.text("action")?,
        resource: row.text("resource")?,
        resource_id: row.text_opt("resource_id")?,
        result: row.text("result")?,
        address: row.text_opt("address")?,
        // Changed behind our back it may be no JSON: it is shown all the same.
        details: row.json("details").or_else(|_| row.text("details").map(serde_json::Value::String))?,
        error: row.text_opt("error")?,
        position: row.int_opt("position")?.and_then(|n| u64::try_from(n).ok()),
        hash: row.bytes_opt("hash")?.and_then(|b| b.try_into().ok()).map(Hash),
    })
}

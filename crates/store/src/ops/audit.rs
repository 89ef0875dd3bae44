//! Plain audit rows, written in the transaction of what they record.

use crate::error::StoreError;
use crate::model::{AuditEntry, AuditFilter, AuditRow};
use crate::tx::{Context, Row, Tx, Value, params, to_json};
use aether_core::TenantScope;

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

pub(crate) async fn list(
    tx: &mut dyn Tx,
    scope: &TenantScope,
    filter: &AuditFilter,
) -> Result<Vec<AuditRow>, StoreError> {
    let mut values = params![scope.tenant().as_str()];
    let mut sql = "SELECT seq, at_ms, tenant_id, actor, action, resource, resource_id, result, address, details, error
        FROM audit_logs WHERE tenant_id = $1"
        .to_owned();
    let conditions: [(&str, Option<Value>); 7] = [
        ("actor =", filter.actor.as_deref().map(Value::from)),
        ("action =", filter.action.as_deref().map(Value::from)),
        ("resource =", filter.resource.as_deref().map(Value::from)),
        ("resource_id =", filter.resource_id.as_deref().map(Value::from)),
        ("at_ms >=", filter.since.map(Value::from)),
        ("at_ms <", filter.until.map(Value::from)),
        ("seq <", filter.before.map(Value::from)),
    ];
    for (condition, value) in conditions {
        if let Some(value) = value {
            values.push(value);
            sql.push_str(&format!(" AND {condition} ${}", values.len()));
        }
    }
    values.push(Value::from(filter.limit.clamp(1, MAX_LIMIT)));
    sql.push_str(&format!(" ORDER BY seq DESC LIMIT ${}", values.len()));
    tx.query(&sql, values).await?.iter().map(decode).collect()
}

fn decode(row: &Row) -> Result<AuditRow, StoreError> {
    Ok(AuditRow {
        sequence: row.uint("seq")?,
        at: row.time("at_ms")?,
        tenant: row.parse("tenant_id")?,
        actor: row.text("actor")?,
        action: row.text("action")?,
        resource: row.text("resource")?,
        resource_id: row.text_opt("resource_id")?,
        result: row.text("result")?,
        address: row.text_opt("address")?,
        details: row.json("details")?,
        error: row.text_opt("error")?,
    })
}

//! Service accounts: principals of a tenant that are no people. Keys are made
//! for them and have their role; whether one may work is looked up with each
//! use of its keys.

use super::{audit, quota, roles};
use crate::error::StoreError;
use crate::model::{NewServiceAccount, ServiceAccountRow};
use crate::tx::{Context, Row, Tx, params, query_one};
use aether_core::{RoleName, ServiceAccountId, TenantId, TenantScope};
use serde_json::json;

const SELECT: &str = "SELECT s.id, s.name, s.role, s.created_ms, s.disabled_ms, r.permissions AS own_permissions,
      (SELECT count(*) FROM api_keys k WHERE k.service_account_id = s.id AND k.revoked_ms IS NULL) AS live_keys
    FROM service_accounts s LEFT JOIN roles r ON r.tenant_id = s.tenant_id AND r.name = s.role";
/// Of one tenant.
const MOST: u64 = 1000;

fn decode(row: &Row) -> Result<ServiceAccountRow, StoreError> {
    let role: RoleName = row.parse("role")?;
    Ok(ServiceAccountRow {
        id: row.parse("id")?,
        name: row.parse("name")?,
        permissions: roles::resolve(&role, row.text_opt("own_permissions")?.as_deref())?,
        role,
        enabled: row.int_opt("disabled_ms")?.is_none(),
        keys: row.uint("live_keys")?,
        created_at: row.time("created_ms")?,
    })
}

pub(crate) async fn create(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    new: &NewServiceAccount,
) -> Result<ServiceAccountRow, StoreError> {
    quota::enter(tx, scope.tenant()).await?.require_active()?;
    let permissions = roles::require(tx, scope.tenant(), &new.role).await?;
    let tenant = scope.tenant().as_str();
    let count = query_one(tx, "SELECT count(*) AS n FROM service_accounts WHERE tenant_id = $1", params![tenant]);
    if count.await?.map_or(Ok(0), |row| row.uint("n"))? >= MOST {
        return Err(StoreError::TooMany { what: "service accounts", most: MOST });
    }
    let made = tx
        .execute(
            "INSERT INTO service_accounts (id, tenant_id, name, role, created_ms) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT DO NOTHING",
            params![new.id.as_str(), tenant, new.name.as_str(), new.role.as_str(), cx.now()],
        )
        .await?;
    if made != 1 {
        return Err(StoreError::AlreadyExists { what: "service account" });
    }
    let details = json!({ "name": new.name.as_str(), "role": new.role.as_str() });
    audit::success(tx, cx, scope, "create", "service_account", Some(new.id.as_str()), details).await?;
    Ok(ServiceAccountRow {
        id: new.id.clone(),
        name: new.name.clone(),
        role: new.role.clone(),
        permissions,
        enabled: true,
        keys: 0,
        created_at: cx.now(),
    })
}

/// By id or name.
pub(crate) async fn find(
    tx: &mut dyn Tx,
    scope: &TenantScope,
    id_or_name: &str,
) -> Result<Option<ServiceAccountRow>, StoreError> {
    let sql = format!("{SELECT} WHERE s.tenant_id = $1 AND (s.id = $2 OR s.name = $2)");
    let row = query_one(tx, &sql, params![scope.tenant().as_str(), id_or_name]).await?;
    row.as_ref().map(decode).transpose()
}

/// By name.
pub(crate) async fn list(tx: &mut dyn Tx, scope: &TenantScope) -> Result<Vec<ServiceAccountRow>, StoreError> {
    let sql = format!("{SELECT} WHERE s.tenant_id = $1 ORDER BY s.name");
    tx.query(&sql, params![scope.tenant().as_str()]).await?.iter().map(decode).collect()
}

/// Locks the account: for update, or so that it stays.
pub(super) async fn lock(
    tx: &mut dyn Tx,
    tenant: &TenantId,
    id: &ServiceAccountId,
    lock: &str,
) -> Result<(RoleName, bool), StoreError> {
    let sql = format!("SELECT role, disabled_ms FROM service_accounts WHERE tenant_id = $1 AND id = $2{lock}");
    let row = query_one(tx, &sql, params![tenant.as_str(), id.as_str()]).await?;
    let row = row.ok_or(StoreError::NotFound { what: "service account" })?;
    Ok((row.parse("role")?, row.int_opt("disabled_ms")?.is_none()))
}

/// From the commit on none of its keys is taken, or they are again. So
/// already: nothing.
pub(crate) async fn set_enabled(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    (id, enabled): (&ServiceAccountId, bool),
) -> Result<(), StoreError> {
    let update = tx.dialect().for_update();
    if lock(tx, scope.tenant(), id, update).await?.1 == enabled {
        return Ok(());
    }
    let disabled = (!enabled).then(|| cx.now());
    tx.execute("UPDATE service_accounts SET disabled_ms = $1 WHERE id = $2", params![disabled, id.as_str()]).await?;
    let action = if enabled { "enable" } else { "disable" };
    audit::success(tx, cx, scope, action, "service_account", Some(id.as_str()), json!({})).await
}

/// With it its keys are revoked; tells how many.
pub(crate) async fn delete(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    id: &ServiceAccountId,
) -> Result<u64, StoreError> {
    let update = tx.dialect().for_update();
    lock(tx, scope.tenant(), id, update).await?;
    let lift = "DELETE FROM budgets WHERE tenant_id = $1
        AND part IN (SELECT 'key:' || id FROM api_keys WHERE tenant_id = $1 AND service_account_id = $2)";
    tx.execute(lift, params![scope.tenant().as_str(), id.as_str()]).await?;
    let revoke = "UPDATE api_keys SET revoked_ms = $1, budgeted = 0 WHERE tenant_id = $2 AND service_account_id = $3
        AND revoked_ms IS NULL";
    let revoked = tx.execute(revoke, params![cx.now(), scope.tenant().as_str(), id.as_str()]).await?;
    tx.execute("DELETE FROM service_accounts WHERE id = $1", params![id.as_str()]).await?;
    let details = json!({ "keys_revoked": revoked });
    audit::success(tx, cx, scope, "delete", "service_account", Some(id.as_str()), details).await?;
    Ok(revoked)
}

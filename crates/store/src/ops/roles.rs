//! Roles of a tenant's own: named sets of permissions. Keys and service
//! accounts name them, and what they may is looked up with each of them: a
//! change holds from its commit on.

use super::{audit, quota};
use crate::error::StoreError;
use crate::model::RoleRow;
use crate::tx::{Context, Row, Tx, params, query_one, to_json};
use aether_core::{AgentName, FieldError, Permission, PermissionSet, RoleName, TenantId, TenantScope};
use serde_json::json;

const COLUMNS: &str = "name, permissions, updated_ms";
/// Of one tenant.
const MOST: u64 = 100;
/// Of those who have a role that shall go, in the refusal.
const NAMED: u32 = 10;

/// Of a JSON array; what this program does not know is not held.
pub(super) fn permissions_of(text: &str) -> Result<PermissionSet, StoreError> {
    let names: Vec<String> = crate::tx::from_json(text, "a role's permissions")?;
    Ok(names.iter().filter_map(|name| name.parse::<Permission>().ok()).collect::<PermissionSet>())
}

/// What a role is now, of which `own` are the permissions where it is the
/// tenant's own and is there. A tenant's own never holds more than a tenant.
pub(super) fn resolve(role: &RoleName, own: Option<&str>) -> Result<PermissionSet, StoreError> {
    match (role, own) {
        (RoleName::BuiltIn(role), _) => Ok(role.permissions()),
        (RoleName::Own(_), Some(text)) => Ok(permissions_of(text)?.and(PermissionSet::of_tenant())),
        (RoleName::Own(_), None) => Ok(PermissionSet::EMPTY),
    }
}

fn decode(row: &Row) -> Result<RoleRow, StoreError> {
    Ok(RoleRow {
        name: row.parse("name")?,
        permissions: permissions_of(&row.text("permissions")?)?.and(PermissionSet::of_tenant()),
        updated_at: row.time("updated_ms")?,
    })
}

fn names(permissions: PermissionSet) -> Vec<&'static str> {
    permissions.iter().map(Permission::as_str).collect()
}

async fn row(tx: &mut dyn Tx, tenant: &TenantId, name: &AgentName, lock: &str) -> Result<Option<RoleRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM roles WHERE tenant_id = $1 AND name = $2{lock}");
    query_one(tx, &sql, params![tenant.as_str(), name.as_str()]).await?.as_ref().map(decode).transpose()
}

/// What a role that somebody shall have may do; it stays until the
/// transaction ends.
pub(super) async fn require(tx: &mut dyn Tx, tenant: &TenantId, role: &RoleName) -> Result<PermissionSet, StoreError> {
    match role {
        RoleName::BuiltIn(role) => Ok(role.permissions()),
        RoleName::Own(name) => {
            let lock = tx.dialect().for_share();
            let missing = || StoreError::Invalid { errors: vec![FieldError::new("role", "there is no such role")] };
            Ok(row(tx, tenant, name, lock).await?.ok_or_else(missing)?.permissions)
        }
    }
}

pub(crate) async fn find(
    tx: &mut dyn Tx,
    scope: &TenantScope,
    name: &AgentName,
) -> Result<Option<RoleRow>, StoreError> {
    row(tx, scope.tenant(), name, "").await
}

/// By name.
pub(crate) async fn list(tx: &mut dyn Tx, scope: &TenantScope) -> Result<Vec<RoleRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM roles WHERE tenant_id = $1 ORDER BY name");
    tx.query(&sql, params![scope.tenant().as_str()]).await?.iter().map(decode).collect()
}

pub(crate) async fn create(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    (name, permissions): (&AgentName, PermissionSet),
) -> Result<RoleRow, StoreError> {
    quota::enter(tx, scope.tenant()).await?.require_active()?;
    let count = query_one(tx, "SELECT count(*) AS n FROM roles WHERE tenant_id = $1", params![scope.tenant().as_str()]);
    if count.await?.map_or(Ok(0), |row| row.uint("n"))? >= MOST {
        return Err(StoreError::TooMany { what: "roles", most: MOST });
    }
    let made = tx
        .execute(
            "INSERT INTO roles (tenant_id, name, permissions, created_ms, updated_ms) VALUES ($1, $2, $3, $4, $4)
             ON CONFLICT DO NOTHING",
            params![scope.tenant().as_str(), name.as_str(), to_json(&names(permissions))?, cx.now()],
        )
        .await?;
    if made != 1 {
        return Err(StoreError::AlreadyExists { what: "role" });
    }
    let details = json!({ "permissions": names(permissions) });
    audit::success(tx, cx, scope, "create", "role", Some(name.as_str()), details).await?;
    Ok(RoleRow { name: name.clone(), permissions, updated_at: cx.now() })
}

/// Holds from the commit on for all who have it. The same ones: nothing.
pub(crate) async fn update(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    (name, permissions): (&AgentName, PermissionSet),
) -> Result<RoleRow, StoreError> {
    let lock = tx.dialect().for_update();
    let before = row(tx, scope.tenant(), name, lock).await?.ok_or(StoreError::NotFound { what: "role" })?;
    if before.permissions == permissions {
        return Ok(before);
    }
    tx.execute(
        "UPDATE roles SET permissions = $1, updated_ms = $2 WHERE tenant_id = $3 AND name = $4",
        params![to_json(&names(permissions))?, cx.now(), scope.tenant().as_str(), name.as_str()],
    )
    .await?;
    let details = json!({ "permissions": names(permissions), "before": names(before.permissions) });
    audit::success(tx, cx, scope, "update", "role", Some(name.as_str()), details).await?;
    Ok(RoleRow { permissions, updated_at: cx.now(), ..before })
}

/// Refused while a key that may come back to life, or a service account, has
/// it.
pub(crate) async fn delete(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    name: &AgentName,
) -> Result<(), StoreError> {
    let lock = tx.dialect().for_update();
    row(tx, scope.tenant(), name, lock).await?.ok_or(StoreError::NotFound { what: "role" })?;
    let sql = "SELECT kind, id, name FROM (
          SELECT 'key' AS kind, id, name, created_ms FROM api_keys
            WHERE tenant_id = $1 AND role = $2 AND revoked_ms IS NULL AND service_account_id IS NULL
          UNION ALL SELECT 'service account', id, name, created_ms FROM service_accounts
            WHERE tenant_id = $1 AND role = $2) AS users
        ORDER BY created_ms, id LIMIT $3";
    let mut by = Vec::new();
    for user in tx.query(sql, params![scope.tenant().as_str(), name.as_str(), NAMED]).await? {
        by.push(format!("the {} {} ({})", user.text("kind")?, user.text("name")?, user.text("id")?));
    }
    if !by.is_empty() {
        return Err(StoreError::InUse { what: "role", by });
    }
    let (tenant, role) = (scope.tenant().as_str(), name.as_str());
    tx.execute("DELETE FROM roles WHERE tenant_id = $1 AND name = $2", params![tenant, role]).await?;
    audit::success(tx, cx, scope, "delete", "role", Some(role), json!({})).await
}

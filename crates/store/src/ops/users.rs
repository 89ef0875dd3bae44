//! Users: people of one tenant.

use super::{audit, quota, sessions};
use crate::error::StoreError;
use crate::model::{NewUser, Subject, UserChange, UserRow};
use crate::tx::{Context, Row, Tx, params, query_one};
use aether_core::{Secret, TenantId, TenantScope, UserId};
use serde_json::json;

const COLUMNS: &str = "u.id, u.tenant_id, u.name, u.role, u.password, u.created_ms, u.disabled_ms, u.last_login_ms, \
    t.status AS tenant_status";
const FROM: &str = "users u JOIN tenants t ON t.id = u.tenant_id";
const WHAT: &str = "user";

fn decode(row: &Row) -> Result<UserRow, StoreError> {
    Ok(UserRow {
        id: row.parse("id")?,
        tenant: row.parse("tenant_id")?,
        name: row.text("name")?,
        role: row.parse("role")?,
        password: row.text_opt("password")?.map(Secret::new),
        created_at: row.time("created_ms")?,
        disabled_at: row.time_opt("disabled_ms")?,
        last_login_at: row.time_opt("last_login_ms")?,
        tenant_status: row.parse("tenant_status")?,
    })
}

pub(crate) async fn create(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    new: &NewUser,
) -> Result<UserRow, StoreError> {
    quota::enter(tx, scope.tenant()).await?.require_active()?;
    let made = tx
        .execute(
            "INSERT INTO users (id, tenant_id, name, role, password, created_ms)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            params![
                new.id.as_str(),
                scope.tenant().as_str(),
                &new.name,
                new.role.as_str(),
                new.password.as_ref().map(Secret::expose),
                cx.now(),
            ],
        )
        .await?;
    if made != 1 {
        return Err(StoreError::AlreadyExists { what: WHAT });
    }
    let details = json!({ "name": &new.name, "role": new.role.as_str() });
    audit::success(tx, cx, scope, "create", WHAT, Some(new.id.as_str()), details).await?;
    find(tx, &new.id).await?.ok_or_else(|| StoreError::internal("a new user is gone"))
}

/// By whoever has a token of the user: no tenant is known yet.
pub(crate) async fn find(tx: &mut dyn Tx, id: &UserId) -> Result<Option<UserRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE u.id = $1");
    query_one(tx, &sql, params![id.as_str()]).await?.as_ref().map(decode).transpose()
}

/// For a login.
pub(crate) async fn find_by_name(
    tx: &mut dyn Tx,
    tenant: &TenantId,
    name: &str,
) -> Result<Option<UserRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE u.tenant_id = $1 AND u.name = $2");
    query_one(tx, &sql, params![tenant.as_str(), name]).await?.as_ref().map(decode).transpose()
}

/// By id or name.
pub(crate) async fn find_in(tx: &mut dyn Tx, scope: &TenantScope, text: &str) -> Result<Option<UserRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE u.tenant_id = $1 AND (u.id = $2 OR u.name = $2)");
    query_one(tx, &sql, params![scope.tenant().as_str(), text]).await?.as_ref().map(decode).transpose()
}

pub(crate) async fn list(tx: &mut dyn Tx, scope: &TenantScope) -> Result<Vec<UserRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE u.tenant_id = $1 ORDER BY u.name LIMIT 1000");
    tx.query(&sql, params![scope.tenant().as_str()]).await?.iter().map(decode).collect()
}

/// Whoever gets another password, or is disabled, is logged out everywhere.
pub(crate) async fn update(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    (id, change): (&UserId, &UserChange),
) -> Result<UserRow, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM {FROM} WHERE u.tenant_id = $1 AND u.id = $2{}",
        if tx.dialect().for_update().is_empty() { "" } else { " FOR UPDATE OF u" }
    );
    let row = query_one(tx, &sql, params![scope.tenant().as_str(), id.as_str()]).await?;
    let mut row = decode(&row.ok_or(StoreError::NotFound { what: WHAT })?)?;
    let mut details = json!({});
    if let Some(role) = change.role.filter(|role| *role != row.role) {
        row.role = role;
        details["role"] = json!(role.as_str());
    }
    if let Some(password) = &change.password {
        row.password = Some(password.clone());
        details["password"] = json!("changed");
    }
    if let Some(disabled) = change.disabled.filter(|disabled| *disabled != row.disabled_at.is_some()) {
        row.disabled_at = disabled.then(|| cx.now());
        details["disabled"] = json!(disabled);
    }
    if details == json!({}) {
        return Ok(row);
    }
    tx.execute(
        "UPDATE users SET role = $1, password = $2, disabled_ms = $3 WHERE id = $4",
        params![row.role.as_str(), row.password.as_ref().map(Secret::expose), row.disabled_at, id.as_str()],
    )
    .await?;
    if change.password.is_some() || row.disabled_at.is_some() {
        sessions::end_all(tx, &Subject::User(id.clone())).await?;
    }
    audit::success(tx, cx, scope, "update", WHAT, Some(id.as_str()), details).await?;
    Ok(row)
}

pub(crate) async fn delete(tx: &mut dyn Tx, cx: &Context, scope: &TenantScope, id: &UserId) -> Result<(), StoreError> {
    let sql = "DELETE FROM users WHERE id = $1 AND tenant_id = $2";
    if tx.execute(sql, params![id.as_str(), scope.tenant().as_str()]).await? != 1 {
        return Err(StoreError::NotFound { what: WHAT });
    }
    sessions::end_all(tx, &Subject::User(id.clone())).await?;
    audit::success(tx, cx, scope, "delete", WHAT, Some(id.as_str()), json!({})).await
}

/// In the transaction of a login.
pub(super) async fn logged_in(tx: &mut dyn Tx, cx: &Context, id: &UserId) -> Result<(), StoreError> {
    tx.execute("UPDATE users SET last_login_ms = $1 WHERE id = $2", params![cx.now(), id.as_str()]).await?;
    Ok(())
}

//! API keys: only their keyed hashes are here.

use super::{audit, quota};
use crate::error::StoreError;
use crate::model::{KeyRow, NewKey};
use crate::tx::{Context, Row, Tx, params, query_one, to_json};
use aether_core::{KeyId, TenantScope};
use serde_json::json;

const COLUMNS: &str = "k.id, k.tenant_id, k.name, k.prefix, k.role, k.scopes, k.created_ms, k.expires_ms, \
    k.last_used_ms, k.revoked_ms, t.status AS tenant_status";
const FROM: &str = "api_keys k JOIN tenants t ON t.id = k.tenant_id";
/// A use is noted at most once in this time: not every request is a write.
const USE_NOTED_MS: u64 = 60_000;

fn decode(row: &Row) -> Result<KeyRow, StoreError> {
    let scopes = row.text_opt("scopes")?;
    Ok(KeyRow {
        id: row.parse("id")?,
        tenant: row.parse("tenant_id")?,
        name: row.text("name")?,
        prefix: row.text("prefix")?,
        role: row.parse("role")?,
        scopes: scopes.map(|text| crate::tx::from_json(&text, "a key's scopes")).transpose()?,
        created_at: row.time("created_ms")?,
        expires_at: row.time_opt("expires_ms")?,
        last_used_at: row.time_opt("last_used_ms")?,
        revoked_at: row.time_opt("revoked_ms")?,
        tenant_status: row.parse("tenant_status")?,
    })
}

pub(crate) async fn create(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    new: &NewKey,
) -> Result<KeyRow, StoreError> {
    let entered = quota::enter(tx, scope.tenant()).await?;
    entered.require_active()?;
    let now = cx.now();
    let scopes = new.scopes.as_ref().map(to_json).transpose()?;
    let made = tx
        .execute(
            "INSERT INTO api_keys (id, tenant_id, name, hash, prefix, role, scopes, created_ms, expires_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
            params![
                new.id.as_str(),
                scope.tenant().as_str(),
                &new.name,
                new.hash.as_slice(),
                &new.prefix,
                new.role.as_str(),
                scopes,
                now,
                new.expires_at,
            ],
        )
        .await?;
    if made != 1 {
        return Err(StoreError::AlreadyExists { what: "key" });
    }
    let details = json!({ "name": &new.name, "prefix": &new.prefix, "role": new.role.as_str() });
    audit::success(tx, cx, scope, "create", "api_key", Some(new.id.as_str()), details).await?;
    Ok(KeyRow {
        id: new.id.clone(),
        tenant: scope.tenant().clone(),
        name: new.name.clone(),
        prefix: new.prefix.clone(),
        role: new.role,
        scopes: new.scopes.clone(),
        created_at: now,
        expires_at: new.expires_at,
        last_used_at: None,
        revoked_at: None,
        tenant_status: entered.status,
    })
}

pub(crate) async fn find_by_hash(tx: &mut dyn Tx, hash: &[u8; 32]) -> Result<Option<KeyRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE k.hash = $1");
    query_one(tx, &sql, params![hash.as_slice()]).await?.as_ref().map(decode).transpose()
}

pub(crate) async fn find(tx: &mut dyn Tx, id: &KeyId) -> Result<Option<KeyRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE k.id = $1");
    query_one(tx, &sql, params![id.as_str()]).await?.as_ref().map(decode).transpose()
}

pub(crate) async fn list(tx: &mut dyn Tx, scope: &TenantScope) -> Result<Vec<KeyRow>, StoreError> {
    let sql =
        format!("SELECT {COLUMNS} FROM {FROM} WHERE k.tenant_id = $1 ORDER BY k.created_ms DESC, k.id LIMIT 1000");
    tx.query(&sql, params![scope.tenant().as_str()]).await?.iter().map(decode).collect()
}

/// Of the tenant's own keys; one that is revoked already is not found.
pub(crate) async fn revoke(tx: &mut dyn Tx, cx: &Context, scope: &TenantScope, id: &KeyId) -> Result<(), StoreError> {
    let revoked = tx
        .execute(
            "UPDATE api_keys SET revoked_ms = $1 WHERE id = $2 AND tenant_id = $3 AND revoked_ms IS NULL",
            params![cx.now(), id.as_str(), scope.tenant().as_str()],
        )
        .await?;
    if revoked != 1 {
        return Err(StoreError::NotFound { what: "key" });
    }
    audit::success(tx, cx, scope, "delete", "api_key", Some(id.as_str()), json!({})).await
}

pub(crate) async fn touch(tx: &mut dyn Tx, cx: &Context, id: &KeyId) -> Result<(), StoreError> {
    let now = cx.now();
    let before = now.unix_ms().saturating_sub(USE_NOTED_MS);
    tx.execute(
        "UPDATE api_keys SET last_used_ms = $1 WHERE id = $2 AND (last_used_ms IS NULL OR last_used_ms <= $3)",
        params![now, id.as_str(), before],
    )
    .await?;
    Ok(())
}

pub(crate) async fn count(tx: &mut dyn Tx) -> Result<u64, StoreError> {
    let row = query_one(tx, "SELECT count(*) AS n FROM api_keys WHERE revoked_ms IS NULL", Vec::new()).await?;
    row.map_or(Ok(0), |r| r.uint("n"))
}

//! API keys: only their keyed hashes are here.
//!
//! A rotation keeps the id, so that whatever names the key (its agents, its
//! budget, the audit log) goes on: the new secret takes the place of the old
//! one, which is found beside it until its time is over. A second rotation
//! shortens the time of none: whoever did not get the answer to the first may
//! ask again, and what the old secret runs goes on.

use super::{audit, budgets, quota, roles, service_accounts, tenants};
use crate::error::StoreError;
use crate::model::{KeyAccount, KeyChange, KeyRow, NewKey, Rotation};
use crate::tx::{Context, Row, Tx, from_json, params, query_one, to_json};
use aether_core::tenant::{BudgetOf, Limits};
use aether_core::{KeyId, Permission, Reach, RoleName, ServiceAccountId, TenantScope, Timestamp};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

const COLUMNS: &str = "k.id, k.tenant_id, k.name, k.prefix, k.scopes, k.created_ms, k.expires_ms, k.last_used_ms, \
    k.revoked_ms, k.rotated_ms, k.reach, k.service_account_id, k.budgeted, \
    COALESCE(s.role, k.role) AS role, s.name AS account_name, s.disabled_ms AS account_disabled_ms, \
    r.permissions AS own_permissions, \
    (SELECT max(o.until_ms) FROM api_key_secrets o WHERE o.key_id = k.id) AS previous_until_ms, \
    t.status AS tenant_status";
const FROM: &str = "api_keys k JOIN tenants t ON t.id = k.tenant_id
    LEFT JOIN service_accounts s ON s.id = k.service_account_id
    LEFT JOIN roles r ON r.tenant_id = k.tenant_id AND r.name = COALESCE(s.role, k.role)";
/// A use is noted at most once in this time: not every request is a write.
const USE_NOTED_MS: u64 = 60_000;
/// That work beside the present one.
const MOST_SECRETS: u64 = 8;

fn decode(row: &Row, secret_until: Option<Timestamp>) -> Result<KeyRow, StoreError> {
    let scopes: Option<BTreeSet<Permission>> =
        row.text_opt("scopes")?.map(|text| from_json(&text, "a key's scopes")).transpose()?;
    let reach = row.text_opt("reach")?.map(|text| from_json::<Reach>(&text, "a key's reach")).transpose()?;
    let role: RoleName = row.parse("role")?;
    let own = roles::resolve(&role, row.text_opt("own_permissions")?.as_deref())?;
    Ok(KeyRow {
        id: row.parse("id")?,
        tenant: row.parse("tenant_id")?,
        name: row.text("name")?,
        prefix: row.text("prefix")?,
        permissions: own.scoped(scopes.as_ref()),
        role,
        scopes,
        reach: reach.map(Arc::new),
        budgeted: row.flag("budgeted")?,
        account: account(row)?,
        created_at: row.time("created_ms")?,
        expires_at: row.time_opt("expires_ms")?,
        last_used_at: row.time_opt("last_used_ms")?,
        revoked_at: row.time_opt("revoked_ms")?,
        rotated_at: row.time_opt("rotated_ms")?,
        previous_until: row.time_opt("previous_until_ms")?,
        secret_until,
        tenant_status: row.parse("tenant_status")?,
    })
}

fn account(row: &Row) -> Result<Option<KeyAccount>, StoreError> {
    let Some(id) = row.parse_opt::<ServiceAccountId>("service_account_id")? else { return Ok(None) };
    let enabled = row.int_opt("account_disabled_ms")?.is_none();
    Ok(Some(KeyAccount { id, name: row.parse_opt("account_name")?, enabled }))
}

pub(crate) async fn create(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    new: &NewKey,
) -> Result<KeyRow, StoreError> {
    let tenant = scope.tenant();
    if new.budget.is_some() {
        tenants::lock_kept(tx, tenant).await?;
    }
    quota::enter(tx, tenant).await?.require_active()?;
    let mut role = new.role.clone();
    if let Some(account) = &new.service_account {
        let share = tx.dialect().for_share();
        role = service_accounts::lock(tx, tenant, account, share).await?.0;
    }
    roles::require(tx, tenant, &role).await?;
    let made = tx
        .execute(
            "INSERT INTO api_keys (id, tenant_id, name, hash, prefix, role, scopes, created_ms, expires_ms, reach,
                service_account_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING",
            params![
                new.id.as_str(),
                tenant.as_str(),
                &new.name,
                new.hash.as_slice(),
                &new.prefix,
                role.as_str(),
                new.scopes.as_ref().map(to_json).transpose()?,
                cx.now(),
                new.expires_at,
                new.reach.as_ref().map(to_json).transpose()?,
                new.service_account.as_ref().map(|id| id.as_str()),
            ],
        )
        .await?;
    if made != 1 {
        return Err(StoreError::AlreadyExists { what: "key" });
    }
    if new.budget.is_some() {
        budgets::set(tx, tenant, &BudgetOf::Key(new.id.clone()), new.budget).await?;
    }
    let details = json!({
        "name": &new.name, "prefix": &new.prefix, "role": role.as_str(), "scopes": &new.scopes,
        "allow": &new.reach, "budget": new.budget.map(Limits::amounts), "expires_at": new.expires_at,
        "service_account": &new.service_account,
    });
    audit::success(tx, cx, scope, "create", "api_key", Some(new.id.as_str()), details).await?;
    find(tx, scope, &new.id).await?.ok_or_else(|| StoreError::internal("a key that was made is not there"))
}

/// By the secret that it has, or by one that it had until lately.
pub(crate) async fn find_by_hash(tx: &mut dyn Tx, hash: &[u8; 32]) -> Result<Option<KeyRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE k.hash = $1");
    if let Some(row) = query_one(tx, &sql, params![hash.as_slice()]).await? {
        return decode(&row, None).map(Some);
    }
    let sql = format!(
        "SELECT {COLUMNS}, p.until_ms AS secret_until_ms FROM {FROM} JOIN api_key_secrets p ON p.key_id = k.id
         WHERE p.hash = $1"
    );
    let row = query_one(tx, &sql, params![hash.as_slice()]).await?;
    row.map(|row| decode(&row, Some(row.time("secret_until_ms")?))).transpose()
}

/// Of the tenant's own; revoked ones too.
pub(crate) async fn find(tx: &mut dyn Tx, scope: &TenantScope, id: &KeyId) -> Result<Option<KeyRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE k.id = $1 AND k.tenant_id = $2");
    let row = query_one(tx, &sql, params![id.as_str(), scope.tenant().as_str()]).await?;
    row.map(|row| decode(&row, None)).transpose()
}

/// Of any tenant: for who was let in by it.
pub(crate) async fn find_in_use(tx: &mut dyn Tx, id: &KeyId) -> Result<Option<KeyRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE k.id = $1");
    let row = query_one(tx, &sql, params![id.as_str()]).await?;
    row.map(|row| decode(&row, None)).transpose()
}
pub(crate) async fn list(tx: &mut dyn Tx, scope: &TenantScope) -> Result<Vec<KeyRow>, StoreError> {
    let sql =
        format!("SELECT {COLUMNS} FROM {FROM} WHERE k.tenant_id = $1 ORDER BY k.created_ms DESC, k.id LIMIT 1000");
    let rows = tx.query(&sql, params![scope.tenant().as_str()]).await?;
    rows.iter().map(|row| decode(row, None)).collect()
}

/// Of the tenant's own keys; one that is revoked already is not found.
async fn lock(tx: &mut dyn Tx, scope: &TenantScope, id: &KeyId) -> Result<KeyRow, StoreError> {
    let sql = format!(
        "SELECT id FROM api_keys WHERE id = $1 AND tenant_id = $2 AND revoked_ms IS NULL{}",
        tx.dialect().for_update()
    );
    query_one(tx, &sql, params![id.as_str(), scope.tenant().as_str()]).await?;
    let row = find(tx, scope, id).await?.filter(|row| row.revoked_at.is_none());
    row.ok_or(StoreError::NotFound { what: "key" })
}

/// A new secret for the same key.
pub(crate) async fn rotate(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    (id, rotation): (&KeyId, &Rotation),
) -> Result<KeyRow, StoreError> {
    quota::enter(tx, scope.tenant()).await?.require_active()?;
    let before = lock(tx, scope, id).await?;
    let until = Some(rotation.previous_until).filter(|until| *until > cx.now());
    let over = if until.is_some() { cx.now() } else { Timestamp::from_unix_ms(i64::MAX as u64) };
    let forget = "DELETE FROM api_key_secrets WHERE key_id = $1 AND until_ms <= $2";
    tx.execute(forget, params![id.as_str(), over]).await?;
    if let Some(until) = until {
        let left = "SELECT count(*) AS n FROM api_key_secrets WHERE key_id = $1";
        let left = query_one(tx, left, params![id.as_str()]).await?.map_or(Ok(0), |row| row.uint("n"))?;
        if left >= MOST_SECRETS {
            return Err(StoreError::TooMany { what: "secrets of this key", most: MOST_SECRETS });
        }
        let keep =
            "INSERT INTO api_key_secrets (hash, key_id, until_ms) SELECT hash, id, $1 FROM api_keys WHERE id = $2";
        tx.execute(keep, params![until, id.as_str()]).await?;
    }
    tx.execute(
        "UPDATE api_keys SET hash = $1, prefix = $2, rotated_ms = $3 WHERE id = $4",
        params![rotation.hash.as_slice(), &rotation.prefix, cx.now(), id.as_str()],
    )
    .await?;
    let details = json!({
        "prefix": &rotation.prefix, "previous_prefix": &before.prefix, "previous_until": until,
    });
    audit::success(tx, cx, scope, "rotate", "api_key", Some(id.as_str()), details).await?;
    find(tx, scope, id).await?.ok_or(StoreError::NotFound { what: "key" })
}

/// Changing nothing writes nothing.
pub(crate) async fn update(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    (id, change): (&KeyId, &KeyChange),
) -> Result<KeyRow, StoreError> {
    if change.budget.is_some() {
        tenants::lock_kept(tx, scope.tenant()).await?;
    }
    let before = lock(tx, scope, id).await?;
    let mut row = before.clone();
    let mut details = json!({});
    if let Some(name) = change.name.as_ref().filter(|name| **name != before.name) {
        row.name.clone_from(name);
        details["name"] = json!({ "from": &before.name, "to": name });
    }
    if let Some(expires) = change.expires_at.filter(|at| *at != before.expires_at) {
        row.expires_at = expires;
        details["expires_at"] = json!({ "from": before.expires_at, "to": expires });
    }
    if let Some(budget) = change.budget {
        let of = BudgetOf::Key(id.clone());
        let had = budgets::find(tx, scope.tenant(), &of).await?.map(|row| row.limits);
        if had != budget {
            row.budgeted = budget.is_some();
            details["budget"] = json!({ "from": had.map(Limits::amounts), "to": budget.map(Limits::amounts) });
            budgets::set(tx, scope.tenant(), &of, budget).await?;
        }
    }
    if details != json!({}) {
        let sql = "UPDATE api_keys SET name = $1, expires_ms = $2 WHERE id = $3";
        tx.execute(sql, params![&row.name, row.expires_at, id.as_str()]).await?;
        audit::success(tx, cx, scope, "update", "api_key", Some(id.as_str()), details).await?;
    }
    Ok(row)
}

/// Of the tenant's own keys; one that is revoked already is not found.
pub(crate) async fn revoke(tx: &mut dyn Tx, cx: &Context, scope: &TenantScope, id: &KeyId) -> Result<(), StoreError> {
    let revoked = tx
        .execute(
            "UPDATE api_keys SET revoked_ms = $1, budgeted = 0 WHERE id = $2 AND tenant_id = $3 AND revoked_ms IS NULL",
            params![cx.now(), id.as_str(), scope.tenant().as_str()],
        )
        .await?;
    if revoked != 1 {
        return Err(StoreError::NotFound { what: "key" });
    }
    // Nothing is made with it any more.
    let budget = BudgetOf::Key(id.clone()).to_string();
    let lift = "DELETE FROM budgets WHERE tenant_id = $1 AND part = $2";
    tx.execute(lift, params![scope.tenant().as_str(), budget]).await?;
    audit::success(tx, cx, scope, "delete", "api_key", Some(id.as_str()), json!({})).await
}

pub(crate) async fn touch(tx: &mut dyn Tx, cx: &Context, id: &KeyId) -> Result<(), StoreError> {
    let now: Timestamp = cx.now();
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

//! One result per idempotency key of a tenant, for 24 hours. A narrowed caller
//! has its own: what others did under theirs may be out of its reach.

use crate::error::StoreError;
use crate::model::Idempotency;
use crate::tx::{Context, Tx, params, query_one};
use aether_core::TenantScope;
use std::borrow::Cow;
use std::time::Duration;

pub(crate) const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Keys made before this are no longer held.
fn oldest(cx: &Context) -> u64 {
    cx.now().unix_ms().saturating_sub(u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX))
}

/// As it is kept. No client can send a control character in one.
fn kept_as<'a>(scope: &TenantScope, key: &'a str) -> Cow<'a, str> {
    match (scope.reach(), scope.key()) {
        (None, _) => Cow::Borrowed(key),
        (Some(_), by) => Cow::Owned(format!("\u{2}{}/{key}", by.map_or("", |id| id.as_str()))),
    }
}

/// Claims the key for `resource`, or tells the resource that the first
/// request made. The claim lives and dies with its transaction.
pub(crate) async fn claim(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    kind: &str,
    idempotency: &Idempotency,
    resource: &str,
) -> Result<Option<String>, StoreError> {
    let (tenant, key) = (scope.tenant().as_str(), kept_as(scope, &idempotency.key));
    let key = key.as_ref();
    let busy = |error| match error {
        // On PostgreSQL the first request holds the key until it commits.
        StoreError::Locked => StoreError::InProgress,
        other => other,
    };
    tx.execute(
        "DELETE FROM idempotency_keys WHERE tenant_id = $1 AND key = $2 AND created_ms < $3",
        params![tenant, key, oldest(cx)],
    )
    .await
    .map_err(busy)?;
    let claimed = tx
        .execute(
            "INSERT INTO idempotency_keys (tenant_id, key, kind, request_hash, resource_id, created_ms)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            params![tenant, key, kind, idempotency.request_hash.as_slice(), resource, cx.now()],
        )
        .await
        .map_err(busy)?;
    if claimed == 1 {
        return Ok(None);
    }
    lookup(tx, cx, scope, kind, idempotency).await?.ok_or(StoreError::InProgress).map(Some)
}

/// The resource that the first request with this key made, where there was
/// one; claims nothing.
pub(crate) async fn lookup(
    tx: &mut dyn Tx,
    cx: &Context,
    scope: &TenantScope,
    kind: &str,
    idempotency: &Idempotency,
) -> Result<Option<String>, StoreError> {
    let Some(first) = query_one(
        tx,
        "SELECT kind, request_hash, resource_id FROM idempotency_keys
         WHERE tenant_id = $1 AND key = $2 AND created_ms >= $3",
        params![scope.tenant().as_str(), kept_as(scope, &idempotency.key).as_ref(), oldest(cx)],
    )
    .await?
    else {
        return Ok(None);
    };
    let same = first.text("kind")? == kind
        && first.bytes_opt("request_hash")?.as_deref() == Some(idempotency.request_hash.as_slice());
    if same { Ok(Some(first.text("resource_id")?)) } else { Err(StoreError::IdempotencyMismatch) }
}

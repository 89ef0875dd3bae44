//! Tenants. The first one, `default`, comes with the schema.

use super::audit;
use crate::error::StoreError;
use crate::model::TenantRow;
use crate::tx::{Context, Tx, params, query_one};
use aether_core::TenantId;
use serde_json::json;

pub(crate) async fn create(tx: &mut dyn Tx, cx: &Context, id: &TenantId, name: &str) -> Result<TenantRow, StoreError> {
    let now = cx.now();
    let made = tx
        .execute(
            "INSERT INTO tenants (id, name, created_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            params![id.as_str(), name, now],
        )
        .await?;
    if made != 1 {
        return Err(StoreError::AlreadyExists { what: "tenant" });
    }
    audit::platform(tx, cx, "system:store", "create", "tenant", id.as_str(), json!({ "name": name })).await?;
    Ok(TenantRow { id: id.clone(), name: name.to_owned(), created_at: now })
}

pub(crate) async fn find(tx: &mut dyn Tx, id: &TenantId) -> Result<Option<TenantRow>, StoreError> {
    let row = query_one(tx, "SELECT id, name, created_ms FROM tenants WHERE id = $1", params![id.as_str()]).await?;
    row.map(|r| Ok(TenantRow { id: r.parse("id")?, name: r.text("name")?, created_at: r.time("created_ms")? }))
        .transpose()
}

pub(crate) async fn require(tx: &mut dyn Tx, id: &TenantId) -> Result<(), StoreError> {
    find(tx, id).await?.map(|_| ()).ok_or(StoreError::NotFound { what: "tenant" })
}

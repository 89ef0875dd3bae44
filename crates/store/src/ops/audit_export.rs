//! Pages of a chain for export: what is linked by position, then what is not.

use super::audit_chain::{FIELDS, chain_of, hash_in, head, record};
use crate::error::StoreError;
use crate::model::{AuditExport, AuditHead, AuditOf, KeptDigest};
use crate::tx::{Row, Tx, Value, params, query_one};
use aether_core::audit::{Hash, Record};

const MAX_LIMIT: u32 = 1000;

/// The chain's tenant in the tables.
pub(super) fn tenant_of(of: &AuditOf) -> Option<&str> {
    match of {
        AuditOf::Tenant(scope) => Some(scope.tenant().as_str()),
        AuditOf::Platform => None,
    }
}

pub(crate) async fn head_of(tx: &mut dyn Tx, of: &AuditOf) -> Result<AuditHead, StoreError> {
    head(tx, tenant_of(of)).await
}

/// The records after `position`; at the end of the chain those that are not
/// linked yet, after `sequence`.
pub(crate) async fn page(
    tx: &mut dyn Tx,
    of: &AuditOf,
    (position, sequence): (u64, u64),
    limit: u32,
) -> Result<AuditExport, StoreError> {
    let (tenant, limit) = (tenant_of(of), limit.clamp(1, MAX_LIMIT));
    let head = head(tx, tenant).await?;
    let after = position.max(head.floor);
    let linked = linked(tx, tenant, after, limit).await?;
    let mut page = AuditExport { head, linked, unlinked: Vec::new(), more: false };
    if page.linked.len() == limit as usize {
        page.more = true;
        return Ok(page);
    }
    let (own, mut values) = match tenant {
        Some(tenant) => ("a.tenant_id = $3", vec![Value::from(tenant)]),
        None => ("a.tenant_id IS NULL", Vec::new()),
    };
    let sql = format!(
        "SELECT {FIELDS} FROM audit_logs a WHERE a.seq > $1 AND {own}
         AND NOT EXISTS (SELECT 1 FROM audit_chain c WHERE c.seq = a.seq) ORDER BY a.seq LIMIT $2"
    );
    let mut all = params![sequence, limit];
    all.append(&mut values);
    page.unlinked = tx.query(&sql, all).await?.iter().map(record).collect::<Result<_, _>>()?;
    page.more = page.unlinked.len() == limit as usize;
    Ok(page)
}

async fn linked(tx: &mut dyn Tx, tenant: Option<&str>, after: u64, limit: u32) -> Result<Vec<Record>, StoreError> {
    let chain = chain_of(tenant);
    let sql = format!(
        "SELECT {FIELDS}, c.position, c.hash FROM audit_chain c JOIN audit_logs a ON a.seq = c.seq
         WHERE c.chain = $1 AND c.position > $2 ORDER BY c.position LIMIT $3"
    );
    let rows = tx.query(&sql, params![chain, after, limit]).await?;
    let mut records = Vec::with_capacity(rows.len());
    let mut before: Option<(u64, Hash)> = None;
    for row in &rows {
        let (position, hash) = (row.uint("position")?, hash_in(row, "hash")?);
        // The row before it; of the first one, and where rows are missing,
        // it is looked up.
        let prev = match before {
            Some((at, prev)) if at + 1 == position => prev,
            _ => hash_at(tx, tenant, position.saturating_sub(1)).await?.unwrap_or(Hash([0; 32])),
        };
        let mut record = record(row)?;
        (record.position, record.prev, record.hash) = (Some(position), Some(prev), Some(hash));
        before = Some((position, hash));
        records.push(record);
    }
    Ok(records)
}

/// The chain's hash at a position that is kept, or at its floor.
pub(super) async fn hash_at(tx: &mut dyn Tx, tenant: Option<&str>, position: u64) -> Result<Option<Hash>, StoreError> {
    let head = head(tx, tenant).await?;
    if position == head.floor {
        return Ok(Some(head.floor_hash));
    }
    let sql = "SELECT hash FROM audit_chain WHERE chain = $1 AND position = $2";
    let row = query_one(tx, sql, params![chain_of(tenant), position]).await?;
    row.map(|row| hash_in(&row, "hash")).transpose()
}

/// The chain's digests after `number`, in order.
pub(crate) async fn digests(
    tx: &mut dyn Tx,
    of: &AuditOf,
    number: u64,
    limit: u32,
) -> Result<Vec<KeptDigest>, StoreError> {
    let sql = "SELECT id, document FROM audit_digests WHERE chain = $1 AND number > $2 ORDER BY number LIMIT $3";
    let values = params![chain_of(tenant_of(of)), number, limit.clamp(1, MAX_LIMIT)];
    tx.query(sql, values).await?.iter().map(kept).collect()
}

pub(super) fn kept(row: &Row) -> Result<KeptDigest, StoreError> {
    Ok(KeptDigest { id: row.uint("id")?, digest: row.json("document")? })
}

//! Pages of a chain for export: what is linked by position, then what is not.

use super::audit_chain::{FIELDS, chain_of, hash_in, head, record};
use crate::error::StoreError;
use crate::model::{AuditExport, AuditHead, AuditOf, KeptDigest};
use crate::tx::{Dialect, Row, Tx, Value, params, query_one};
use aether_core::audit::{Hash, Record};
use std::collections::BTreeSet;

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
/// linked yet, unless they are more than a page.
pub(crate) async fn page(tx: &mut dyn Tx, of: &AuditOf, position: u64, limit: u32) -> Result<AuditExport, StoreError> {
    let (tenant, limit) = (tenant_of(of), limit.clamp(1, MAX_LIMIT));
    // Those that are not linked come first: one that is linked in between is
    // then read twice, not never.
    let unlinked = unlinked(tx, tenant, limit).await?;
    let head = head(tx, tenant).await?;
    let linked = linked(tx, tenant, position.max(head.floor), limit).await?;
    if linked.len() == limit as usize {
        return Ok(AuditExport { head, linked, unlinked: Vec::new(), more: true });
    }
    let seen: BTreeSet<u64> = linked.iter().map(|record| record.sequence).collect();
    let more = unlinked.len() == limit as usize;
    if more {
        return Ok(AuditExport { head, linked, unlinked: Vec::new(), more });
    }
    let unlinked = unlinked.into_iter().filter(|record| !seen.contains(&record.sequence)).collect();
    Ok(AuditExport { head, linked, unlinked, more })
}

/// All that the sealer has not come to, in one statement: what it links
/// meanwhile is here or in the chain.
async fn unlinked(tx: &mut dyn Tx, tenant: Option<&str>, limit: u32) -> Result<Vec<Record>, StoreError> {
    let mut values = params![limit];
    values.extend(tenant.map(Value::from));
    let own = if tenant.is_some() { "a.tenant_id = $2" } else { "a.tenant_id IS NULL" };
    let beyond = match tx.dialect() {
        Dialect::Sqlite => "a.seq > l.seq",
        Dialect::Postgres => "(a.xid, a.seq) > (l.txn::text::xid8, l.seq)",
    };
    let sql = format!(
        "SELECT {FIELDS} FROM audit_logs a, audit_linked l WHERE l.id = 1 AND {own} AND {beyond}
         ORDER BY a.seq LIMIT $1"
    );
    tx.query(&sql, values).await?.iter().map(record).collect()
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

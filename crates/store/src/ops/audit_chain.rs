//! The sealer: links plain records into their tenant's chain, in the order in
//! which their transactions may be read (see `events` on late commits).
//!
//! Fenced by the leader's epoch in its own transaction, which also moves the
//! cursor: a record is linked once, whoever crashes when. It writes beside
//! the records and locks nothing that a tenant's own writes need.

use super::events::dialect_parts;
use super::leadership;
use crate::error::StoreError;
use crate::model::{AuditHead, Epoch};
use crate::tx::{Dialect, Row, Tx, Value, params, query_one};
use aether_core::Timestamp;
use aether_core::audit::{Hash, Record, Signature, genesis};
use std::collections::BTreeMap;

/// Records linked in one transaction.
pub(crate) const BATCH: u32 = 500;
/// Rows of one statement.
const ROWS: usize = 50;

/// The columns of a record, of `audit_logs a`.
pub(super) const FIELDS: &str = "a.seq, a.at_ms, a.tenant_id, a.actor, a.action, a.resource, a.resource_id, a.result, \
    a.address, a.details, a.error";

/// The name of a tenant's chain in the tables; no tenant's id is empty.
pub(super) fn chain_of(tenant: Option<&str>) -> &str {
    tenant.unwrap_or("")
}

pub(super) fn hash_in(row: &Row, column: &str) -> Result<Hash, StoreError> {
    let bytes = row.bytes_opt(column)?.and_then(|b| b.try_into().ok());
    bytes.map(Hash).ok_or_else(|| StoreError::internal(format!("column {column} is no hash")))
}

/// Links at most `limit` records; how many it did.
pub(crate) async fn link(tx: &mut dyn Tx, epoch: &Epoch, limit: u32) -> Result<u64, StoreError> {
    leadership::check(tx, epoch).await?;
    let rows = unlinked(tx, limit).await?;
    let Some(last) = rows.last() else { return Ok(0) };
    let (txn, seq) = (last.uint("txn")?, last.uint("seq")?);
    let mut heads: BTreeMap<String, AuditHead> = BTreeMap::new();
    let mut links = Vec::with_capacity(rows.len());
    for row in &rows {
        let tenant = row.text_opt("tenant_id")?;
        let chain = chain_of(tenant.as_deref()).to_owned();
        if !heads.contains_key(&chain) {
            heads.insert(chain.clone(), head(tx, tenant.as_deref()).await?);
        }
        let Some(head) = heads.get_mut(&chain) else { continue };
        head.position += 1;
        head.hash = record(row)?.fields().hash(&head.hash, head.position);
        links.push((chain, head.position, row.uint("seq")?, head.hash));
    }
    for some in links.chunks(ROWS) {
        insert(tx, some).await?;
    }
    for (chain, head) in &heads {
        let sql = "INSERT INTO audit_heads (chain, position, hash, floor, floor_hash, digest_to, digest_number)
             VALUES ($1, $2, $3, 0, $4, 0, 0)
             ON CONFLICT (chain) DO UPDATE SET position = excluded.position, hash = excluded.hash";
        let (hash, floor) = (head.hash.0.as_slice(), head.floor_hash.0.as_slice());
        tx.execute(sql, params![chain.as_str(), head.position, hash, floor]).await?;
    }
    tx.execute("UPDATE audit_linked SET txn = $1, seq = $2 WHERE id = 1", params![txn, seq]).await?;
    Ok(links.len() as u64)
}

/// The next records, in the order of reading.
async fn unlinked(tx: &mut dyn Tx, limit: u32) -> Result<Vec<Row>, StoreError> {
    let sql = format!("SELECT txn, seq FROM audit_linked WHERE id = 1{}", tx.dialect().for_update());
    let cursor = query_one(tx, &sql, Vec::new()).await?;
    let cursor = cursor.ok_or_else(|| StoreError::internal("the row of the linked records is missing"))?;
    let (txn, readable, order) = dialect_parts(tx.dialect());
    let sql = format!("SELECT {txn} AS txn, {FIELDS} FROM audit_logs a WHERE {readable} ORDER BY {order} LIMIT $3");
    tx.query(&sql, params![cursor.uint("txn")?, cursor.uint("seq")?, limit]).await
}

/// Whether there is anything to link: read before a write is made.
pub(crate) async fn any(tx: &mut dyn Tx) -> Result<bool, StoreError> {
    let sql = match tx.dialect() {
        Dialect::Sqlite => "SELECT seq FROM audit_logs WHERE seq > (SELECT seq FROM audit_linked WHERE id = 1) LIMIT 1",
        Dialect::Postgres => {
            "SELECT a.seq FROM audit_logs a, audit_linked l WHERE l.id = 1
             AND (a.xid, a.seq) > (l.txn::text::xid8, l.seq)
             AND a.xid < pg_snapshot_xmin(pg_current_snapshot()) LIMIT 1"
        }
    };
    Ok(query_one(tx, sql, Vec::new()).await?.is_some())
}

async fn insert(tx: &mut dyn Tx, links: &[(String, u64, u64, Hash)]) -> Result<(), StoreError> {
    let mut values: Vec<Value> = Vec::with_capacity(links.len() * 4);
    let mut marks = Vec::with_capacity(links.len());
    for (chain, position, seq, hash) in links {
        let n = values.len();
        marks.push(format!("(${}, ${}, ${}, ${})", n + 1, n + 2, n + 3, n + 4));
        values.extend(params![chain.as_str(), *position, *seq, hash.0.as_slice()]);
    }
    let sql = format!("INSERT INTO audit_chain (chain, position, seq, hash) VALUES {}", marks.join(", "));
    tx.execute(&sql, values).await?;
    Ok(())
}

/// How far the chain is; at its beginning where nothing was linked yet.
pub(crate) async fn head(tx: &mut dyn Tx, tenant: Option<&str>) -> Result<AuditHead, StoreError> {
    let sql = format!("SELECT {HEAD} FROM audit_heads WHERE chain = $1");
    match query_one(tx, &sql, params![chain_of(tenant)]).await? {
        Some(row) => decode_head(&row),
        None => {
            let start = genesis(tenant);
            Ok(AuditHead {
                tenant: tenant.map(str::to_owned),
                position: 0,
                hash: start,
                floor: 0,
                floor_hash: start,
                digest_to: 0,
                digest_number: 0,
                digest_signature: None,
            })
        }
    }
}

pub(super) const HEAD: &str = "chain, position, hash, floor, floor_hash, digest_to, digest_number, digest_signature";

pub(super) fn decode_head(row: &Row) -> Result<AuditHead, StoreError> {
    let chain = row.text("chain")?;
    let (position, hash) = (row.uint("position")?, hash_in(row, "hash")?);
    let (floor, floor_hash) = (row.uint("floor")?, hash_in(row, "floor_hash")?);
    Ok(AuditHead {
        tenant: Some(chain).filter(|c| !c.is_empty()),
        position,
        hash,
        floor,
        floor_hash,
        digest_to: row.uint("digest_to")?,
        digest_number: row.uint("digest_number")?,
        digest_signature: row.bytes_opt("digest_signature")?.and_then(|b| b.try_into().ok()).map(Signature),
    })
}

/// A record in the form that is exported.
pub(super) fn record(row: &Row) -> Result<Record, StoreError> {
    Ok(Record {
        position: None,
        prev: None,
        hash: None,
        sequence: row.uint("seq")?,
        time: Timestamp::from_unix_ms(row.uint("at_ms")?),
        tenant: row.text_opt("tenant_id")?,
        actor: row.text("actor")?,
        action: row.text("action")?,
        resource: row.text("resource")?,
        resource_id: row.text_opt("resource_id")?,
        result: row.text("result")?,
        address: row.text_opt("address")?,
        details: Record::details_of(row.text("details")?),
        error: row.text_opt("error")?,
    })
}

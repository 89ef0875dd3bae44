//! A database that was dumped from one PostgreSQL cluster and restored into
//! another: events and records carry the numbers of the old cluster's
//! transactions, which the new one may reach only after years. Until then
//! nothing of it could be read in order. They are numbered anew, once.
//!
//! SQLite numbers by rows and needs none of this.

use super::leadership;
use crate::error::StoreError;
use crate::model::Epoch;
use crate::tx::{Dialect, Tx, query_one};

/// Below every transaction of a cluster's life (those begin at 3).
const LINKED: &str = "'1'::xid8";
const NOT_YET: &str = "'2'::xid8";
/// No transaction of this cluster has had it.
const FOREIGN: &str = "xid >= pg_snapshot_xmax(pg_current_snapshot())";

pub(crate) async fn needed(tx: &mut dyn Tx) -> Result<bool, StoreError> {
    if tx.dialect() == Dialect::Sqlite {
        return Ok(false);
    }
    let sql = format!(
        "SELECT 1 AS foreign_rows WHERE EXISTS (SELECT 1 FROM audit_logs WHERE {FOREIGN})
         OR EXISTS (SELECT 1 FROM events WHERE {FOREIGN}) OR EXISTS
         (SELECT 1 FROM audit_linked WHERE txn::text::xid8 >= pg_snapshot_xmax(pg_current_snapshot()))"
    );
    Ok(query_one(tx, &sql, Vec::new()).await?.is_some())
}

/// How many rows.
pub(crate) async fn renumber(tx: &mut dyn Tx, epoch: &Epoch) -> Result<u64, StoreError> {
    leadership::check(tx, epoch).await?;
    if !needed(tx).await? {
        return Ok(0);
    }
    // Large, and once: the usual limits are for requests.
    tx.script("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '30s'").await?;
    // What is linked comes before all that is not, whatever its number was.
    let linked = format!(
        "UPDATE audit_logs a SET xid = {LINKED}
         WHERE xid <> {LINKED} AND EXISTS (SELECT 1 FROM audit_chain c WHERE c.seq = a.seq)"
    );
    let mut rows = tx.execute(&linked, Vec::new()).await?;
    for table in ["audit_logs", "events"] {
        let sql = format!("UPDATE {table} SET xid = {NOT_YET} WHERE {FOREIGN}");
        rows += tx.execute(&sql, Vec::new()).await?;
    }
    let cursor = "UPDATE audit_linked SET txn = 1, seq = 9223372036854775807 WHERE id = 1";
    tx.execute(cursor, Vec::new()).await?;
    // Followers come again from the beginning of what is kept.
    let floor = "UPDATE events_floor SET txn = 0, seq = 0
         WHERE id = 1 AND txn::text::xid8 >= pg_snapshot_xmax(pg_current_snapshot())";
    tx.execute(floor, Vec::new()).await?;
    tx.mark_changed();
    Ok(rows)
}

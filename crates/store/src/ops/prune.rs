//! Retention: events, tombstones, idempotency keys, ended execs.

use super::{events, idempotency};
use crate::error::StoreError;
use crate::tx::{Context, Tx, params};
use std::time::Duration;

/// Rows of each kind in one transaction: a long one would hold others up.
pub(crate) const BATCH: u32 = 2000;

/// Removes one batch; 0: nothing is left to remove.
pub(crate) async fn batch(tx: &mut dyn Tx, cx: &Context, older_than: Duration) -> Result<u64, StoreError> {
    let before = |age: Duration| {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        cx.now().unix_ms().saturating_sub(age)
    };
    let cutoff = before(older_than);
    let mut removed = events::prune(tx, cutoff, BATCH).await?;
    // Promised for a day, whatever is asked.
    let keys = before(older_than.max(idempotency::KEPT));
    let deletes = [
        (
            "DELETE FROM agents WHERE id IN (SELECT id FROM agents WHERE observed = 'gone' AND updated_ms < $1 LIMIT $2)",
            cutoff,
        ),
        (
            "DELETE FROM idempotency_keys WHERE (tenant_id, key) IN
               (SELECT tenant_id, key FROM idempotency_keys WHERE created_ms < $1 LIMIT $2)",
            keys,
        ),
        ("DELETE FROM execs WHERE id IN (SELECT id FROM execs WHERE finished_ms < $1 LIMIT $2)", cutoff),
    ];
    for (sql, cutoff) in deletes {
        removed += tx.execute(sql, params![cutoff, BATCH]).await?;
    }
    Ok(removed)
}

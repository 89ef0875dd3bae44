//! Retention: events, tombstones, idempotency keys, ended execs,
//! logins, revoked tokens.

use super::{events, idempotency};
use crate::error::StoreError;
use crate::tx::{Context, Tx, params};
use std::time::Duration;

/// Rows of each kind in one transaction: a long one would hold others up.
pub(crate) const BATCH: u32 = 2000;

/// A revoked token, after it would have expired.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// Removes one batch; 0: nothing is left to remove.
pub(crate) async fn batch(tx: &mut dyn Tx, cx: &Context, older_than: Duration) -> Result<u64, StoreError> {
    let before = |age: Duration| {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        cx.now().unix_ms().saturating_sub(age)
    };
    let cutoff = before(older_than);
    let mut removed = events::prune(tx, cutoff, BATCH).await?;
    let now = cx.now().unix_ms();
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
        // No longer than they are good for, whatever is asked.
        ("DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_ms < $1 LIMIT $2)", now),
        (
            "DELETE FROM revoked_tokens WHERE id IN (SELECT id FROM revoked_tokens WHERE expires_ms < $1 LIMIT $2)",
            // What expired is refused for that; clocks of servers differ a little.
            before(FORGOTTEN_AFTER),
        ),
        ("DELETE FROM execs WHERE id IN (SELECT id FROM execs WHERE finished_ms < $1 LIMIT $2)", cutoff),
    ];
    for (sql, cutoff) in deletes {
        removed += tx.execute(sql, params![cutoff, BATCH]).await?;
    }
    Ok(removed)
}

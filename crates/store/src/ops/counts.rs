//! The counts that a batch will move, locked before it moves any. One agent
//! after the other they would be locked in the order of the agents' ids, and
//! two batches over the same two tenants, or budgets, could each wait for the
//! other; so first all of the agents, by id, then what is counted: the
//! tenants' counts by tenant, then the budgets by tenant and name. Whoever
//! changes one agent locks in that order too.
//!
//! What is not foreseen here is locked when it moves, as always; a deadlock
//! is then found by the database, and the batch tried again.

use super::{agent_row, budgets, quota};
use crate::error::StoreError;
use crate::tx::{Dialect, Tx, Value, params};
use aether_core::state::Observed;
use aether_core::{AgentId, TenantId};
use std::collections::{BTreeMap, BTreeSet};

/// In one statement.
const AT_ONCE: usize = 200;

fn marks(from: usize, to: usize) -> String {
    (from..=to).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
}

/// `coming`: what each of the agents will be said to be, where it is moved.
pub(crate) async fn hold(tx: &mut dyn Tx, coming: &BTreeMap<AgentId, Observed>) -> Result<(), StoreError> {
    // One writer waits for nobody, and one agent's counts are in order.
    if tx.dialect() == Dialect::Sqlite || coming.len() < 2 {
        return Ok(());
    }
    let (mut parts, mut moving) = (BTreeMap::<TenantId, BTreeSet<String>>::new(), 0);
    let ids: Vec<&AgentId> = coming.keys().collect();
    for some in ids.chunks(AT_ONCE) {
        let columns = agent_row::COLUMNS;
        let sql = format!("SELECT {columns} FROM agents WHERE id IN ({}) ORDER BY id FOR UPDATE", marks(1, some.len()));
        for row in tx.query(&sql, some.iter().map(|id| Value::from(id.as_str())).collect()).await? {
            let row = agent_row::decode(&row)?;
            let mut after = row.clone();
            after.observed = coming.get(&row.id).copied().unwrap_or(row.observed);
            if quota::held(&row) != quota::held(&after) {
                moving += 1;
                let named = parts.entry(row.tenant.clone()).or_default();
                named.extend(budgets::parts(&row).iter().map(ToString::to_string));
            }
        }
    }
    if moving < 2 {
        return Ok(());
    }
    lock(tx, parts).await
}

async fn lock(tx: &mut dyn Tx, mut parts: BTreeMap<TenantId, BTreeSet<String>>) -> Result<(), StoreError> {
    let mut counted = Vec::new();
    let tenants: Vec<TenantId> = parts.keys().cloned().collect();
    for tenant in tenants {
        let entered = quota::enter(tx, &tenant).await?;
        if entered.is_counted() {
            counted.push(Value::from(tenant.as_str()));
        }
        if !entered.is_budgeted() {
            parts.remove(&tenant);
        }
    }
    if !counted.is_empty() {
        let sql = format!(
            "SELECT tenant_id FROM quota_usage WHERE tenant_id IN ({}) ORDER BY tenant_id FOR UPDATE",
            marks(1, counted.len())
        );
        tx.query(&sql, counted).await?;
    }
    for (tenant, parts) in parts {
        let parts: Vec<String> = parts.into_iter().collect();
        for some in parts.chunks(AT_ONCE) {
            let sql = format!(
                "SELECT part FROM budgets WHERE tenant_id = $1 AND part IN ({}) ORDER BY part FOR UPDATE",
                marks(2, some.len() + 1)
            );
            let mut values = params![tenant.as_str()];
            values.extend(some.iter().map(|part| Value::from(part.as_str())));
            tx.query(&sql, values).await?;
        }
    }
    Ok(())
}

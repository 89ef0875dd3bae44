//! Budgets: quotas of a part of a tenant, under the tenant's own. What counts
//! in one follows from the agent's row, as in `quota`: the key that made it,
//! and the labels that it carries. So a budget is the sum over the rows at
//! every commit, and a label that comes or goes moves it as a stop does.
//!
//! Rows are locked after the tenant's count, in the order of their names.
//! Whoever sets one holds the tenant's row against all who work for it, and
//! counts afresh.

use super::quota;
use crate::error::StoreError;
use crate::model::{AgentRow, BudgetRow};
use crate::tx::{Row, Tx, Value, params, query_one};
use aether_core::TenantId;
use aether_core::tenant::{BudgetOf, Held, Limits};
use std::collections::{BTreeMap, BTreeSet};

const COLUMNS: &str =
    "part, max_agents, max_cpu_millicores, max_memory_mb, max_disk_mb, agents, cpu_millicores, memory_mb, disk_mb";
/// Of one tenant: each is a row that writers of its agents look at.
const MOST: u64 = 1000;

fn decode(row: &Row) -> Result<BudgetRow, StoreError> {
    let limit = |column| Ok::<_, StoreError>(row.int_opt(column)?.and_then(|n| u64::try_from(n).ok()));
    let limits = Limits {
        agents: limit("max_agents")?,
        cpu_millicores: limit("max_cpu_millicores")?,
        memory_mb: limit("max_memory_mb")?,
        disk_mb: limit("max_disk_mb")?,
        ..Limits::default()
    };
    Ok(BudgetRow { of: row.parse("part")?, limits, used: quota::decode_held(row)? })
}

/// The budgets that an agent would count in, if there are any.
pub(super) fn parts(row: &AgentRow) -> BTreeSet<BudgetOf> {
    let labels = row.spec.labels.iter();
    let mut parts: BTreeSet<_> =
        labels.map(|(key, value)| BudgetOf::Label { key: key.clone(), value: value.clone() }).collect();
    parts.extend(row.key.clone().map(BudgetOf::Key));
    parts
}

/// What a change of one agent takes of each budget and gives back; those that
/// it leaves alone are not named.
pub(super) type Moves = BTreeMap<String, (Held, Held)>;

pub(super) fn moves(before: Option<(&AgentRow, Held)>, after: (&AgentRow, Held)) -> Moves {
    let mut moves = Moves::new();
    if let Some((row, held)) = before {
        moves.extend(parts(row).into_iter().map(|part| (part.to_string(), (held, Held::default()))));
    }
    for part in parts(after.0) {
        moves.entry(part.to_string()).or_default().1 = after.1;
    }
    moves.retain(|_, (from, to)| from != to);
    moves
}

/// Locks the budgets that move, and refuses what would pass one; writes
/// nothing. Tells which are there.
pub(super) async fn check(tx: &mut dyn Tx, tenant: &TenantId, moves: &Moves) -> Result<Vec<String>, StoreError> {
    if moves.is_empty() {
        return Ok(Vec::new());
    }
    let mut values = params![tenant.as_str()];
    values.extend(moves.keys().map(|part| Value::from(part.as_str())));
    let marks: Vec<String> = (2..=values.len()).map(|n| format!("${n}")).collect();
    let sql = format!(
        "SELECT {COLUMNS} FROM budgets WHERE tenant_id = $1 AND part IN ({}) ORDER BY part{}",
        marks.join(", "),
        tx.dialect().for_update()
    );
    let mut there = Vec::new();
    for row in tx.query(&sql, values).await? {
        let BudgetRow { of, limits, used } = decode(&row)?;
        let part = of.to_string();
        let (from, to) = moves.get(&part).copied().unwrap_or_default();
        if let Some(excess) = limits.excess(used, from, to) {
            return Err(StoreError::QuotaExceeded { tenant: tenant.clone(), of: Some(of), excess });
        }
        there.push(part);
    }
    Ok(there)
}

/// After [`check`]: writes what it let pass.
pub(super) async fn write_moves(
    tx: &mut dyn Tx,
    tenant: &TenantId,
    moves: &Moves,
    there: &[String],
) -> Result<(), StoreError> {
    for part in there {
        let (from, to) = moves.get(part).copied().unwrap_or_default();
        let [agents, cpu, memory, disk] = quota::difference(from, to);
        tx.execute(
            "UPDATE budgets SET agents = agents + $1, cpu_millicores = cpu_millicores + $2,
                memory_mb = memory_mb + $3, disk_mb = disk_mb + $4 WHERE tenant_id = $5 AND part = $6",
            params![agents, cpu, memory, disk, tenant.as_str(), part],
        )
        .await?;
    }
    Ok(())
}

pub(crate) async fn find(tx: &mut dyn Tx, tenant: &TenantId, of: &BudgetOf) -> Result<Option<BudgetRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM budgets WHERE tenant_id = $1 AND part = $2");
    let row = query_one(tx, &sql, params![tenant.as_str(), of.to_string()]).await?;
    row.as_ref().map(decode).transpose()
}

/// All of them, by name.
pub(crate) async fn list(tx: &mut dyn Tx, tenant: &TenantId) -> Result<Vec<BudgetRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM budgets WHERE tenant_id = $1 ORDER BY part");
    tx.query(&sql, params![tenant.as_str()]).await?.iter().map(decode).collect()
}

/// Sets or lifts a budget, and counts what it has. The tenant's row is locked
/// by the caller, so that nobody changes an agent of it meanwhile.
pub(crate) async fn set(
    tx: &mut dyn Tx,
    tenant: &TenantId,
    of: &BudgetOf,
    limits: Option<Limits>,
) -> Result<(), StoreError> {
    let (id, part) = (tenant.as_str(), of.to_string());
    tx.execute("DELETE FROM budgets WHERE tenant_id = $1 AND part = $2", params![id, &part]).await?;
    let count = query_one(tx, "SELECT count(*) AS n FROM budgets WHERE tenant_id = $1", params![id]).await?;
    let count = count.map_or(Ok(0), |row| row.uint("n"))?;
    if let Some(limits) = limits {
        if count >= MOST {
            return Err(StoreError::TooMany { what: "budgets", most: MOST });
        }
        let sum = quota::sum(tx, tenant, Some(of)).await?;
        let limit = |n: Option<u64>| n.map_or(Value::Int(None), Value::from);
        let mut values = params![id, &part];
        values.extend(limits.amounts().map(limit));
        values.extend(sum.amounts().map(|(_, amount)| Value::from(amount)));
        tx.execute(
            "INSERT INTO budgets (tenant_id, part, max_agents, max_cpu_millicores, max_memory_mb, max_disk_mb,
                agents, cpu_millicores, memory_mb, disk_mb) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            values,
        )
        .await?;
    }
    let budgeted = count > 0 || limits.is_some();
    tx.execute("UPDATE tenants SET budgeted = $1 WHERE id = $2", params![budgeted, id]).await?;
    if let BudgetOf::Key(key) = of {
        let noted = "UPDATE api_keys SET budgeted = $1 WHERE id = $2 AND tenant_id = $3";
        tx.execute(noted, params![limits.is_some(), key.as_str(), id]).await?;
    }
    Ok(())
}

//! Quotas: what a tenant's agents hold, counted in the transaction that
//! changes it, and refused there.
//!
//! What an agent holds follows from its row alone (`core::tenant::Held::by`),
//! so the count is the sum over the rows, at every commit: each write of a row
//! moves it by the difference. A tenant without any limit is not counted: on
//! PostgreSQL the count is one row that all its writers would queue for.
//!
//! Whoever writes an agent's row holds the tenant's row from being changed
//! (`FOR KEY SHARE`) and reads there whether it is counted; whoever changes
//! the limits waits for them (`FOR UPDATE`) and then counts afresh. Parts of a
//! tenant with limits of their own are in `budgets`, and counted with it here.

use super::agent_row::run_size;
use super::budgets;
use crate::error::StoreError;
use crate::model::{AgentRow, QuotaRow};
use crate::tx::{Context, Dialect, Row, Tx, Value, params, query_one};
use aether_core::spec::AgentSpec;
use aether_core::tenant::{BudgetOf, Held, Limits, TenantStatus, Tier};
use aether_core::{Observed, TenantId};

/// The tenant's row as it stands, held until the transaction ends.
pub(crate) struct Entered {
    pub(crate) status: TenantStatus,
    counted: bool,
    budgeted: bool,
}

pub(crate) async fn enter(tx: &mut dyn Tx, tenant: &TenantId) -> Result<Entered, StoreError> {
    let share = match tx.dialect() {
        Dialect::Sqlite => "",
        Dialect::Postgres => " FOR KEY SHARE",
    };
    let sql = format!("SELECT status, counted, budgeted FROM tenants WHERE id = $1{share}");
    let row = query_one(tx, &sql, params![tenant.as_str()]).await?.ok_or(StoreError::NotFound { what: "tenant" })?;
    Ok(Entered { status: row.parse("status")?, counted: row.flag("counted")?, budgeted: row.flag("budgeted")? })
}

impl Entered {
    /// Whether a write of its agents may move its own count.
    pub(super) fn is_counted(&self) -> bool {
        self.counted
    }

    pub(super) fn is_budgeted(&self) -> bool {
        self.budgeted
    }

    /// For new work: refused where the tenant may begin none.
    pub(crate) fn require_active(&self) -> Result<(), StoreError> {
        match self.status {
            TenantStatus::Active => Ok(()),
            status => Err(StoreError::TenantInactive { status }),
        }
    }
}

pub(super) fn held(row: &AgentRow) -> Held {
    Held::by(row.observed, row.spec.resources, row.run)
}

/// What a new agent takes; the last write of its creation, since other
/// creates of the tenant wait for it.
pub(crate) async fn take(tx: &mut dyn Tx, entered: &Entered, row: &AgentRow) -> Result<(), StoreError> {
    settle(tx, entered, None, row).await
}

/// Before a row is saved: moves the counts by what it holds more or less, and
/// by the budgets that it comes to count in.
pub(crate) async fn moved(tx: &mut dyn Tx, before: &AgentRow, after: &AgentRow) -> Result<(), StoreError> {
    if held(before) == held(after) && before.spec.labels == after.spec.labels {
        return Ok(());
    }
    let entered = enter(tx, &after.tenant).await?;
    settle(tx, &entered, Some(before), after).await
}

/// Locks and asks all counts before it writes any: whoever takes a refusal for
/// an answer goes on in the same transaction.
async fn settle(
    tx: &mut dyn Tx,
    entered: &Entered,
    before: Option<&AgentRow>,
    after: &AgentRow,
) -> Result<(), StoreError> {
    let tenant = &after.tenant;
    let (from, to) = (before.map(held).unwrap_or_default(), held(after));
    let own = entered.counted && from != to;
    if own {
        check(tx, tenant, from, to).await?;
    }
    if entered.budgeted {
        let moves = budgets::moves(before.map(|row| (row, from)), (after, to));
        let there = budgets::check(tx, tenant, &moves).await?;
        budgets::write_moves(tx, tenant, &moves, &there).await?;
    }
    if own {
        let [agents, cpu, memory, disk] = difference(from, to);
        tx.execute(
            "UPDATE quota_usage SET agents = agents + $1, cpu_millicores = cpu_millicores + $2,
                memory_mb = memory_mb + $3, disk_mb = disk_mb + $4 WHERE tenant_id = $5",
            params![agents, cpu, memory, disk, tenant.as_str()],
        )
        .await?;
    }
    Ok(())
}

/// Locks the tenant's count, and refuses what would pass its limits.
async fn check(tx: &mut dyn Tx, tenant: &TenantId, from: Held, to: Held) -> Result<(), StoreError> {
    let lock = tx.dialect().for_update();
    let used = counted(tx, tenant, lock).await?;
    let used = used.ok_or_else(|| StoreError::internal("a counted tenant has no count"))?;
    let limits = limits(tx, tenant).await?.1;
    match limits.excess(used, from, to) {
        Some(excess) => Err(StoreError::QuotaExceeded { tenant: tenant.clone(), of: None, excess }),
        None => Ok(()),
    }
}

pub(super) fn difference(from: Held, to: Held) -> [i64; 4] {
    [0, 1, 2, 3].map(|i| signed(to.amounts()[i].1) - signed(from.amounts()[i].1))
}

/// Amounts of one agent are far below.
fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX / 4)
}

/// The count, of a tenant that is counted.
async fn counted(tx: &mut dyn Tx, tenant: &TenantId, lock: &str) -> Result<Option<Held>, StoreError> {
    let sql = format!("SELECT agents, cpu_millicores, memory_mb, disk_mb FROM quota_usage WHERE tenant_id = $1{lock}");
    query_one(tx, &sql, params![tenant.as_str()]).await?.as_ref().map(decode_held).transpose()
}

pub(super) fn decode_held(row: &Row) -> Result<Held, StoreError> {
    Ok(Held {
        agents: row.uint("agents")?,
        cpu_millicores: row.uint("cpu_millicores")?,
        memory_mb: row.uint("memory_mb")?,
        disk_mb: row.uint("disk_mb")?,
    })
}

/// Of a tenant without a row: the free tier's.
pub(crate) async fn limits(tx: &mut dyn Tx, tenant: &TenantId) -> Result<(Tier, Limits), StoreError> {
    let sql = "SELECT tier, max_agents, max_cpu_millicores, max_memory_mb, max_disk_mb, max_network_bandwidth_mbps,
        max_requests_per_minute, max_images, max_exec_sessions FROM quotas WHERE tenant_id = $1";
    let Some(row) = query_one(tx, sql, params![tenant.as_str()]).await? else {
        return Ok((Tier::Free, Tier::Free.limits()));
    };
    Ok((row.parse("tier")?, decode_limits(&row)?))
}

pub(crate) fn decode_limits(row: &Row) -> Result<Limits, StoreError> {
    let limit = |column| Ok::<_, StoreError>(row.int_opt(column)?.and_then(|n| u64::try_from(n).ok()));
    Ok(Limits {
        agents: limit("max_agents")?,
        cpu_millicores: limit("max_cpu_millicores")?,
        memory_mb: limit("max_memory_mb")?,
        disk_mb: limit("max_disk_mb")?,
        network_mbps: limit("max_network_bandwidth_mbps")?,
        requests_per_minute: limit("max_requests_per_minute")?,
        images: limit("max_images")?,
        exec_sessions: limit("max_exec_sessions")?,
    })
}

/// The sum over the tenant's agents, or over those that count in one of its
/// budgets: what the count must be.
pub(crate) async fn sum(tx: &mut dyn Tx, tenant: &TenantId, of: Option<&BudgetOf>) -> Result<Held, StoreError> {
    // Two indexes, one half each.
    let half = "SELECT observed, spec, key_id, run_cpu_millicores, run_memory_mb FROM agents WHERE tenant_id = $1";
    let sql = format!("{half} AND desired <> 'gone' UNION ALL {half} AND desired = 'gone' AND observed <> 'gone'");
    let mut sum = Held::default();
    for row in tx.query(&sql, params![tenant.as_str()]).await? {
        let (observed, spec): (Observed, AgentSpec) = (row.parse("observed")?, row.json("spec")?);
        let counts = match of {
            None => true,
            Some(BudgetOf::Key(key)) => row.text_opt("key_id")?.as_deref() == Some(key.as_str()),
            Some(BudgetOf::Label { key, value }) => spec.labels.get(key) == Some(value),
        };
        if counts {
            sum = sum.plus(Held::by(observed, spec.resources, run_size(&row)?));
        }
    }
    Ok(sum)
}

/// Limits and use, as one moment shows them.
pub(crate) async fn read(tx: &mut dyn Tx, tenant: &TenantId) -> Result<QuotaRow, StoreError> {
    let (tier, limits) = limits(tx, tenant).await?;
    let used = match counted(tx, tenant, "").await? {
        Some(used) => used,
        None => sum(tx, tenant, None).await?,
    };
    Ok(QuotaRow { tenant: tenant.clone(), tier, limits, used })
}

/// Sets the limits, and begins to count or ceases to. The tenant's row is
/// locked by the caller, so that nobody changes an agent of it meanwhile.
pub(crate) async fn write(
    tx: &mut dyn Tx,
    cx: &Context,
    tenant: &TenantId,
    (tier, limits): (Tier, Limits),
) -> Result<(), StoreError> {
    let limit = |n: Option<u64>| n.map_or(Value::Int(None), Value::from);
    let mut values = params![tenant.as_str(), tier.as_str()];
    values.extend(limits.amounts().map(limit));
    values.extend([limits.network_mbps, limits.requests_per_minute, limits.images, limits.exec_sessions].map(limit));
    values.push(Value::from(cx.now()));
    tx.execute(
        "INSERT INTO quotas (tenant_id, tier, max_agents, max_cpu_millicores, max_memory_mb, max_disk_mb,
            max_network_bandwidth_mbps, max_requests_per_minute, max_images, max_exec_sessions, updated_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (tenant_id) DO UPDATE SET tier = $2, max_agents = $3, max_cpu_millicores = $4, max_memory_mb = $5,
            max_disk_mb = $6, max_network_bandwidth_mbps = $7, max_requests_per_minute = $8, max_images = $9,
            max_exec_sessions = $10, updated_ms = $11",
        values,
    )
    .await?;
    tx.execute("DELETE FROM quota_usage WHERE tenant_id = $1", params![tenant.as_str()]).await?;
    if limits.counted() {
        let sum = sum(tx, tenant, None).await?;
        tx.execute(
            "INSERT INTO quota_usage (tenant_id, agents, cpu_millicores, memory_mb, disk_mb)
             VALUES ($1, $2, $3, $4, $5)",
            params![tenant.as_str(), sum.agents, sum.cpu_millicores, sum.memory_mb, sum.disk_mb],
        )
        .await?;
    }
    let counted = "UPDATE tenants SET counted = $1 WHERE id = $2";
    tx.execute(counted, params![limits.counted(), tenant.as_str()]).await?;
    Ok(())
}

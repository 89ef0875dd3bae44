//! Tenants. The first one, `default`, comes with the schema.
//!
//! ```text
//! active ◄──► suspended        nothing new begins
//!    └────┬────┘
//!      deleting                its agents are ended
//!         │
//!       erased                 nothing is left but its audit records, and its id
//! ```

use super::{agent_row, agents, audit, budgets, events, quota, secrets};
use crate::error::StoreError;
use crate::model::{BudgetRow, DesireOptions, Epoch, NewTenant, TenantChange, TenantErasure, TenantRow};
use crate::tx::{Context, Row, Tx, from_json, params, query_one, to_json};
use aether_core::state::Desired;
use aether_core::tenant::{BudgetOf, Limits, TenantStatus, Tier};
use aether_core::{AgentId, TenantId, TenantScope};
use serde_json::json;

const COLUMNS: &str = "id, name, status, metadata, created_ms";
/// Of a tenant that is deleted, in one transaction.
const BATCH: u32 = 200;
/// Waiting agents that a resumed tenant wakes at once; the scheduler's sweep
/// finds the others.
const WOKEN: u32 = 1000;

fn decode(row: &Row) -> Result<TenantRow, StoreError> {
    Ok(TenantRow {
        id: row.parse("id")?,
        name: row.text("name")?,
        status: row.parse("status")?,
        metadata: from_json(&row.text("metadata")?, "a tenant's metadata")?,
        created_at: row.time("created_ms")?,
    })
}

/// `actor`: who does it; records of tenants are the platform's.
pub(crate) async fn create(
    tx: &mut dyn Tx,
    cx: &Context,
    actor: &TenantScope,
    new: &NewTenant,
) -> Result<TenantRow, StoreError> {
    let now = cx.now();
    let made = tx
        .execute(
            "INSERT INTO tenants (id, name, metadata, created_ms) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            params![new.id.as_str(), &new.name, to_json(&new.metadata)?, now],
        )
        .await?;
    if made != 1 {
        return Err(StoreError::AlreadyExists { what: "tenant" });
    }
    quota::write(tx, cx, &new.id, (new.tier, new.tier.limits())).await?;
    let details = json!({ "name": &new.name, "tier": new.tier.as_str() });
    note(tx, cx, actor, "create", &new.id, details).await?;
    Ok(TenantRow {
        id: new.id.clone(),
        name: new.name.clone(),
        status: TenantStatus::Active,
        metadata: new.metadata.clone(),
        created_at: now,
    })
}

async fn note(
    tx: &mut dyn Tx,
    cx: &Context,
    actor: &TenantScope,
    action: &str,
    tenant: &TenantId,
    details: serde_json::Value,
) -> Result<(), StoreError> {
    audit::platform(tx, cx, actor.actor(), action, "tenant", tenant.as_str(), details).await
}

pub(crate) async fn find(tx: &mut dyn Tx, id: &TenantId) -> Result<Option<TenantRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM tenants WHERE id = $1");
    query_one(tx, &sql, params![id.as_str()]).await?.as_ref().map(decode).transpose()
}

/// By id; those after `after`.
pub(crate) async fn list(
    tx: &mut dyn Tx,
    after: Option<&TenantId>,
    limit: u32,
) -> Result<(Vec<TenantRow>, u64), StoreError> {
    let total = query_one(tx, "SELECT count(*) AS n FROM tenants WHERE status <> 'erased'", Vec::new())
        .await?
        .map_or(Ok(0), |r| r.uint("n"))?;
    let sql = format!("SELECT {COLUMNS} FROM tenants WHERE id > $1 AND status <> 'erased' ORDER BY id LIMIT $2");
    let rows = tx.query(&sql, params![after.map_or("", TenantId::as_str), limit.clamp(1, 1000)]).await?;
    Ok((rows.iter().map(decode).collect::<Result<_, _>>()?, total))
}

/// Locks the row against everybody who works for the tenant.
async fn lock(tx: &mut dyn Tx, id: &TenantId) -> Result<TenantRow, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM tenants WHERE id = $1{}", tx.dialect().for_update());
    let row = query_one(tx, &sql, params![id.as_str()]).await?.as_ref().map(decode).transpose()?;
    row.filter(|row| row.status != TenantStatus::Erased).ok_or(StoreError::NotFound { what: "tenant" })
}

/// One that is being deleted changes no more.
pub(super) async fn lock_kept(tx: &mut dyn Tx, id: &TenantId) -> Result<TenantRow, StoreError> {
    let row = lock(tx, id).await?;
    match row.status {
        TenantStatus::Deleting => Err(StoreError::TenantInactive { status: row.status }),
        _ => Ok(row),
    }
}

/// What is none in the change stays. Changing nothing writes nothing.
pub(crate) async fn update(
    tx: &mut dyn Tx,
    cx: &Context,
    actor: &TenantScope,
    (id, change): (&TenantId, &TenantChange),
) -> Result<TenantRow, StoreError> {
    let before = lock_kept(tx, id).await?;
    let mut row = before.clone();
    if let Some(name) = &change.name {
        row.name.clone_from(name);
    }
    if let Some(metadata) = &change.metadata {
        row.metadata.clone_from(metadata);
    }
    let mut details = json!({});
    if row != before {
        tx.execute(
            "UPDATE tenants SET name = $1, metadata = $2 WHERE id = $3",
            params![&row.name, to_json(&row.metadata)?, id.as_str()],
        )
        .await?;
        details["name"] = json!(&row.name);
    }
    if let Some(tier) = change.tier {
        let (had, limits) = quota::limits(tx, id).await?;
        if (had, limits) != (tier, tier.limits()) {
            quota::write(tx, cx, id, (tier, tier.limits())).await?;
            details["tier"] = json!(tier.as_str());
        }
    }
    if details != json!({}) {
        note(tx, cx, actor, "update", id, details).await?;
    }
    Ok(row)
}

/// Limits one by one; takes hold with the commit.
pub(crate) async fn set_quota(
    tx: &mut dyn Tx,
    cx: &Context,
    actor: &TenantScope,
    (id, tier, limits): (&TenantId, Tier, Limits),
) -> Result<(), StoreError> {
    lock_kept(tx, id).await?;
    let (had_tier, had) = quota::limits(tx, id).await?;
    if (had_tier, had) == (tier, limits) {
        return Ok(());
    }
    quota::write(tx, cx, id, (tier, limits)).await?;
    let details = json!({ "tier": tier.as_str(), "limits": numbers(limits), "before": numbers(had) });
    audit::platform(tx, cx, actor.actor(), "update", "quota", id.as_str(), details).await
}

fn numbers(limits: Limits) -> serde_json::Value {
    let [agents, cpu, memory, disk] = limits.amounts();
    let Limits { network_mbps, requests_per_minute, images, exec_sessions, .. } = limits;
    json!([agents, cpu, memory, disk, network_mbps, requests_per_minute, images, exec_sessions])
}

/// Of a part of the tenant; takes hold with the commit. Lifting one that is
/// not there is not found.
pub(crate) async fn set_budget(
    tx: &mut dyn Tx,
    cx: &Context,
    actor: &TenantScope,
    (id, of, limits): (&TenantId, &BudgetOf, Option<Limits>),
) -> Result<Option<BudgetRow>, StoreError> {
    lock_kept(tx, id).await?;
    let before = budgets::find(tx, id, of).await?;
    if limits.is_none() && before.is_none() {
        return Err(StoreError::NotFound { what: "budget" });
    }
    if before.as_ref().map(|row| row.limits) == limits {
        return Ok(before);
    }
    budgets::set(tx, id, of, limits).await?;
    let action = if limits.is_some() { "update" } else { "delete" };
    let amounts = |limits: Limits| limits.amounts();
    let details = json!({ "limits": limits.map(amounts), "before": before.map(|row| amounts(row.limits)) });
    let part = of.to_string();
    if actor.tenant() == id {
        audit::success(tx, cx, actor, action, "budget", Some(&part), details).await?;
    } else {
        let details = json!({ "budget": part, "change": details });
        audit::platform(tx, cx, actor.actor(), action, "budget", id.as_str(), details).await?;
    }
    budgets::find(tx, id, of).await
}

/// Suspends or resumes; already so: nothing. `default` works always: the
/// operator's own way in is there.
pub(crate) async fn set_active(
    tx: &mut dyn Tx,
    cx: &Context,
    actor: &TenantScope,
    (id, active): (&TenantId, bool),
) -> Result<TenantRow, StoreError> {
    let mut row = lock_kept(tx, id).await?;
    let (status, action) = if active { (TenantStatus::Active, "resume") } else { (TenantStatus::Suspended, "suspend") };
    if row.status == status {
        return Ok(row);
    }
    if *id == TenantId::default_tenant() {
        return Err(StoreError::DefaultTenant);
    }
    row.status = status;
    tx.execute("UPDATE tenants SET status = $1 WHERE id = $2", params![status.as_str(), id.as_str()]).await?;
    if active {
        wake(tx, cx, id).await?;
    }
    note(tx, cx, actor, action, id, json!({})).await?;
    Ok(row)
}

/// Those that waited while the tenant was suspended are news again.
async fn wake(tx: &mut dyn Tx, cx: &Context, id: &TenantId) -> Result<(), StoreError> {
    let sql = format!(
        "SELECT {} FROM agents WHERE tenant_id = $1 AND observed = 'pending' AND assigned = 0
         AND desired = 'running' ORDER BY id LIMIT $2",
        agent_row::COLUMNS
    );
    for row in tx.query(&sql, params![id.as_str(), WOKEN]).await? {
        let agent = agent_row::decode(&row)?;
        events::of_agent(tx, cx, &agent, "agent.updated", &json!({ "tenant": "resumed" })).await?;
    }
    Ok(())
}

/// Refuses all that is new from here on and revokes the keys; the agents are
/// ended by [`erase_step`]. Repeating it tells how far it is.
pub(crate) async fn delete(
    tx: &mut dyn Tx,
    cx: &Context,
    actor: &TenantScope,
    id: &TenantId,
) -> Result<TenantErasure, StoreError> {
    if *id == TenantId::default_tenant() {
        return Err(StoreError::DefaultTenant);
    }
    let row = lock(tx, id).await?;
    let mut keys_revoked = 0;
    if row.status != TenantStatus::Deleting {
        let deleting = TenantStatus::Deleting.as_str();
        tx.execute("UPDATE tenants SET status = $1 WHERE id = $2", params![deleting, id.as_str()]).await?;
        let revoke = "UPDATE api_keys SET revoked_ms = $1 WHERE tenant_id = $2 AND revoked_ms IS NULL";
        keys_revoked = tx.execute(revoke, params![cx.now(), id.as_str()]).await?;
        note(tx, cx, actor, "delete", id, json!({ "keys_revoked": keys_revoked })).await?;
        // Wakes the scheduler, which goes on.
        tx.mark_changed();
    }
    Ok(TenantErasure { keys_revoked, agents_left: agents_left(tx, id).await? })
}

async fn agents_left(tx: &mut dyn Tx, id: &TenantId) -> Result<u64, StoreError> {
    let mut left = 0;
    // Two indexes, one half each.
    for half in ["desired <> 'gone'", "desired = 'gone' AND observed <> 'gone'"] {
        let sql = format!("SELECT count(*) AS n FROM agents WHERE tenant_id = $1 AND {half}");
        left += query_one(tx, &sql, params![id.as_str()]).await?.map_or(Ok(0), |row| row.uint("n"))?;
    }
    Ok(left)
}

/// The next tenant by id that is being deleted, after `after`.
pub(crate) async fn deleting(tx: &mut dyn Tx, after: Option<&TenantId>) -> Result<Option<TenantId>, StoreError> {
    let sql = "SELECT id FROM tenants WHERE status = 'deleting' AND id > $1 ORDER BY id LIMIT 1";
    let row = query_one(tx, sql, params![after.map_or("", TenantId::as_str)]).await?;
    row.map(|row| row.parse("id")).transpose()
}

/// One agent of the tenant that nobody has told to go yet.
async fn ends_next(tx: &mut dyn Tx, id: &TenantId) -> Result<Option<AgentId>, StoreError> {
    let sql = "SELECT id FROM agents WHERE tenant_id = $1 AND desired <> 'gone' ORDER BY created_ms, id LIMIT 1";
    query_one(tx, sql, params![id.as_str()]).await?.map(|row| row.parse("id")).transpose()
}

/// Ends one agent; true: there may be more.
pub(crate) async fn end_one(tx: &mut dyn Tx, cx: &Context, epoch: &Epoch, id: &TenantId) -> Result<bool, StoreError> {
    super::leadership::check(tx, epoch).await?;
    let scope = TenantScope::system(id.clone(), "scheduler");
    let Some(agent) = ends_next(tx, id).await? else { return Ok(false) };
    match agents::set_desired(tx, cx, &scope, &agent, (Desired::Gone, DesireOptions::default(), None)).await {
        // Somebody else ended it meanwhile.
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// What one step of an erasure found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Erasure {
    /// Agents whose nodes have not confirmed their end.
    Waits,
    /// A batch was erased; there may be more.
    More,
    /// Nothing is left but the audit records.
    Done,
}

/// Erases a batch of what is left of a tenant whose agents are all gone.
pub(crate) async fn erase_step(
    tx: &mut dyn Tx,
    cx: &Context,
    epoch: &Epoch,
    id: &TenantId,
) -> Result<Erasure, StoreError> {
    super::leadership::check(tx, epoch).await?;
    match find(tx, id).await? {
        Some(row) if row.status == TenantStatus::Deleting => {}
        _ => return Ok(Erasure::Done),
    }
    // What is in Vault is removed there first, and then its rows.
    if agents_left(tx, id).await? > 0 || !secrets::in_vault(tx, id).await?.is_empty() {
        return Ok(Erasure::Waits);
    }
    let mut erased = 0;
    for sql in [
        "DELETE FROM agents WHERE id IN (SELECT id FROM agents WHERE tenant_id = $1 AND desired = 'gone' LIMIT $2)",
        "DELETE FROM idempotency_keys WHERE (tenant_id, key) IN
           (SELECT tenant_id, key FROM idempotency_keys WHERE tenant_id = $1 LIMIT $2)",
        "DELETE FROM secrets WHERE (tenant_id, name) IN
           (SELECT tenant_id, name FROM secrets WHERE tenant_id = $1 LIMIT $2)",
        "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE tenant_id = $1 LIMIT $2)",
    ] {
        erased += tx.execute(sql, params![id.as_str(), BATCH]).await?;
    }
    if erased > 0 {
        return Ok(Erasure::More);
    }
    // Locked last: whoever works for it still is waited for.
    lock(tx, id).await?;
    for table in ["sessions", "revoked_tokens", "users"] {
        tx.execute(&format!("DELETE FROM {table} WHERE tenant_id = $1"), params![id.as_str()]).await?;
    }
    let keys = tx.execute("DELETE FROM api_keys WHERE tenant_id = $1", params![id.as_str()]).await?;
    for table in ["quotas", "quota_usage", "budgets", "service_accounts", "roles"] {
        tx.execute(&format!("DELETE FROM {table} WHERE tenant_id = $1"), params![id.as_str()]).await?;
    }
    // The row stays: whoever had the id next would have its audit records.
    let erased = "UPDATE tenants SET status = 'erased', name = id, metadata = '{}', counted = 0,
        budgeted = 0 WHERE id = $1";
    tx.execute(erased, params![id.as_str()]).await?;
    let system = TenantScope::system(id.clone(), "scheduler");
    note(tx, cx, &system, "erase", id, json!({ "keys": keys })).await?;
    Ok(Erasure::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::memory;
    use futures::FutureExt;

    #[test]
    fn a_change_that_changes_nothing_writes_nothing() {
        let cx = memory::context();
        let mut connection = memory::migrated(&cx);
        let mut tx = memory::tx(&mut connection);
        let actor = TenantScope::system(TenantId::default_tenant(), "test");
        let id: TenantId = "acme".parse().expect("an id");
        let work = async {
            create(&mut tx, &cx, &actor, &NewTenant::new(&id, Tier::Pro)).await?;
            let same = TenantChange { name: Some("acme".into()), tier: Some(Tier::Pro), metadata: None };
            update(&mut tx, &cx, &actor, (&id, &same)).await?;
            set_quota(&mut tx, &cx, &actor, (&id, Tier::Pro, Tier::Pro.limits())).await?;
            set_active(&mut tx, &cx, &actor, (&id, true)).await?;
            let records = query_one(&mut tx, "SELECT count(*) AS n FROM audit_logs WHERE resource_id = 'acme'", vec![]);
            assert_eq!(records.await?.expect("a row").uint("n")?, 1);
            Ok::<_, StoreError>(())
        };
        work.now_or_never().expect("never waits").expect("works");
    }
}

//! Tenants and quotas: operators' functions, and a tenant's view of itself.

use super::Store;
use crate::error::StoreError;
use crate::model::{BudgetRow, Epoch, NewTenant, QuotaRow, TenantChange, TenantErasure, TenantRow};
use crate::ops::tenants::Erasure;
use crate::ops::{budgets, quota, tenants};
use aether_core::tenant::{BudgetOf, Held, Limits, Tier};
use aether_core::{TenantId, TenantScope};

impl Store {
    /// With the limits of its tier. `actor` does it, for the audit.
    pub async fn create_tenant(&self, actor: &TenantScope, new: NewTenant) -> Result<TenantRow, StoreError> {
        self.write((actor.clone(), new), |tx, cx, (actor, new)| Box::pin(tenants::create(tx, cx, actor, new))).await
    }

    pub async fn find_tenant(&self, id: &TenantId) -> Result<Option<TenantRow>, StoreError> {
        self.read(id.clone(), |tx, _, id| Box::pin(tenants::find(tx, id))).await
    }

    /// By id, those after `after`, at most 1000; and how many there are.
    pub async fn list_tenants(&self, after: Option<TenantId>, limit: u32) -> Result<(Vec<TenantRow>, u64), StoreError> {
        self.read((after, limit), |tx, _, (after, limit)| Box::pin(tenants::list(tx, after.as_ref(), *limit))).await
    }

    pub async fn update_tenant(
        &self,
        actor: &TenantScope,
        id: &TenantId,
        change: TenantChange,
    ) -> Result<TenantRow, StoreError> {
        self.write((actor.clone(), id.clone(), change), |tx, cx, (actor, id, change)| {
            Box::pin(tenants::update(tx, cx, actor, (id, change)))
        })
        .await
    }

    /// Suspends or resumes. When this returns, no transaction that began new
    /// work for a suspended tenant is still to be committed.
    pub async fn set_tenant_active(
        &self,
        actor: &TenantScope,
        id: &TenantId,
        active: bool,
    ) -> Result<TenantRow, StoreError> {
        self.write((actor.clone(), id.clone(), active), |tx, cx, (actor, id, active)| {
            Box::pin(tenants::set_active(tx, cx, actor, (id, *active)))
        })
        .await
    }

    /// Begins the deletion, for good; whoever leads ends the agents and then
    /// erases the tenant. Repeating it tells how far that is.
    pub async fn delete_tenant(&self, actor: &TenantScope, id: &TenantId) -> Result<TenantErasure, StoreError> {
        self.write((actor.clone(), id.clone()), |tx, cx, (actor, id)| Box::pin(tenants::delete(tx, cx, actor, id)))
            .await
    }

    /// The next tenant by id that is being deleted.
    pub async fn next_deletion(&self, after: Option<TenantId>) -> Result<Option<TenantId>, StoreError> {
        self.read(after, |tx, _, after| Box::pin(tenants::deleting(tx, after.as_ref()))).await
    }

    /// What a tenant that is being deleted still needs, a bounded part of it;
    /// true: nothing of it is left but its audit records.
    pub async fn tend_deletion(&self, epoch: &Epoch, id: &TenantId) -> Result<bool, StoreError> {
        /// Of each kind, in one call.
        const STEPS: usize = 50;
        for _ in 0..STEPS {
            let more = self.write((epoch.clone(), id.clone()), |tx, cx, (epoch, id)| {
                Box::pin(tenants::end_one(tx, cx, epoch, id))
            });
            if !more.await? {
                break;
            }
        }
        for _ in 0..STEPS {
            let step = self.write((epoch.clone(), id.clone()), |tx, cx, (epoch, id)| {
                Box::pin(tenants::erase_step(tx, cx, epoch, id))
            });
            match step.await? {
                Erasure::More => {}
                Erasure::Waits => break,
                Erasure::Done => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Limits alone; the free tier's of a tenant that is not there.
    pub async fn tenant_limits(&self, id: &TenantId) -> Result<Limits, StoreError> {
        self.read(id.clone(), |tx, _, id| Box::pin(quota::limits(tx, id))).await.map(|(_, limits)| limits)
    }

    /// Limits and use.
    pub async fn quota(&self, id: &TenantId) -> Result<QuotaRow, StoreError> {
        self.read(id.clone(), |tx, _, id| Box::pin(quota::read(tx, id))).await
    }

    /// Limits one by one. What is above them already stays; nothing may grow.
    pub async fn set_quota(
        &self,
        actor: &TenantScope,
        id: &TenantId,
        tier: Tier,
        limits: Limits,
    ) -> Result<(), StoreError> {
        self.write((actor.clone(), id.clone(), tier, limits), |tx, cx, (actor, id, tier, limits)| {
            Box::pin(tenants::set_quota(tx, cx, actor, (id, *tier, *limits)))
        })
        .await
    }

    /// The sum over the tenant's agents, or over those of a part of it, which
    /// [`QuotaRow::used`] and [`BudgetRow::used`] must equal.
    pub async fn sum_of_holds(&self, id: &TenantId, of: Option<BudgetOf>) -> Result<Held, StoreError> {
        self.read((id.clone(), of), |tx, _, (id, of)| Box::pin(quota::sum(tx, id, of.as_ref()))).await
    }

    /// Limits and use of a part of the tenant that has any.
    pub async fn budget(&self, id: &TenantId, of: BudgetOf) -> Result<Option<BudgetRow>, StoreError> {
        self.read((id.clone(), of), |tx, _, (id, of)| Box::pin(budgets::find(tx, id, of))).await
    }

    /// Those of keys and labels, by name.
    pub async fn budgets(&self, id: &TenantId) -> Result<Vec<BudgetRow>, StoreError> {
        self.read(id.clone(), |tx, _, id| Box::pin(budgets::list(tx, id))).await
    }

    /// Sets a label's budget, or lifts it: `None`. What is above it already
    /// stays; nothing may grow.
    pub async fn set_label_budget(
        &self,
        actor: &TenantScope,
        id: &TenantId,
        (key, value): (String, String),
        limits: Option<Limits>,
    ) -> Result<Option<BudgetRow>, StoreError> {
        let of = BudgetOf::Label { key, value };
        self.write((actor.clone(), id.clone(), of, limits), |tx, cx, (actor, id, of, limits)| {
            Box::pin(tenants::set_budget(tx, cx, actor, (id, of, *limits)))
        })
        .await
    }
}

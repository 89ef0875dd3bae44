//! The audit log: its pages, its chains and their signed digests.

use super::Store;
use crate::error::StoreError;
use crate::model::{AuditCut, AuditExport, AuditFilter, AuditHead, AuditOf, AuditPage, AuditRow, Epoch, KeptDigest};
use crate::ops::{audit, audit_chain, audit_digests, audit_export, renumber};
use aether_core::audit::Digest;
use aether_core::{TenantId, TenantScope, Timestamp};

/// Rows of each of the two tables that retention removes at once.
const PRUNED: u32 = 1000;

/// Of records, in one call of [`Store::audit_link`].
pub const AUDIT_LINKED_AT_ONCE: u64 = audit_chain::BATCH as u64;

/// Reading.
impl Store {
    /// The rows of [`Store::audit_page`] of one tenant.
    pub async fn audit_list(&self, scope: &TenantScope, filter: AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        Ok(self.audit_page(&AuditOf::Tenant(scope.clone()), filter).await?.rows)
    }

    pub async fn audit_page(&self, of: &AuditOf, filter: AuditFilter) -> Result<AuditPage, StoreError> {
        self.read((of.clone(), filter), |tx, _, (of, filter)| Box::pin(audit::page(tx, of, filter))).await
    }

    pub async fn audit_head(&self, of: &AuditOf) -> Result<AuditHead, StoreError> {
        self.read(of.clone(), |tx, _, of| Box::pin(audit_export::head_of(tx, of))).await
    }

    /// Linked records after `position`, at most `limit` (1000); where no more
    /// follow, also those not linked yet, unless there are `limit` of them.
    pub async fn audit_export(&self, of: &AuditOf, position: u64, limit: u32) -> Result<AuditExport, StoreError> {
        self.read((of.clone(), position, limit), |tx, _, (of, position, limit)| {
            Box::pin(audit_export::page(tx, of, *position, *limit))
        })
        .await
    }

    /// The chain's digests after `number`, in order.
    pub async fn audit_digests(&self, of: &AuditOf, number: u64, limit: u32) -> Result<Vec<KeptDigest>, StoreError> {
        self.read((of.clone(), number, limit), |tx, _, (of, number, limit)| {
            Box::pin(audit_export::digests(tx, of, *number, *limit))
        })
        .await
    }
}

/// The leader's part, fenced by its epoch.
impl Store {
    /// Links records into their chains, in the order in which they may be
    /// read, in one transaction; how many, 0: there is nothing to link. After
    /// a crash each is linked once or not yet.
    pub async fn audit_link(&self, epoch: &Epoch) -> Result<u64, StoreError> {
        // Mostly there is none: no write is made for that.
        if !self.read((), |tx, _, ()| Box::pin(audit_chain::any(tx))).await? {
            return Ok(0);
        }
        self.write(epoch.clone(), |tx, _, epoch| Box::pin(audit_chain::link(tx, epoch, audit_chain::BATCH))).await
    }

    /// Chains that grew since their last digest.
    pub async fn audit_undigested(&self, limit: u32) -> Result<Vec<AuditHead>, StoreError> {
        self.read(limit, |tx, _, limit| Box::pin(audit_digests::undigested(tx, *limit))).await
    }

    /// Keeps those that follow what is kept, in one transaction.
    pub async fn audit_keep_digests(&self, epoch: &Epoch, digests: Vec<Digest>) -> Result<(), StoreError> {
        self.write((epoch.clone(), digests), |tx, _, (epoch, digests)| {
            Box::pin(audit_digests::keep(tx, epoch, digests))
        })
        .await
    }

    /// Digests of all chains after `id`, in the order in which they were kept.
    pub async fn audit_digests_after(&self, id: u64, limit: u32) -> Result<Vec<KeptDigest>, StoreError> {
        self.read((id, limit), |tx, _, (id, limit)| Box::pin(audit_digests::after(tx, *id, *limit))).await
    }

    /// How far the chain of a tenant is, or the platform's, whoever asks.
    pub async fn audit_head_of_chain(&self, tenant: Option<&str>) -> Result<AuditHead, StoreError> {
        let tenant = tenant.map(str::to_owned);
        self.read(tenant, |tx, _, tenant| Box::pin(audit_chain::head(tx, tenant.as_deref()))).await
    }

    /// Where the database comes from another PostgreSQL cluster: gives its
    /// events and records numbers of this one; how many. Whatever was linked
    /// stays so, what was not will be, and no cursor of before holds any more.
    pub async fn audit_renumber(&self, epoch: &Epoch) -> Result<u64, StoreError> {
        if !self.read((), |tx, _, ()| Box::pin(renumber::needed(tx))).await? {
            return Ok(0);
        }
        self.write(epoch.clone(), |tx, _, epoch| Box::pin(renumber::renumber(tx, epoch))).await
    }

    /// The highest number of a digest, over all chains; 0 for none.
    pub async fn audit_last_digest(&self) -> Result<u64, StoreError> {
        self.read((), |tx, _, ()| Box::pin(audit_digests::last(tx))).await
    }

    /// After a restored backup: keeps digests that go on where others end
    /// which this database has not, up to the number `last` of all chains.
    pub async fn audit_resume(&self, epoch: &Epoch, digests: Vec<Digest>, last: u64) -> Result<(), StoreError> {
        self.write((epoch.clone(), digests, last), |tx, _, (epoch, digests, last)| {
            Box::pin(audit_digests::resume(tx, epoch, digests, *last))
        })
        .await
    }

    /// What may be removed: of each chain the beginning that was signed before
    /// `cutoff`.
    pub async fn audit_cuts(&self, cutoff: Timestamp) -> Result<Vec<AuditCut>, StoreError> {
        self.read(cutoff, |tx, _, cutoff| Box::pin(audit_digests::cuts(tx, *cutoff))).await
    }

    /// Removes what the newest kept cut of the chain covers, in small
    /// transactions; how many records.
    pub async fn audit_prune(&self, epoch: &Epoch, tenant: Option<&TenantId>) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let params = (epoch.clone(), tenant.map(|t| t.as_str().to_owned()));
            let batch = self.write(params, |tx, _, (epoch, tenant)| {
                Box::pin(audit_digests::prune(tx, epoch, tenant.as_deref(), PRUNED))
            });
            match batch.await? {
                0 => return Ok(removed),
                n => removed += n,
            }
        }
    }
}

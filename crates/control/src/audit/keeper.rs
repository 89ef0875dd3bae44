//! What the leader does for the audit log, until somebody else leads.

use super::Seal;
use crate::config::ControlConfig;
use aether_core::audit::{Digest, DigestKind, Hash, Head, Signature};
use aether_core::{Clock, Live, TenantId};
use aether_store::{AUDIT_LINKED_AT_ONCE, AuditCut, AuditHead, Epoch, Store, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A record is linked within a second of its commit.
const LOOK: Duration = Duration::from_millis(400);
/// Chains signed, and digests anchored, in one go.
const BATCH: u32 = 500;
const PRUNE_EVERY: Duration = Duration::from_secs(600);
const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct Keeper {
    store: Store,
    clock: Arc<dyn Clock>,
    seal: Seal,
    /// For the interval and the retention, which a reload may change.
    cfg: Live<ControlConfig>,
}

impl Keeper {
    pub(crate) fn new(cfg: &Live<ControlConfig>, store: Store, clock: Arc<dyn Clock>, seal: Seal) -> Self {
        Self { store, clock, seal, cfg: cfg.clone() }
    }

    /// Works until somebody else leads; returns the error that said so.
    pub(crate) async fn run(&self, epoch: &Epoch) -> StoreError {
        match self.resume(epoch).await {
            Ok(()) => {}
            Err(fenced @ StoreError::Fenced { .. }) => return fenced,
            Err(error) => tracing::warn!(%error, "whether the audit log comes from a backup is not known"),
        }
        // What the last leader signed may not be in our file.
        self.anchor().await;
        let mut digest_from = Instant::now();
        let mut prune_from = Instant::now();
        loop {
            let result = self.turn(epoch, &mut digest_from, &mut prune_from).await;
            match result {
                Ok(()) => {}
                Err(fenced @ StoreError::Fenced { .. }) => return fenced,
                Err(error) => tracing::warn!(%error, "the audit log was not linked"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn turn(&self, epoch: &Epoch, digested: &mut Instant, pruned: &mut Instant) -> Result<(), StoreError> {
        let due = digested.checked_add(self.cfg.get().audit.digest_interval);
        let due = || due.is_some_and(|due| Instant::now() >= due);
        // A full batch has more behind it; what trickles in waits for the next
        // look, and so does the rest of a flood once a digest is due.
        while self.store.audit_link(epoch).await? >= AUDIT_LINKED_AT_ONCE && !due() {}
        if due() {
            *digested = Instant::now();
            self.digest(epoch).await?;
        }
        let days = self.cfg.get().audit.retention_days;
        if days > 0 && pruned.elapsed() >= PRUNE_EVERY.min(self.cfg.get().audit.digest_interval * 10) {
            *pruned = Instant::now();
            self.prune(epoch, DAY * days).await?;
        }
        Ok(())
    }

    /// Signs every chain that grew.
    async fn digest(&self, epoch: &Epoch) -> Result<(), StoreError> {
        loop {
            let heads = self.store.audit_undigested(BATCH).await?;
            let last = heads.len() < BATCH as usize;
            if heads.is_empty() {
                return Ok(());
            }
            let digests = heads.into_iter().map(|head| self.interval(head)).collect();
            self.store.audit_keep_digests(epoch, digests).await?;
            self.anchor().await;
            if last {
                return Ok(());
            }
        }
    }

    fn interval(&self, head: AuditHead) -> Digest {
        let (after, to) = ((head.digest_number, head.digest_signature), head.position);
        self.sign(DigestKind::Interval, head.tenant, after, (head.digest_to + 1, to), head.hash)
    }

    /// The digest that comes `after` another: its number and signature.
    fn sign(
        &self,
        kind: DigestKind,
        tenant: Option<String>,
        (number, previous): (u64, Option<Signature>),
        (from, to): (u64, u64),
        head: Hash,
    ) -> Digest {
        let (number, time) = (number + 1, self.clock.now());
        self.seal.signer.sign(Head { kind, number, tenant, from, to, unsealed: 0, head, tail: None, previous, time })
    }

    /// Brings the anchor file up to the store; whether it is. That it cannot be
    /// written is said, and tried again at the next digest.
    async fn anchor(&self) -> bool {
        loop {
            let anchor = self.seal.anchor.clone();
            let appended = async {
                let last = blocking(move || anchor.last()).await?;
                let digests = self.store.audit_digests_after(last, BATCH).await.map_err(std::io::Error::other)?;
                let (anchor, more) = (self.seal.anchor.clone(), digests.len() == BATCH as usize);
                blocking(move || anchor.append(&digests)).await?;
                Ok::<bool, std::io::Error>(more)
            };
            match appended.await {
                Ok(true) => {}
                Ok(false) => return true,
                Err(error) => {
                    let path = self.seal.anchor.path().display();
                    tracing::error!(%error, %path, "audit digests were not anchored");
                    return false;
                }
            }
        }
    }

    /// A database that has less than the anchor file was restored from a
    /// backup: its chains go on where the file ends, and say so.
    async fn resume(&self, epoch: &Epoch) -> Result<(), StoreError> {
        let renumbered = self.store.audit_renumber(epoch).await?;
        if renumbered > 0 {
            tracing::warn!(renumbered, "the database comes from another cluster: events and records are numbered anew");
        }
        let anchor = self.seal.anchor.clone();
        // That it cannot be read is said where digests are anchored.
        let Ok(last) = blocking(move || anchor.last()).await else { return Ok(()) };
        if self.store.audit_last_digest().await? >= last {
            return Ok(());
        }
        let anchor = self.seal.anchor.clone();
        let Ok(ends) = blocking(move || anchor.ends()).await else { return Ok(()) };
        let mut digests = Vec::new();
        for end in ends {
            let head = self.store.audit_head_of_chain(end.tenant.as_deref()).await?;
            if head.digest_number < end.number {
                tracing::error!(
                    tenant = end.tenant,
                    from = head.position + 1,
                    "audit records were lost: a backup was restored"
                );
                digests.push(self.restored(head, &end));
            }
        }
        self.store.audit_resume(epoch, digests, last).await
    }

    fn restored(&self, head: AuditHead, end: &Digest) -> Digest {
        let (after, to) = ((end.number, Some(end.signature)), head.position);
        self.sign(DigestKind::Restored, head.tenant, after, (head.digest_to + 1, to), head.hash)
    }

    /// The signed cut is kept and anchored before anything goes; and only what
    /// a digest covers that is in the anchor file, as it is there.
    async fn prune(&self, epoch: &Epoch, age: Duration) -> Result<(), StoreError> {
        let mut cuts = self.store.audit_cuts(self.clock.now().minus(age)).await?;
        if cuts.is_empty() {
            return Ok(());
        }
        let (anchor, signed) = (self.seal.anchor.clone(), cuts.iter().map(|cut| cut.signed.digest.signature).collect());
        let held = match blocking(move || anchor.held(signed)).await {
            Ok(held) => held,
            Err(error) => {
                tracing::error!(%error, "the audit's anchor file cannot be read: nothing is removed");
                return Ok(());
            }
        };
        cuts.retain(|cut| {
            let digest = &cut.signed.digest;
            let sound = digest.is_sound() && digest.head == cut.hash && digest.tenant == cut.head.tenant;
            if !sound || !held.contains(&digest.signature) {
                let (tenant, number) = (cut.head.tenant.as_deref(), digest.number);
                tracing::error!(
                    tenant,
                    number,
                    "a digest is not as it was signed and anchored: nothing is removed by it"
                );
                return false;
            }
            true
        });
        let tenants: Vec<Option<String>> = cuts.iter().map(|cut| cut.head.tenant.clone()).collect();
        let digests = cuts.into_iter().map(|cut| self.cut(cut)).collect();
        self.store.audit_keep_digests(epoch, digests).await?;
        if !self.anchor().await {
            return Ok(());
        }
        for tenant in tenants {
            let tenant = tenant.and_then(|t| t.parse::<TenantId>().ok());
            let records = self.store.audit_prune(epoch, tenant.as_ref()).await?;
            tracing::info!(records, tenant = tenant.as_ref().map(TenantId::as_str), "audit records were removed");
        }
        Ok(())
    }

    fn cut(&self, AuditCut { head, signed, hash }: AuditCut) -> Digest {
        let after = (head.digest_number, head.digest_signature);
        self.sign(DigestKind::Cut, head.tenant, after, (head.floor + 1, signed.digest.to), hash)
    }
}

/// File work outside of the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

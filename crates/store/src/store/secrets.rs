//! Secrets of tenants, what an agent is given of them, and the key that seals.

use super::Store;
use crate::error::StoreError;
use crate::model::{NewSecret, SecretRow, SecretUses, SecretVersionRow};
use crate::ops::master::{self, Cursor};
use crate::ops::secrets;
use crate::seal::{SealKeyError, SealKeys};
use aether_core::{AgentId, NodeId, SecretName, TenantId, TenantScope};
use std::collections::BTreeMap;

/// Tries of a write that met another of the same name.
const TRIES: u32 = 5;

impl Store {
    /// A new secret, or a new version of one.
    pub async fn put_secret(&self, scope: &TenantScope, new: NewSecret) -> Result<SecretRow, StoreError> {
        for _ in 1..TRIES {
            let put = self
                .write((scope.clone(), new.clone()), |tx, cx, (scope, new)| Box::pin(secrets::put(tx, cx, scope, new)));
            match put.await {
                Err(StoreError::Locked) => {}
                other => return other,
            }
        }
        Err(StoreError::Locked)
    }

    /// Without their values.
    pub async fn list_secrets(&self, scope: &TenantScope) -> Result<Vec<SecretRow>, StoreError> {
        self.read(scope.clone(), |tx, _, scope| Box::pin(secrets::list(tx, scope))).await
    }

    /// With the versions that are kept.
    pub async fn find_secret(
        &self,
        scope: &TenantScope,
        name: &SecretName,
    ) -> Result<Option<(SecretRow, Vec<SecretVersionRow>)>, StoreError> {
        self.read((scope.clone(), name.clone()), |tx, _, (scope, name)| {
            Box::pin(async move {
                let Some(row) = secrets::find(tx, scope, name.as_str()).await? else { return Ok(None) };
                Ok(Some((row, secrets::versions(tx, scope, name.as_str()).await?)))
            })
        })
        .await
    }

    /// With all its versions; agents that run keep what they were given.
    pub async fn delete_secret(&self, scope: &TenantScope, name: &SecretName) -> Result<(), StoreError> {
        self.write((scope.clone(), name.clone()), |tx, cx, (scope, name)| {
            Box::pin(secrets::delete(tx, cx, scope, name.as_str()))
        })
        .await
    }

    /// Secrets of a tenant that are to be removed from Vault before it is erased.
    pub async fn secrets_in_vault(&self, tenant: &TenantId) -> Result<Vec<String>, StoreError> {
        self.read(tenant.clone(), |tx, _, tenant| Box::pin(secrets::in_vault(tx, tenant))).await
    }

    /// What this run of the agent gets, asked by the node that begins it.
    pub async fn secret_uses(&self, node: (&NodeId, u64), run: (&AgentId, u64)) -> Result<SecretUses, StoreError> {
        let params = (node.0.clone(), node.1, run.0.clone(), run.1);
        self.read(params, |tx, cx, (node, epoch, agent, generation)| {
            Box::pin(secrets::uses(tx, cx, (node, *epoch), (agent, *generation)))
        })
        .await
    }

    /// Before they are handed out: that the run is given these versions.
    pub async fn record_secret_use(
        &self,
        node: (&NodeId, u64),
        run: (&AgentId, u64),
        versions: BTreeMap<String, u64>,
    ) -> Result<(), StoreError> {
        let params = (node.0.clone(), node.1, run.0.clone(), run.1, versions);
        self.write(params, |tx, cx, (node, epoch, agent, generation, versions)| {
            Box::pin(secrets::record_use(tx, cx, (node, *epoch), (agent, *generation), versions))
        })
        .await
    }
}

/// The key that seals.
impl Store {
    pub fn seal_keys(&self) -> &SealKeys {
        &self.inner.context.seal
    }

    /// Seals with the key that the store names, or names the one at hand where
    /// nobody has; false: this server does not have it.
    pub async fn follow_seal_key(&self) -> Result<bool, StoreError> {
        let active = match self.read((), |tx, _, ()| Box::pin(master::active(tx))).await? {
            Some(active) => active,
            None => {
                let own = self.seal_keys().active().fingerprint();
                let system = TenantScope::system(TenantId::default_tenant(), "secrets");
                self.write((system, own), |tx, cx, (actor, own)| {
                    Box::pin(master::set_active(tx, cx, actor, (own, true)))
                })
                .await?;
                let named = self.read((), |tx, _, ()| Box::pin(master::active(tx))).await?;
                named.ok_or_else(|| StoreError::internal("no key seals"))?
            }
        };
        Ok(self.seal_keys().activate(&active))
    }

    /// A new key into this server's file.
    pub async fn add_seal_key(&self, actor: &TenantScope) -> Result<(), MasterKeyError> {
        let (keys, rng) = (self.seal_keys().clone(), self.inner.context.rng.clone());
        tokio::task::spawn_blocking(move || keys.add(&*rng)).await.map_err(|_| MasterKeyError::Interrupted)??;
        Ok(self.note_seal_keys(actor, "add").await?)
    }

    /// The newest key of this server's file seals from here on.
    pub async fn activate_seal_key(&self, actor: &TenantScope) -> Result<(), StoreError> {
        let newest = self.seal_keys().all().last().map(crate::SealKey::fingerprint).unwrap_or_default();
        if newest != self.seal_keys().active().fingerprint() {
            self.write((actor.clone(), newest), |tx, cx, (actor, newest)| {
                Box::pin(master::set_active(tx, cx, actor, (newest, false)))
            })
            .await?;
        }
        self.follow_seal_key().await.map(|_| ())
    }

    /// Keys that seal nothing any more leave this server's file.
    pub async fn drop_seal_keys(&self, actor: &TenantScope) -> Result<(), MasterKeyError> {
        let marks = self.read((), |tx, _, ()| Box::pin(master::marks(tx))).await?;
        let (keys, rng) = (self.seal_keys().clone(), self.inner.context.rng.clone());
        let dropped =
            tokio::task::spawn_blocking(move || keys.drop_keys(|key| !marks.contains(&key.mark()[..]), &*rng));
        dropped.await.map_err(|_| MasterKeyError::Interrupted)??;
        Ok(self.note_seal_keys(actor, "drop").await?)
    }

    async fn note_seal_keys(&self, actor: &TenantScope, action: &'static str) -> Result<(), StoreError> {
        let keys: Vec<String> = self.seal_keys().all().iter().map(crate::SealKey::fingerprint).collect();
        self.write((actor.clone(), keys), move |tx, cx, (actor, keys)| {
            Box::pin(master::note(tx, cx, actor, (action, keys)))
        })
        .await
    }

    /// Values that another key than the active one sealed.
    pub async fn sealed_by_others(&self) -> Result<u64, StoreError> {
        self.read((), |tx, cx, ()| Box::pin(master::left(tx, cx))).await
    }

    /// Seals them with the active key, in small transactions; how many it
    /// sealed, and how many it has no key for. Beside writers, and again after
    /// a crash.
    pub async fn reseal(&self) -> Result<(u64, u64), StoreError> {
        let (mut resealed, mut shut, mut cursor) = (0, 0, Cursor::default());
        loop {
            let part = self.write(cursor, |tx, cx, cursor| Box::pin(master::reseal(tx, cx, cursor))).await?;
            resealed += part.resealed;
            shut += part.shut;
            match part.next {
                Some(next) => cursor = next,
                None => return Ok((resealed, shut)),
            }
        }
    }
}

/// Why the keys of the file were not changed.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    #[error(transparent)]
    File(#[from] SealKeyError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the change was interrupted")]
    Interrupted,
}

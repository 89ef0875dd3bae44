//! Secrets of tenants: set, removed, and given to the runs that name them.
//!
//! ```text
//! PUT value ─► sealed:  store, data key by the seal key
//!              transit: store, data key by Vault's transit
//!              vault:   Vault KV, its version number in the store
//! a run begins ─► node asks ─► read ─► (Vault) ─► recorded ─► given
//! ```
//!
//! Which of the three is the operator's configuration when the value is set;
//! each version keeps its own. Vault away means an error, never another place.
//! A value is in clear in a request, in the answer to a node, and in between;
//! nothing here prints one.

mod master;
mod vault;

pub(crate) use master::tend;
pub use vault::VaultSetupError;

use crate::config::VaultConfig;
use crate::problem::ApiError;
use aether_core::secrets::MAX_DELIVERED_BYTES;
use aether_core::{AgentId, Code, NodeId, SecretName, TenantId, TenantScope};
use aether_store::{HeldContent, HeldSecret, NewContent, NewSecret, SecretBackend, SecretRow, Store, StoreError};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use vault::{Vault, VaultError};
use zeroize::Zeroizing;

/// Questions to Vault at one time for one agent.
const PARALLEL: usize = 8;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Secrets {
    store: Store,
    vault: Option<Arc<Vault>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A version is in Vault, and this server was given none.
    #[error("the secret is kept in Vault, which this server is not set up for")]
    NoVault,
}

impl From<SecretError> for ApiError {
    fn from(error: SecretError) -> Self {
        let inward = error.to_string();
        match error {
            SecretError::Store(error) => error.into(),
            SecretError::Vault(error) if error.passes() => {
                let mut told = Self::new(Code::ServiceUnavailable, error.outward(), VaultError::REMEDY);
                told.problem.retry_after = Some(5);
                told.inward(inward)
            }
            SecretError::Vault(error) => {
                Self::new(Code::BadGateway, error.outward(), VaultError::REMEDY).inward(inward)
            }
            SecretError::NoVault => Self::conflict(
                "The secret is kept in Vault, which the server is not set up for any more.",
                "Have the operator set security.vault_enabled again, then repeat it.",
            ),
        }
    }
}

/// Why a run is not given its secrets.
#[derive(Debug)]
pub(crate) enum NotGiven {
    /// Asking again is of no use.
    Refused(String),
    /// It may be of use.
    Later(String),
}

impl Secrets {
    pub(crate) fn open(cfg: Option<&VaultConfig>, store: Store) -> Result<Self, VaultSetupError> {
        let vault = cfg.map(Vault::new).transpose()?.map(Arc::new);
        Ok(Self { store, vault })
    }

    /// A new secret, or a new version of one.
    pub(crate) async fn set(
        &self,
        scope: &TenantScope,
        name: SecretName,
        value: Zeroizing<Vec<u8>>,
        description: Option<String>,
    ) -> Result<SecretRow, SecretError> {
        let content = match self.vault.as_deref() {
            None => NewContent::Sealed(value),
            Some(vault) if vault.wraps() => {
                let (key, wrapped) = vault.data_key().await?;
                NewContent::Transit { clear: value, key, wrapped }
            }
            Some(vault) => {
                let version = vault.put(scope.tenant(), name.as_str(), &value).await?;
                NewContent::Vault { version, bytes: value.len() as u64 }
            }
        };
        let in_vault = matches!(content, NewContent::Vault { .. });
        let put = self.store.put_secret(scope, NewSecret { name: name.clone(), description, content }).await;
        if put.is_err() && in_vault {
            self.withdraw(scope, &name).await;
        }
        Ok(put?)
    }

    /// A value that no secret of ours names does not stay in Vault.
    async fn withdraw(&self, scope: &TenantScope, name: &SecretName) {
        if let (Some(vault), Ok(None)) = (&self.vault, self.store.find_secret(scope, name).await)
            && let Err(error) = vault.remove(scope.tenant(), name.as_str()).await
        {
            tracing::warn!(%error, tenant = %scope.tenant(), secret = %name, "a value without a secret stays in Vault");
        }
    }

    /// With all versions: out of Vault first, so that none is left there that
    /// nobody knows of.
    pub(crate) async fn delete(&self, scope: &TenantScope, name: &SecretName) -> Result<(), SecretError> {
        let found = self.store.find_secret(scope, name).await?;
        let (_, versions) = found.ok_or(StoreError::NotFound { what: "secret" })?;
        if versions.iter().any(|v| v.backend == SecretBackend::Vault) {
            self.vault()?.remove(scope.tenant(), name.as_str()).await?;
        }
        Ok(self.store.delete_secret(scope, name).await?)
    }

    /// Whatever of a tenant that is deleted is in Vault.
    pub(crate) async fn erase(&self, tenant: &TenantId) -> Result<(), SecretError> {
        let scope = TenantScope::system(tenant.clone(), "scheduler");
        for name in self.store.secrets_in_vault(tenant).await? {
            let name = name.parse().map_err(|_| StoreError::NotFound { what: "secret" })?;
            self.delete(&scope, &name).await?;
        }
        Ok(())
    }

    fn vault(&self) -> Result<&Vault, SecretError> {
        self.vault.as_deref().ok_or(SecretError::NoVault)
    }

    /// What the run of an agent gets, to the node that begins it. Given only
    /// once it is recorded.
    pub(crate) async fn give(
        &self,
        node: (&NodeId, u64),
        run: (&AgentId, u64),
    ) -> Result<Vec<(String, Zeroizing<Vec<u8>>)>, NotGiven> {
        let uses = self.store.secret_uses(node, run).await.map_err(NotGiven::of)?;
        let versions: BTreeMap<String, u64> = uses.secrets.iter().map(|s| (s.name.clone(), s.version)).collect();
        let tenant = &uses.tenant;
        let given: Vec<(String, Zeroizing<Vec<u8>>)> = futures::stream::iter(uses.secrets)
            .map(|held| async move {
                let name = held.name.clone();
                match self.open_held(tenant, held).await {
                    Ok(value) => Ok((name, value)),
                    Err(error) => Err(NotGiven::with(&name, error)),
                }
            })
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        if given.iter().map(|(_, value)| value.len()).sum::<usize>() > MAX_DELIVERED_BYTES {
            return Err(NotGiven::Refused(format!(
                "The agent's secrets hold more than {MAX_DELIVERED_BYTES} bytes together. Name fewer."
            )));
        }
        self.store.record_secret_use(node, run, versions).await.map_err(NotGiven::of)?;
        Ok(given)
    }

    async fn open_held(&self, tenant: &TenantId, held: HeldSecret) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        match held.content {
            HeldContent::Clear(value) => Ok(value),
            HeldContent::Transit { wrapped, sealed } => Ok(sealed.open(&self.vault()?.unwrap_key(&wrapped).await?)?),
            HeldContent::Vault { version } => Ok(self.vault()?.get(tenant, &held.name, version).await?),
        }
    }
}

impl NotGiven {
    fn of(error: StoreError) -> Self {
        match error {
            StoreError::SecretMissing { name } => Self::Refused(format!(
                "The agent names the secret {name}, which is not there any more. Set it, then start the agent again."
            )),
            StoreError::Unsealable => Self::Refused(
                "A secret of the agent cannot be opened: the seal key was replaced. Restore it, or set the secret again."
                    .to_owned(),
            ),
            StoreError::NotFound { .. } | StoreError::Fenced { .. } => {
                Self::Later("This run of the agent is not this node's to begin.".to_owned())
            }
            error => {
                tracing::warn!(%error, "secrets cannot be read");
                Self::Later("The database does not answer.".to_owned())
            }
        }
    }

    fn with(name: &str, error: SecretError) -> Self {
        match error {
            SecretError::Store(error) => Self::of(error),
            SecretError::Vault(error) => {
                tracing::warn!(%error, secret = name, "Vault gave no secret");
                let told = format!("The secret {name} was not given: {} {}", error.outward(), VaultError::REMEDY);
                if error.passes() { Self::Later(told) } else { Self::Refused(told) }
            }
            SecretError::NoVault => Self::Refused(format!(
                "The secret {name} is kept in Vault, which the server is not set up for. Set security.vault_enabled, or \
                 set the secret again."
            )),
        }
    }
}

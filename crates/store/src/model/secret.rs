//! Secrets of tenants, as the store's callers see them. What holds a value
//! has no telling `Debug`.

use crate::error::StoreError;
use crate::seal;
use aether_core::{SecretName, TenantId, Timestamp};
use std::fmt;
use zeroize::Zeroizing;

/// Where a version's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretBackend {
    Sealed,
    Transit,
    Vault,
}

impl SecretBackend {
    pub fn as_str(self) -> &'static str {
        match self {
            SecretBackend::Sealed => "sealed",
            SecretBackend::Transit => "transit",
            SecretBackend::Vault => "vault",
        }
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        [Self::Sealed, Self::Transit, Self::Vault].into_iter().find(|b| b.as_str() == text)
    }
}

/// The value of a new version, or where it is already.
#[derive(Clone)]
pub enum NewContent {
    /// To be sealed here, its data key by the seal key.
    Sealed(Zeroizing<Vec<u8>>),
    /// To be sealed here with this data key, which Vault has wrapped.
    Transit { clear: Zeroizing<Vec<u8>>, key: Zeroizing<[u8; 32]>, wrapped: String },
    /// In Vault, as its version of this number.
    Vault { version: u64, bytes: u64 },
}

#[derive(Clone)]
pub struct NewSecret {
    pub name: SecretName,
    /// None: it stays as it is.
    pub description: Option<String>,
    pub content: NewContent,
}

impl fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSecret").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRow {
    pub name: String,
    pub description: Option<String>,
    /// The newest.
    pub version: u64,
    /// Of the newest.
    pub backend: SecretBackend,
    pub created_at: Timestamp,
    pub created_by: String,
    pub updated_at: Timestamp,
    pub updated_by: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretVersionRow {
    pub version: u64,
    pub backend: SecretBackend,
    pub bytes: u64,
    pub created_at: Timestamp,
    pub created_by: String,
}

/// A value on its way to an agent.
#[derive(Clone)]
pub struct HeldSecret {
    pub name: String,
    pub version: u64,
    pub content: HeldContent,
}

#[derive(Clone)]
pub enum HeldContent {
    Clear(Zeroizing<Vec<u8>>),
    /// Opened by the data key, which Vault unwraps.
    Transit {
        wrapped: String,
        sealed: SealedValue,
    },
    /// Vault's version of it.
    Vault {
        version: u64,
    },
}

impl fmt::Debug for HeldSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldSecret").field("name", &self.name).field("version", &self.version).finish_non_exhaustive()
    }
}

/// A sealed value and whose it is.
#[derive(Clone)]
pub struct SealedValue {
    pub(crate) owner: Vec<String>,
    pub(crate) bytes: Vec<u8>,
}

impl SealedValue {
    /// Opens with the data key alone that sealed it, for its owner alone.
    pub fn open(&self, key: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let owner: Vec<&str> = self.owner.iter().map(String::as_str).collect();
        seal::open_with(key, &owner, &self.bytes)
    }
}

/// What an agent is to be given when it begins.
#[derive(Clone, Debug)]
pub struct SecretUses {
    pub tenant: TenantId,
    /// In the order of the agent's spec, each name once.
    pub secrets: Vec<HeldSecret>,
}

//! API keys, roles, service accounts and budgets, as the store's callers see
//! them.

use aether_core::tenant::{BudgetOf, Held, Limits, TenantStatus};
use aether_core::{
    AgentName, KeyId, Permission, PermissionSet, Reach, RoleName, ServiceAccountId, TenantId, Timestamp,
};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

#[derive(Clone, PartialEq, Eq)]
pub struct NewKey {
    pub id: KeyId,
    pub name: String,
    /// Keyed hash of the secret, made by the caller: the store never sees it.
    pub hash: [u8; 32],
    /// The first characters, for people to recognise it by.
    pub prefix: String,
    /// Of a service account's key: the account's, whatever stands here.
    pub role: RoleName,
    /// None: the whole role.
    pub scopes: Option<BTreeSet<Permission>>,
    pub expires_at: Option<Timestamp>,
    /// None: all of the tenant.
    pub reach: Option<Reach>,
    pub budget: Option<Limits>,
    pub service_account: Option<ServiceAccountId>,
}

impl NewKey {
    /// Of a whole role, without an end.
    pub fn new(id: KeyId, name: &str, (hash, prefix): ([u8; 32], String), role: impl Into<RoleName>) -> Self {
        Self {
            id,
            name: name.to_owned(),
            hash,
            prefix,
            role: role.into(),
            scopes: None,
            expires_at: None,
            reach: None,
            budget: None,
            service_account: None,
        }
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("id", &self.id).field("role", &self.role).finish_non_exhaustive()
    }
}

/// A secret instead of a key's present one.
#[derive(Clone, PartialEq, Eq)]
pub struct Rotation {
    pub hash: [u8; 32],
    pub prefix: String,
    /// Until then the present one works too, and those before it as long as
    /// they would have. Not in the future: all of them end now.
    pub previous_until: Timestamp,
}

impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotation").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// What is none stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyChange {
    pub name: Option<String>,
    pub expires_at: Option<Option<Timestamp>>,
    pub budget: Option<Option<Limits>>,
}

/// Whose a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAccount {
    pub id: ServiceAccountId,
    /// None: it was deleted.
    pub name: Option<AgentName>,
    pub enabled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    pub id: KeyId,
    pub tenant: TenantId,
    pub name: String,
    pub prefix: String,
    pub role: RoleName,
    /// Of the role as it is now, within the scopes.
    pub permissions: PermissionSet,
    pub scopes: Option<BTreeSet<Permission>>,
    pub reach: Option<Arc<Reach>>,
    /// It has a budget.
    pub budgeted: bool,
    pub account: Option<KeyAccount>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    pub rotated_at: Option<Timestamp>,
    /// Until when a secret from before a rotation works, the longest.
    pub previous_until: Option<Timestamp>,
    /// The end of the secret that it was found by; none: it is the present one.
    pub secret_until: Option<Timestamp>,
    /// Of its tenant.
    pub tenant_status: TenantStatus,
}

impl KeyRow {
    /// Neither revoked nor expired, nor found by a secret that is, nor of a
    /// service account that may not work.
    pub fn usable(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none()
            && self.expires_at.is_none_or(|at| now < at)
            && self.secret_until.is_none_or(|at| now < at)
            && self.account.as_ref().is_none_or(|account| account.enabled && account.name.is_some())
    }
}

/// A tenant's own role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRow {
    pub name: AgentName,
    pub permissions: PermissionSet,
    pub updated_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewServiceAccount {
    pub id: ServiceAccountId,
    pub name: AgentName,
    pub role: RoleName,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountRow {
    pub id: ServiceAccountId,
    pub name: AgentName,
    pub role: RoleName,
    /// Of the role as it is now.
    pub permissions: PermissionSet,
    pub enabled: bool,
    /// Not revoked.
    pub keys: u64,
    pub created_at: Timestamp,
}

/// What a part of a tenant may have, and has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetRow {
    pub of: BudgetOf,
    pub limits: Limits,
    pub used: Held,
}

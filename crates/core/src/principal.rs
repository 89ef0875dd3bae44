//! Who calls, and what they may do. Tenant data is reached through a
//! [`TenantScope`] alone, and a scope is made from a [`Principal`] alone.
//!
//! ```text
//! role (built in, or the tenant's own) ∩ scopes of the key
//!   ∩ NARROWED, where the key has a reach    − key:manage, where it has a budget
//!   = what the principal may
//! ```

use crate::id::{KeyId, ServiceAccountId, TenantId};
use crate::name::{AgentName, NameError};
use crate::reach::Reach;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

macro_rules! permissions {
    ($($variant:ident = $text:literal),+ $(,)?) => {
        /// One thing that may be done.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Permission { $(#[serde(rename = $text)] $variant),+ }

        impl Permission {
            pub const ALL: &'static [Permission] = &[$(Permission::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Permission::$variant => $text),+ }
            }
        }

        impl FromStr for Permission {
            type Err = UnknownPermission;
            fn from_str(text: &str) -> Result<Self, UnknownPermission> {
                match text { $($text => Ok(Permission::$variant),)+ _ => Err(UnknownPermission) }
            }
        }
    };
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown permission")]
pub struct UnknownPermission;

permissions! {
    AgentCreate = "agent:create",
    AgentRead = "agent:read",
    AgentUpdate = "agent:update",
    AgentDelete = "agent:delete",
    AgentExec = "agent:exec",
    AgentReadEnv = "agent:read_env",
    AgentLogs = "agent:logs",
    CheckpointRead = "checkpoint:read",
    CheckpointWrite = "checkpoint:write",
    QuotaRead = "quota:read",
    QuotaWrite = "quota:write",
    TenantRead = "tenant:read",
    TenantWrite = "tenant:write",
    KeyManage = "key:manage",
    AuditRead = "audit:read",
    WebhookRead = "webhook:read",
    WebhookWrite = "webhook:write",
    SecretRead = "secret:read",
    SecretWrite = "secret:write",
    SecretUse = "secret:use",
    ScalerRead = "scaler:read",
    ScalerWrite = "scaler:write",
    SchedulerRead = "scheduler:read",
    SchedulerWrite = "scheduler:write",
    PlatformAdmin = "platform:admin",
}

/// A named set of permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    PlatformAdmin,
    Operator,
    Admin,
    Developer,
    Viewer,
    Auditor,
}

impl Role {
    pub const ALL: &'static [Role] =
        &[Role::PlatformAdmin, Role::Operator, Role::Admin, Role::Developer, Role::Viewer, Role::Auditor];

    pub fn as_str(self) -> &'static str {
        match self {
            Role::PlatformAdmin => "platform_admin",
            Role::Operator => "operator",
            Role::Admin => "admin",
            Role::Developer => "developer",
            Role::Viewer => "viewer",
            Role::Auditor => "auditor",
        }
    }

    /// Whether it is about the platform, not about one tenant: only principals
    /// of the operator's own tenant have it.
    pub fn of_platform(self) -> bool {
        matches!(self, Role::PlatformAdmin | Role::Operator)
    }

    pub fn permissions(self) -> PermissionSet {
        self.list().iter().copied().collect()
    }

    fn list(self) -> &'static [Permission] {
        use Permission as P;
        match self {
            Role::PlatformAdmin => P::ALL,
            Role::Operator => &[P::SchedulerRead, P::SchedulerWrite, P::ScalerRead, P::ScalerWrite, P::QuotaRead],
            Role::Admin => &[
                P::AgentCreate,
                P::AgentRead,
                P::AgentUpdate,
                P::AgentDelete,
                P::AgentExec,
                P::AgentReadEnv,
                P::AgentLogs,
                P::QuotaRead,
                P::KeyManage,
                P::AuditRead,
                P::CheckpointRead,
                P::CheckpointWrite,
                P::TenantRead,
                P::TenantWrite,
                P::WebhookRead,
                P::WebhookWrite,
                P::SecretRead,
                P::SecretWrite,
                P::SecretUse,
                P::ScalerRead,
                P::ScalerWrite,
            ],
            Role::Developer => &[
                P::AgentCreate,
                P::AgentRead,
                P::AgentUpdate,
                P::AgentDelete,
                P::AgentExec,
                P::AgentReadEnv,
                P::AgentLogs,
                P::QuotaRead,
                P::SecretUse,
                P::CheckpointRead,
                P::CheckpointWrite,
            ],
            Role::Viewer => &[P::AgentRead, P::AgentLogs, P::QuotaRead, P::CheckpointRead],
            Role::Auditor => &[P::AuditRead, P::AgentRead],
        }
    }
}

/// Permissions, a bit for each: made and copied with every request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PermissionSet(u64);

const _: () = assert!(Permission::ALL.len() <= 64, "a bit for each permission");

/// What a key that is narrowed to labels or images may do at most. The rest is
/// about the tenant as a whole, where a narrowed view would be none: its keys,
/// its audit log, its secrets.
const NARROWED: &[Permission] = &[
    Permission::AgentCreate,
    Permission::AgentRead,
    Permission::AgentUpdate,
    Permission::AgentDelete,
    Permission::AgentExec,
    Permission::AgentReadEnv,
    Permission::AgentLogs,
    Permission::CheckpointRead,
    Permission::CheckpointWrite,
    Permission::QuotaRead,
    Permission::TenantRead,
];

impl PermissionSet {
    pub const EMPTY: Self = Self(0);

    /// All that a role of a tenant's own may hold: nothing of the platform.
    pub fn of_tenant() -> Self {
        Role::Admin.permissions()
    }

    pub fn contains(self, permission: Permission) -> bool {
        self.0 & bit(permission) != 0
    }

    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    #[must_use]
    pub fn without(self, permission: Permission) -> Self {
        Self(self.0 & !bit(permission))
    }

    /// Whether it holds all that the other does.
    pub fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// For display alone: the built-in role that holds just these, else the
    /// first that they make one think of (surface.md section 4).
    pub fn shown_as(self) -> Role {
        let holds = |some: &[Permission]| some.iter().any(|p| self.contains(*p));
        match Role::ALL.iter().find(|role| role.permissions() == self) {
            Some(role) => *role,
            None if holds(&[Permission::PlatformAdmin]) => Role::PlatformAdmin,
            None if holds(&[Permission::KeyManage]) => Role::Admin,
            None if holds(&[Permission::AgentCreate, Permission::AgentUpdate, Permission::AgentDelete]) => {
                Role::Developer
            }
            None => Role::Viewer,
        }
    }

    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.iter().copied().filter(move |p| self.contains(*p))
    }

    /// Scopes narrow a role and never widen it; none means the whole role.
    #[must_use]
    pub fn scoped(self, scopes: Option<&BTreeSet<Permission>>) -> Self {
        scopes.map_or(self, |scopes| self.and(scopes.iter().copied().collect()))
    }
}

impl FromIterator<Permission> for PermissionSet {
    fn from_iter<I: IntoIterator<Item = Permission>>(all: I) -> Self {
        Self(all.into_iter().fold(0, |bits, p| bits | bit(p)))
    }
}

fn bit(permission: Permission) -> u64 {
    1 << permission as u32
}

/// A role as keys name it: built in, or one of the tenant's own. The names of
/// the former are reserved, so a name is always one of the two.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoleName {
    BuiltIn(Role),
    Own(AgentName),
}

impl RoleName {
    pub fn as_str(&self) -> &str {
        match self {
            RoleName::BuiltIn(role) => role.as_str(),
            RoleName::Own(name) => name.as_str(),
        }
    }

    /// Whether only the operator's own tenant has it.
    pub fn of_platform(&self) -> bool {
        matches!(self, RoleName::BuiltIn(role) if role.of_platform())
    }
}

impl From<Role> for RoleName {
    fn from(role: Role) -> Self {
        Self::BuiltIn(role)
    }
}

impl FromStr for RoleName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.parse::<Role>() {
            Ok(role) => Ok(Self::BuiltIn(role)),
            Err(UnknownPermission) => text.parse().map(Self::Own),
        }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for RoleName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for RoleName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Role {
    type Err = UnknownPermission;
    fn from_str(text: &str) -> Result<Self, UnknownPermission> {
        Self::ALL.iter().copied().find(|r| r.as_str() == text).ok_or(UnknownPermission)
    }
}

/// How the caller proved who it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Credential {
    /// Peer credentials of the local socket.
    LocalUser { uid: u32 },
    /// An API key, by its id, or a token that was given for one; and whose it is
    /// where that is no person.
    ApiKey { id: KeyId, service_account: Option<ServiceAccountId> },
    /// A user, by a token.
    User { id: String },
    /// Somebody whom an outside issuer vouches for: `oidc:name@issuer`.
    Outside { name: String },
    /// `enable_auth: false` on loopback.
    Anonymous,
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::LocalUser { uid } => write!(f, "local:{uid}"),
            Credential::ApiKey { id, service_account: None } => f.write_str(id.as_str()),
            Credential::ApiKey { id, service_account: Some(account) } => write!(f, "{account}/{id}"),
            Credential::User { id } => f.write_str(id),
            Credential::Outside { name } => f.write_str(name),
            Credential::Anonymous => f.write_str("anonymous"),
        }
    }
}

/// The caller of one request: inside one tenant, with permissions.
#[derive(Clone, Debug)]
pub struct Principal {
    pub tenant: TenantId,
    pub credential: Credential,
    permissions: PermissionSet,
    /// `None`: all that the tenant has.
    reach: Option<Arc<Reach>>,
    /// The key in whose name agents are made, and whose budget they count in.
    key: Option<KeyId>,
}

impl Principal {
    pub fn new(tenant: TenantId, credential: Credential, permissions: PermissionSet) -> Self {
        Self { tenant, credential, permissions, reach: None, key: None }
    }

    /// Narrowed to a part of the tenant, and to what can be narrowed.
    #[must_use]
    pub fn within(self, reach: Option<Arc<Reach>>) -> Self {
        let Some(reach) = reach else { return self };
        let permissions = self.permissions.and(NARROWED.iter().copied().collect());
        Self { permissions, reach: Some(reach), ..self }
    }

    /// What it makes is this key's. One with a budget makes no other key: that
    /// would have none.
    #[must_use]
    pub fn of_key(self, key: KeyId, budgeted: bool) -> Self {
        let permissions = if budgeted { self.permissions.without(Permission::KeyManage) } else { self.permissions };
        Self { permissions, key: Some(key), ..self }
    }

    /// The same caller in another tenant: an operator of the platform, who has
    /// named it. What it does there is recorded as done by it.
    #[must_use]
    pub fn acting_for(self, tenant: TenantId) -> Self {
        Self { tenant, key: None, ..self }
    }

    /// The same caller with no more than `scopes`.
    #[must_use]
    pub fn narrowed(self, scopes: &BTreeSet<Permission>) -> Self {
        Self { permissions: self.permissions.scoped(Some(scopes)), ..self }
    }

    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(permission)
    }

    /// Nobody hands out more than they have.
    pub fn may_grant(&self, granted: PermissionSet) -> bool {
        self.permissions.covers(granted)
    }

    pub fn permissions(&self) -> PermissionSet {
        self.permissions
    }

    pub fn reach(&self) -> Option<&Reach> {
        self.reach.as_deref()
    }

    /// The key to this tenant's data, as far as this caller reaches.
    pub fn scope(&self) -> TenantScope {
        TenantScope {
            tenant: self.tenant.clone(),
            actor: self.credential.to_string(),
            address: None,
            reach: self.reach.clone(),
            key: self.key.clone(),
        }
    }
}

/// The right to touch one tenant's data, with who does it (for the audit).
/// Store functions on tenant data take one; only a principal, or the control
/// plane acting for the agent's own tenant, makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantScope {
    tenant: TenantId,
    actor: String,
    address: Option<String>,
    reach: Option<Arc<Reach>>,
    key: Option<KeyId>,
}

impl TenantScope {
    /// The control plane's own work on an agent of `tenant`: TTL, reports.
    pub fn system(tenant: TenantId, component: &'static str) -> Self {
        Self { tenant, actor: format!("system:{component}"), address: None, reach: None, key: None }
    }

    /// With the caller's network address, for the audit.
    #[must_use]
    pub fn from_address(self, address: impl Into<String>) -> Self {
        Self { address: Some(address.into()), ..self }
    }

    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    pub fn actor(&self) -> &str {
        &self.actor
    }

    pub fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// What part of the tenant's agents it touches; `None`: all.
    pub fn reach(&self) -> Option<&Reach> {
        self.reach.as_deref()
    }

    /// The key that asks.
    pub fn key(&self) -> Option<&KeyId> {
        self.key.as_ref()
    }

    /// For tests of the store: the same, narrowed, by this key.
    #[must_use]
    pub fn narrowed(self, reach: Option<Arc<Reach>>, key: Option<KeyId>) -> Self {
        Self { reach, key, ..self }
    }
}

#[cfg(test)]
mod tests;

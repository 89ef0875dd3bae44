//! Who calls, and what they may do. Tenant data is reached through a
//! [`TenantScope`] alone, and a scope is made from a [`Principal`] alone.

use crate::id::TenantId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

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

    pub fn permissions(self) -> BTreeSet<Permission> {
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
                P::CheckpointRead,
                P::CheckpointWrite,
            ],
            Role::Viewer => &[P::AgentRead, P::AgentLogs, P::QuotaRead, P::CheckpointRead],
            Role::Auditor => &[P::AuditRead, P::AgentRead],
        }
    }
}

impl FromStr for Role {
    type Err = UnknownPermission;
    fn from_str(text: &str) -> Result<Self, UnknownPermission> {
        [Role::PlatformAdmin, Role::Operator, Role::Admin, Role::Developer, Role::Viewer, Role::Auditor]
            .into_iter()
            .find(|r| r.as_str() == text)
            .ok_or(UnknownPermission)
    }
}

/// How the caller proved who it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Credential {
    /// Peer credentials of the local socket.
    LocalUser { uid: u32 },
    /// An API key, by its id.
    ApiKey { id: String },
    /// `enable_auth: false` on loopback.
    Anonymous,
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::LocalUser { uid } => write!(f, "local:{uid}"),
            Credential::ApiKey { id } => f.write_str(id),
            Credential::Anonymous => f.write_str("anonymous"),
        }
    }
}

/// The caller of one request: inside one tenant, with permissions.
#[derive(Clone, Debug)]
pub struct Principal {
    pub tenant: TenantId,
    pub credential: Credential,
    pub role: Role,
    /// A bit for each: made and copied with every request.
    permissions: u64,
}

const _: () = assert!(Permission::ALL.len() <= 64, "a bit for each permission");

impl Principal {
    /// `scopes` narrow the role and never widen it; none means the whole role.
    pub fn new(tenant: TenantId, credential: Credential, role: Role, scopes: Option<&BTreeSet<Permission>>) -> Self {
        let held = role.list().iter().filter(|p| scopes.is_none_or(|scopes| scopes.contains(p)));
        let permissions = held.fold(0, |bits, p| bits | bit(*p));
        Self { tenant, credential, role, permissions }
    }

    /// The same caller in another tenant: an operator of the platform, who has
    /// named it. What it does there is recorded as done by it.
    #[must_use]
    pub fn acting_for(self, tenant: TenantId) -> Self {
        Self { tenant, ..self }
    }

    pub fn may(&self, permission: Permission) -> bool {
        self.permissions & bit(permission) != 0
    }

    /// The key to this tenant's data.
    pub fn scope(&self) -> TenantScope {
        TenantScope { tenant: self.tenant.clone(), actor: self.credential.to_string(), address: None }
    }
}

fn bit(permission: Permission) -> u64 {
    1 << permission as u32
}

/// The right to touch one tenant's data, with who does it (for the audit).
/// Store functions on tenant data take one; only a principal, or the control
/// plane acting for the agent's own tenant, makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantScope {
    tenant: TenantId,
    actor: String,
    address: Option<String>,
}

impl TenantScope {
    /// The control plane's own work on an agent of `tenant`: TTL, reports.
    pub fn system(tenant: TenantId, component: &'static str) -> Self {
        Self { tenant, actor: format!("system:{component}"), address: None }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_never_widen_a_role() {
        let all: BTreeSet<_> = Permission::ALL.iter().copied().collect();
        let viewer = Principal::new(TenantId::default_tenant(), Credential::Anonymous, Role::Viewer, Some(&all));
        assert!(viewer.may(Permission::AgentRead) && !viewer.may(Permission::AgentExec));
        let narrow = BTreeSet::from([Permission::AgentCreate]);
        let key = Principal::new(TenantId::default_tenant(), Credential::Anonymous, Role::Admin, Some(&narrow));
        assert!(key.may(Permission::AgentCreate));
        for other in [Permission::AgentDelete, Permission::AgentUpdate, Permission::AgentExec] {
            assert!(!key.may(other));
        }
    }

    #[test]
    fn operators_see_no_tenant_data() {
        let p = Role::Operator.permissions();
        for denied in [Permission::AgentReadEnv, Permission::AgentLogs, Permission::AgentExec, Permission::AgentRead] {
            assert!(!p.contains(&denied));
        }
    }

    #[test]
    fn text_round_trip() {
        for p in Permission::ALL {
            assert_eq!(p.as_str().parse(), Ok(*p));
        }
    }
}

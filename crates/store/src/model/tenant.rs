//! Tenants and their quotas, as the store's callers see them.

use aether_core::TenantId;
use aether_core::Timestamp;
use aether_core::tenant::{Held, Limits, TenantStatus, Tier};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRow {
    pub id: TenantId,
    pub name: String,
    pub status: TenantStatus,
    pub metadata: BTreeMap<String, String>,
    pub created_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTenant {
    pub id: TenantId,
    pub name: String,
    pub tier: Tier,
    pub metadata: BTreeMap<String, String>,
}

impl NewTenant {
    /// Named as its id.
    pub fn new(id: &TenantId, tier: Tier) -> Self {
        Self { id: id.clone(), name: id.to_string(), tier, metadata: BTreeMap::new() }
    }
}

/// What is none stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantChange {
    pub name: Option<String>,
    pub metadata: Option<BTreeMap<String, String>>,
    /// With all of its limits.
    pub tier: Option<Tier>,
}

/// How far the deletion of a tenant is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantErasure {
    /// By this call.
    pub keys_revoked: u64,
    /// Not confirmed gone.
    pub agents_left: u64,
}

/// What a tenant may have, and has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaRow {
    pub tenant: TenantId,
    pub tier: Tier,
    pub limits: Limits,
    pub used: Held,
}

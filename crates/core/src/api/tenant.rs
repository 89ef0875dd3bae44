//! Documents of tenants and quotas.

use crate::error::FieldError;
use crate::spec::validate_pairs;
use crate::tenant::{Held, Limits, TenantStatus, Tier};
use crate::time::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

const MAX_NAME: usize = 100;
/// No limit is above it: sums of amounts stay far below what the store holds.
pub const LIMIT_MOST: u64 = 1 << 50;

/// The body of `POST /v1/tenants`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TenantRequest {
    /// 1 to 50 of a–z, 0–9 and `-`, first and last a letter or digit; for ever.
    pub id: String,
    /// For people; the id when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Default free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// The body of `PATCH /v1/tenants/me`: what a tenant may change of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TenantPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Replaces all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// The body of `PATCH /v1/tenants/{id}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TenantUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Replaces all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Sets every limit to the tier's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
}

impl From<TenantPatch> for TenantUpdate {
    fn from(patch: TenantPatch) -> Self {
        Self { name: patch.name, metadata: patch.metadata, tier: None }
    }
}

/// A tenant, as its own people and operators see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TenantInfo {
    pub id: String,
    pub name: String,
    pub tier: Tier,
    pub status: TenantStatus,
    pub metadata: BTreeMap<String, String>,
    pub quota: Quota,
    pub usage: QuotaUsage,
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
}

/// What a tenant may have; `null`: no limit but the nodes'.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Quota {
    pub tenant_id: String,
    pub tier: Tier,
    pub max_agents: Option<u64>,
    pub max_cpu_millicores: Option<u64>,
    /// Millicores too, as in the earlier version. Deprecated: use `max_cpu_millicores`.
    pub max_cpu_cores: Option<u64>,
    pub max_memory_mb: Option<u64>,
    pub max_disk_mb: Option<u64>,
    pub max_network_bandwidth_mbps: Option<u64>,
    pub max_requests_per_minute: Option<u64>,
    pub max_images: Option<u64>,
    pub max_exec_sessions: Option<u64>,
}

impl Quota {
    pub fn new(tenant_id: &str, tier: Tier, limits: Limits) -> Self {
        Self {
            tenant_id: tenant_id.to_owned(),
            tier,
            max_agents: limits.agents,
            max_cpu_millicores: limits.cpu_millicores,
            max_cpu_cores: limits.cpu_millicores,
            max_memory_mb: limits.memory_mb,
            max_disk_mb: limits.disk_mb,
            max_network_bandwidth_mbps: limits.network_mbps,
            max_requests_per_minute: limits.requests_per_minute,
            max_images: limits.images,
            max_exec_sessions: limits.exec_sessions,
        }
    }
}

/// What a tenant holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct QuotaUsage {
    /// Those that are not confirmed gone.
    pub agents: u64,
    /// Of those that neither stopped nor failed, as is the memory.
    pub cpu_millicores: u64,
    pub memory_mb: u64,
    /// Of all of them.
    pub disk_mb: u64,
}

impl From<Held> for QuotaUsage {
    fn from(held: Held) -> Self {
        let Held { agents, cpu_millicores, memory_mb, disk_mb } = held;
        Self { agents, cpu_millicores, memory_mb, disk_mb }
    }
}

/// `GET /v1/quotas/{tenant_id}/usage`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct QuotaReport {
    #[serde(flatten)]
    pub quota: Quota,
    pub usage: QuotaUsage,
}

/// The body of `PUT /v1/quotas/{tenant_id}`: what is absent becomes the
/// tier's, `null` lifts the limit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct QuotaRequest {
    /// That of the path, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// The present one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub max_agents: Option<Option<u64>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub max_cpu_millicores: Option<Option<u64>>,
    /// The deprecated name of `max_cpu_millicores`; both must agree.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub max_cpu_cores: Option<Option<u64>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub max_memory_mb: Option<Option<u64>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub max_disk_mb: Option<Option<u64>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub max_network_bandwidth_mbps: Option<Option<u64>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub max_requests_per_minute: Option<Option<u64>>,
    /// Images that it may have.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub max_images: Option<Option<u64>>,
    /// Execs that may be at work at one time.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub max_exec_sessions: Option<Option<u64>>,
}

/// Tells `null` from absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::<u64>::deserialize(deserializer).map(Some)
}

impl QuotaRequest {
    /// The tier and the limits that this asks for, of a tenant of `tier`.
    pub fn check(&self, tenant_id: &str, tier: Tier) -> Result<(Tier, Limits), Vec<FieldError>> {
        let mut errors = Vec::new();
        if self.tenant_id.as_ref().is_some_and(|id| id != tenant_id) {
            errors.push(FieldError::new("tenant_id", "is not the tenant of the path"));
        }
        if let (Some(a), Some(b)) = (self.max_cpu_millicores, self.max_cpu_cores)
            && a != b
        {
            errors.push(FieldError::new("max_cpu_cores", "differs from max_cpu_millicores, whose old name it is"));
        }
        let tier = self.tier.unwrap_or(tier);
        let base = tier.limits();
        let mut limit = |field: &str, asked: Option<Option<u64>>, base: Option<u64>, least: u64| match asked {
            None => base,
            Some(None) => None,
            Some(Some(n)) => {
                if !(least..=LIMIT_MOST).contains(&n) {
                    errors
                        .push(FieldError::new(field, format!("must be {least} to {LIMIT_MOST}, or null for no limit")));
                }
                Some(n)
            }
        };
        let cpu = self.max_cpu_millicores.or(self.max_cpu_cores);
        let limits = Limits {
            agents: limit("max_agents", self.max_agents, base.agents, 0),
            cpu_millicores: limit("max_cpu_millicores", cpu, base.cpu_millicores, 0),
            memory_mb: limit("max_memory_mb", self.max_memory_mb, base.memory_mb, 0),
            disk_mb: limit("max_disk_mb", self.max_disk_mb, base.disk_mb, 0),
            network_mbps: limit("max_network_bandwidth_mbps", self.max_network_bandwidth_mbps, base.network_mbps, 1),
            requests_per_minute: limit(
                "max_requests_per_minute",
                self.max_requests_per_minute,
                base.requests_per_minute,
                1,
            ),
            images: limit("max_images", self.max_images, base.images, 0),
            exec_sessions: limit("max_exec_sessions", self.max_exec_sessions, base.exec_sessions, 0),
        };
        if errors.is_empty() { Ok((tier, limits)) } else { Err(errors) }
    }
}

/// How far the deletion of a tenant is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TenantDeletion {
    pub id: String,
    /// `deleting`, or `erased` when nothing of it is left but its audit records.
    pub status: String,
    /// Agents whose nodes have not confirmed their end yet.
    pub agents_left: u64,
    /// API keys that this request revoked.
    pub keys_revoked: u64,
}

/// Errors of a tenant's name and metadata.
pub fn validate_tenant(name: Option<&str>, metadata: Option<&BTreeMap<String, String>>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if name.is_some_and(|n| n.trim().is_empty() || n.len() > MAX_NAME || n.chars().any(char::is_control)) {
        errors.push(FieldError::new("name", format!("must be 1 to {MAX_NAME} bytes without control characters")));
    }
    errors.extend(metadata.into_iter().flat_map(|pairs| validate_pairs("metadata", pairs)));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: &str) -> QuotaRequest {
        serde_json::from_str(json).expect("parses")
    }

    fn fields(errors: Vec<FieldError>) -> Vec<String> {
        errors.into_iter().map(|e| e.field).collect()
    }

    #[test]
    fn absent_is_the_tiers_and_null_is_none() {
        let (tier, limits) = request(r#"{"max_agents": 7, "max_disk_mb": null}"#).check("a", Tier::Pro).expect("valid");
        let expected = Limits { agents: Some(7), disk_mb: None, ..Tier::Pro.limits() };
        assert_eq!((tier, limits), (Tier::Pro, expected));
        let (tier, limits) = request(r#"{"tier": "free", "tenant_id": "a"}"#).check("a", Tier::Pro).expect("valid");
        assert_eq!((tier, limits), (Tier::Free, Tier::Free.limits()));
    }

    #[test]
    fn the_old_name_of_cpu_is_millicores_and_must_agree() {
        let (_, limits) = request(r#"{"max_cpu_cores": 1500}"#).check("a", Tier::Free).expect("valid");
        assert_eq!(limits.cpu_millicores, Some(1500));
        let both = request(r#"{"max_cpu_cores": 1, "max_cpu_millicores": 2}"#);
        assert_eq!(fields(both.check("a", Tier::Free).expect_err("unequal")), ["max_cpu_cores"]);
    }

    #[test]
    fn what_is_outside_is_named() {
        let asked = request(r#"{"tenant_id": "b", "max_agents": 9999999999999999, "max_requests_per_minute": 0}"#);
        let errors = fields(asked.check("a", Tier::Free).expect_err("outside"));
        assert_eq!(errors, ["tenant_id", "max_agents", "max_requests_per_minute"]);
        assert!(serde_json::from_str::<QuotaRequest>(r#"{"max_agents": -1}"#).is_err());
        assert!(serde_json::from_str::<QuotaRequest>(r#"{"max_agent": 1}"#).is_err());
    }

    /// Every field of the earlier version's quota, through JSON and back.
    #[test]
    fn a_quota_round_trips() {
        let quota = Quota::new("acme", Tier::Free, Tier::Free.limits());
        let json = serde_json::to_value(&quota).expect("serialises");
        let expected = serde_json::json!({
            "tenant_id": "acme", "tier": "free", "max_agents": 5, "max_cpu_millicores": 5000, "max_cpu_cores": 5000,
            "max_memory_mb": 8192, "max_disk_mb": 51200, "max_network_bandwidth_mbps": 1000,
            "max_requests_per_minute": 600, "max_images": 20, "max_exec_sessions": 20,
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Quota>(json).expect("parses"), quota);
        // What was read can be sent back.
        let text = serde_json::to_string(&quota).expect("serialises");
        assert_eq!(request(&text).check("acme", Tier::Pro).expect("valid"), (Tier::Free, Tier::Free.limits()));
    }

    #[test]
    fn names_and_metadata_are_bounded() {
        assert!(validate_tenant(Some("Acme & Söhne"), Some(&BTreeMap::new())).is_empty());
        for name in ["", "  ", "a\n", &"x".repeat(MAX_NAME + 1)] {
            assert_eq!(fields(validate_tenant(Some(name), None)), ["name"]);
        }
        let long = BTreeMap::from([("k".to_owned(), "v".repeat(2000))]);
        assert_eq!(fields(validate_tenant(None, Some(&long))), ["metadata"]);
    }
}

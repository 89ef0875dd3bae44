//! Documents of API keys, service accounts and roles.

use super::tenant::{LIMIT_MOST, QuotaUsage};
use crate::error::FieldError;
use crate::reach::Reach;
use crate::tenant::Limits;
use crate::time::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

const MAX_NAME: usize = 64;

/// What a narrowed key reaches: agents that carry all of the labels and run
/// one of the images. At least one of either is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct KeyAllow {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// References, in any spelling, or how they begin and `*`: `python:3.*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
}

impl KeyAllow {
    pub fn check(&self) -> Result<Reach, Vec<FieldError>> {
        Reach::check(&self.labels, &self.images)
    }
}

impl From<&Reach> for KeyAllow {
    fn from(reach: &Reach) -> Self {
        Self { labels: reach.labels.clone(), images: reach.images.iter().map(ToString::to_string).collect() }
    }
}

/// The most that a part of a tenant may hold, under the tenant's own quota;
/// what is absent has no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_agents: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cpu_millicores: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory_mb: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_disk_mb: Option<u64>,
}

impl Budget {
    pub fn check(self) -> Result<Limits, Vec<FieldError>> {
        let mut errors = Vec::new();
        for (field, limit) in [
            ("max_agents", self.max_agents),
            ("max_cpu_millicores", self.max_cpu_millicores),
            ("max_memory_mb", self.max_memory_mb),
            ("max_disk_mb", self.max_disk_mb),
        ] {
            if limit.is_some_and(|n| n > LIMIT_MOST) {
                errors.push(FieldError::new(field, format!("must be 0 to {LIMIT_MOST}")));
            }
        }
        let limits = Limits {
            agents: self.max_agents,
            cpu_millicores: self.max_cpu_millicores,
            memory_mb: self.max_memory_mb,
            disk_mb: self.max_disk_mb,
            ..Limits::default()
        };
        if errors.is_empty() && !limits.counted() {
            errors.push(FieldError::new("budget", "must name at least one limit"));
        }
        if errors.is_empty() { Ok(limits) } else { Err(errors) }
    }
}

impl From<Limits> for Budget {
    fn from(limits: Limits) -> Self {
        let [max_agents, max_cpu_millicores, max_memory_mb, max_disk_mb] = limits.amounts();
        Self { max_agents, max_cpu_millicores, max_memory_mb, max_disk_mb }
    }
}

/// The budget of all agents that carry one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LabelBudget {
    /// `key=value`.
    pub label: String,
    #[serde(flatten)]
    pub budget: Budget,
    pub usage: QuotaUsage,
}

/// The body of `POST /v1/auth/keys`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    pub name: String,
    /// Built in, or one of the tenant's own. Default developer; a service
    /// account's key has the account's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Narrow the role; absent: the whole role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
    /// Narrow it to some agents and images; absent: all of the tenant's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<KeyAllow>,
    /// Of the agents that it makes; absent: the tenant's quota alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Whose key it is: a service account, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
}

/// The body of `PATCH /v1/auth/keys/{id}`: what is absent stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct KeyPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `null`: it never ends by itself.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Option<Timestamp>>,
    /// `null` lifts it.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<Budget>))]
    pub budget: Option<Option<Budget>>,
}

/// Tells `null` from absent.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// The body of `POST /v1/auth/keys/{id}/rotate`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct KeyRotation {
    /// How long the old secret works beside the new one: 24h when absent, at
    /// most 720h; `0s` ends it at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<String>,
}

/// An API key without its secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct KeyInfo {
    pub id: String,
    pub name: String,
    /// The first characters, to recognise it by.
    pub prefix: String,
    pub role: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// What it may do now: of its role, its scopes, and whether it is narrowed.
    #[serde(default)]
    pub permissions: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<KeyAllow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Of the budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<QuotaUsage>,
    /// Whose it is, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub last_used_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub revoked_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub rotated_at: Option<Timestamp>,
    /// Until when the secret from before the rotation works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub previous_until: Option<Timestamp>,
}

/// The answer of `POST /v1/auth/keys` and of a rotation: the only time the
/// secret is shown.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct KeyCreated {
    #[serde(flatten)]
    pub info: KeyInfo,
    pub key: String,
    /// The same secret as E2B's clients want it.
    pub e2b_key: String,
}

/// The body of `POST /v1/service-accounts`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountRequest {
    /// 1 to 64 of a–z, 0–9, `-`, `_` and `.`; the tenant's own.
    pub name: String,
    /// Default developer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// A principal of a tenant that is no person: keys are made for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ServiceAccountInfo {
    pub id: String,
    pub name: String,
    pub role: String,
    /// None of its keys is taken while it is not.
    pub enabled: bool,
    /// Those that are not revoked.
    pub keys: u64,
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
}

/// The body of `POST /v1/roles`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RoleRequest {
    /// 1 to 64 of a–z, 0–9, `-`, `_` and `.`; no built-in role's.
    pub name: String,
    /// As in `agent:create`.
    pub permissions: Vec<String>,
}

/// The body of `PATCH /v1/roles/{name}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RolePatch {
    /// Instead of those that it has; holds at once for whoever has the role.
    pub permissions: Vec<String>,
}

/// A named set of permissions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct RoleInfo {
    pub name: String,
    pub built_in: bool,
    pub permissions: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub updated_at: Option<Timestamp>,
}

/// Errors of the name that people give a key.
pub fn validate_key_name(name: &str) -> Option<FieldError> {
    let bad = name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control);
    bad.then(|| FieldError::new("name", format!("must be 1 to {MAX_NAME} bytes without control characters")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_has_a_limit_and_bounds() {
        let check = |json: &str| serde_json::from_str::<Budget>(json).expect("parses").check();
        let limits = check(r#"{"max_agents": 3, "max_memory_mb": 0}"#).expect("valid");
        assert_eq!(limits.amounts(), [Some(3), None, Some(0), None]);
        assert_eq!(Budget::from(limits).check(), Ok(limits));
        assert_eq!(check("{}").expect_err("empty")[0].field, "budget");
        assert_eq!(check(r#"{"max_disk_mb": 9999999999999999}"#).expect_err("too much")[0].field, "max_disk_mb");
        for bad in [r#"{"max_agents": -1}"#, r#"{"max_agent": 1}"#, r#"{"max_network_bandwidth_mbps": 1}"#] {
            assert!(serde_json::from_str::<Budget>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_patch_tells_null_from_absent() {
        let patch: KeyPatch = serde_json::from_str(r#"{"expires_at": null}"#).expect("parses");
        assert_eq!((patch.expires_at, patch.budget), (Some(None), None));
        let patch: KeyPatch = serde_json::from_str(r#"{"budget": null}"#).expect("parses");
        assert_eq!((patch.expires_at, patch.budget), (None, Some(None)));
        // The rest of a key is for good.
        for fixed in ["role", "scopes", "allow", "service_account", "id", "tenant_id", "key", "prefix", "permissions"] {
            assert!(serde_json::from_str::<KeyPatch>(&format!(r#"{{"{fixed}": null}}"#)).is_err(), "{fixed}");
        }
    }

    #[test]
    fn names_are_bounded() {
        assert_eq!(validate_key_name("CI of team ä"), None);
        for bad in ["", "a\n", &"x".repeat(MAX_NAME + 1)] {
            assert!(validate_key_name(bad).is_some(), "{bad:?}");
        }
    }
}

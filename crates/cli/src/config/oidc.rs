//! `security.oidc`: the one key whose value is a list of entries; on the
//! command line and in the environment the same in one line of YAML or JSON.

use super::setting::Setting;
use aether_core::{Role, TenantId};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

const MOST: usize = 16;
const MAX_TEXT: usize = 64 * 1024;

/// As `control::OidcIssuer`, before its parts are looked at together.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Issuer {
    pub(crate) issuer: String,
    pub(crate) audiences: Vec<String>,
    #[serde(default)]
    pub(crate) algorithms: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) user_claim: Option<String>,
    #[serde(default)]
    pub(crate) role_claim: Option<String>,
    #[serde(default)]
    pub(crate) roles: BTreeMap<String, Role>,
    #[serde(default)]
    pub(crate) default_role: Option<Role>,
    #[serde(default)]
    pub(crate) tenant: Option<Tenant>,
    #[serde(default)]
    pub(crate) tenant_claim: Option<String>,
    #[serde(default)]
    pub(crate) tenants: BTreeMap<String, Tenant>,
    #[serde(default)]
    pub(crate) require_nbf: bool,
    #[serde(default)]
    pub(crate) allow_internal: bool,
    #[serde(default)]
    pub(crate) ca_path: Option<PathBuf>,
    /// As any duration: `30s`.
    #[serde(default)]
    pub(crate) refetch_interval: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Tenant(pub(crate) TenantId);

impl TryFrom<String> for Tenant {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("{text:?} is no tenant's id"))
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Issuers(pub(crate) Vec<Issuer>);

impl Setting for Issuers {
    const KIND: &'static str = "list of issuers";
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        if text.len() > MAX_TEXT {
            return Err("is longer than 64 KiB".to_owned());
        }
        let issuers: Vec<Issuer> =
            serde_norway::from_str(text).map_err(|e| format!("is not a list of issuers: {e}"))?;
        if issuers.len() > MOST {
            return Err(format!("has more than {MOST} issuers"));
        }
        for issuer in &issuers {
            if let Some(text) = &issuer.refetch_interval {
                <std::time::Duration as Setting>::parse(text).map_err(|e| format!("refetch_interval {text:?} {e}"))?;
            }
            if issuer.ca_path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return Err("ca_path must be an absolute path".to_owned());
            }
        }
        Ok(Self(issuers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_are_read_whole() {
        let text = r#"[{"issuer": "https://a.example", "audiences": ["aether"], "tenant": "acme", "roles": {"x": "admin"}, "role_claim": "groups"}]"#;
        let issuers = Issuers::parse(text).expect("reads").0;
        assert_eq!(issuers[0].roles, BTreeMap::from([("x".to_owned(), Role::Admin)]));
        assert_eq!(Issuers::parse(""), Ok(Issuers::default()));
        for bad in [
            "x",
            "[{}]",
            "[{issuer: a, audiences: [b], more: 1}]",
            "[{issuer: a, audiences: [b], tenant: No!}]",
            "[{issuer: a, audiences: [b], roles: {x: king}}]",
            "[{issuer: a, audiences: [b], refetch_interval: soon}]",
            "[{issuer: a, audiences: [b], ca_path: here}]",
        ] {
            assert!(Issuers::parse(bad).is_err(), "{bad}");
        }
    }
}

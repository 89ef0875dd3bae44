//! Tokens of outside issuers (OpenID Connect): whose they are, and what that
//! is here, as the operator's configuration maps it.
//!
//! ```text
//! token ─► issuer known? ─► key by kid (fetch, cached) ─► signature
//!       ─► audience, times ─► claims: who, tenant, role ─► Principal
//! ```
//!
//! Not here: where requests may go and how much is read (`fetch`), which keys
//! a document holds (`jwks`). An issuer's word goes no further than its entry
//! in the configuration lets it: a tenant that it may name, a role that is
//! mapped, and never the platform's but in the tenant `default`.

mod fetch;
mod jwks;

use super::jose::{Algorithm, Compact};
use super::tokens::{LEEWAY, LONGEST};
use crate::config::OidcIssuer;
use aether_core::principal::Credential;
use aether_core::{Clock, Principal, Role, TenantId, Timestamp};
pub use fetch::FetchError;
use fetch::Source;
use jwks::KeySet;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Keys are fetched again after this, and at once for a `kid` that they do
/// not have (as often as the issuer's entry allows).
const FRESH: Duration = Duration::from_secs(600);
/// Where the issuer does not answer, the last ones hold for so long.
const STALE: Duration = Duration::from_secs(24 * 3600);
const MAX_USER: usize = 200;
const MAX_AUDIENCES: usize = 100;

/// From the one that may most; of several that are mapped, the first holds.
const BY_WEIGHT: [Role; 6] =
    [Role::PlatformAdmin, Role::Operator, Role::Admin, Role::Developer, Role::Viewer, Role::Auditor];

/// All issuers of the configuration.
pub(crate) struct Outside {
    by_issuer: BTreeMap<String, Provider>,
    clock: Arc<dyn Clock>,
}

struct Provider {
    cfg: OidcIssuer,
    source: Source,
    cached: Mutex<Cached>,
    /// One fetches, the others wait for what it finds.
    fetching: tokio::sync::Mutex<()>,
}

/// Times are monotonic.
#[derive(Clone, Default)]
struct Cached {
    keys: Option<(Arc<KeySet>, Duration)>,
    /// The end of the last attempt.
    tried_at: Option<Duration>,
}

impl Cached {
    fn aged(&self, now: Duration, most: Duration) -> Option<&Arc<KeySet>> {
        self.keys.as_ref().filter(|(_, at)| now.saturating_sub(*at) < most).map(|(keys, _)| keys)
    }
}

/// What an outside token is here.
pub(crate) struct Vouched {
    pub(crate) principal: Principal,
    /// For the list of revoked ones.
    pub(crate) id: String,
}

/// The issuer's keys cannot be had: no word about the token.
#[derive(Debug)]
pub(crate) struct Unreachable;

impl Outside {
    pub(crate) fn new(issuers: &[OidcIssuer], clock: Arc<dyn Clock>) -> Result<Self, FetchError> {
        let mut by_issuer = BTreeMap::new();
        for cfg in issuers {
            let source = Source::new(cfg)?;
            let (cached, fetching) = (Mutex::default(), tokio::sync::Mutex::default());
            by_issuer.insert(cfg.issuer.clone(), Provider { cfg: cfg.clone(), source, cached, fetching });
        }
        Ok(Self { by_issuer, clock })
    }

    /// Whether its issuer is one of these; nothing is verified.
    pub(crate) fn knows(&self, token: &Compact<'_>) -> bool {
        token.text("iss").is_some_and(|iss| self.by_issuer.contains_key(iss))
    }

    /// None: not to be believed.
    pub(crate) async fn vouched(&self, token: &Compact<'_>) -> Result<Option<Vouched>, Unreachable> {
        let Some(provider) = token.text("iss").and_then(|iss| self.by_issuer.get(iss)) else { return Ok(None) };
        let now = self.clock.now();
        // What needs no key first: nobody makes us fetch with what is refused anyway.
        if !provider.cfg.algorithms().any(|a| a == token.algorithm) || !provider.addressed(token, now) {
            return Ok(None);
        }
        let Some((user, tenant, role)) = provider.mapped(&token.claims) else { return Ok(None) };
        let Some(keys) = provider.keys(token, self.clock.as_ref()).await? else { return Ok(None) };
        if !keys.find(&token.kid, token.algorithm).is_some_and(|key| token.verified_by(key)) {
            return Ok(None);
        }
        let place = provider.cfg.issuer.split_once("://").map_or("", |(_, rest)| rest);
        let credential = Credential::Outside { name: format!("oidc:{user}@{place}") };
        Ok(Some(Vouched { principal: Principal::new(tenant, credential, role.permissions()), id: id_of(token) }))
    }
}

/// Of what is signed, not of the signature, which somebody may spell in
/// another way.
pub(crate) fn id_of(token: &Compact<'_>) -> String {
    format!("oidc:{}", hex::encode(Sha256::digest(token.signed)))
}

impl OidcIssuer {
    fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        // Never a secret's: what an issuer publishes is no secret.
        self.algorithms.iter().filter_map(|a| Algorithm::parse(a)).filter(|a| *a != Algorithm::Hs256)
    }
}

impl Provider {
    /// For us, and now.
    fn addressed(&self, token: &Compact<'_>, now: Timestamp) -> bool {
        let ours = |audience: &Value| audience.as_str().is_some_and(|a| self.cfg.audiences.iter().any(|own| own == a));
        let for_us = match token.claims.get("aud") {
            Some(Value::Array(all)) => {
                all.len() <= MAX_AUDIENCES && all.iter().all(Value::is_string) && all.iter().any(ours)
            }
            Some(one) => ours(one),
            None => false,
        };
        for_us && self.within(token, now)
    }

    fn within(&self, token: &Compact<'_>, now: Timestamp) -> bool {
        let (now, leeway) = (now.unix_ms() / 1000, LEEWAY.as_secs());
        let (Some(until), Some(issued)) = (token.seconds("exp"), token.seconds("iat")) else { return false };
        let from = match token.claims.get("nbf") {
            None if self.cfg.require_nbf => return false,
            // Many issuers leave it out.
            None => issued,
            Some(nbf) => match nbf.as_u64() {
                Some(nbf) => nbf,
                None => return false,
            },
        };
        let lives = until.checked_sub(issued).is_some_and(|lives| (1..=LONGEST.as_secs()).contains(&lives));
        lives && issued <= now + leeway && from <= now + leeway && now < until.saturating_add(leeway)
    }

    /// Who it is, in which tenant, in which role.
    fn mapped(&self, claims: &Map<String, Value>) -> Option<(String, TenantId, Role)> {
        let cfg = &self.cfg;
        let user = claim(claims, &cfg.user_claim)?.as_str()?;
        // It stands in the audit log: nothing that only looks like something.
        let plain = |c: char| c.is_alphanumeric() || c.is_ascii_graphic();
        if user.is_empty() || user.len() > MAX_USER || !user.chars().all(plain) {
            return None;
        }
        let tenant = self.tenant(claims)?;
        let held = cfg.role_claim.as_deref().and_then(|name| claim(claims, name));
        let values: Vec<&str> = match held {
            Some(Value::String(text)) => text.split_whitespace().collect(),
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let roles = values.iter().filter_map(|value| cfg.roles.get(*value));
        let roles: Vec<Role> = roles.copied().chain(cfg.default_role).collect();
        let role = BY_WEIGHT.into_iter().find(|role| roles.contains(role))?;
        (!role.of_platform() || tenant == TenantId::default_tenant()).then(|| (user.to_owned(), tenant, role))
    }

    /// `default` is the operator's: an issuer comes in there only where its
    /// entry names it.
    fn tenant(&self, claims: &Map<String, Value>) -> Option<TenantId> {
        let Some(name) = &self.cfg.tenant_claim else { return self.cfg.tenant.clone() };
        let value = claim(claims, name)?.as_str()?;
        if !self.cfg.tenants.is_empty() {
            return self.cfg.tenants.get(value).cloned();
        }
        value.parse().ok().filter(|tenant| *tenant != TenantId::default_tenant())
    }

    /// Keys that are fresh and have the token's; else those that there are.
    async fn keys(&self, token: &Compact<'_>, clock: &dyn Clock) -> Result<Option<Arc<KeySet>>, Unreachable> {
        let now = clock.monotonic();
        let before = self.cached.lock().clone();
        let has = |keys: &Arc<KeySet>| keys.find(&token.kid, token.algorithm).is_some();
        if let Some(keys) = before.aged(now, FRESH).filter(|keys| has(keys)) {
            return Ok(Some(keys.clone()));
        }
        let due = before.tried_at.is_none_or(|at| now.saturating_sub(at) >= self.cfg.refetch_interval);
        let old = before.aged(now, STALE).cloned();
        if due {
            let turn = match (self.fetching.try_lock(), &old) {
                (Ok(turn), _) => turn,
                // Somebody is at it: what is known is good enough.
                (Err(_), Some(keys)) if has(keys) => return Ok(Some(keys.clone())),
                (Err(_), _) => self.fetching.lock().await,
            };
            // Whoever waited finds what the other one found.
            if self.cached.lock().tried_at == before.tried_at {
                let fetched = self.source.fetch().await;
                let mut cached = self.cached.lock();
                cached.tried_at = Some(clock.monotonic());
                match fetched {
                    Ok(keys) => cached.keys = Some((Arc::new(keys), clock.monotonic())),
                    Err(error) => {
                        tracing::warn!(issuer = %self.cfg.issuer, %error, "the keys of an outside issuer were not fetched");
                    }
                }
            }
            drop(turn);
        }
        let cached = self.cached.lock();
        cached.aged(clock.monotonic(), STALE).cloned().map(Some).ok_or(Unreachable)
    }
}

/// By its whole name, or by a path with dots into claims that hold others.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    claim(claims.get(first)?.as_object()?, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn provider(change: impl FnOnce(&mut OidcIssuer)) -> Provider {
        let mut cfg = OidcIssuer::new("https://login.example", "aether");
        cfg.role_claim = Some("realm.roles".into());
        cfg.roles = BTreeMap::from([
            ("dev".to_owned(), Role::Developer),
            ("adm".to_owned(), Role::Admin),
            ("root".to_owned(), Role::PlatformAdmin),
        ]);
        cfg.tenant = Some("acme".parse().expect("an id"));
        change(&mut cfg);
        let source = Source::new(&cfg).expect("a source");
        Provider { cfg, source, cached: Mutex::default(), fetching: tokio::sync::Mutex::default() }
    }

    fn mapped(provider: &Provider, claims: Value) -> Option<String> {
        let (user, tenant, role) = provider.mapped(claims.as_object().expect("claims"))?;
        Some(format!("{user} {tenant} {}", role.as_str()))
    }

    #[test]
    fn claims_become_a_role_in_a_tenant() {
        let plain = provider(|_| {});
        let roles = |roles: Value| mapped(&plain, json!({ "sub": "ann", "realm": { "roles": roles } }));
        assert_eq!(roles(json!(["x", "dev"])).as_deref(), Some("ann acme developer"));
        assert_eq!(roles(json!(["dev", "adm"])).as_deref(), Some("ann acme admin"));
        assert_eq!(roles(json!("x dev")).as_deref(), Some("ann acme developer"));
        for none in [json!([]), json!("devadm"), json!([["dev"]]), json!({ "dev": true }), json!(1), json!(["root"])] {
            assert_eq!(roles(none.clone()), None, "{none}");
        }
        for user in
            [json!(""), json!("a b"), json!("a\n"), json!("a\u{202e}b"), json!("a".repeat(201)), json!(1), json!(null)]
        {
            assert_eq!(mapped(&plain, json!({ "sub": user, "realm": { "roles": "dev" } })), None, "{user}");
        }
        let many = mapped(&plain, json!({ "sub": "auth0|ä_1:x@y/z=", "realm": { "roles": "dev" } }));
        assert_eq!(many.as_deref(), Some("auth0|ä_1:x@y/z= acme developer"));
        let flat = json!({ "sub": "ann", "realm.roles": ["adm"], "realm": { "roles": ["dev"] } });
        assert_eq!(mapped(&plain, flat).as_deref(), Some("ann acme admin"), "the whole name first");
        let with_default = provider(|cfg| cfg.default_role = Some(Role::Viewer));
        assert_eq!(mapped(&with_default, json!({ "sub": "ann" })).as_deref(), Some("ann acme viewer"));
    }

    #[test]
    fn an_issuer_names_only_tenants_that_it_may() {
        let free = provider(|cfg| {
            cfg.tenant_claim = Some("org".into());
            cfg.default_role = Some(Role::Viewer);
        });
        let org = |provider: &Provider, org: Value| mapped(provider, json!({ "sub": "ann", "org": org }));
        assert_eq!(org(&free, json!("other")).as_deref(), Some("ann other viewer"));
        for none in [json!("default"), json!("No!"), json!(""), json!(["other"]), json!(null)] {
            assert_eq!(org(&free, none.clone()), None, "{none}");
        }
        let listed = provider(|cfg| {
            cfg.tenant_claim = Some("org".into());
            cfg.default_role = Some(Role::PlatformAdmin);
            cfg.tenants = BTreeMap::from([
                ("Ops".to_owned(), TenantId::default_tenant()),
                ("Acme".to_owned(), "acme".parse().expect("an id")),
            ]);
        });
        assert_eq!(org(&listed, json!("Ops")).as_deref(), Some("ann default platform_admin"));
        for none in ["Acme", "acme", "default", "other"] {
            assert_eq!(org(&listed, json!(none)), None, "{none}");
        }
    }
}

//! Our own tokens: what they say, and which of them are believed.
//!
//! A token names its subject, a key or a user, which is looked up each time:
//! what it may do is said by that row, and the token only narrows it. So a
//! revoked key, a disabled user or a suspended tenant takes its tokens along.

use super::jose::{Compact, unsigned};
use super::signing::Keys;
use crate::config::JwtConfig;
use aether_core::id::DEFAULT_CELL;
use aether_core::{Live, Permission, Principal, Rng, SessionId, TenantId, Timestamp, TokenId};
use aether_store::Subject;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// What these tokens are for. Those of nodes and sandboxes will be for
/// something else, so that none can stand for another.
pub(crate) const AUDIENCE: &str = "aether-api";
/// How far the clocks of two servers may be apart.
pub(super) const LEEWAY: Duration = Duration::from_secs(30);
/// No token of ours lives longer, whatever its configuration says.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The server's keys with what goes into tokens; replaced by a reload.
pub(crate) struct Tokens {
    pub(super) issuer: String,
    duration: Duration,
    keys: Keys,
}

pub(crate) type LiveTokens = Live<Tokens>;

/// A token that is good as far as its bytes go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) id: String,
    pub(crate) subject: Subject,
    pub(crate) tenant: TenantId,
    pub(crate) scopes: BTreeSet<Permission>,
    pub(crate) session: Option<SessionId>,
    pub(crate) expires_at: Timestamp,
}

/// One that was just made.
pub(crate) struct Issued {
    pub(crate) id: TokenId,
    pub(crate) text: String,
    pub(crate) expires_in: u64,
}

impl Tokens {
    pub(crate) fn new(cfg: &JwtConfig, keys: Keys) -> Self {
        Self { issuer: cfg.issuer.clone(), duration: cfg.token_duration.min(LONGEST), keys }
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// For all that the principal may do, until then.
    pub(crate) fn issue(
        &self,
        principal: &Principal,
        subject: &Subject,
        session: Option<&SessionId>,
        (now, rng): (Timestamp, &dyn Rng),
    ) -> Option<Issued> {
        let id = TokenId::generate(DEFAULT_CELL, rng);
        let (from, expires_in) = (now.unix_ms() / 1000, self.duration.as_secs().max(1));
        let scopes: Vec<&str> = principal.permissions().iter().map(Permission::as_str).collect();
        let mut claims = json!({
            "iss": self.issuer, "aud": AUDIENCE, "sub": subject.as_str(), "user": subject.as_str(),
            "tenant": principal.tenant.as_str(), "role": principal.permissions().shown_as().as_str(), "scopes": scopes,
            "iat": from, "nbf": from, "exp": from + expires_in, "jti": id.as_str(),
        });
        if let Some(session) = session {
            claims["sid"] = json!(session.as_str());
        }
        let header = json!({ "alg": self.keys.algorithm.as_str(), "kid": self.keys.kid, "typ": "JWT" });
        let signed = unsigned(&header, &claims);
        let signature = self.keys.sign(&signed)?;
        Some(Issued { id, text: format!("{signed}.{signature}"), expires_in })
    }

    /// What is good of `token` by its bytes alone.
    pub(crate) fn verify(&self, token: &Compact<'_>, now: Timestamp) -> Option<Verified> {
        let typ = token.header.get("typ").and_then(Value::as_str);
        if token.header.len() != 3 || typ != Some("JWT") {
            return None;
        }
        if !token.verified_by(self.keys.verifying(&token.kid)?) {
            return None;
        }
        if token.text("iss") != Some(&self.issuer) || token.text("aud") != Some(AUDIENCE) {
            return None;
        }
        let expires_at = within(token, now)?;
        let subject = token.text("sub").filter(|sub| token.text("user") == Some(sub))?;
        let scopes = token.claims.get("scopes")?.as_array()?;
        // Those that a later version has are none here.
        let scopes = scopes.iter().map(|scope| scope.as_str().map(str::parse)).collect::<Option<Vec<_>>>()?;
        let session = match token.claims.get("sid") {
            None => None,
            Some(session) => Some(session.as_str()?.parse().ok()?),
        };
        Some(Verified {
            id: token.text("jti")?.parse::<TokenId>().ok()?.to_string(),
            subject: subject.parse().ok()?,
            tenant: token.text("tenant")?.parse().ok()?,
            scopes: scopes.into_iter().filter_map(Result::ok).collect(),
            session,
            expires_at,
        })
    }
}

/// Its end, where now is between that and its begin. All three times must be
/// there, and the end is kept to the second.
fn within(token: &Compact<'_>, now: Timestamp) -> Option<Timestamp> {
    let (issued, from, until) = (token.seconds("iat")?, token.seconds("nbf")?, token.seconds("exp")?);
    let now = now.unix_ms() / 1000;
    let soon = now + LEEWAY.as_secs();
    let lives = until.checked_sub(issued)?;
    let good = issued <= soon && from <= soon && now < until && (1..=LONGEST.as_secs()).contains(&lives);
    good.then(|| Timestamp::from_unix_ms(until.saturating_mul(1000)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::principal::Credential;
    use aether_core::source::OsRng;
    use aether_core::{KeyId, Role, Secret};

    const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);

    fn tokens(duration: Duration) -> Tokens {
        let cfg = JwtConfig {
            secret: Some(Secret::new("s".repeat(40))),
            token_duration: duration,
            ..JwtConfig::in_dir(std::path::Path::new("/nowhere"))
        };
        Tokens::new(&cfg, Keys::load(&cfg, &OsRng).expect("loads"))
    }

    fn issued(tokens: &Tokens) -> Issued {
        let key = KeyId::generate("c0", &OsRng);
        let credential = Credential::ApiKey { id: key.clone(), service_account: None };
        let principal = Principal::new(TenantId::default_tenant(), credential, Role::Viewer.permissions());
        tokens.issue(&principal, &Subject::Key(key), None, (NOW, &OsRng)).expect("signs")
    }

    #[test]
    fn what_is_issued_holds_until_its_end() {
        for seconds in [1, 60, 3600, 24 * 3600, 48 * 3600] {
            let tokens = tokens(Duration::from_secs(seconds));
            let issued = issued(&tokens);
            let ends = seconds.min(LONGEST.as_secs());
            assert_eq!(issued.expires_in, ends);
            let at = |seconds: u64, ms: u64| {
                let compact = Compact::parse(&issued.text).expect("a token");
                tokens.verify(&compact, Timestamp::from_unix_ms(NOW.unix_ms() + seconds * 1000 + ms))
            };
            let verified = at(0, 0).expect("good");
            assert_eq!(verified.id, issued.id.as_str());
            assert_eq!(verified.scopes, Role::Viewer.permissions().iter().collect());
            assert!(at(ends - 1, 999).is_some());
            assert_eq!(at(ends, 0), None);
            let compact = Compact::parse(&issued.text).expect("a token");
            let before = |s: u64| tokens.verify(&compact, Timestamp::from_unix_ms(NOW.unix_ms() - s * 1000));
            assert!(before(LEEWAY.as_secs()).is_some() && before(LEEWAY.as_secs() + 1).is_none());
        }
    }
}

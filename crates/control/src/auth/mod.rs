//! Who calls: peer credentials on the local socket, API keys and tokens over
//! TCP.
//!
//! ```text
//! key ──────────► its row ─┐
//! token of ours ─► row of  ├─► usable, tenant active ─► Principal
//!                its key, ─┤                            (a token narrows it)
//!                or user  ─┘
//! token of another issuer ─► what the configuration makes of its claims
//! ```
//!
//! Every failure of a key or a token (unknown, revoked, expired, malformed,
//! forged) is one and the same 401. What the caller may do stands in
//! `core::principal`; which permission a route needs stands in `api::routes`.

mod attempts;
mod jose;
mod key;
mod local;
mod oidc;
mod passwords;
mod refresh;
mod signing;
mod standing;
mod tokens;

pub(crate) use attempts::Attempts;
use jose::Compact;
pub use key::{ApiKey, Pepper, PepperError};
pub(crate) use local::LocalUsers;
pub use local::{LocalUser, PeerUser, REMEMBERED};
pub use oidc::FetchError;
pub(crate) use oidc::Outside;
pub(crate) use passwords::{LEAST as PASSWORD_LEAST, MOST as PASSWORD_MOST, Passwords};
pub(crate) use refresh::RefreshToken;
pub(crate) use signing::Keys;
pub use signing::{JwtKeyError, SECRET_LEAST};
pub(crate) use standing::{Held, Standing};
use tokens::LEEWAY;
pub use tokens::LONGEST;
pub(crate) use tokens::{LiveTokens, Tokens};

use crate::problem::ApiError;
use aether_core::principal::{Credential, Principal, Role};
use aether_core::tenant::TenantStatus;
use aether_core::{Clock, Permission, SessionId, TenantId, Timestamp};
use aether_store::{KeyRow, StoreError, Subject, UserRow};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use std::net::SocketAddr;

/// The other end of a connection; put into each request by the accept loop.
#[derive(Clone, Debug)]
pub enum Peer {
    Tcp(SocketAddr),
    Unix(PeerUser),
}

impl Peer {
    /// For the access log and the audit.
    pub fn describe(&self) -> String {
        match self {
            Peer::Tcp(address) => address.ip().to_string(),
            Peer::Unix(user) => format!("uid:{}", user.uid),
        }
    }
}

/// A token, for who ends it.
#[derive(Clone, Debug)]
pub(crate) struct Presented {
    pub(crate) id: String,
    pub(crate) expires_at: Timestamp,
    pub(crate) session: Option<SessionId>,
}

/// Decides who a request comes from.
pub(crate) struct Authenticator {
    pub(crate) store: aether_store::Store,
    pub(crate) pepper: Pepper,
    pub(crate) tokens: LiveTokens,
    pub(crate) outside: std::sync::Arc<Outside>,
    pub(crate) clock: std::sync::Arc<dyn Clock>,
    pub(crate) enabled: bool,
    pub(crate) local: LocalUsers,
}

impl Authenticator {
    /// Who calls, and the token that they bring, if it is one.
    pub(crate) async fn caller(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> Result<(Principal, Option<Presented>), ApiError> {
        // A key given is a key meant, on the socket too.
        match presented_key(headers)? {
            Some(text) if ApiKey::parse(&text).is_some() => Ok((self.by_key(&text).await?, None)),
            Some(text) => self.by_token(&text).await.map(|(principal, token)| (principal, Some(token))),
            None => Ok((self.without_a_key(peer).await?, None)),
        }
    }

    async fn without_a_key(&self, peer: &Peer) -> Result<Principal, ApiError> {
        match peer {
            Peer::Unix(user) => match self.local.of(*user, self.clock.monotonic()).await {
                LocalUser::Root => Ok(local(user.uid, Role::PlatformAdmin)),
                LocalUser::Group => Ok(local(user.uid, Role::Admin)),
                LocalUser::Stranger => Err(ApiError::stranger()),
            },
            Peer::Tcp(_) if !self.enabled => {
                let held = Role::Admin.permissions();
                Ok(Principal::new(TenantId::default_tenant(), Credential::Anonymous, held))
            }
            Peer::Tcp(_) => Err(ApiError::unauthorized()),
        }
    }

    pub(crate) async fn by_key(&self, text: &str) -> Result<Principal, ApiError> {
        let key = ApiKey::parse(text).ok_or_else(ApiError::unauthorized)?;
        let hash = self.pepper.hash(&key);
        let row = self.store.find_key_by_hash(&hash).await?.ok_or_else(ApiError::unauthorized)?;
        self.of_key(&row)
    }

    async fn by_token(&self, text: &str) -> Result<(Principal, Presented), ApiError> {
        let compact = Compact::parse(text).ok_or_else(ApiError::unauthorized)?;
        if self.outside.knows(&compact) {
            return self.vouched(&compact).await;
        }
        let verified = self.tokens.get().verify(&compact, self.clock.now());
        let token = verified.ok_or_else(ApiError::unauthorized)?;
        if !self.store.token_stands(&token.id, token.session.as_ref()).await? {
            return Err(ApiError::unauthorized());
        }
        let principal = self.of_subject(&token.subject).await?;
        if principal.tenant != token.tenant {
            return Err(ApiError::unauthorized());
        }
        let presented = Presented { id: token.id, expires_at: token.expires_at, session: token.session };
        Ok((principal.narrowed(&token.scopes), presented))
    }

    /// Of an outside issuer: what it is here is said by the configuration.
    async fn vouched(&self, token: &Compact<'_>) -> Result<(Principal, Presented), ApiError> {
        let unreachable = |_| ApiError::unavailable("The keys of the token's issuer cannot be had.", 5);
        let vouched = self.outside.vouched(token).await.map_err(unreachable)?.ok_or_else(ApiError::unauthorized)?;
        if !self.store.token_stands(&vouched.id, None).await? {
            return Err(ApiError::unauthorized());
        }
        let tenant = self.store.find_tenant(&vouched.principal.tenant).await?.ok_or_else(ApiError::unauthorized)?;
        if tenant.status != TenantStatus::Active {
            return Err(crate::api::inactive(tenant.status));
        }
        let now = self.clock.now();
        let ends = Timestamp::from_unix_ms(token.seconds("exp").unwrap_or_default().saturating_mul(1000));
        // Its end may be a little past, as its issuer's clock may be.
        let expires_at = ends.max(now).min(now.plus(LONGEST)).plus(LEEWAY);
        Ok((vouched.principal, Presented { id: vouched.id, expires_at, session: None }))
    }

    /// Whoever a token or a session speaks for, as their row says now.
    pub(crate) async fn of_subject(&self, subject: &Subject) -> Result<Principal, ApiError> {
        match subject {
            Subject::Key(id) => self.of_key(&self.store.find_key_in_use(id).await?.ok_or_else(ApiError::unauthorized)?),
            Subject::User(id) => self.of_user(&self.store.find_user(id).await?.ok_or_else(ApiError::unauthorized)?),
        }
    }

    pub(crate) fn of_user(&self, row: &UserRow) -> Result<Principal, ApiError> {
        if row.disabled_at.is_some() {
            return Err(ApiError::unauthorized());
        }
        if row.tenant_status != TenantStatus::Active {
            return Err(crate::api::inactive(row.tenant_status));
        }
        let credential = Credential::User { id: row.id.to_string() };
        Ok(Principal::new(row.tenant.clone(), credential, row.role.permissions()))
    }

    /// A token of the key is the key, but for what narrows it.
    fn of_key(&self, row: &KeyRow) -> Result<Principal, ApiError> {
        if !row.usable(self.clock.now()) {
            return Err(ApiError::unauthorized());
        }
        if row.tenant_status != TenantStatus::Active {
            return Err(crate::api::inactive(row.tenant_status));
        }
        self.note_use(row);
        Ok(principal_of(row))
    }

    /// Whether `caller`, let in earlier, would be let in again and may still
    /// do this.
    async fn still(
        &self,
        caller: &Principal,
        token: Option<&Presented>,
        permission: Permission,
    ) -> Result<bool, StoreError> {
        if let Some(token) = token
            && (token.expires_at <= self.clock.now()
                || !self.store.token_stands(&token.id, token.session.as_ref()).await?)
        {
            return Ok(false);
        }
        let principal = match &caller.credential {
            Credential::ApiKey { id, .. } => {
                self.store.find_key_in_use(id).await?.and_then(|row| self.of_key(&row).ok())
            }
            Credential::User { id } => match id.parse() {
                Ok(id) => self.store.find_user(&id).await?.and_then(|row| self.of_user(&row).ok()),
                Err(_) => None,
            },
            Credential::Outside { .. } => {
                let tenant = self.store.find_tenant(&caller.tenant).await?;
                // An operator looks into a suspended one, too.
                let active = tenant.is_some_and(|tenant| tenant.status == TenantStatus::Active);
                return Ok(active || caller.may(Permission::PlatformAdmin));
            }
            Credential::LocalUser { .. } | Credential::Anonymous => return Ok(true),
        };
        Ok(principal.is_some_and(|principal| principal.may(permission)))
    }
}

/// Who a key stands for; whether it is usable is asked before.
pub(crate) fn principal_of(row: &KeyRow) -> Principal {
    let service_account = row.account.as_ref().map(|account| account.id.clone());
    let credential = Credential::ApiKey { id: row.id.clone(), service_account };
    Principal::new(row.tenant.clone(), credential, row.permissions)
        .within(row.reach.clone())
        .of_key(row.id.clone(), row.budgeted)
}

/// Key uses are written at most this often: a busy key is no write load.
const TOUCH_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

impl Authenticator {
    /// Last-use times are for people: written aside, and lost without harm.
    fn note_use(&self, row: &KeyRow) {
        if row.last_used_at.is_some_and(|at| self.clock.now().since(at) < TOUCH_EVERY) {
            return;
        }
        let (store, id) = (self.store.clone(), row.id.clone());
        tokio::spawn(async move {
            if let Err(error) = store.touch_key(&id).await {
                tracing::debug!(%error, "the key's last use was not noted");
            }
        });
    }
}

fn local(uid: u32, role: Role) -> Principal {
    Principal::new(TenantId::default_tenant(), Credential::LocalUser { uid }, role.permissions())
}

/// `Authorization: Bearer …` or `X-API-Key`. Another scheme, a header that
/// comes twice, or both with different keys, is a 401: a proxy before this
/// server may have looked at another of them.
fn presented_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let once = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let first = values.next();
        if values.next().is_some() {
            return Err(ApiError::unauthorized());
        }
        first.map(|value| value.to_str().map(str::to_owned)).transpose().map_err(|_| ApiError::unauthorized())
    };
    let bearer = match once(AUTHORIZATION.as_str())? {
        None => None,
        Some(value) => {
            let (scheme, rest) = value.split_once(' ').ok_or_else(ApiError::unauthorized)?;
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err(ApiError::unauthorized());
            }
            Some(rest.trim_matches(' ').to_owned())
        }
    };
    let header = once("x-api-key")?;
    match (bearer, header) {
        (Some(a), Some(b)) if a != b => Err(ApiError::unauthorized()),
        (a, b) => Ok(a.or(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().expect("value"));
        }
        map
    }

    #[test]
    fn where_a_key_is_looked_for() {
        let found = |pairs: &[(&'static str, &str)]| presented_key(&headers(pairs)).map_err(|_| ());
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(found(&[("authorization", "Bearer k")]), Ok(Some("k".into())));
        assert_eq!(found(&[("authorization", "bearer  k ")]), Ok(Some("k".into())));
        assert_eq!(found(&[("x-api-key", "k")]), Ok(Some("k".into())));
        assert_eq!(found(&[("authorization", "Bearer k"), ("x-api-key", "k")]), Ok(Some("k".into())));
        assert_eq!(found(&[("authorization", "Bearer k"), ("x-api-key", "l")]), Err(()));
        assert_eq!(found(&[("authorization", "Basic aGk6aG8=")]), Err(()));
        assert_eq!(found(&[("authorization", "k")]), Err(()));
        assert_eq!(found(&[("authorization", "Bearer \tk")]), Ok(Some("\tk".into())), "which no key is");
        for name in ["authorization", "x-api-key"] {
            assert_eq!(found(&[(name, "Bearer k"), (name, "Bearer l")]), Err(()), "{name} twice");
            assert_eq!(found(&[(name, "Bearer k"), (name, "Bearer k")]), Err(()), "{name} twice, the same");
        }
    }
}

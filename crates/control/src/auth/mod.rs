//! Who calls: peer credentials on the local socket, API keys over TCP.
//!
//! Every failure of a key (unknown, revoked, expired, malformed, checksum)
//! is one and the same 401. What the caller may do stands in
//! `core::principal`; which permission a route needs stands in `api::routes`.

mod key;
mod local;
mod standing;

pub use key::{ApiKey, Pepper, PepperError};
pub(crate) use local::LocalUsers;
pub use local::{LocalUser, PeerUser, REMEMBERED};
pub(crate) use standing::{Held, Standing};

use crate::problem::ApiError;
use aether_core::principal::{Credential, Principal, Role};
use aether_core::tenant::TenantStatus;
use aether_core::{Clock, Permission, TenantId};
use aether_store::{KeyRow, StoreError};
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

/// Decides who a request comes from.
pub(crate) struct Authenticator {
    pub(crate) store: aether_store::Store,
    pub(crate) pepper: Pepper,
    pub(crate) clock: std::sync::Arc<dyn Clock>,
    pub(crate) enabled: bool,
    pub(crate) local: LocalUsers,
}

impl Authenticator {
    pub(crate) async fn principal(&self, peer: &Peer, headers: &HeaderMap) -> Result<Principal, ApiError> {
        // A key given is a key meant, on the socket too.
        if let Some(text) = presented_key(headers)? {
            return self.by_key(&text).await;
        }
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

    async fn by_key(&self, text: &str) -> Result<Principal, ApiError> {
        let key = ApiKey::parse(text).ok_or_else(ApiError::unauthorized)?;
        let hash = self.pepper.hash(&key);
        let row = self.store.find_key_by_hash(&hash).await?.ok_or_else(ApiError::unauthorized)?;
        let principal = self.of_key(&row)?;
        self.note_use(&row);
        Ok(principal)
    }

    /// Who a key stands for, while it holds.
    fn of_key(&self, row: &KeyRow) -> Result<Principal, ApiError> {
        if !row.usable(self.clock.now()) {
            return Err(ApiError::unauthorized());
        }
        if row.tenant_status != TenantStatus::Active {
            return Err(crate::api::inactive(row.tenant_status));
        }
        Ok(principal_of(row))
    }

    /// Whether `caller`, let in earlier, would be let in again and may still
    /// do this.
    async fn still(&self, caller: &Principal, permission: Permission) -> Result<bool, StoreError> {
        let Credential::ApiKey { id, .. } = &caller.credential else { return Ok(true) };
        let row = self.store.find_key_in_use(id).await?;
        Ok(row.is_some_and(|row| self.of_key(&row).is_ok_and(|caller| caller.may(permission))))
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

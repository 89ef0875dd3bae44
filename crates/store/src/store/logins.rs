//! Users, sessions and tokens. What a token or a password is looked up with
//! has no scope: whom it belongs to is what is asked.

use super::Store;
use crate::error::StoreError;
use crate::model::{NewSession, NewUser, Refreshed, SessionRow, UserChange, UserRow};
use crate::ops::{sessions, users};
use aether_core::{SessionId, TenantId, TenantScope, Timestamp, UserId};

impl Store {
    /// The user behind a token; disabled ones too.
    pub async fn find_user(&self, id: &UserId) -> Result<Option<UserRow>, StoreError> {
        self.read(id.clone(), |tx, _, id| Box::pin(users::find(tx, id))).await
    }

    /// Who wants to log in; disabled ones too.
    pub async fn find_user_by_name(&self, tenant: &TenantId, name: &str) -> Result<Option<UserRow>, StoreError> {
        self.read((tenant.clone(), name.to_owned()), |tx, _, (tenant, name)| {
            Box::pin(users::find_by_name(tx, tenant, name))
        })
        .await
    }

    /// Of the tenant, by id or name.
    pub async fn get_user(&self, scope: &TenantScope, id_or_name: &str) -> Result<Option<UserRow>, StoreError> {
        self.read((scope.clone(), id_or_name.to_owned()), |tx, _, (scope, text)| {
            Box::pin(users::find_in(tx, scope, text))
        })
        .await
    }

    /// A name is unique in its tenant.
    pub async fn create_user(&self, scope: &TenantScope, new: NewUser) -> Result<UserRow, StoreError> {
        self.write((scope.clone(), new), |tx, cx, (scope, new)| Box::pin(users::create(tx, cx, scope, new))).await
    }

    /// By name, at most 1000.
    pub async fn list_users(&self, scope: &TenantScope) -> Result<Vec<UserRow>, StoreError> {
        self.read(scope.clone(), |tx, _, scope| Box::pin(users::list(tx, scope))).await
    }

    /// Another password, or disabling, ends the user's sessions with it.
    pub async fn update_user(
        &self,
        scope: &TenantScope,
        id: &UserId,
        change: UserChange,
    ) -> Result<UserRow, StoreError> {
        self.write((scope.clone(), id.clone(), change), |tx, cx, (scope, id, change)| {
            Box::pin(users::update(tx, cx, scope, (id, change)))
        })
        .await
    }

    /// With its sessions.
    pub async fn delete_user(&self, scope: &TenantScope, id: &UserId) -> Result<(), StoreError> {
        self.write((scope.clone(), id.clone()), |tx, cx, (scope, id)| Box::pin(users::delete(tx, cx, scope, id))).await
    }

    pub async fn begin_session(&self, scope: &TenantScope, new: NewSession) -> Result<(), StoreError> {
        self.write((scope.clone(), new), |tx, cx, (scope, new)| Box::pin(sessions::create(tx, cx, scope, new))).await
    }

    /// The session whose refresh tokens have this secret.
    pub async fn find_session(&self, id: &SessionId, secret: [u8; 32]) -> Result<Option<SessionRow>, StoreError> {
        self.read((id.clone(), secret), |tx, _, (id, secret)| Box::pin(sessions::find(tx, id, secret))).await
    }

    /// Spends a refresh token; one that was spent before ends the session.
    pub async fn refresh_session(
        &self,
        scope: &TenantScope,
        id: &SessionId,
        counter: u32,
    ) -> Result<Refreshed, StoreError> {
        self.write((scope.clone(), id.clone(), counter), |tx, cx, (scope, id, counter)| {
            Box::pin(sessions::refresh(tx, cx, scope, (id, *counter)))
        })
        .await
    }

    /// When this returns the token is refused everywhere, and every other one
    /// of the session.
    pub async fn revoke_token(
        &self,
        scope: &TenantScope,
        token: &str,
        expires_at: Timestamp,
        session: Option<&SessionId>,
    ) -> Result<(), StoreError> {
        self.write(
            (scope.clone(), token.to_owned(), expires_at, session.cloned()),
            |tx, cx, (scope, token, expires_at, session)| {
                Box::pin(sessions::revoke(tx, cx, scope, (token, *expires_at, session.as_ref())))
            },
        )
        .await
    }

    /// Whether nobody has revoked the token, or ended its session.
    pub async fn token_stands(&self, token: &str, session: Option<&SessionId>) -> Result<bool, StoreError> {
        self.read((token.to_owned(), session.cloned()), |tx, cx, (token, session)| {
            Box::pin(sessions::stands(tx, cx, (token, session.as_ref())))
        })
        .await
    }
}

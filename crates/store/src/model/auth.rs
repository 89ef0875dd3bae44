//! Users, their logins and refused tokens, as the store's callers see them.

use aether_core::tenant::TenantStatus;
use aether_core::{KeyId, Role, Secret, SessionId, TenantId, Timestamp, UserId};
use std::fmt;
use std::str::FromStr;

/// Whom a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Key(KeyId),
    User(UserId),
}

impl Subject {
    pub fn as_str(&self) -> &str {
        match self {
            Subject::Key(id) => id.as_str(),
            Subject::User(id) => id.as_str(),
        }
    }
}

impl FromStr for Subject {
    type Err = aether_core::IdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Subject::Key).or_else(|_| text.parse().map(Subject::User))
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct NewSession {
    pub id: SessionId,
    pub subject: Subject,
    /// Keyed hash of the refresh tokens' secret, made by the caller.
    pub secret: [u8; 32],
    pub expires_at: Timestamp,
}

impl fmt::Debug for NewSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSession").field("id", &self.id).field("subject", &self.subject).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    pub id: SessionId,
    pub tenant: TenantId,
    pub subject: Subject,
    pub counter: u32,
    pub expires_at: Timestamp,
}

/// What became of a refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// The next token of the session is good, by its counter.
    Next(SessionRow),
    /// The token was spent: somebody else has it too. The session is ended.
    Reused,
    /// No such session, or not any more.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUser {
    pub id: UserId,
    pub name: String,
    pub role: Role,
    /// In PHC form.
    pub password: Option<Secret>,
}

/// What is none stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserChange {
    pub role: Option<Role>,
    pub password: Option<Secret>,
    pub disabled: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRow {
    pub id: UserId,
    pub tenant: TenantId,
    pub name: String,
    pub role: Role,
    pub password: Option<Secret>,
    pub created_at: Timestamp,
    pub disabled_at: Option<Timestamp>,
    pub last_login_at: Option<Timestamp>,
    /// Of its tenant.
    pub tenant_status: TenantStatus,
}

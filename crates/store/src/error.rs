//! What can go wrong in the store, in words that hold no SQL, no path and no
//! secret. The driver's own text goes to the log only.

use aether_core::state::{Desired, Observed};
use aether_core::tenant::{BudgetOf, Excess, TenantStatus};
use aether_core::{FieldError, TenantId};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Absent, or another tenant's: callers cannot tell which.
    #[error("no such {what}")]
    NotFound { what: &'static str },
    /// Another live agent of the tenant holds the name or alias.
    #[error("the name {name:?} is taken by another agent of this tenant")]
    NameTaken { name: String },
    #[error("this {what} exists already")]
    AlreadyExists { what: &'static str },
    /// The move is not legal from here.
    #[error("the agent is {observed} (desired {desired}) and cannot become {wanted}")]
    IllegalState { observed: Observed, desired: Desired, wanted: Desired },
    /// Somebody else changed the row since it was read.
    #[error("the version is {current} by now")]
    VersionConflict { current: u64 },
    /// What the change would make is outside the limits.
    #[error("the change is not valid: {}", .errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>().join(", "))]
    Invalid { errors: Vec<FieldError> },
    /// The idempotency key came before with another request.
    #[error("this idempotency key was used with another request")]
    IdempotencyMismatch,
    /// The first request with this idempotency key is still at work.
    #[error("a request with this idempotency key is still in progress")]
    InProgress,
    /// The node cannot take the agent.
    #[error("the node has no room: {detail}")]
    NoRoom { detail: String },
    /// The tenant may not have so much, or that part of it that has a budget.
    #[error("the tenant {tenant} may not have this: {excess}")]
    QuotaExceeded { tenant: TenantId, of: Option<BudgetOf>, excess: Excess },
    /// The caller is narrowed to something else.
    #[error("the key is narrowed to {detail}")]
    Narrowed { detail: String },
    /// Somebody has it.
    #[error("this {what} is in use by {}", .by.join(", "))]
    InUse { what: &'static str, by: Vec<String> },
    /// Of things that are bounded in number.
    #[error("there are {most} {what} already")]
    TooMany { what: &'static str, most: u64 },
    /// An agent names it, and it was deleted since.
    #[error("the secret {name:?} that the agent names is not there")]
    SecretMissing { name: String },
    /// The tenant may begin nothing new, or is on its way out.
    #[error("the tenant is {status}")]
    TenantInactive { status: TenantStatus },
    /// The embedded tenant can be neither suspended nor deleted.
    #[error("the tenant `default` stays: it is the operator's own")]
    DefaultTenant,
    /// The caller's epoch is over: somebody else leads, or a newer run of the
    /// same node has spoken.
    #[error("the epoch {held} is over, it is {current} now")]
    Fenced { held: u64, current: u64 },
    #[error(
        "the database schema has version {found}, newer than the {known} that this program knows; use a newer aether"
    )]
    SchemaTooNew { found: u32, known: u32 },
    #[error("the database schema has version {found}, this program needs {known}; run `aether migrate up`")]
    SchemaTooOld { found: u32, known: u32 },
    /// An applied migration is not the one that this program holds.
    #[error("migration {version} was changed after it was applied; use the aether that applied it")]
    SchemaMismatch { version: u32 },
    /// Tables of our names that we did not make: the earlier version's, mostly.
    #[error("the database holds tables of another program; give aether a database of its own")]
    SchemaForeign,
    /// Somebody else holds the database for too long.
    #[error("the database is locked; try again")]
    Locked,
    #[error("the database cannot be reached: {detail}")]
    Unavailable { detail: String },
    /// No space left for the database.
    #[error("the database's disk is full")]
    Full,
    #[error("the database is damaged: {detail}; restore a backup")]
    Corrupt { detail: String },
    /// The sealed value was made with another key or for another owner.
    #[error("a sealed value cannot be opened; was the seal key replaced?")]
    Unsealable,
    /// Retention has removed events after it: start from a fresh list.
    #[error("the events after this cursor are not kept any more; list again and follow from the end")]
    CursorExpired,
    #[error("not a valid cursor")]
    BadCursor,
    /// A bug of ours: a statement the database refuses, a row out of shape.
    #[error("internal store error: {detail}")]
    Internal { detail: String },
}

impl StoreError {
    /// Whether the same call may succeed a little later.
    pub fn retryable(&self) -> bool {
        matches!(self, StoreError::InProgress | StoreError::Locked | StoreError::Unavailable { .. } | StoreError::Full)
    }

    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        StoreError::Internal { detail: detail.into() }
    }

    pub(crate) const fn no_agent() -> Self {
        StoreError::NotFound { what: "agent" }
    }
}

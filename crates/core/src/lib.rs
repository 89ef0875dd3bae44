//! The vocabulary of Aether: ids, names, specs, states and their legal moves,
//! principals, errors, and the documents of the HTTP API.
//!
//! Not here: I/O, clocks, threads. The operating system's clock and random
//! source stand behind the feature `system`, for binaries and tests; hashing
//! and signing of the audit chain behind `audit`.

pub mod address;
pub mod api;
#[cfg(feature = "audit")]
pub mod audit;
pub mod error;
pub mod id;
pub mod image;
pub mod live;
pub mod name;
pub mod principal;
pub mod probe;
pub mod reach;
pub mod secret;
pub mod secrets;
pub mod source;
pub mod spec;
pub mod state;
pub mod tenant;
pub mod time;

pub use error::{Code, FieldError, Problem};
pub use id::{
    AgentId, EventId, ExecId, IdError, KeyId, NodeId, RequestId, ServiceAccountId, SessionId, TenantId, TokenId, UserId,
};
pub use live::Live;
pub use name::AgentName;
pub use principal::{Permission, PermissionSet, Principal, Role, RoleName, TenantScope};
pub use reach::Reach;
pub use secret::Secret;
pub use secrets::{SecretName, SecretRef};
pub use source::{Clock, Rng};
pub use spec::AgentSpec;
pub use state::{Desired, Observed};
pub use time::Timestamp;

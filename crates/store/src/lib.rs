//! Durable truth: what should be, what is, and who changed it.
//!
//! [`Store`] is one set of functions over two engines. Each operation is
//! written once (`ops`) against the small trait [`tx::Tx`]; `sqlite` runs it
//! on one writer thread with group commit, `postgres` in a transaction with
//! bounded retries. Every change writes its event, and its audit record,
//! inside its own transaction: after a crash either all of them are there or
//! none is. A function that has answered `Ok` has its change on disk.
//!
//! Tenant data is reached through a `TenantScope` alone; another tenant's id
//! is *not found*.
//!
//! Not here: decisions. Where to place is `aether-placement`'s, when is the
//! control plane's; the store refuses what is not legal, whoever asks.

mod error;
mod migrate;
mod model;
mod ops;
mod postgres;
mod seal;
mod sqlite;
mod store;
mod tx;

pub use error::StoreError;
pub use model::*;
pub use seal::{SealKey, SealKeyError, SealKeys};
pub use store::{AUDIT_LINKED_AT_ONCE, MasterKeyError, Store, StoreConfig};

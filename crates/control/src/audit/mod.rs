//! The audit log's keeper: links records, signs heads of the chains, anchors
//! the digests outside of the database, and removes what retention lets go.
//!
//! ```text
//! change ─► plain row ─► keeper (leader): link ─► sign ─► store ─► anchor file
//!           (its own      each 400 ms, fenced     each interval    appended,
//!            transaction)  by the epoch                            synced
//! ```
//!
//! A digest is kept in the store before it is anchored, and the anchor file
//! is brought up to the store after each, so a crash between loses nothing and
//! repeats nothing. Every server signs with its own key and has its own file;
//! each file is complete, since who leads appends what it lacks.
//!
//! Not here: what is hashed and signed (`core::audit`), and the order in which
//! records are linked (the store's).

mod anchor;
mod keeper;
mod key;

pub(crate) use anchor::Anchor;
pub(crate) use keeper::{Keeper, blocking};
pub use key::AuditKeyError;
pub(crate) use key::load_or_create;

use crate::config::AuditConfig;
use aether_core::Rng;
use aether_core::audit::Signer;
use std::sync::Arc;

/// What signs and where it is anchored; cheap to clone.
#[derive(Clone)]
pub(crate) struct Seal {
    pub(crate) signer: Arc<Signer>,
    pub(crate) anchor: Arc<Anchor>,
}

impl Seal {
    pub(crate) fn open(cfg: &AuditConfig, rng: &dyn Rng) -> Result<Self, AuditKeyError> {
        let signer = Arc::new(load_or_create(&cfg.key_path, rng)?);
        Ok(Self { signer, anchor: Arc::new(Anchor::new(cfg.anchor_path.clone())) })
    }
}

//! The version of this program.

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
pub(crate) const COMMIT: &str = env!("AETHER_COMMIT");
pub(crate) const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("AETHER_COMMIT"), ")");

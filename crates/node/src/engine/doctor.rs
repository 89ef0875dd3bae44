//! What this host lacks to run sandboxes, and the remedy for each.

use super::qemu::QemuConfig;
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    Warn,
    Missing,
}

/// One line of `aether doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub status: Status,
    pub detail: String,
    /// What to do; empty when the status is ok.
    pub remedy: String,
}

/// Runs every check; changes nothing on the host but the caches in
/// `state_dir`.
pub async fn checks(config: &QemuConfig) -> Vec<Check> {
    let _ = config;
    Vec::new()
}

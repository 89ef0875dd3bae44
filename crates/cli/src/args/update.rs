//! `aether agent update` and `aether rename`.

use super::{Recovery, Restart};
use clap::Args;
use std::path::PathBuf;

/// Changes an agent that is there. What the running sandbox cannot take over
/// (env, resources, restart policy) holds from its next start on; the answer
/// says so.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Name or id
    pub(crate) agent: String,
    /// A new name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Set a label (repeatable)
    #[arg(long, short = 'l', value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// Remove a label (repeatable)
    #[arg(long, value_name = "KEY")]
    pub(crate) remove_label: Vec<String>,
    /// Set E2B metadata (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) metadata: Vec<String>,
    /// Remove E2B metadata (repeatable)
    #[arg(long, value_name = "KEY")]
    pub(crate) remove_metadata: Vec<String>,
    /// Set a variable; NAME alone takes the value of this shell (repeatable)
    #[arg(long, short = 'e', value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Read variables from a file of NAME=VALUE lines (repeatable)
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Remove a variable (repeatable)
    #[arg(long, value_name = "NAME")]
    pub(crate) remove_env: Vec<String>,
    /// Virtual CPUs, 1 to 64
    #[arg(long, value_name = "COUNT")]
    pub(crate) cpu: Option<u32>,
    /// Memory in MiB, or with a unit as in 512m or 2g
    #[arg(long, short = 'm', value_name = "SIZE", value_parser = crate::values::parse_size_mib)]
    pub(crate) memory: Option<u64>,
    /// Writable disk in MiB, or with a unit as in 10g; only before the first start
    #[arg(long, value_name = "SIZE", value_parser = crate::values::parse_size_mib)]
    pub(crate) disk: Option<u64>,
    /// Start the main process again when it ends
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) restart: Option<Restart>,
    /// What becomes of it when its sandbox dies
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) recovery: Option<Recovery>,
    /// Stop the agent this long after it started, as in 90s or 1h30m; `none` for never
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<String>,
    /// Refuse unless the agent has this version
    #[arg(long, value_name = "NUMBER")]
    pub(crate) if_version: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct RenameArgs {
    /// Name or id
    pub(crate) agent: String,
    /// The new name
    pub(crate) name: String,
}

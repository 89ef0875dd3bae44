//! `aether system` and the tidying verbs of `aether image`.

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// The image, by name or digest
    pub(crate) source: String,
    /// The other name
    pub(crate) name: String,
}

/// Removes the images that no agent uses. Asks on a terminal only.
#[derive(Debug, Args)]
pub(crate) struct ImagePruneArgs {
    /// Only images that have been here for as long, as in 24h
    #[arg(long, value_name = "DURATION")]
    pub(crate) older_than: Option<String>,
    /// Only print what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask (on a terminal; scripts are never asked)
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Show what images and agents take on disk
    Df,
    /// Destroy stopped and failed agents, and with --all remove unused images too
    Prune(SystemPruneArgs),
}

/// Destroys agents that have stopped or failed, with their disks; with
/// `--all` also removes the images that no agent uses then. Asks on a
/// terminal only.
#[derive(Debug, Args)]
pub(crate) struct SystemPruneArgs {
    /// Remove unused images too
    #[arg(long, short = 'a')]
    pub(crate) all: bool,
    /// Do not ask (on a terminal; scripts are never asked)
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

//! `aether events` and `aether wait`.

use clap::{Args, ValueEnum};

/// Prints what happened to the agents of the tenant, oldest first. With
/// `--follow` it goes on, and resumes after a lost connection without a gap.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on as things happen; without --since, from now on
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
    /// Only since: a time (RFC 3339) or a duration back, as in 10m
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Only of this agent, by name or id (repeatable)
    #[arg(long, value_name = "AGENT")]
    pub(crate) agent: Vec<String>,
    /// Only of this kind, as in agent.observed or `agent.*` (repeatable)
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Vec<String>,
}

/// Waits until agents have stopped, and prints their exit codes; or until
/// they run, or are gone.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Names or ids
    #[arg(required = true)]
    pub(crate) agents: Vec<String>,
    /// What to wait for
    #[arg(long = "for", value_enum, default_value = "stopped", value_name = "STATE")]
    pub(crate) state: WaitFor,
    /// Give up after this time, as in 90s or 1h30m
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WaitFor {
    Running,
    Stopped,
    Gone,
}

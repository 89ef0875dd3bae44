//! `aether stats`, `aether top`, `aether inspect`.

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Names or ids; every running agent when absent
    pub(crate) agents: Vec<String>,
}

/// Shows what running agents use, the busiest first, and keeps it up to date
/// until ctrl-C. Where standard output is no terminal it is printed once.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Names or ids; every running agent when absent
    pub(crate) agents: Vec<String>,
    /// Time between two looks
    #[arg(long, short = 'd', default_value = "2s", value_name = "DURATION")]
    pub(crate) delay: String,
    /// End after so many looks
    #[arg(long, short = 'n', value_name = "COUNT")]
    pub(crate) iterations: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Names or ids of agents, or names or digests of images
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

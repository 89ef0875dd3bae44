//! `aether run`.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    /// Pull when the image is not here
    Missing,
    /// Ask the registry each time
    Always,
    /// Use what is here or fail
    Never,
}

/// What `run` and `agent create` have in common.
#[derive(Debug, Clone, Args)]
pub(crate) struct SandboxArgs {
    /// A name for the agent; made up when absent
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Virtual CPUs, 1 to 64
    #[arg(long, default_value_t = aether_core::spec::DEFAULT_CPU_COUNT, value_name = "COUNT")]
    pub(crate) cpu: u32,
    /// Memory in MiB, or with a unit as in 512m or 2g
    #[arg(long, short = 'm', default_value = "512", value_name = "SIZE", value_parser = crate::values::parse_size_mib)]
    pub(crate) memory: u64,
    /// Writable disk in MiB, or with a unit as in 10g
    #[arg(long, default_value = "10240", value_name = "SIZE", value_parser = crate::values::parse_size_mib)]
    pub(crate) disk: u64,
    /// Set a variable; NAME alone takes the value of this shell (repeatable)
    #[arg(long, short = 'e', value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Read variables from a file of NAME=VALUE lines (repeatable)
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Give a secret: NAME or NAME=VARIABLE as a variable, NAME:/PATH[:MODE] as a file in memory (repeatable)
    #[arg(long, value_name = "NAME[=VARIABLE|:PATH]")]
    pub(crate) secret: Vec<String>,
    /// Attach a label (repeatable)
    #[arg(long, short = 'l', value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// The working directory of the command
    #[arg(long, short = 'w', value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// The user, by name or number, optionally with :group
    #[arg(long, short = 'u', value_name = "USER")]
    pub(crate) user: Option<String>,
    /// What the sandbox may reach: `public` never includes the host or private networks
    #[arg(long, value_enum, default_value = "public", value_name = "POLICY")]
    pub(crate) network: Network,
    /// Stop the agent this long after it started, as in 90s or 1h30m
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    None,
    Public,
}

/// Creates an agent, runs the command in it with its output streamed, and
/// destroys the agent. The exit code is the command's.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// An image by name or digest; pulled when it is not here
    pub(crate) image: String,
    /// The command and its arguments; without one, the image's own
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
    /// Keep standard input open and pass it to the command
    #[arg(long, short = 'i')]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(long, short = 't')]
    pub(crate) tty: bool,
    /// Leave the agent there afterwards
    #[arg(long)]
    pub(crate) keep: bool,
    /// When to pull the image
    #[arg(long, value_enum, default_value = "missing", value_name = "WHEN")]
    pub(crate) pull: PullPolicy,
    /// Kill the command after this time, as in 90s or 1h30m
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
}

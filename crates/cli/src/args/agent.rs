//! `aether agent …` and its short forms.

use super::events::WaitArgs;
use super::run::SandboxArgs;
use super::update::{RenameArgs, UpdateArgs};
use super::watch::StatsArgs;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Create an agent and start it
    Create(Box<CreateArgs>),
    /// List agents, newest first
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one agent in full
    #[command(visible_alias = "inspect")]
    Get {
        /// Name or id
        agent: String,
        /// Show the values of its environment too (needs agent:read_env; audited)
        #[arg(long)]
        show_env: bool,
    },
    /// Change an agent that is there
    Update(Box<UpdateArgs>),
    /// Give an agent another name
    Rename(RenameArgs),
    /// Start stopped agents on the disks they had
    Start(StartArgs),
    /// Stop agents; their disks are kept
    Stop(StopArgs),
    /// Run a command in a running agent
    Exec(ExecArgs),
    /// Show what the main process printed
    Logs(LogsArgs),
    /// Copy files to or from an agent
    Cp(CopyArgs),
    /// Ask the guest whether it is well
    Health {
        /// Name or id
        agent: String,
    },
    /// Show CPU, memory, disk and network use
    Stats(StatsArgs),
    /// Wait until agents run, have stopped (and print their exit codes) or are gone
    Wait(WaitArgs),
    /// List the commands that run or ran in an agent
    Execs {
        /// Name or id
        agent: String,
    },
    /// Destroy agents with their disks
    #[command(visible_alias = "rm")]
    Destroy(DestroyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// An image by name or digest
    #[arg(long, default_value = "python:3.11")]
    pub(crate) image: String,
    /// The main process; without one the agent idles, ready for exec
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
    /// Run the image's own entrypoint and command
    #[arg(long, conflicts_with = "command")]
    pub(crate) run_image_command: bool,
    /// Start the main process again when it ends
    #[arg(long, value_enum, default_value = "never", value_name = "WHEN")]
    pub(crate) restart: Restart,
    /// What becomes of the agent when its sandbox dies
    #[arg(long, value_enum, default_value = "none", value_name = "WHAT")]
    pub(crate) recovery: Recovery,
    /// Attach E2B metadata (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) metadata: Vec<String>,
    /// Wait until it runs
    #[arg(long)]
    pub(crate) wait: bool,
    /// When to pull the image
    #[arg(long, value_enum, default_value = "missing", value_name = "WHEN")]
    pub(crate) pull: super::PullPolicy,
    // Last: its heading would be taken on by what follows.
    #[command(flatten)]
    pub(crate) health: super::health::HealthArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Restart {
    Never,
    OnFailure,
    Always,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Recovery {
    /// It stays failed until somebody starts it
    None,
    /// Start it again on its disk, at most three times, half a minute apart
    Restart,
}

impl From<Recovery> for aether_core::spec::Recovery {
    fn from(recovery: Recovery) -> Self {
        match recovery {
            Recovery::None => Self::None,
            Recovery::Restart => Self::Restart,
        }
    }
}

impl From<Restart> for aether_core::spec::ProcessRestart {
    fn from(restart: Restart) -> Self {
        match restart {
            Restart::Never => Self::Never,
            Restart::OnFailure => Self::OnFailure,
            Restart::Always => Self::Always,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Those that do not run, too: they always are, and who knows docker types it
    #[arg(id = "all", long = "all", short = 'a')]
    _all: bool,
    /// Only agents that match (repeatable): state=, label=KEY=VALUE, metadata=KEY=VALUE, image=, name= (how it begins),
    /// created-after= and created-before= (a time or an age, as in 10m)
    #[arg(long, short = 'f', value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Only agents in these states, separated by commas (pending, creating, running, stopped, failed, lost, …)
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// Only agents with this label (repeatable)
    #[arg(long, short = 'l', value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// Only agents with this metadata (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) metadata: Vec<String>,
    /// At most so many; all when absent
    #[arg(long, value_name = "COUNT")]
    pub(crate) limit: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Names or ids
    #[arg(required = true)]
    pub(crate) agents: Vec<String>,
    /// Wait until they run
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Names or ids
    #[arg(required = true)]
    pub(crate) agents: Vec<String>,
    /// Kill at once
    #[arg(long, short = 'f')]
    pub(crate) force: bool,
    /// Time between signal and kill, at most 300s
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub(crate) timeout: String,
    /// Do not wait until they have stopped
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// Runs a command in a running agent with its output streamed; the exit code
/// is the command's. With -it it is a terminal: ctrl-C goes to the command,
/// a second one within two seconds kills it, ctrl-P ctrl-Q detaches.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Name or id
    pub(crate) agent: String,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND", required_unless_present = "attach")]
    pub(crate) command: Vec<String>,
    /// Keep standard input open and pass it to the command
    #[arg(long, short = 'i')]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(long, short = 't')]
    pub(crate) tty: bool,
    /// Print the exec's id and leave it running
    #[arg(long, short = 'd', conflicts_with_all = ["interactive", "tty"])]
    pub(crate) detach: bool,
    /// Attach to a command that runs, by the id of its exec
    #[arg(long, value_name = "EXEC_ID", conflicts_with = "command")]
    pub(crate) attach: Option<String>,
    /// Set a variable; NAME alone takes the value of this shell (repeatable)
    #[arg(long, short = 'e', value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// The working directory
    #[arg(long, short = 'w', value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// The user, by name or number, optionally with :group
    #[arg(long, short = 'u', value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Kill the command after this time, as in 90s or 1h30m
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Name or id
    pub(crate) agent: String,
    /// Go on as lines come
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
    /// Only the last lines; `all` for all there are
    #[arg(long, short = 'n', default_value = "100", value_name = "LINES")]
    pub(crate) tail: String,
    /// Begin each line with its time
    #[arg(long, short = 't')]
    pub(crate) timestamps: bool,
    /// Only lines since: a time (RFC 3339) or a duration back, as in 10m
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
}

/// One side is AGENT:PATH, the other a local file or folder, or `-`: as the
/// source a tar stream on standard input, as the target one on standard
/// output. A folder is copied with all it holds.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// What to copy
    pub(crate) source: String,
    /// Where to: into it when it is a folder
    pub(crate) target: String,
    /// Taken for habit's sake: a folder is copied with all it holds either way
    #[arg(long, short = 'r')]
    pub(crate) recursive: bool,
    /// The user to whom the files belong in the agent
    #[arg(long, short = 'u', value_name = "USER")]
    pub(crate) user: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DestroyArgs {
    /// Names or ids
    #[arg(required_unless_present = "all")]
    pub(crate) agents: Vec<String>,
    /// Every agent of the tenant
    #[arg(long, conflicts_with = "agents")]
    pub(crate) all: bool,
    /// Do not ask (on a terminal; scripts are never asked)
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    /// Time between signal and kill, at most 30s
    #[arg(long, default_value = "1s", value_name = "DURATION")]
    pub(crate) grace: String,
}

//! The command line, as clap derives it: doc comments are the help. Nothing
//! here acts; `commands` does.

mod access;
mod agent;
mod audit;
mod events;
mod forward;
mod health;
mod housekeeping;
mod image;
mod login;
mod run;
mod secret;
mod system;
mod tenant;
mod update;
mod user;
mod watch;

pub(crate) use access::{
    ApiKeyCommand, BudgetArgs, KeyCreateArgs, KeyRotateArgs, KeyUpdateArgs, LabelLimits, RoleArgs, RoleCommand,
    ServiceAccountCommand,
};
pub(crate) use agent::{
    AgentCommand, CopyArgs, CreateArgs, DestroyArgs, ExecArgs, ListArgs, LogsArgs, Recovery, Restart, StartArgs,
    StopArgs,
};
pub(crate) use audit::{AuditCommand, AuditExportArgs, AuditFilterArgs, AuditListArgs, AuditTailArgs, AuditVerifyArgs};
pub(crate) use events::{EventsArgs, WaitArgs, WaitFor};
pub(crate) use forward::PortForwardArgs;
pub(crate) use housekeeping::{ImagePruneArgs, SystemCommand, SystemPruneArgs, TagArgs};
pub(crate) use image::{ImageCommand, ImportArgs, PullArgs};
pub(crate) use login::{LoginArgs, LogoutArgs, ProfileCommand};
pub(crate) use run::{Network, PullPolicy, RunArgs, SandboxArgs};
pub(crate) use secret::{
    MasterStep, RotateMasterArgs, SecretCommand, SecretRemoveArgs, SecretRotateArgs, SecretSetArgs,
};
pub(crate) use system::{ConfigCommand, DoctorArgs, MigrateArgs, MigrateCommand, NodeCommand, ServerArgs, SetArgs};
pub(crate) use tenant::{
    Limit, QuotaCommand, QuotaSetArgs, TenantCommand, TenantCreateArgs, TenantDeleteArgs, TenantUpdateArgs,
};
pub(crate) use update::{RenameArgs, UpdateArgs};
pub(crate) use user::{TokenArgs, UserCommand, UserCreateArgs};
pub(crate) use watch::{InspectArgs, StatsArgs, TopArgs};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Run untrusted code in microVMs: give an image and a command, get an
/// isolated machine that runs it, and nothing left behind.
#[derive(Debug, Parser)]
#[command(name = "aether", version = crate::version::LONG, propagate_version = false, after_help = AFTER_HELP)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Exit codes:
  0        done
  1        failed; the error and its remedy are on standard error
  2        the command line is wrong
  125      `run` and `exec`: Aether itself failed, not the command
  126/127  `run` and `exec`: the command cannot be run / is not there
  128+n    `run` and `exec`: ended by signal n
  other    `run` and `exec`: the exit code of the command

Begin with `aether doctor`, then `aether server` in one terminal and
`aether run IMAGE -- COMMAND` in another.";

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// What to log: debug, info, warn or error [default: info for the server, warn else]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,

    /// The configuration file [default: config.yaml here, in ./config or in /etc/aether]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// The server to talk to: unix:///path, http://host:port or https://host:port
    #[arg(long, global = true, value_name = "URL", env = "AETHER_SERVER", hide_env_values = true)]
    pub(crate) server: Option<String>,

    /// The profile to use, of those that `aether login` kept
    #[arg(long, global = true, value_name = "NAME", env = "AETHER_PROFILE", hide_env_values = true)]
    pub(crate) profile: Option<String>,

    /// An API key, for a server that is not on the local socket. Better given as AETHER_TOKEN, since other users can
    /// read a command line
    #[arg(long, global = true, value_name = "KEY", env = "AETHER_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,

    /// The tenant to act for; another one than your own only as an operator of the platform
    // Its id differs from that of the tenants that commands name.
    #[arg(
        id = "acting_for",
        long = "tenant",
        global = true,
        value_name = "ID",
        env = "AETHER_TENANT",
        hide_env_values = true
    )]
    pub(crate) acting_for: Option<String>,

    /// How to print data
    #[arg(long, short = 'o', global = true, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT")]
    pub(crate) output: OutputFormat,

    /// Print less: ids alone in lists, no progress
    #[arg(long, short = 'q', global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command in a fresh microVM, then destroy it
    Run(Box<RunArgs>),
    /// Create and manage agents: sandboxes that stay
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Run a command in an agent (short for `agent exec`)
    Exec(ExecArgs),
    /// List agents (short for `agent list`)
    Ps(ListArgs),
    /// Show what an agent's main process printed (short for `agent logs`)
    Logs(LogsArgs),
    /// Make ports inside an agent reachable on this machine
    PortForward(PortForwardArgs),
    /// Show what agents use now (short for `agent stats`)
    Stats(StatsArgs),
    /// Watch what running agents use
    Top(TopArgs),
    /// Show agents and images in full, as documents
    Inspect(InspectArgs),
    /// Show what happened to agents, and what happens
    Events(EventsArgs),
    /// Wait until agents run, have stopped or are gone (short for `agent wait`)
    Wait(WaitArgs),
    /// Copy files to or from an agent (short for `agent cp`)
    Cp(CopyArgs),
    /// Destroy agents (short for `agent destroy`)
    Rm(DestroyArgs),
    /// Give an agent another name
    Rename(RenameArgs),
    /// Pull, import and manage images
    #[command(subcommand)]
    Image(ImageCommand),
    /// List images (short for `image list`)
    Images,
    /// Pull an image from a registry (short for `image pull`)
    Pull(PullArgs),
    /// Look after disk space
    #[command(subcommand)]
    System(SystemCommand),
    /// Keep a server, and an API key or a login for it
    Login(LoginArgs),
    /// Forget a server and its key
    Logout(LogoutArgs),
    /// Choose among kept servers
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Manage API keys
    #[command(subcommand, name = "apikey", visible_alias = "key")]
    ApiKey(ApiKeyCommand),
    /// Manage service accounts: principals that are no people
    #[command(subcommand, visible_alias = "sa")]
    ServiceAccount(ServiceAccountCommand),
    /// Manage roles: named sets of permissions
    #[command(subcommand)]
    Role(RoleCommand),
    /// Exchange the API key in use for a token that ends by itself
    Token(TokenArgs),
    /// Manage users, who log in with a password
    #[command(subcommand)]
    User(UserCommand),
    /// Keep secrets for agents
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Manage tenants
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Look at and set what tenants may have
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// Read, export and verify the audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Look at the machines that run sandboxes
    #[command(subcommand)]
    Node(NodeCommand),
    /// Run the whole system in one process: API, scheduler, node, store
    Server(Box<ServerArgs>),
    /// Create, upgrade or downgrade the database
    Migrate(MigrateArgs),
    /// Check what this machine needs to run sandboxes
    Doctor(DoctorArgs),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell
    Completion {
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the version of this program and of the server
    Version {
        /// Do not ask the server
        #[arg(long)]
        client: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "lower")]
#[allow(clippy::enum_variant_names, reason = "PowerShell is its name")]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
    #[value(name = "powershell", alias = "pwsh")]
    PowerShell,
}

#[cfg(test)]
#[path = "docs_test.rs"]
mod docs;
#[cfg(test)]
#[path = "docs_commands_test.rs"]
mod docs_commands;

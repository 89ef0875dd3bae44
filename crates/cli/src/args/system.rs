//! Commands for who runs the system: server, migrate, doctor, config, nodes.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List nodes with their capacity
    #[command(visible_alias = "ls")]
    List,
}

/// Flags that set configuration keys from the command line.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SetArgs {
    /// Set a configuration key, as in node.max_boots=4 (repeatable; wins over file and environment)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Where durable state lives (server.state_dir)
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Where sockets and other short-lived files live (server.run_dir)
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) set: SetArgs,
    /// The address of the HTTP API (server.address); `none` for the local socket alone
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) address: Option<String>,
    /// HTTPS with a certificate of the server's own authority (server.tls_own_ca)
    #[arg(long)]
    pub(crate) tls: bool,
    /// Upgrade a PostgreSQL schema at start; the embedded database always is
    #[arg(long)]
    pub(crate) auto_migrate: bool,
    /// Destroy every agent at shutdown; without it they live on and the next start adopts them
    #[arg(long)]
    pub(crate) destroy_on_exit: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    pub(crate) set: SetArgs,
    #[command(subcommand)]
    pub(crate) command: MigrateCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    /// Bring the database to the newest version
    Up,
    /// Take steps back; data that the older form cannot hold is lost
    Down {
        /// How many steps
        #[arg(long, default_value_t = 1)]
        steps: u32,
    },
    /// Print the version of the database and the newest known
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) set: SetArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print each key with its value and where it comes from; secrets are masked
    Show {
        #[command(flatten)]
        set: SetArgs,
        /// Only keys that begin so
        prefix: Option<String>,
    },
}

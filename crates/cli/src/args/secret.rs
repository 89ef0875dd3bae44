//! `aether secret`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Set a secret, or a new version of one
    Set(SecretSetArgs),
    /// List secrets, without their values
    #[command(visible_alias = "ls")]
    List,
    /// Show a secret and its versions, without their values
    #[command(visible_alias = "show")]
    Get { secret: String },
    /// Make a new version of a random value, which only agents see
    Rotate(SecretRotateArgs),
    /// Delete secrets; agents that run keep what they were given
    #[command(visible_aliases = ["delete"])]
    Rm(SecretRemoveArgs),
    /// Change the key that seals, while the server runs
    RotateMaster(RotateMasterArgs),
}

/// The value is read from standard input, asked for on the terminal, or read
/// from a file; never give it as an argument, which other users can read.
#[derive(Debug, Args)]
pub(crate) struct SecretSetArgs {
    /// 1 to 128 letters, digits, '_', '-' and '.'
    pub(crate) name: String,
    /// Read the value from a file, as it is; from standard input a last newline is left out
    #[arg(long, value_name = "FILE")]
    pub(crate) from_file: Option<PathBuf>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SecretRotateArgs {
    pub(crate) secret: String,
    /// Random bytes in the value, 16 to 1024; the value is their base64url text
    #[arg(long, default_value_t = 32, value_name = "COUNT")]
    pub(crate) bytes: u32,
}

#[derive(Debug, Args)]
pub(crate) struct SecretRemoveArgs {
    #[arg(required = true)]
    pub(crate) secrets: Vec<String>,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

/// Without a step: all of it, for a single server. With several on one store:
/// `add`, copy the key file to the others and send them SIGHUP, `activate`,
/// wait until nothing is left, `drop`, and copy the file again.
#[derive(Debug, Args)]
pub(crate) struct RotateMasterArgs {
    /// One step alone
    #[arg(long, value_enum, value_name = "STEP")]
    pub(crate) step: Option<MasterStep>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum MasterStep {
    /// Change nothing, show how far it is
    Status,
    /// A new key into this server's key file
    Add,
    /// Seal with the newest key from here on, and seal anew what is there
    Activate,
    /// Take keys that seal nothing out of this server's key file
    Drop,
}

//! `aether login`, `aether logout`, `aether profile`.

use clap::{Args, Subcommand};

/// Keeps a server and an API key for it as a profile, after the server has
/// taken the key. The key is asked for on the terminal, or read from standard
/// input; never give it as an argument, which other users can read.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// The server: unix:///path, http://host:port or https://host:port
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// The name to keep it under; it becomes the current one
    #[arg(long = "as", default_value = "default", value_name = "NAME")]
    pub(crate) name: String,
    /// Read the key, or the password, from standard input
    #[arg(long, visible_alias = "password-stdin")]
    pub(crate) token_stdin: bool,
    /// Log in as a user with a password instead, in `--tenant` (`default` when absent); the login is kept and renewed
    #[arg(long, value_name = "NAME", conflicts_with = "no_token")]
    pub(crate) user: Option<String>,
    /// Without a key: for a local socket that knows its callers
    #[arg(long, conflicts_with = "token_stdin")]
    pub(crate) no_token: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// The profile to forget; the current one when absent
    pub(crate) name: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// List profiles, without their keys
    #[command(visible_alias = "ls")]
    List,
    /// Make a profile the current one
    Use {
        /// Its name
        name: String,
    },
    /// Use no profile: back to the local socket
    Clear,
}

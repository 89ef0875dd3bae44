//! `aether user` and `aether token`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Create a user, who logs in with a password (security.local_users)
    Create(UserCreateArgs),
    /// List users
    #[command(visible_alias = "ls")]
    List,
    /// Show a user
    #[command(visible_alias = "show")]
    Get {
        /// Name or id
        user: String,
    },
    /// Give a user another role, from the next request on
    Update {
        /// Name or id
        user: String,
        /// admin, developer, viewer or auditor; of the platform: platform_admin or operator
        #[arg(long)]
        role: String,
    },
    /// Give a user another password, and end its logins
    Passwd {
        /// Name or id
        user: String,
        /// Read the password from standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// End the logins of users, and allow none
    Disable {
        #[arg(required = true)]
        users: Vec<String>,
    },
    /// Let disabled users log in again
    Enable {
        #[arg(required = true)]
        users: Vec<String>,
    },
    /// Delete users
    #[command(visible_alias = "rm")]
    Delete {
        #[arg(required = true)]
        users: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct UserCreateArgs {
    /// 1 to 64 of a-z, 0-9, -, _, . and @
    pub(crate) name: String,
    /// admin, developer, viewer or auditor; of the platform: platform_admin or operator
    #[arg(long, default_value = "developer")]
    pub(crate) role: String,
    /// Read the password from standard input; never give it as an argument, which other users can read
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Without a password: `aether user passwd` gives one later
    #[arg(long, conflicts_with = "password_stdin")]
    pub(crate) no_password: bool,
}

/// Exchanges the API key in use for a token that ends by itself, and prints
/// it: for what is better not given the key.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Allow no more than this permission, such as agent:read (repeatable)
    #[arg(long, value_name = "PERMISSION")]
    pub(crate) scope: Vec<String>,
}

//! Commands about who may come in: API keys, service accounts, roles.

use super::tenant::Limit;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum ApiKeyCommand {
    /// Create a key; it is shown once
    Create(KeyCreateArgs),
    /// List keys, without their secrets
    #[command(visible_alias = "ls")]
    List,
    /// Show a key: what it may do and reaches, and what its budget has left
    #[command(visible_alias = "show")]
    Get {
        /// Its id
        key: String,
    },
    /// Rename a key, move its end, or set its budget
    Update(KeyUpdateArgs),
    /// Give a key a new secret, shown once; the old one works on for a while
    Rotate(KeyRotateArgs),
    /// Revoke keys
    #[command(visible_aliases = ["rm", "delete"])]
    Revoke {
        /// Ids of keys
        #[arg(required = true)]
        keys: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct KeyCreateArgs {
    /// What it is for
    #[arg(long)]
    pub(crate) name: String,
    /// admin, developer, viewer, auditor, or a role of your own [default: developer]
    #[arg(long)]
    pub(crate) role: Option<String>,
    /// Narrow the role to these permissions, as in agent:create (repeatable)
    #[arg(long, value_name = "PERMISSION")]
    pub(crate) scope: Vec<String>,
    /// The key ends after this time, as in 720h
    #[arg(long, value_name = "DURATION")]
    pub(crate) expires_in: Option<String>,
    /// Narrow it to agents with this label, which those that it makes get (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) allow_label: Vec<String>,
    /// Narrow it to this image, or to those that begin so, as in 'python:3.*' (repeatable)
    #[arg(long, value_name = "IMAGE")]
    pub(crate) allow_image: Vec<String>,
    /// The key of this service account, by name or id; it has the account's role
    #[arg(long, value_name = "ACCOUNT", conflicts_with = "role")]
    pub(crate) service_account: Option<String>,
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,
}

/// Of the agents that count in it together, under the tenant's quota.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct BudgetArgs {
    /// Agents that it may have at once
    #[arg(long, value_name = "N")]
    pub(crate) max_agents: Option<u64>,
    /// In millicores: 1000 is one processor
    #[arg(long, value_name = "N")]
    pub(crate) max_cpu: Option<u64>,
    /// In MB
    #[arg(long, value_name = "N")]
    pub(crate) max_memory: Option<u64>,
    /// In MB
    #[arg(long, value_name = "N")]
    pub(crate) max_disk: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct KeyUpdateArgs {
    /// Its id
    pub(crate) key: String,
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The key ends after this time from now, or `never`
    #[arg(long, value_name = "DURATION|never")]
    pub(crate) expires_in: Option<String>,
    /// Replaces the budget; limits that are not named are none
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,
    /// Lift the budget
    #[arg(long, conflicts_with_all = ["max_agents", "max_cpu", "max_memory", "max_disk"])]
    pub(crate) no_budget: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KeyRotateArgs {
    /// Its id
    pub(crate) key: String,
    /// How long the old secret works beside the new one; 0s ends it at once
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    pub(crate) overlap: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceAccountCommand {
    /// Create a service account: a principal that is no person
    Create {
        /// Its name, the tenant's own
        name: String,
        /// The role of its keys: built in, or one of your own
        #[arg(long, default_value = "developer")]
        role: String,
    },
    /// List service accounts
    #[command(visible_alias = "ls")]
    List,
    /// Show a service account
    #[command(visible_alias = "show")]
    Get {
        /// Name or id
        account: String,
    },
    /// Refuse all keys of service accounts until they are enabled again
    Disable {
        /// Names or ids
        #[arg(required = true)]
        accounts: Vec<String>,
    },
    /// Take the keys of disabled service accounts again
    Enable {
        /// Names or ids
        #[arg(required = true)]
        accounts: Vec<String>,
    },
    /// Delete service accounts and revoke their keys
    #[command(visible_alias = "rm")]
    Delete {
        /// Names or ids
        #[arg(required = true)]
        accounts: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand {
    /// Create a role of your own
    Create(RoleArgs),
    /// List the built-in roles and your own
    #[command(visible_alias = "ls")]
    List,
    /// Show a role
    #[command(visible_alias = "show")]
    Get {
        /// Its name
        role: String,
    },
    /// Give a role other permissions; holds at once for whoever has it
    Update(RoleArgs),
    /// Delete roles that nobody has
    #[command(visible_alias = "rm")]
    Delete {
        /// Their names
        #[arg(required = true)]
        roles: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RoleArgs {
    /// Its name; no built-in role's
    pub(crate) name: String,
    /// A permission that it has, as in agent:create (repeatable)
    #[arg(long = "permission", value_name = "PERMISSION", required = true)]
    pub(crate) permissions: Vec<String>,
}

/// `aether quota set --label`: those of a budget's limits that are named.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LabelLimits {
    pub(crate) agents: Option<Limit>,
    pub(crate) cpu: Option<Limit>,
    pub(crate) memory: Option<Limit>,
    pub(crate) disk: Option<Limit>,
}

//! `aether tenant` and `aether quota`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Create a tenant
    Create(TenantCreateArgs),
    /// List tenants
    #[command(visible_alias = "ls")]
    List,
    /// Show a tenant: what it may have and has
    #[command(visible_alias = "show")]
    Get {
        /// Your own when left out
        tenant: Option<String>,
    },
    /// Change a tenant
    Update(TenantUpdateArgs),
    /// Refuse a tenant's keys and begin nothing new for it; what runs goes on
    Suspend {
        #[arg(required = true)]
        tenants: Vec<String>,
    },
    /// Let suspended tenants work again
    Resume {
        #[arg(required = true)]
        tenants: Vec<String>,
    },
    /// End a tenant's agents and erase all that it has but its audit records
    #[command(visible_alias = "rm")]
    Delete(TenantDeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TenantCreateArgs {
    /// 1 to 50 of a-z, 0-9 and -; stays for ever
    pub(crate) id: String,
    /// For people [default: the id]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// free, pro, enterprise or unlimited
    #[arg(long, default_value = "free")]
    pub(crate) tier: String,
    /// What you keep with it (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) metadata: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TenantUpdateArgs {
    pub(crate) tenant: String,
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Sets every limit to the tier's
    #[arg(long)]
    pub(crate) tier: Option<String>,
    /// Replaces all that was kept with it (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) metadata: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TenantDeleteArgs {
    pub(crate) tenant: String,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    /// Do not wait until it is erased
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    /// Show a tenant's limits beside what it holds
    #[command(visible_alias = "show")]
    Get {
        /// Your own when left out
        tenant: Option<String>,
        /// Instead: of all its agents that carry this label
        #[arg(long, value_name = "KEY=VALUE")]
        label: Option<String>,
    },
    /// List the limits of all tenants
    #[command(visible_alias = "ls")]
    List,
    /// Set limits of a tenant; those not named stay
    Set(QuotaSetArgs),
    /// List the budgets of a tenant's labels
    Labels {
        /// Your own when left out
        tenant: Option<String>,
    },
    /// Lift the budget of a label
    Lift {
        /// `me` for your own
        tenant: String,
        #[arg(long, value_name = "KEY=VALUE")]
        label: String,
    },
}

/// Each a number, or `none` to lift the limit.
#[derive(Debug, Args)]
pub(crate) struct QuotaSetArgs {
    /// `me` for your own, whose labels you may limit
    pub(crate) tenant: String,
    /// Instead: limits of all its agents that carry this label
    #[arg(
        long, value_name = "KEY=VALUE",
        conflicts_with_all = ["tier", "network", "requests_per_minute", "images", "exec_sessions"],
    )]
    pub(crate) label: Option<String>,
    /// Begin from this tier's limits instead of the present ones
    #[arg(long)]
    pub(crate) tier: Option<String>,
    #[arg(long, value_name = "N|none", value_parser = limit)]
    pub(crate) agents: Option<Limit>,
    /// In millicores: 1000 is one processor
    #[arg(long, value_name = "N|none", value_parser = limit)]
    pub(crate) cpu: Option<Limit>,
    /// In MB
    #[arg(long, value_name = "N|none", value_parser = limit)]
    pub(crate) memory: Option<Limit>,
    /// In MB
    #[arg(long, value_name = "N|none", value_parser = limit)]
    pub(crate) disk: Option<Limit>,
    /// In Mbit/s
    #[arg(long, value_name = "N|none", value_parser = limit)]
    pub(crate) network: Option<Limit>,
    #[arg(long, value_name = "N|none", value_parser = limit)]
    pub(crate) requests_per_minute: Option<Limit>,
    /// Images that it may have
    #[arg(long, value_name = "N|none", value_parser = limit)]
    pub(crate) images: Option<Limit>,
    /// Execs at work at one time
    #[arg(long, value_name = "N|none", value_parser = limit)]
    pub(crate) exec_sessions: Option<Limit>,
}

/// `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<u64>);

fn limit(text: &str) -> Result<Limit, String> {
    match text {
        "none" | "unlimited" => Ok(Limit(None)),
        _ => text.parse().map(|n| Limit(Some(n))).map_err(|_| "must be a whole number or none".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_numbers_or_none() {
        assert_eq!(limit("5"), Ok(Limit(Some(5))));
        assert_eq!(limit("none"), Ok(Limit(None)));
        for bad in ["", "-1", "5m", "1.5", "99999999999999999999"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}

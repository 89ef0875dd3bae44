//! `aether audit`.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List records, newest first
    #[command(visible_alias = "ls")]
    List(AuditListArgs),
    /// Print records as they come
    Tail(AuditTailArgs),
    /// Write the whole log with its proofs to a file
    Export(AuditExportArgs),
    /// Check an exported log, without a server
    Verify(AuditVerifyArgs),
}

/// Which records.
#[derive(Debug, Clone, Args)]
pub(crate) struct AuditFilterArgs {
    /// Only of this one: the id of an API key, local:UID
    #[arg(long, visible_alias = "user", value_name = "WHO")]
    pub(crate) actor: Option<String>,
    /// Only this action, as in create, delete, exec
    #[arg(long)]
    pub(crate) action: Option<String>,
    /// Only about this kind, as in agent, api_key
    #[arg(long, value_name = "KIND")]
    pub(crate) resource: Option<String>,
    /// Only about this one
    #[arg(long, value_name = "ID")]
    pub(crate) resource_id: Option<String>,
    /// Only of this result: success, failure or denied
    #[arg(long)]
    pub(crate) result: Option<String>,
    /// The platform's own records, for its operators
    #[arg(long)]
    pub(crate) platform: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AuditListArgs {
    #[command(flatten)]
    pub(crate) filter: AuditFilterArgs,
    /// Only since: a time (RFC 3339) or a duration back, as in 10m
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Only before: a time or a duration back
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
    /// At most so many; 0: all
    #[arg(long, short = 'n', default_value_t = 100, value_name = "COUNT")]
    pub(crate) limit: u64,
}

/// Prints records as they are linked into the chain, in its order, which is
/// within a second of their making.
#[derive(Debug, Args)]
pub(crate) struct AuditTailArgs {
    #[command(flatten)]
    pub(crate) filter: AuditFilterArgs,
    /// Begin after this position of the chain, 0 for its start; without it, from now on
    #[arg(long, value_name = "POSITION")]
    pub(crate) after: Option<u64>,
}

/// Writes the tenant's whole audit log: each record with its place in the
/// chain, and the signed digests. `aether audit verify` checks it.
#[derive(Debug, Args)]
pub(crate) struct AuditExportArgs {
    /// The file to write; standard output when absent
    pub(crate) file: Option<PathBuf>,
    /// jsonl for `aether audit verify`; ocsf for other systems, without proofs
    #[arg(long, value_enum, default_value = "jsonl")]
    pub(crate) format: AuditFormat,
    /// The platform's own records, for its operators
    #[arg(long)]
    pub(crate) platform: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuditFormat {
    Jsonl,
    Ocsf,
}

impl AuditFormat {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Ocsf => "ocsf",
        }
    }
}

/// Checks an exported log: that no record was changed, removed, added, moved
/// or repeated, and with an anchor file that nothing is missing at its end and
/// nothing was signed again. Works offline. Exit code 1 when anything is
/// wrong.
///
/// Copy the anchor file first and export after it: what the anchor knows must
/// be in the export.
#[derive(Debug, Args)]
pub(crate) struct AuditVerifyArgs {
    /// The exported log
    pub(crate) file: PathBuf,
    /// A copy of the anchor file (repeatable: one of each server)
    #[arg(long, value_name = "FILE")]
    pub(crate) anchor: Vec<PathBuf>,
    /// The public keys to trust, one a line, as in audit-signing.pub (repeatable). Without it a forger may have signed
    #[arg(long, value_name = "FILE")]
    pub(crate) public_key: Vec<PathBuf>,
    /// A backup was restored, and that records were lost with it is known: only what is there is judged
    #[arg(long)]
    pub(crate) after_restore: bool,
}

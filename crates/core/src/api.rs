//! The documents of the HTTP API, shared by the server and the CLI.
//! Requests refuse unknown fields; answers may grow.

mod audit;
mod auth;
mod bulk;
mod event;
#[cfg(test)]
mod fuzz;
mod key;
mod secret;
mod system;
mod tenant;
mod update;

pub use audit::AuditRecord;
pub use auth::{
    Jwk, Jwks, LoginInfo, LoginRequest, RefreshRequest, TokenInfo, TokenRequest, UserInfo, UserPatch, UserRequest,
};
pub use bulk::{BULK_MOST, BulkCreate, BulkCreateResult, BulkCreated, BulkDelete, BulkDeleteResult, BulkDeleted};
pub use event::{EventInfo, EventPage};
pub use key::{
    Budget, KeyAllow, KeyCreated, KeyInfo, KeyPatch, KeyRequest, KeyRotation, LabelBudget, RoleInfo, RolePatch,
    RoleRequest, ServiceAccountInfo, ServiceAccountRequest, validate_key_name,
};
pub use secret::{
    MasterKey, MasterKeyRequest, MasterKeyState, MasterKeyStep, SecretInfo, SecretRequest, SecretRotation,
    SecretVersionInfo,
};
pub use system::{DiskUsage, PruneRequest, Pruned, TagRequest, UsageRow};
pub use tenant::{
    LIMIT_MOST, Quota, QuotaReport, QuotaRequest, QuotaUsage, TenantDeletion, TenantInfo, TenantPatch, TenantRequest,
    TenantUpdate, validate_tenant,
};
pub use update::{
    AgentPatch, AgentUpdated, CheckedPatch, MapPatch, Patchable, ResourcesPatch, field as patch_field,
    waits_for_restart,
};

use crate::error::FieldError;
use crate::id::{AgentId, TenantId};
use crate::name::AgentName;
use crate::probe::HealthProbe;
use crate::secrets::SecretRef;
use crate::spec::{AgentSpec, NetworkPolicy, ProcessRestart, Recovery, Resources};
use crate::state::{Desired, Observed};
use crate::time::{Timestamp, parse_duration};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The body of `POST /v1/agents`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Made up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// An alias inside the tenant; real ids are always ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Must be the caller's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    pub image: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default)]
    pub stdin: bool,
    #[serde(default)]
    pub tty: bool,
    #[serde(default)]
    pub run_image_command: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub resources: Resources,
    #[serde(default)]
    pub network: NetworkPolicy,
    /// `90s`, `1h30m`, or a number of seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    #[serde(default)]
    pub process_restart: ProcessRestart,
    #[serde(default)]
    pub recovery: Recovery,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthProbe>,
    /// Secrets of the tenant that the agent gets; a plain name is a variable of that name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = Vec<crate::secrets::SecretForm>))]
    pub secrets: Vec<SecretRef>,
}

impl AgentConfig {
    pub fn for_image(image: impl Into<String>) -> Self {
        Self {
            name: None,
            id: None,
            tenant_id: None,
            image: image.into(),
            command: Vec::new(),
            args: Vec::new(),
            workdir: None,
            user: None,
            stdin: false,
            tty: false,
            run_image_command: false,
            env: BTreeMap::new(),
            labels: BTreeMap::new(),
            metadata: BTreeMap::new(),
            resources: Resources::default(),
            network: NetworkPolicy::default(),
            ttl: None,
            process_restart: ProcessRestart::default(),
            recovery: Recovery::default(),
            health: None,
            secrets: Vec::new(),
        }
    }

    /// The checked parts: names, spec, env. Errors name every wrong field.
    pub fn check(self) -> Result<CheckedConfig, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut name_of = |field: &str, text: &Option<String>| -> Option<AgentName> {
            let parsed = text.as_ref()?.parse::<AgentName>();
            parsed.map_err(|e| errors.push(FieldError::new(field, e.to_string()))).ok()
        };
        let name = name_of("name", &self.name);
        let alias = name_of("id", &self.id);
        let ttl_s = self.ttl.as_ref().and_then(|text| {
            let parsed = parse_duration(text).map(|d| d.as_secs());
            if parsed.is_none() {
                errors.push(FieldError::new("ttl", "must be a duration such as 90s or 1h30m"));
            }
            parsed
        });
        errors.extend(crate::spec::validate_env(&self.env));
        let spec = AgentSpec {
            image: self.image,
            command: self.command,
            args: self.args,
            workdir: self.workdir,
            user: self.user,
            stdin: self.stdin,
            tty: self.tty,
            run_image_command: self.run_image_command,
            labels: self.labels,
            metadata: self.metadata,
            resources: self.resources.with_defaults(),
            network: self.network,
            ttl_s,
            process_restart: self.process_restart,
            recovery: self.recovery,
            health: self.health,
            secrets: self.secrets,
        };
        errors.extend(spec.validate());
        errors.extend(crate::secrets::validate_beside_env(&spec.secrets, &self.env));
        if errors.is_empty() { Ok(CheckedConfig { name, alias, spec, env: self.env }) } else { Err(errors) }
    }
}

/// An [`AgentConfig`] that passed its checks.
#[derive(Clone, Debug)]
pub struct CheckedConfig {
    pub name: Option<AgentName>,
    pub alias: Option<AgentName>,
    pub spec: AgentSpec,
    pub env: BTreeMap<String, String>,
}

/// An agent as the API shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AgentInfo {
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub id: AgentId,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub tenant_id: TenantId,
    pub config: AgentSpec,
    /// Names only; values need `?show=env` and the permission.
    pub env_names: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// Which version of each secret this run was given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_versions: BTreeMap<String, u64>,
    pub status: Observed,
    /// Of a running agent: the guest does not answer, or not as the protocol
    /// wants it, or its probe fails.
    #[serde(default)]
    pub unhealthy: bool,
    /// Which of it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy_reason: Option<String>,
    pub desired: Desired,
    pub version: u64,
    pub generation: u64,
    /// Fields that were changed since this run began and hold from the next
    /// start on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_restart: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// vm-kvm, vm-emulated, gvisor, container: what was really used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// luks or none: of the writable disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_encryption: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Why it is where it is, or why it is not placed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement_reason: Option<String>,
    /// Place in the node's boot queue, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_signal: Option<String>,
    #[serde(default)]
    pub restarts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<AgentFailure>,
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub stopped_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
}

/// Why an agent failed: a documented code and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AgentFailure {
    pub code: String,
    pub message: String,
}

/// The documented values of [`AgentFailure::code`].
pub mod failure {
    pub const IMAGE_NOT_FOUND: &str = "IMAGE_NOT_FOUND";
    pub const IMAGE_PULL_FAILED: &str = "IMAGE_PULL_FAILED";
    pub const IMAGE_INVALID: &str = "IMAGE_INVALID";
    pub const BOOT_TIMEOUT: &str = "BOOT_TIMEOUT";
    pub const BOOT_FAILED: &str = "BOOT_FAILED";
    pub const COMMAND_NOT_STARTED: &str = "COMMAND_NOT_STARTED";
    pub const SANDBOX_DIED: &str = "SANDBOX_DIED";
    pub const OUT_OF_MEMORY: &str = "OUT_OF_MEMORY";
    pub const DISK_FULL: &str = "DISK_FULL";
    pub const NO_CAPACITY: &str = "NO_CAPACITY";
    pub const NODE_ERROR: &str = "NODE_ERROR";
    pub const ISOLATION_REFUSED: &str = "ISOLATION_REFUSED";
    pub const SECRET_UNAVAILABLE: &str = "SECRET_UNAVAILABLE";

    /// All of them, as docs/errors.md lists them.
    pub const ALL: [&str; 13] = [
        IMAGE_NOT_FOUND,
        IMAGE_PULL_FAILED,
        IMAGE_INVALID,
        BOOT_TIMEOUT,
        BOOT_FAILED,
        COMMAND_NOT_STARTED,
        SANDBOX_DIED,
        OUT_OF_MEMORY,
        DISK_FULL,
        NO_CAPACITY,
        NODE_ERROR,
        ISOLATION_REFUSED,
        SECRET_UNAVAILABLE,
    ];
}

/// One page of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Page<T> {
    pub data: Vec<T>,
    pub page: u32,
    pub per_page: u32,
    pub total: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// The body of `POST /v1/agents/{id}/stop`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct StopRequest {
    /// Kill at once.
    pub force: bool,
    /// Seconds between signal and kill; default 30, at most 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

/// The body of `POST /v1/agents/{id}/exec`, and the first text frame of the
/// streaming form.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ExecRequest {
    pub command: Vec<String>,
    /// Seconds; POST: default 30, at most 300. Stream: none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// POST: text for standard input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Stream: keep standard input open for `stdin` frames.
    pub open_stdin: bool,
    /// Stream: a terminal.
    pub tty: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cols: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
}

/// The answer of `POST …/exec`. A non-zero exit is still 200.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ExecResult {
    pub exec_id: String,
    /// exited; unknown when the guest went away.
    pub outcome: String,
    #[serde(default)]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_signal: Option<String>,
    pub stdout: String,
    pub stderr: String,
    /// Output beyond 1 MiB each was left out.
    pub truncated: bool,
    pub timed_out: bool,
    pub duration_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Text frames of the exec stream, client to server. Standard input is
/// binary frames.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ExecClientFrame {
    /// First frame of all, unless the query names an exec to attach to.
    Start(ExecRequest),
    /// Attach to an exec that runs, from this offset of its output.
    Attach {
        exec_id: String,
        #[serde(default)]
        offset: u64,
    },
    CloseStdin,
    Resize {
        cols: u32,
        rows: u32,
    },
    Signal {
        signal: String,
    },
}

/// Text frames of the exec stream, server to client. Output is binary frames
/// whose first byte is 1 (stdout or terminal) or 2 (stderr).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecServerFrame {
    Started {
        exec_id: String,
        pid: u32,
    },
    /// Output between these offsets was lost before it was read.
    Gap {
        from: u64,
        to: u64,
    },
    Exited {
        #[serde(default)]
        exit_code: Option<i32>,
        #[serde(default)]
        signal: Option<String>,
        #[serde(default)]
        timed_out: bool,
        duration_ms: u64,
        #[serde(default)]
        error: Option<String>,
    },
    /// The guest went away: whether it ended is not known.
    Unknown {
        reason: String,
    },
    /// The stream cannot go on.
    Error {
        problem: Box<crate::error::Problem>,
    },
}

/// One exec in the answer of `GET …/execs` and `…/execs/{id}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ExecInfo {
    pub exec_id: String,
    pub command: Vec<String>,
    pub pid: u32,
    /// running, exited, unknown
    pub state: String,
    #[serde(default)]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_signal: Option<String>,
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub started_at: Timestamp,
    pub duration_ms: u64,
    pub tty: bool,
    /// Output from the asked offset, base64; of one exec only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Vec<ExecChunk>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_offset: Option<u64>,
}

/// A piece of an exec's output.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ExecChunk {
    /// stdout or stderr
    pub stream: String,
    pub offset: u64,
    /// base64
    pub data: String,
}

/// The body of `POST …/execs/{exec_id}/signal`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// SIGINT, TERM, 9 …
    pub signal: String,
}

/// `GET /v1/agents/{id}/health`, asked of the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AgentHealth {
    pub healthy: bool,
    /// starting, healthy or unhealthy, by the probe of the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<String>,
    /// Of the probe, in a row.
    #[serde(default)]
    pub failures: u32,
    pub message: String,
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub checked_at: Timestamp,
}

/// `GET /v1/agents/{id}/stats`: what the guest sees, and what the sandbox
/// costs its node. Totals are of this run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AgentStats {
    /// Over the last tenth of a second; 100 is one CPU.
    pub cpu_usage_percent: f64,
    #[serde(default)]
    pub cpu_usage_us: u64,
    #[serde(default)]
    pub cpu_count: u32,
    pub memory_usage_bytes: u64,
    pub memory_total_bytes: u64,
    pub disk_usage_bytes: u64,
    pub disk_total_bytes: u64,
    /// Counted by the node at the sandbox's interface.
    pub network_rx_bytes: u64,
    pub network_tx_bytes: u64,
    pub processes: u32,
    pub uptime_ms: u64,
    /// Of the machine that runs the sandbox, its own needs included.
    #[serde(default)]
    pub host_cpu_usage_us: u64,
    pub host_memory_bytes: u64,
    /// What the sparse writable disk takes on the node.
    #[serde(default)]
    pub host_disk_bytes: u64,
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub sampled_at: Timestamp,
}

/// A file, folder or link in a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FileInfo {
    pub name: String,
    pub path: String,
    /// file, directory, symlink, other
    pub kind: String,
    pub size: u64,
    /// Octal permission bits, such as 0644.
    pub mode: String,
    pub owner: String,
    pub group: String,
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub modified_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
}

/// An image as the API shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ImageInfo {
    pub digest: String,
    pub names: Vec<String>,
    /// ready, converting, failed
    pub state: String,
    pub size_bytes: u64,
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    pub os: String,
    pub architecture: String,
    /// The OCI image config's `config` object.
    #[cfg_attr(feature = "schema", schema(value_type = Object))]
    pub config: serde_json::Value,
    pub layers: Vec<String>,
    /// Agents that use it now.
    pub agents: u32,
}

/// The body of `POST /v1/images` with `application/json`. Its `Debug` hides the
/// password.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PullRequest {
    pub reference: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Plain HTTP; only loopback registries unless the operator allows more.
    #[serde(default)]
    pub insecure: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

impl std::fmt::Debug for PullRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullRequest")
            .field("reference", &self.reference)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("insecure", &self.insecure)
            .field("platform", &self.platform)
            .finish()
    }
}

/// One line (NDJSON) of the answer of `POST /v1/images`; the last has
/// `image` or `problem`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ImageProgress {
    /// resolve, download, convert, done, failed
    pub phase: String,
    #[serde(default)]
    pub done_bytes: u64,
    #[serde(default)]
    pub total_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<crate::error::Problem>,
}

/// `GET /v1/version`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct VersionInfo {
    pub version: String,
    pub commit: String,
    pub api: String,
}

/// `GET /health`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct HealthInfo {
    pub status: String,
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub time: Timestamp,
}

/// `GET /readiness`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ReadinessInfo {
    /// ready, not_ready
    pub status: String,
    pub checks: BTreeMap<String, ReadinessCheck>,
}

/// One dependency's check.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ReadinessCheck {
    pub ok: bool,
    pub latency_ms: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A node in `GET /v1/scheduler/nodes`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NodeInfo {
    pub id: String,
    /// ready, cordoned, draining, lost
    pub status: String,
    pub engine: String,
    pub isolation: String,
    pub capacity: NodeAmounts,
    pub reserved: NodeAmounts,
    pub labels: BTreeMap<String, String>,
    pub boots_queued: u32,
    pub boots_running: u32,
    pub sandboxes: u32,
    pub lease_age_ms: u64,
    pub version: String,
}

/// Amounts of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NodeAmounts {
    pub cpu_millicores: u64,
    pub memory_mb: u64,
    pub disk_mb: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_reports_every_wrong_field() {
        let mut config = AgentConfig::for_image("UPPER");
        config.name = Some("-".into());
        config.ttl = Some("soon".into());
        config.env.insert("A=B".into(), String::new());
        let fields: Vec<_> = config.check().expect_err("all four are wrong").into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["name", "ttl", "env", "image"]);
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(serde_json::from_str::<AgentConfig>(r#"{"image":"a","imgae":"b"}"#).is_err());
    }

    #[test]
    fn passwords_and_keys_are_not_debugged() {
        let text = r#"{"reference":"a","username":"me","password":"hunter2"}"#;
        let asked: PullRequest = serde_json::from_str(text).expect("parses");
        let shown = format!("{asked:?}");
        assert!(shown.contains("me") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn frames_are_tagged() {
        let text = serde_json::to_string(&ExecClientFrame::Resize { cols: 80, rows: 24 }).expect("serialises");
        assert_eq!(text, r#"{"type":"resize","cols":80,"rows":24}"#);
    }
}

//! What an agent is: image, process, resources, network.
//!
//! An agent without a command stays up idle, waiting for exec. The image's
//! own entrypoint runs only with `run_image_command`.

use crate::error::FieldError;
use crate::probe::HealthProbe;
use crate::secrets::SecretRef;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub const CPU_COUNT: std::ops::RangeInclusive<u32> = 1..=64;
pub const MEMORY_MB: std::ops::RangeInclusive<u64> = 128..=131_072;
pub const DISK_MB: std::ops::RangeInclusive<u64> = 1024..=1_048_576;
pub const DEFAULT_CPU_COUNT: u32 = 1;
pub const DEFAULT_MEMORY_MB: u64 = 512;
pub const DEFAULT_DISK_MB: u64 = 10_240;
/// Linux's own limits are 128 KiB for one string and 2 MiB for all; this
/// keeps a spec inside one request body and far inside both.
const MAX_ARGS: usize = 512;
const MAX_ARG_BYTES: usize = 65_536;
const MAX_ENV: usize = 512;
const MAX_ENV_BYTES: usize = 131_072;
const MAX_LABELS: usize = 64;
const MAX_LABEL_KEY: usize = 128;
const MAX_LABEL_VALUE: usize = 1024;
const MAX_PATH: usize = 4096;
const MAX_USER: usize = 64;
/// Thirty days.
pub const MAX_TTL_S: u64 = 2_592_000;

/// The part of an agent that a node needs. `env` travels apart, sealed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AgentSpec {
    /// Image reference or digest.
    pub image: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Name or number, optionally `:group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Keep the main process's standard input open.
    #[serde(default)]
    pub stdin: bool,
    #[serde(default)]
    pub tty: bool,
    /// Run the image's own entrypoint and command where none is given.
    #[serde(default)]
    pub run_image_command: bool,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// E2B's metadata: its own map, apart from labels.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub resources: Resources,
    #[serde(default)]
    pub network: NetworkPolicy,
    /// Seconds from start after which the agent is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    #[serde(default)]
    pub process_restart: ProcessRestart,
    #[serde(default)]
    pub recovery: Recovery,
    /// Run by the guest; absent: only the guest itself is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthProbe>,
    /// Names and places alone; the values are handed to the guest when it begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretRef>,
}

/// Zero or absent means the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// 1–64, default 1.
    pub cpu_count: u32,
    /// 128–131072, default 512.
    pub memory_mb: u64,
    /// 1024–1048576, default 10240.
    pub disk_mb: u64,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpu_count: DEFAULT_CPU_COUNT, memory_mb: DEFAULT_MEMORY_MB, disk_mb: DEFAULT_DISK_MB }
    }
}

impl Resources {
    #[must_use]
    pub fn with_defaults(self) -> Self {
        let d = Self::default();
        Self {
            cpu_count: if self.cpu_count == 0 { d.cpu_count } else { self.cpu_count },
            memory_mb: if self.memory_mb == 0 { d.memory_mb } else { self.memory_mb },
            disk_mb: if self.disk_mb == 0 { d.disk_mb } else { self.disk_mb },
        }
    }

    pub fn cpu_millicores(self) -> u64 {
        u64::from(self.cpu_count) * 1000
    }
}

/// What the sandbox may reach. The host, other sandboxes, private ranges and
/// metadata addresses are denied whatever stands here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NetworkPolicy {
    None,
    #[default]
    Public,
}

impl NetworkPolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            NetworkPolicy::None => "none",
            NetworkPolicy::Public => "public",
        }
    }
}

/// What becomes of an agent whose sandbox died unasked, as by a crash of its
/// VMM or of its node's machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Recovery {
    /// It stays failed until somebody acts.
    #[default]
    None,
    /// It is started again on its disk, at most three times, half a minute
    /// apart; an hour of peace forgives the tries.
    Restart,
}

impl Recovery {
    pub fn as_str(self) -> &'static str {
        match self {
            Recovery::None => "none",
            Recovery::Restart => "restart",
        }
    }
}

/// Whether the guest starts the main process again when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ProcessRestart {
    #[default]
    Never,
    OnFailure,
    Always,
}

impl AgentSpec {
    /// A spec with nothing but an image.
    pub fn for_image(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            command: Vec::new(),
            args: Vec::new(),
            workdir: None,
            user: None,
            stdin: false,
            tty: false,
            run_image_command: false,
            labels: BTreeMap::new(),
            metadata: BTreeMap::new(),
            resources: Resources::default(),
            network: NetworkPolicy::default(),
            ttl_s: None,
            process_restart: ProcessRestart::default(),
            recovery: Recovery::default(),
            health: None,
            secrets: Vec::new(),
        }
    }

    /// Everything wrong with it, one entry per field.
    pub fn validate(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut bad = |field: &str, message: String| errors.push(FieldError::new(field, message));
        if let Err(e) = self.image.parse::<crate::image::ImageRef>() {
            bad("image", e.to_string());
        }
        let r = self.resources.with_defaults();
        if !CPU_COUNT.contains(&r.cpu_count) {
            bad("resources.cpu_count", format!("must be 1 to 64, is {}", r.cpu_count));
        }
        if !MEMORY_MB.contains(&r.memory_mb) {
            bad("resources.memory_mb", format!("must be 128 to 131072, is {}", r.memory_mb));
        }
        if !DISK_MB.contains(&r.disk_mb) {
            bad("resources.disk_mb", format!("must be 1024 to 1048576, is {}", r.disk_mb));
        }
        for (field, list) in [("command", &self.command), ("args", &self.args)] {
            if list.len() > MAX_ARGS {
                bad(field, format!("at most {MAX_ARGS} entries"));
            }
            if list.iter().any(|a| a.len() > MAX_ARG_BYTES || a.contains('\0')) {
                bad(field, format!("each entry at most {MAX_ARG_BYTES} bytes, without NUL"));
            }
        }
        if self.command.is_empty() && !self.args.is_empty() && !self.run_image_command {
            bad("args", "need a command, or run_image_command".to_owned());
        }
        if let Some(dir) = &self.workdir
            && (!dir.starts_with('/') || dir.len() > MAX_PATH || dir.contains('\0'))
        {
            bad("workdir", format!("must be an absolute path of at most {MAX_PATH} bytes"));
        }
        if let Some(user) = &self.user
            && !valid_user(user)
        {
            bad("user", "must be a name or number, optionally :group".to_owned());
        }
        if let Some(ttl) = self.ttl_s
            && !(1..=MAX_TTL_S).contains(&ttl)
        {
            bad("ttl", format!("must be 1 to {MAX_TTL_S} seconds, is {ttl}"));
        }
        if let Some(health) = &self.health {
            errors.extend(health.validate());
        }
        errors.extend(crate::secrets::validate_refs(&self.secrets));
        for (field, map) in [("labels", &self.labels), ("metadata", &self.metadata)] {
            errors.extend(validate_pairs(field, map));
        }
        errors
    }
}

/// A user as `name`, `uid`, `name:group` or `uid:gid`.
pub fn valid_user(user: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty() && p.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.' | b'$'))
    };
    user.len() <= MAX_USER && user.splitn(2, ':').all(part)
}

/// Checks labels or metadata: their number and sizes.
pub fn validate_pairs(field: &str, pairs: &BTreeMap<String, String>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if pairs.len() > MAX_LABELS {
        errors.push(FieldError::new(field, format!("at most {MAX_LABELS} entries")));
    }
    if pairs.iter().any(|(k, v)| k.is_empty() || k.len() > MAX_LABEL_KEY || v.len() > MAX_LABEL_VALUE) {
        let message = format!("keys 1 to {MAX_LABEL_KEY} bytes, values at most {MAX_LABEL_VALUE}");
        errors.push(FieldError::new(field, message));
    }
    errors
}

/// Checks an environment: names without `=` or NUL, sizes bounded.
pub fn validate_env(env: &BTreeMap<String, String>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if env.len() > MAX_ENV {
        errors.push(FieldError::new("env", format!("at most {MAX_ENV} entries")));
    }
    if env.iter().map(|(k, v)| k.len() + v.len() + 2).sum::<usize>() > MAX_ENV_BYTES {
        errors.push(FieldError::new("env", format!("at most {MAX_ENV_BYTES} bytes in all")));
    }
    if env.iter().any(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0')) {
        errors.push(FieldError::new("env", "names must not be empty or hold '=' or NUL, values no NUL"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(change: impl FnOnce(&mut AgentSpec)) -> Vec<String> {
        let mut spec = AgentSpec::for_image("python:3.11");
        change(&mut spec);
        spec.validate().into_iter().map(|e| e.field).collect()
    }

    #[test]
    fn the_default_is_valid() {
        assert!(errors_of(|_| {}).is_empty());
        assert!(errors_of(|s| s.resources = Resources { cpu_count: 0, memory_mb: 0, disk_mb: 0 }).is_empty());
    }

    #[test]
    fn each_limit_names_its_field() {
        assert_eq!(errors_of(|s| s.image = "!!".into()), ["image"]);
        assert_eq!(errors_of(|s| s.resources.cpu_count = 65), ["resources.cpu_count"]);
        assert_eq!(errors_of(|s| s.resources.memory_mb = 127), ["resources.memory_mb"]);
        assert_eq!(errors_of(|s| s.resources.disk_mb = 1023), ["resources.disk_mb"]);
        assert_eq!(errors_of(|s| s.command = vec!["a\0".into()]), ["command"]);
        assert_eq!(errors_of(|s| s.args = vec!["a".into()]), ["args"]);
        assert_eq!(errors_of(|s| s.workdir = Some("x".into())), ["workdir"]);
        assert_eq!(errors_of(|s| s.user = Some("a b".into())), ["user"]);
        assert_eq!(errors_of(|s| s.ttl_s = Some(0)), ["ttl"]);
        assert_eq!(errors_of(|s| drop(s.labels.insert(String::new(), String::new()))), ["labels"]);
    }

    #[test]
    fn env_names() {
        let env = |k: &str, v: &str| BTreeMap::from([(k.to_owned(), v.to_owned())]);
        assert!(validate_env(&env("A", "quotes \" and\nnewlines")).is_empty());
        for (k, v) in [("", ""), ("A=B", ""), ("A\0", ""), ("A", "\0")] {
            assert!(!validate_env(&env(k, v)).is_empty());
        }
        assert!(!validate_env(&env("A", &"x".repeat(MAX_ENV_BYTES))).is_empty());
    }
}

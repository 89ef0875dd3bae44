//! `PATCH /v1/agents/{id}`: which fields may change, how a patch and what is
//! there make what will be, and which changes wait for a restart.
//!
//! Maps are merged as RFC 7396 has it: a value sets its key, `null` removes
//! it, keys that are not named stay. Pure: no store, no clock.

use super::AgentInfo;
use crate::error::FieldError;
use crate::name::AgentName;
use crate::spec::{AgentSpec, ProcessRestart, Recovery, validate_env};
use crate::time::parse_duration;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// Keys to set (a value) and to remove (null).
pub type MapPatch = BTreeMap<String, Option<String>>;

/// The body of `PATCH /v1/agents/{id}`. Absent fields stay as they are.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AgentPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A null value removes the key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: MapPatch,
    /// A null value removes the key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: MapPatch,
    /// A null value removes the variable.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: MapPatch,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesPatch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_restart: Option<ProcessRestart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// Counted from the start of the run; null removes it.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub ttl: Option<Option<String>>,
}

/// Env values are secrets.
impl std::fmt::Debug for AgentPatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentPatch")
            .field("name", &self.name)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// What of the resources is to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ResourcesPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// Only while the agent has no disk yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_mb: Option<u64>,
}

/// The answer of `PATCH /v1/agents/{id}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AgentUpdated {
    #[serde(flatten)]
    pub agent: AgentInfo,
    /// Fields that this request changed.
    pub changed: Vec<String>,
}

/// Tells `null` from absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

/// An [`AgentPatch`] whose parts are well formed by themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckedPatch {
    pub name: Option<AgentName>,
    pub labels: MapPatch,
    pub metadata: MapPatch,
    pub env: MapPatch,
    pub resources: ResourcesPatch,
    pub process_restart: Option<ProcessRestart>,
    pub recovery: Option<Recovery>,
    pub ttl_s: Option<Option<u64>>,
}

impl AgentPatch {
    pub fn check(self) -> Result<CheckedPatch, Vec<FieldError>> {
        let mut errors = Vec::new();
        let name = self.name.and_then(|text| match text.parse::<AgentName>() {
            Ok(name) => Some(name),
            Err(e) => {
                errors.push(FieldError::new("name", e.to_string()));
                None
            }
        });
        let ttl_s = self.ttl.map(|text| {
            text.and_then(|text| {
                let parsed = parse_duration(&text).map(|d| d.as_secs());
                if parsed.is_none() {
                    errors.push(FieldError::new("ttl", "must be a duration such as 90s or 1h30m, or null"));
                }
                parsed
            })
        });
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(CheckedPatch {
            name,
            labels: self.labels,
            metadata: self.metadata,
            env: self.env,
            resources: self.resources.unwrap_or_default(),
            process_restart: self.process_restart,
            recovery: self.recovery,
            ttl_s,
        })
    }
}

/// What can be patched, as it is and as it will be.
#[derive(Clone, Debug, PartialEq)]
pub struct Patchable {
    pub name: AgentName,
    pub spec: AgentSpec,
    /// Empty where the patch does not touch it.
    pub env: BTreeMap<String, String>,
}

/// A name of a field that a patch can change, as answers tell it.
pub mod field {
    pub const NAME: &str = "name";
    pub const LABELS: &str = "labels";
    pub const METADATA: &str = "metadata";
    pub const ENV: &str = "env";
    pub const RESOURCES: &str = "resources";
    pub const PROCESS_RESTART: &str = "process_restart";
    pub const RECOVERY: &str = "recovery";
    pub const TTL: &str = "ttl";
}

/// Whether a run that has begun goes on with the old value. The name counts
/// at once everywhere but for the host name inside.
pub fn waits_for_restart(field: &str) -> bool {
    matches!(field, field::ENV | field::RESOURCES | field::PROCESS_RESTART)
}

impl CheckedPatch {
    /// What will be, and the names of the fields that differ. `has_disk`: the
    /// agent has a writable disk, whose size is fixed.
    pub fn apply(&self, now: &Patchable, has_disk: bool) -> Result<(Patchable, Vec<&'static str>), Vec<FieldError>> {
        let mut next = now.clone();
        if let Some(name) = &self.name {
            next.name.clone_from(name);
        }
        merge(&mut next.spec.labels, &self.labels);
        merge(&mut next.spec.metadata, &self.metadata);
        merge(&mut next.env, &self.env);
        let r = &mut next.spec.resources;
        r.cpu_count = self.resources.cpu_count.unwrap_or(r.cpu_count);
        r.memory_mb = self.resources.memory_mb.unwrap_or(r.memory_mb);
        r.disk_mb = self.resources.disk_mb.unwrap_or(r.disk_mb);
        next.spec.resources = next.spec.resources.with_defaults();
        if let Some(restart) = self.process_restart {
            next.spec.process_restart = restart;
        }
        if let Some(recovery) = self.recovery {
            next.spec.recovery = recovery;
        }
        if let Some(ttl) = self.ttl_s {
            next.spec.ttl_s = ttl;
        }
        let mut errors = next.spec.validate();
        errors.extend(validate_env(&next.env));
        errors.extend(crate::secrets::validate_beside_env(&next.spec.secrets, &next.env));
        if has_disk && next.spec.resources.disk_mb != now.spec.resources.with_defaults().disk_mb {
            errors.push(FieldError::new("resources.disk_mb", "cannot change once the agent has its disk"));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let changed = changes(now, &next);
        Ok((next, changed))
    }
}

fn merge(map: &mut BTreeMap<String, String>, patch: &MapPatch) {
    for (key, value) in patch {
        match value {
            Some(value) => drop(map.insert(key.clone(), value.clone())),
            None => drop(map.remove(key)),
        }
    }
}

fn changes(now: &Patchable, next: &Patchable) -> Vec<&'static str> {
    let differ = [
        (field::NAME, now.name != next.name),
        (field::LABELS, now.spec.labels != next.spec.labels),
        (field::METADATA, now.spec.metadata != next.spec.metadata),
        (field::ENV, now.env != next.env),
        (field::RESOURCES, now.spec.resources.with_defaults() != next.spec.resources),
        (field::PROCESS_RESTART, now.spec.process_restart != next.spec.process_restart),
        (field::RECOVERY, now.spec.recovery != next.spec.recovery),
        (field::TTL, now.spec.ttl_s != next.spec.ttl_s),
    ];
    differ.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Patchable {
        let mut spec = AgentSpec::for_image("python:3.11");
        spec.labels.insert("team".into(), "a".into());
        spec.ttl_s = Some(60);
        Patchable {
            name: "one".parse().expect("a name"),
            spec,
            env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
        }
    }

    fn patch(text: &str) -> CheckedPatch {
        serde_json::from_str::<AgentPatch>(text).expect("parses").check().expect("is well formed")
    }

    #[test]
    fn maps_merge_and_null_removes() {
        let patch = patch(r#"{"labels":{"team":null,"x":"y"},"env":{"B":"2"},"ttl":null}"#);
        let (next, changed) = patch.apply(&now(), true).expect("fits");
        assert_eq!(next.spec.labels, BTreeMap::from([("x".to_owned(), "y".to_owned())]));
        assert_eq!((next.env.len(), next.spec.ttl_s), (2, None));
        assert_eq!(changed, ["labels", "env", "ttl"]);
    }

    #[test]
    fn absent_is_not_null_and_what_is_so_already_is_no_change() {
        let same = patch(r#"{"name":"one","labels":{"team":"a","gone":null},"resources":{"cpu_count":1}}"#);
        let (next, changed) = same.apply(&now(), true).expect("fits");
        assert_eq!((next, changed), (now(), Vec::new()));
        assert_eq!(patch("{}"), CheckedPatch::default());
    }

    #[test]
    fn the_whole_is_checked_and_every_wrong_field_named() {
        let fields = |text: &str, has_disk: bool| -> Vec<String> {
            let errors = patch(text).apply(&now(), has_disk).expect_err("wrong");
            errors.into_iter().map(|e| e.field).collect()
        };
        assert_eq!(
            fields(r#"{"resources":{"memory_mb":1,"cpu_count":65}}"#, false),
            ["resources.cpu_count", "resources.memory_mb"]
        );
        assert_eq!(fields(r#"{"resources":{"disk_mb":20480}}"#, true), ["resources.disk_mb"]);
        assert!(patch(r#"{"resources":{"disk_mb":20480}}"#).apply(&now(), false).is_ok());
        assert_eq!(fields(r#"{"env":{"A=B":"x"}}"#, false), ["env"]);
        assert_eq!(fields(r#"{"labels":{"":"x"}}"#, false), ["labels"]);
        let malformed: AgentPatch = serde_json::from_str(r#"{"name":"-","ttl":"soon"}"#).expect("parses");
        let named: Vec<_> = malformed.check().expect_err("wrong").into_iter().map(|e| e.field).collect();
        assert_eq!(named, ["name", "ttl"]);
        assert!(serde_json::from_str::<AgentPatch>(r#"{"image":"x"}"#).is_err());
    }

    #[test]
    fn env_values_are_not_debugged() {
        let patch: AgentPatch = serde_json::from_str(r#"{"env":{"KEY":"hunter2"}}"#).expect("parses");
        let shown = format!("{patch:?}");
        assert!(shown.contains("KEY") && !shown.contains("hunter2"), "{shown}");
    }
}

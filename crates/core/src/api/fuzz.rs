//! The documents that clients send.

use super::{AgentConfig, AgentPatch, Patchable};
use crate::error::FieldError;
use crate::spec::AgentSpec;
use crate::time::{Timestamp, parse_duration};
use std::collections::BTreeMap;

const WORDS: &[&str] = &[
    "\"image\":",
    "\"command\":[",
    "\"args\":[",
    "\"env\":{",
    "\"labels\":{",
    "\"metadata\":{",
    "\"resources\":{",
    "\"cpu_count\":",
    "\"memory_mb\":",
    "\"disk_mb\":",
    "\"ttl\":",
    "\"health\":{",
    "\"http\":{\"port\":",
    "\"path\":",
    "\"name\":",
    "\"id\":",
    "\"user\":",
    "\"workdir\":",
    "null",
    "true",
    "\\u0000",
    "\"recovery\":\"restart\"",
    "1e400",
    "\"network\":\"none\"",
    "\"process_restart\":\"always\"",
    "agtc0aaaaaaaaaaaaaaaa",
    "1h30m",
    "\\ud800",
];

/// Errors are shown: bounded, whatever they are about.
fn shown(errors: &[FieldError]) {
    assert!(!errors.is_empty(), "refused without a reason");
    for error in errors {
        assert!(error.message.len() <= 512 && !error.message.contains('\n'), "{error:?}");
    }
}

#[test]
fn fuzz_create() {
    aether_fuzz::target("create_body").words(WORDS).memory(4 << 20).run(|input| {
        let Ok(config) = serde_json::from_slice::<AgentConfig>(input) else { return };
        let again = serde_json::to_vec(&config).expect("what was read can be written");
        let checked = match config.check() {
            Ok(checked) => checked,
            Err(errors) => return shown(&errors),
        };
        assert!(checked.spec.validate().is_empty(), "accepted: {:?}", checked.spec.validate());
        assert!(checked.spec.ttl_s.is_none_or(|ttl| ttl > 0));
        let again = serde_json::from_slice::<AgentConfig>(&again).expect("reads what it wrote").check();
        let again = again.expect("what was accepted is accepted again");
        assert_eq!((again.spec, again.env, again.name), (checked.spec, checked.env, checked.name));
    });
}

#[test]
fn fuzz_patch() {
    aether_fuzz::target("patch_body").words(WORDS).memory(4 << 20).run(|input| {
        let Ok(patch) = serde_json::from_slice::<AgentPatch>(input) else { return };
        let again = serde_json::to_vec(&patch).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<AgentPatch>(&again).ok(), Some(patch.clone()));
        let patch = match patch.check() {
            Ok(patch) => patch,
            Err(errors) => return shown(&errors),
        };
        let name = "one".parse().expect("a name");
        let now = Patchable { name, spec: AgentSpec::for_image("python"), env: BTreeMap::new() };
        match patch.apply(&now, false) {
            Ok((next, _)) => {
                assert!(next.spec.validate().is_empty());
                // Merging is idempotent: a repeat changes nothing.
                assert_eq!(patch.apply(&next, true).expect("fits what it made"), (next, Vec::new()));
            }
            Err(errors) => shown(&errors),
        }
    });
}

#[test]
fn fuzz_times() {
    let words = &["ms", "h", "d", "m", "+00:00", "-23:59", "Z", "T", "1970-01-01T00:00:00", ".999"];
    aether_fuzz::target("times").max_len(80).memory(16 << 10).words(words).run(|input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Some(at) = Timestamp::parse_rfc3339(text) {
            assert_eq!(Timestamp::parse_rfc3339(&at.to_string()), Some(at));
            let digits = text.bytes().filter(u8::is_ascii_digit).count();
            let signs = text.bytes().skip(11).filter(|b| matches!(b, b'+' | b'-')).count();
            assert!(digits >= 14 && signs <= 1, "{text:?} is no time");
        }
        if let Some(duration) = parse_duration(text) {
            let ms = duration.as_millis();
            let written = if ms % 1000 == 0 { format!("{}", ms / 1000) } else { format!("{ms}ms") };
            assert_eq!(parse_duration(&written), Some(duration));
        }
    });
}

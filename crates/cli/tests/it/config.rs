//! Every key through the built binary: set by file, by environment, by flag,
//! and by all at once. `config show` must tell value and source of each.

use crate::{Run, aether, config_in};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

fn shown(run: &Run) -> BTreeMap<String, Value> {
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.is_empty(), "no warning: {run:?}");
    let rows: Vec<Value> = serde_json::from_str(&run.stdout).expect("JSON");
    rows.into_iter().map(|row| (text(&row, "key"), row)).collect()
}

fn text(row: &Value, field: &str) -> String {
    row[field].as_str().unwrap_or_else(|| panic!("{field} in {row}")).to_owned()
}

/// Not the default; all of these are valid together.
fn other(row: &Value) -> String {
    let (key, default) = (text(row, "key"), text(row, "default"));
    let value = match (key.as_str(), text(row, "kind").as_str()) {
        ("server.address", _) => "127.0.0.1:9",
        ("server.allowed_origins", _) => "https://a.example",
        ("node.uplink_net", _) => "100.120.0.0/20",
        ("node.ipv6_prefix", _) => "2001:db8::/64",
        ("node.upstream_dns", _) => "9.9.9.9:53",
        ("node.network_allow" | "node.network_deny", _) => "192.0.2.0/24",
        ("node.mtu", _) => "1400",
        ("node.uid_base", _) => "123456",
        ("node.network_spare", _) => "7",
        ("images.max_image_bytes", _) => "1073741824",
        ("engine.kind", _) => "QEMU",
        ("engine.accel", _) => "tcg",
        ("observability.log_level", _) => "debug",
        ("observability.log_format", _) => "json",
        ("database.ssl_mode", _) => "require",
        ("scheduler.strategy", _) => "best-fit",
        ("scheduler.node_lease", _) => "200s",
        ("security.jwt_secret_key" | "security.jwt_previous_secrets", _) => "word-word-word-word-word-word-word",
        ("security.oidc", _) => "[{issuer: 'https://a', audiences: [b], tenant: acme, default_role: viewer}]",
        ("security.jwt_previous_key_paths", _) => "/a/path",
        ("security.vault_address", _) => "https://vault.example",
        ("security.vault_timeout", _) => "9s",
        (_, "host:port") => "redis.example:6379",
        (_, "true or false") if default == "true" => "false",
        (_, "true or false") => "true",
        (_, "whole number") => "77",
        (_, "factor of 1 to 1000") => "3",
        (_, "duration") => "90s",
        (_, "path") => "/a/path",
        (_, "text" | "list" | "secret text") => "word",
        (key, kind) => panic!("{key} is of a kind without a sample: {kind}"),
    };
    assert_ne!(value, default, "{key}");
    value.to_owned()
}

/// What set them, what was shown, and the source that each key must have.
type Way<'a> = (&'static str, BTreeMap<String, Value>, &'a dyn Fn(&str) -> String);

fn variable(key: &str) -> String {
    format!("AETHER_{}", key.to_ascii_uppercase().replace('.', "_"))
}

fn show(
    dir: &Path,
    file: Option<&Path>,
    environment: &[(String, String)],
    flags: &[String],
) -> BTreeMap<String, Value> {
    let mut args = vec!["-o".to_owned(), "json".to_owned()];
    args.extend(file.iter().flat_map(|f| ["--config".to_owned(), f.to_string_lossy().into_owned()]));
    args.extend(["config".to_owned(), "show".to_owned()]);
    args.extend(flags.iter().flat_map(|flag| ["--set".to_owned(), flag.clone()]));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let run = aether(dir, &args).envs(environment.iter().cloned()).output().expect("starts");
    shown(&run.into())
}

#[test]
fn every_key_is_set_by_default_file_environment_and_flag() {
    let dir = tempfile::tempdir().expect("tempdir");
    // A file that is empty: that of the system must not count.
    let empty = dir.path().join("empty.yaml");
    std::fs::write(&empty, "").expect("writes");
    let defaults = show(dir.path(), Some(&empty), &[], &[]);
    assert!(defaults.len() >= 50, "{}", defaults.len());
    let values: BTreeMap<&str, String> = defaults.iter().map(|(key, row)| (key.as_str(), other(row))).collect();
    let file: String = values.iter().map(|(key, value)| format!("{key}: {value:?}\n")).collect();
    let file = config_in(dir.path(), &file);
    let environment: Vec<_> = values.iter().map(|(key, value)| (variable(key), value.clone())).collect();
    let flags: Vec<_> = values.iter().map(|(key, value)| format!("{key}={value}")).collect();

    let by_file = format!("file {}", file.display());
    let env = |key: &str| format!("environment {}", variable(key));
    let ways: [Way; 5] = [
        ("file", show(dir.path(), Some(&file), &[], &[]), &|_| by_file.clone()),
        ("environment", show(dir.path(), Some(&empty), &environment, &[]), &env),
        ("flag", show(dir.path(), Some(&empty), &[], &flags), &|_| "flag --set".to_owned()),
        ("environment over file", show(dir.path(), Some(&file), &environment, &[]), &env),
        ("flag over both", show(dir.path(), Some(&file), &environment, &flags), &|_| "flag --set".to_owned()),
    ];
    for (key, row) in &defaults {
        let masked = text(row, "kind").starts_with("secret text");
        assert_eq!((text(row, "source"), text(row, "value")), ("default".to_owned(), text(row, "default")), "{key}");
        assert!(["live", "restart"].contains(&text(row, "reload").as_str()), "{row}");
        for (by, rows, source) in &ways {
            let row = &rows[key];
            assert_eq!(text(row, "source"), source(key), "{key} by {by}");
            let value = if masked { "***" } else { values[key.as_str()].as_str() };
            assert_eq!(text(row, "value"), value, "{key} by {by}");
        }
    }
}

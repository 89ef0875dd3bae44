//! Values to try every key with; for the tests of this module and of the
//! parts that are made from it.

use super::keys::Key;
use super::load::{Loaded, Sources, load};
use crate::error::CliError;
use std::collections::BTreeMap;

/// Reads these sources and no other.
pub(crate) fn from(
    file: Option<&str>,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Loaded, CliError> {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("config.yaml");
    if let Some(text) = file {
        std::fs::write(&path, text).expect("writes");
    }
    load(&Sources {
        file: file.map(|_| path),
        environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        flags: flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned(), "--set".to_owned())).collect(),
    })
}

/// A valid value of each key, other than its default.
pub(crate) fn sample(key: &Key) -> String {
    let text = match key.name {
        "server.address" => "127.0.0.1:9999",
        "server.allowed_origins" => "https://console.example",
        "security.vault_timeout" => "7s",
        "security.vault_address" => "https://vault.example:8200",
        "server.enable_auth" | "engine.encrypt_disks" | "observability.metrics_enabled" => "false",
        "scheduler.strategy" => "spread",
        "scheduler.heartbeat_interval" => "1s",
        "scheduler.node_lease" => "9s",
        "observability.log_level" => "debug",
        "observability.log_format" => "json",
        "engine.accel" => "tcg",
        "engine.kind" => "QEMU",
        "node.prefix" => "other",
        "node.upstream_dns" => "9.9.9.9",
        "node.network_allow" => "10.1.0.0/16",
        "node.network_deny" => "192.0.2.0/24",
        "node.uplink_net" => "100.120.0.0/20",
        "node.ipv6_prefix" => "2001:db8:1::/64",
        "node.mtu" => "1400",
        "images.max_image_bytes" => "1073741824",
        "node.network_spare" => "7",
        "node.uid_base" => "123456",
        "database.ssl_mode" => "require",
        "security.jwt_secret_key" | "security.jwt_previous_secrets" => "hunter2-hunter2-hunter2-hunter2-hunter2",
        "security.oidc" => "[{issuer: 'https://a.example', audiences: [x], tenant: acme, default_role: viewer}]",
        "security.jwt_previous_key_paths" => "/some/where.pub",
        _ => match key.kind {
            "true or false" => "true",
            "whole number" => "77",
            "factor of 1 to 1000" => "2",
            "path" => "/some/where",
            "host:port" => "redis.example:6380",
            "duration" => "77s",
            "secret text" => "hunter2",
            "text" | "list" => "word",
            other => panic!("{} has a kind without a sample: {other}", key.name),
        },
    };
    text.to_owned()
}

/// Keys that are only valid together with another; of one that is needed, it
/// has another value.
pub(crate) fn partner(key: &Key) -> Vec<(&'static str, &'static str)> {
    match key.name {
        "server.tls_cert" => vec![("server.tls_key", "/a/key")],
        "server.tls_key" => vec![("server.tls_cert", "/a/cert")],
        "server.tls_names" => vec![("server.tls_own_ca", "true")],
        "security.jwt_public_key_path" => vec![("security.jwt_private_key_path", "/a/key")],
        "server.enable_cors" => vec![("server.allowed_origins", "https://a.example")],
        name if name.starts_with("security.vault_") => {
            let vault = [
                ("security.vault_enabled", "true"),
                ("security.vault_address", "https://v.example"),
                ("security.vault_token", "t"),
            ];
            vault.into_iter().filter(|(other, _)| *other != name || name != "security.vault_enabled").collect()
        }
        _ => Vec::new(),
    }
}

pub(crate) fn variable(key: &str) -> String {
    format!("AETHER_{}", key.to_ascii_uppercase().replace('.', "_"))
}

pub(crate) fn yaml(pairs: &[(&str, &str)]) -> String {
    let mut groups: BTreeMap<&str, String> = BTreeMap::new();
    for (key, value) in pairs {
        let (group, key) = key.split_once('.').expect("group.key");
        groups.entry(group).or_default().push_str(&format!("  {key}: {value:?}\n"));
    }
    groups.into_iter().map(|(group, keys)| format!("{group}:\n{keys}")).collect()
}

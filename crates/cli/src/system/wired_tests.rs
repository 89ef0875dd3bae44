//! No key is only for show. Two steps, each seen by a test:
//!
//! 1. a key that is set changes the options that some part is started with;
//! 2. every field of those options is read by the part's own code. (Fields
//!    that nothing reads are no compiler warning there, being public.)

use super::{logging, parts};
use crate::config::samples::{from, partner, sample, yaml};
use crate::config::{Config, KEYS};
use aether_store::StoreConfig;
use std::path::{Path, PathBuf};

/// All that is started, as text.
fn options(config: &Config) -> String {
    let store = match parts::store(config) {
        StoreConfig::Sqlite { path } => path.display().to_string(),
        StoreConfig::Postgres { url, max_connections } => format!("{} {max_connections}", url.expose()),
    };
    let control = parts::control(config).expect("options");
    // No secret shows itself.
    let redis = control.redis.as_ref().map(|redis| redis.password.expose().to_owned());
    let token = control.vault.as_ref().map_or("", |vault| vault.token.expose()).to_owned();
    format!(
        "{:?} {:?} {:?} {:?} {control:?} {redis:?} {token} {store} {:?} {} {} {}",
        parts::engine_to_check(config).expect("options"),
        parts::network(config).expect("options"),
        parts::images_with(config, PathBuf::from("/exe")),
        parts::node(config),
        config.socket(),
        logging::filter(config),
        logging::is_json(config, true),
        logging::is_json(config, false),
    )
}

#[test]
fn every_key_changes_what_a_part_is_started_with() {
    let (home, other) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
    let home = home.path().to_string_lossy().into_owned();
    for key in KEYS {
        // One engine, so there is no other value; the next one ends this.
        if key.name == "engine.kind" {
            assert_eq!(key.kind, "one of qemu");
            continue;
        }
        let mut base: Vec<(&str, &str)> = vec![("server.state_dir", &home), ("engine.guest_path", "/bin/true")];
        base.extend(partner(key));
        if key.name.starts_with("redis.") && key.name != "redis.address" {
            base.push(("redis.address", "redis.example:6379"));
        }
        if key.name.starts_with("database.") && !matches!(key.name, "database.url" | "database.host") {
            base.push(("database.host", "db.example"));
        }
        let mut before = base.clone();
        match key.name {
            "server.tls_cert" | "server.tls_key" => before.retain(|(k, _)| !k.starts_with("server.tls_")),
            "server.allow_tls12" => {
                base.extend([("server.tls_cert", "/c"), ("server.tls_key", "/k")]);
                before.clone_from(&base);
            }
            "server.allowed_origins" => {
                base.push(("server.enable_cors", "true"));
                before = [&base[..], &[("server.allowed_origins", "https://other.example")]].concat();
            }
            _ => {}
        }
        let value = match key.name {
            "server.state_dir" => other.path().to_string_lossy().into_owned(),
            _ => sample(key),
        };
        let set = |pairs: &[(&str, &str)], flags: &[(&str, &str)]| {
            options(&from(Some(&yaml(pairs)), &[], flags).expect("valid").config)
        };
        assert!(
            set(&before, &[]) != set(&base, &[(key.name, &value)]),
            "{} = {value} changes nothing outside of the configuration",
            key.name
        );
    }
}

/// The option structs: where they stand, and below which folder their part's
/// code lies.
const OPTIONS: &[(&str, &[&str], &str)] = &[
    (
        "control/src/config.rs",
        &[
            "ControlConfig",
            "TlsConfig",
            "CorsConfig",
            "Deadlines",
            "Limits",
            "RateShares",
            "RedisConfig",
            "NodeTimings",
            "AuditConfig",
            "JwtConfig",
            "OidcIssuer",
            "VaultConfig",
        ],
        "control/src",
    ),
    ("node/src/config.rs", &["NodeConfig", "CapacityOverrides"], "node/src"),
    ("reserve/src/lib.rs", &["Reserve"], "reserve/src"),
    ("node/src/network/config.rs", &["NetworkConfig", "Share"], "node/src/network"),
    ("node/src/images/mod.rs", &["ImagesConfig", "Timeouts"], "node/src/images"),
    ("node/src/engine/qemu/config.rs", &["QemuConfig", "DiskRate"], "node/src/engine"),
];

#[test]
fn every_option_of_a_part_is_read_by_its_code() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (file, structs, folder) in OPTIONS {
        let mut code = String::new();
        gather(&crates.join(folder), &mut code);
        let definition = std::fs::read_to_string(crates.join(file)).expect("the file");
        for name in *structs {
            let fields = fields(&definition, name);
            assert!(!fields.is_empty(), "{file} has no struct {name}");
            for field in fields {
                assert!(is_read(&code, field), "nothing below {folder} reads {name}::{field}");
            }
        }
    }
    assert!(is_read("a.mtu;", "mtu") && is_read("a.mtu.b()", "mtu"));
    assert!(!is_read("a.mtu = 1; b.mtu_of; c.mtu(); mtu", "mtu"));
}

/// The code without its tests.
fn gather(folder: &Path, code: &mut String) {
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() {
            gather(&path, code);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") && name != "limits_page.rs" {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let text = text.split("\n#[cfg(test)]").next().unwrap_or_default();
            // Handing a value on, as reloads do, is no use of it.
            for line in text.lines().filter(|line| !line.contains("= new.")) {
                code.push_str(line);
                code.push('\n');
            }
        }
    }
}

fn fields<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let body = text.split_once(&format!("pub struct {name} {{\n")).map_or("", |(_, rest)| rest);
    let body = body.split("\n}").next().unwrap_or_default();
    body.lines().filter_map(|l| l.trim().strip_prefix("pub ")?.split(':').next()).collect()
}

/// `.field`, and neither a call nor an assignment.
fn is_read(code: &str, field: &str) -> bool {
    code.match_indices(&format!(".{field}")).any(|(at, found)| {
        let rest = &code[at + found.len()..];
        let next = rest.trim_start();
        let whole = !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '(');
        whole && (!next.starts_with('=') || next.starts_with("==") || next.starts_with("=>"))
    })
}

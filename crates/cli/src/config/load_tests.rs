use super::super::samples::{from, partner, sample, variable, yaml};
use super::*;
use proptest::prelude::*;

fn error(file: Option<&str>, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    from(file, environment, flags).expect_err("must be refused").render(false)
}

#[test]
fn defaults_are_valid() {
    let loaded = from(None, &[], &[]).expect("valid");
    assert!(loaded.warnings.is_empty());
    assert_eq!(loaded.config.socket(), Path::new("/run/aether/aether.sock"));
}

#[test]
fn every_key_is_set_by_file_environment_and_flag() {
    for key in KEYS {
        let value = sample(key);
        let partner = partner(key);
        let source = |loaded: &Loaded| loaded.values.text_of(key.name).cloned();
        let unset = from(None, &[], &[]).expect("valid");
        assert_eq!(unset.values.effective(key), (key.default, Source::Default), "{} by default", key.name);
        assert_ne!(value, key.default, "{} needs a sample that is not its default", key.name);
        let mut file: Vec<(&str, &str)> = vec![(key.name, &value)];
        file.extend(partner.iter().filter(|(other, _)| *other != key.name));
        let loaded = from(Some(&yaml(&file)), &[], &[]).unwrap_or_else(|e| panic!("{}: {e}", key.name));
        assert!(matches!(source(&loaded), Some((v, Source::File(_))) if v == value), "{} by file", key.name);

        let others = (!partner.is_empty()).then(|| yaml(&partner));
        let long = variable(key.name);
        let loaded = from(others.as_deref(), &[(&long, &value)], &[]).unwrap_or_else(|e| panic!("{}: {e}", key.name));
        assert_eq!(source(&loaded), Some((value.clone(), Source::Environment(long))), "{} by environment", key.name);
        assert!(loaded.warnings.is_empty(), "{}: {:?}", key.name, loaded.warnings);

        let loaded =
            from(others.as_deref(), &[], &[(key.name, &value)]).unwrap_or_else(|e| panic!("{}: {e}", key.name));
        assert_eq!(source(&loaded), Some((value.clone(), Source::Flag("--set".to_owned()))), "{} by flag", key.name);
    }
}

#[test]
fn every_value_reaches_the_typed_configuration() {
    let default = format!("{:?}", from(None, &[], &[]).expect("valid").config);
    for key in KEYS.iter().filter(|k| k.name != "engine.kind") {
        let value = sample(key);
        let partner = partner(key);
        let others = (!partner.is_empty()).then(|| yaml(&partner));
        let base = others.as_deref().map_or(default.clone(), |file| {
            from(Some(file), &[], &[]).map_or_else(|_| default.clone(), |l| format!("{:?}", l.config))
        });
        let changed = format!("{:?}", from(others.as_deref(), &[], &[(key.name, &value)]).expect("valid").config);
        // A secret's debug form is the same whatever it holds.
        assert!(key.secret || changed != base, "{} = {value} changes nothing", key.name);
    }
    let config = from(None, &[("DATABASE_URL", "postgres://h/d")], &[]).expect("valid").config;
    assert_eq!(config.database.url.expose(), "postgres://h/d");
    let config = from(None, &[], &[("database.password", "hunter2")]).expect("valid").config;
    assert_eq!(config.database.password.expose(), "hunter2");
}

#[test]
fn issuers_may_be_written_as_a_list() {
    let file = "security:\n  oidc:\n    - issuer: https://a.example\n      audiences: [aether]\n      tenant: acme\n      \
                roles: { a: admin }\n      role_claim: groups\n    - {issuer: b, audiences: [c], tenant: d, default_role: viewer}\n";
    let issuers = from(Some(file), &[], &[]).expect("valid").config.security.oidc.0;
    assert_eq!(issuers.iter().map(|i| i.issuer.as_str()).collect::<Vec<_>>(), ["https://a.example", "b"]);
    assert_eq!(issuers[0].roles.len(), 1);
    assert!(error(Some("security:\n  oidc:\n    - {issuer: a}\n"), &[], &[]).contains("audiences"));
    let other = error(Some("server:\n  allowed_origins:\n    - {a: b}\n"), &[], &[]);
    assert!(other.contains("server.allowed_origins"), "{other}");
}

#[test]
fn later_sources_win() {
    let file = "server:\n  address: 127.0.0.1:1\n";
    let address = |loaded: Loaded| loaded.values.text_of("server.address").map(|(v, _)| v.clone());
    let env = [("AETHER_SERVER_ADDRESS", "127.0.0.1:2")];
    assert_eq!(address(from(Some(file), &[], &[]).expect("valid")).as_deref(), Some("127.0.0.1:1"));
    assert_eq!(address(from(Some(file), &env, &[]).expect("valid")).as_deref(), Some("127.0.0.1:2"));
    let flags = [("server.address", "127.0.0.1:3")];
    assert_eq!(address(from(Some(file), &env, &flags).expect("valid")).as_deref(), Some("127.0.0.1:3"));
}

/// A value that is a hair past a limit, where there is one.
fn past(limit: &str, by: i128) -> Option<String> {
    match limit.parse::<i128>() {
        Ok(number) => Some((number + by).to_string()).filter(|_| number + by >= 0),
        Err(_) if by > 0 => Some(format!("{limit}1ms")),
        Err(_) => (limit != "0s").then(|| "0s".to_owned()),
    }
}

#[test]
fn limits_are_kept_and_named_with_key_value_and_source() {
    let limited: Vec<_> = KEYS.iter().filter_map(|key| Some((key, key.limits?))).collect();
    assert!(limited.len() > 15);
    for (key, (least, most)) in limited {
        for value in [past(least, -1), past(most, 1)].into_iter().flatten() {
            let told = error(None, &[], &[(key.name, &value)]);
            for part in [key.name, &format!("{value:?}"), "from flag --set", &format!("{least} to {most}")] {
                assert!(told.contains(part), "{} = {value}: {told}", key.name);
            }
        }
        // The limits themselves are taken; other keys may not fit them.
        for value in [least, most] {
            let told = from(None, &[], &[(key.name, value)]).map_or_else(|e| e.render(false), |_| String::new());
            assert!(!told.contains(&format!("{least} to {most}")), "{} = {value}: {told}", key.name);
        }
    }
}

#[test]
fn a_key_that_stands_twice_in_a_file_is_refused() {
    let twice = "node.mtu: 1400\nnode:\n  mtu: 1500\n";
    assert!(error(Some(twice), &[], &[]).contains("node.mtu stands twice"));
    assert!(from(Some("node:\n  mtu: 1400\n  mtu: 1500\n"), &[], &[]).is_err());
}

#[test]
fn what_does_not_fit_names_its_source() {
    let text = error(Some("server:\n  tls_cert: /c\n"), &[], &[]);
    assert!(text.contains("server.tls_cert (from file "), "{text}");
    let text = error(None, &[("AETHER_NODE_NETWORK_SPARE", "300")], &[]);
    assert!(text.contains("node.network_spare (from environment AETHER_NODE_NETWORK_SPARE): 300 "), "{text}");
    let text = error(None, &[], &[("scheduler.heartbeat_interval", "5s")]);
    assert!(text.contains("6s must be at least twice scheduler.heartbeat_interval, which is 5s"), "{text}");
}

#[test]
fn short_names_work_and_the_long_one_wins() {
    let loaded = from(None, &[("SERVER_ADDRESS", ":1"), ("AETHER_SERVER_ADDRESS", "127.0.0.1:2")], &[]).expect("valid");
    assert_eq!(loaded.values.text_of("server.address").map(|(v, _)| v.as_str()), Some("127.0.0.1:2"));
    assert!(loaded.warnings.iter().any(|w| w.contains("both set")), "{:?}", loaded.warnings);
    let loaded = from(None, &[("AETHER_STATE_DIR", "/s"), ("AETHER_RUN_DIR", "/r")], &[]).expect("valid");
    assert_eq!(loaded.config.server.state_dir, Path::new("/s"));
    assert_eq!(loaded.config.socket(), Path::new("/r/aether.sock"));
}

#[test]
fn unknown_keys_name_the_nearest() {
    assert!(error(Some("server:\n  adress: x\n"), &[], &[]).contains("did you mean server.address?"));
    assert!(error(None, &[], &[("node.max_boot", "1")]).contains("did you mean node.max_boots?"));
    assert!(error(Some("engine:\n  boot_timeout: 1s\n"), &[], &[]).contains("did you mean node.boot_timeout?"));
    assert!(error(None, &[], &[("what.ever", "1")]).contains("unknown key what.ever"));
}

#[test]
fn unknown_variables_are_a_warning() {
    let env = [("AETHER_PORT", "tcp://10.0.0.1:80"), ("AETHER_NODE_MAX_BOOT", "1"), ("AETHER_TOKEN", "x")];
    let loaded = from(None, &env, &[]).expect("valid");
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
    assert!(loaded.warnings.iter().any(|w| w.contains("did you mean AETHER_NODE_MAX_BOOTS?")));
}

#[test]
fn keys_of_the_earlier_version_are_said_not_to_be_used() {
    for key in NOT_USED {
        assert!(KEYS.iter().all(|k| k.name != *key), "{key} is both used and not");
        let file = yaml(&[(key, "x")]);
        for loaded in
            [from(Some(&file), &[], &[]), from(None, &[(&variable(key), "x")], &[]), from(None, &[], &[(key, "x")])]
        {
            let warnings = loaded.expect("accepted").warnings;
            assert!(warnings.iter().any(|w| w.contains("not used by this version")), "{key}: {warnings:?}");
        }
    }
}

#[test]
fn wrong_values_name_key_source_and_reason() {
    let text = error(Some("node:\n  boot_timeout: soon\n  uid_base: -1\n"), &[], &[]);
    assert!(text.contains("node.boot_timeout (from file") && text.contains("must be a duration"), "{text}");
    assert!(text.contains("node.uid_base"), "{text}");
    let text = error(None, &[("AETHER_DATABASE_PASSWORD", "hun\nter2")], &[]);
    assert!(text.contains("database.password (from environment") && !text.contains("ter2"), "{text}");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    for (flags, part) in [
        (vec![("server.address", ":8080"), ("server.enable_auth", "false")], "not a loopback address"),
        (vec![("server.tls_cert", "/c")], "go together"),
        (vec![("server.enable_cors", "true")], "needs server.allowed_origins"),
        (vec![("server.allowed_origins", "*")], "`*` is refused"),
        (vec![("scheduler.node_lease", "3s")], "twice"),
        (vec![("node.prefix", "Ae-ther")], "node.prefix"),
        (vec![("node.network_spare", "500")], "network_spare"),
        (vec![("node.uid_base", "1000")], "node.uid_base"),
        (vec![("server.run_dir", &format!("/{}", "x".repeat(120)))], "server.socket"),
        (vec![("node.boot_timeout", "0s")], "node.boot_timeout"),
        (vec![("node.mtu", "600")], "node.mtu"),
        (vec![("node.uplink_net", "100.96.0.0/24")], "node.uplink_net"),
        (vec![("node.ipv6_prefix", "2001:db8::/113")], "node.ipv6_prefix"),
        (vec![("security.vault_enabled", "true")], "needs security.vault_address"),
        (
            vec![("security.vault_enabled", "true"), ("security.vault_address", "http://127.0.0.1:1")],
            "needs security.vault_token",
        ),
        (
            vec![
                ("security.vault_enabled", "true"),
                ("security.vault_address", "vault:8200"),
                ("security.vault_token", "t"),
            ],
            "http:// or https://",
        ),
        (vec![("images.max_image_bytes", "0")], "images.max_image_bytes"),
        (vec![("images.allow_hosts", "https://registry.lan")], "images.allow_hosts"),
        (vec![("images.allow_insecure_hosts", "registry.lan/team")], "images.allow_insecure_hosts"),
    ] {
        let text = error(None, &[], &flags);
        assert!(text.contains(part), "{flags:?}: {text}");
    }
    let loaded = from(None, &[], &[("server.address", ":8080")]).expect("with authentication it is allowed");
    assert!(loaded.warnings.iter().any(|w| w.contains("without TLS")), "{:?}", loaded.warnings);
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    for (text, part) in [
        ("- a\n", "groups of keys"),
        ("server: 1\n", "server must be a group"),
        ("server:\n  address: {a: 1}\n", "single value"),
        ("server: [\n", "not valid YAML"),
        ("node:\n  upstream_dns: ['1.1.1.1,2.2.2.2']\n", "without commas"),
    ] {
        assert!(error(Some(text), &[], &[]).contains(part), "{text}");
    }
    let lists = from(Some("node:\n  upstream_dns: [1.1.1.1, '8.8.8.8:5353']\n"), &[], &[]).expect("valid");
    assert_eq!(lists.config.node.upstream_dns.len(), 2);
    assert!(from(Some("server:\n"), &[], &[]).is_ok());
    assert!(from(Some(""), &[], &[]).is_ok());
    assert!(from(Some("server.address: 127.0.0.1:1\n"), &[], &[]).is_ok());
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("config.yaml");
    std::fs::write(&path, "").expect("writes");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("chmod");
    let e = load(&Sources { file: Some(path), ..Sources::default() }).expect_err("refused");
    assert!(e.render(false).contains("written by others"));
}

proptest! {
    // Each case reads every key.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,80}") {
        let _ = from(Some(&text), &[], &[]);
        for key in KEYS {
            let _ = from(None, &[(&variable(key.name), &text)], &[]);
        }
    }
}

use super::super::samples::{from, partner, sample, yaml};
use super::*;

fn loaded(pairs: &[(&str, &str)]) -> Loaded {
    from(Some(&yaml(pairs)), &[], &[]).expect("valid")
}

#[test]
fn every_key_is_taken_or_waits_as_its_table_says() {
    for key in KEYS {
        let partner = partner(key);
        // Certificates are told apart from no certificates.
        let mut before = partner.clone();
        if matches!(key.name, "server.tls_cert" | "server.tls_key") {
            before.push((key.name, "/before"));
        }
        let value = sample(key);
        let mut after = partner;
        after.retain(|(other, _)| *other != key.name);
        after.push((key.name, &value));
        let (running, new) = (loaded(&before), loaded(&after));
        let Plan { next, taken, waiting } = plan(&running, &new).unwrap_or_else(|e| panic!("{}: {e}", key.name));
        let holds = if key.reload == Reload::Live { &new } else { &running };
        assert_eq!(next.values.effective(key), holds.values.effective(key), "{}", key.name);
        match key.reload {
            Reload::Live => {
                assert!(waiting.is_empty() && taken.len() == 1, "{}: {taken:?} {waiting:?}", key.name);
                assert!(taken[0].starts_with(key.name) && taken[0].contains(&value) != key.secret, "{taken:?}");
            }
            Reload::Restart => assert_eq!((taken.len(), waiting), (0, vec![key.name])),
        }
        let again = plan(&next, &new).expect("still fits");
        assert!(again.taken.is_empty(), "{}: a second reload takes nothing", key.name);
    }
}

#[test]
fn a_key_that_is_gone_from_the_file_falls_back_to_its_default() {
    let running = loaded(&[("server.max_connections", "7")]);
    let Plan { next, taken, .. } = plan(&running, &loaded(&[])).expect("fits");
    assert_eq!(next.config.server.max_connections, 4096);
    assert_eq!(taken, ["server.max_connections \"4096\", was \"7\" (from default)"]);
}

#[test]
fn https_is_neither_switched_on_nor_off() {
    let (plain, tls) = (loaded(&[]), loaded(&[("server.tls_cert", "/c"), ("server.tls_key", "/k")]));
    for (running, new) in [(&plain, &tls), (&tls, &plain)] {
        let Plan { next, taken, waiting } = plan(running, new).expect("fits");
        assert_eq!((taken.len(), waiting), (0, vec!["server.tls_cert", "server.tls_key"]));
        assert_eq!(next.config.server.tls_cert, running.config.server.tls_cert);
    }
}

#[test]
fn old_and_new_values_must_fit_together() {
    let running = loaded(&[("server.enable_cors", "true"), ("server.allowed_origins", "https://a.example")]);
    let told = plan(&running, &loaded(&[])).expect_err("CORS stays on, and its origins are gone").to_string();
    assert!(told.contains("next start (of server.enable_cors)") && told.contains("server.allowed_origins"), "{told}");
    // Alone each is sound: loopback without keys, and an open address with.
    let running = loaded(&[("server.address", "0.0.0.0:8080")]);
    let new = loaded(&[("server.enable_auth", "false")]);
    let Plan { next, waiting, .. } = plan(&running, &new).expect("both wait");
    assert!(next.config.server.enable_auth);
    assert_eq!(waiting, ["server.address", "server.enable_auth"]);
}

//! The configuration file.

use super::*;

#[test]
fn fuzz() {
    let words = &[
        "server:\n",
        "  address: ",
        "node:\n",
        "  network_slots: ",
        "images:\n",
        "  allow_hosts: [",
        "&a [*a,*a]",
        "*a",
        "<<: *a",
        "!!binary ",
        "? ",
        "---\n",
        "server.address: ",
        "  log_level: ",
        "scheduler:\n",
        "  interval: ",
        ".inf",
        "0x10",
        "observability:\n",
    ];
    aether_fuzz::target("config_file").max_len(4096).memory(64 << 20).words(words).run(|input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Ok(pairs) = read_text(text) else { return };
        let mut values = Values::default();
        let (mut warnings, source) = (Vec::new(), Source::Flag("--set".to_owned()));
        for (key, value) in pairs {
            assert!(key.contains('.'), "{key:?} is in no group");
            if let Err(error) = accept(&mut values, &key, value, source.clone(), &mut warnings) {
                assert!(error.contains("unknown key"), "{error}");
            }
        }
        let Ok(config) = Config::read(&values) else { return };
        if super::super::check::check(&config, &values).is_ok() {
            assert!(config.node.network_slots >= 1 && config.node.network_spare <= config.node.network_slots);
            assert!(config.socket().as_os_str().len() <= 107);
        }
    });
}

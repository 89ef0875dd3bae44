//! Exported logs and anchor files: from wherever they were kept.

use super::tests::{Log, signer, verify};

/// The anchor file, an empty line, the log.
#[test]
fn fuzz() {
    let words = &["\"record\"", "\"digest\"", "\"position\":", "null", "\"cut\"", "9223372036854775807", "\n", "\n\n"];
    let key = [signer(1).public_key()];
    let real = Log::new(4, 2, 1);
    aether_fuzz::target("audit_log").memory(1 << 20).words(words).run(|input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let (anchor, log) = text.split_once("\n\n").unwrap_or(("", text));
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let (anchor, log) = (lines(anchor), lines(log));
        // With no key at hand nobody makes a log that passes.
        let report = verify(&log, &anchor, &key);
        let known = real.lines();
        let ours = log.iter().filter(|l| !l.trim().is_empty()).all(|l| known.contains(l));
        assert!(!report.is_clean() || ours || same(&log, &known), "{log:?}");
        // Against the real anchor neither, and however much is wrong, the report is bounded.
        let report = verify(&log, &real.anchor(), &[]);
        assert!(report.findings.len() <= 100);
    });
}

/// The same values, in another spelling; the time and the key of `begin` are
/// what nobody relies on.
fn same(log: &[String], known: &[String]) -> bool {
    let value = |line: &String| {
        let mut value = serde_json::from_str::<serde_json::Value>(line).ok();
        if let Some(begin) = value.as_mut().and_then(|v| v.get_mut("begin")).and_then(|b| b.as_object_mut()) {
            begin.retain(|name, _| name != "time" && name != "key");
        }
        value
    };
    let log: Vec<_> = log.iter().filter(|l| !l.trim().is_empty()).map(value).collect();
    log == known.iter().map(value).collect::<Vec<_>>()
}

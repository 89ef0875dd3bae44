//! `aether audit` against a server that really runs, and then without it.

use crate::live::{Live, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// Until every record has its place in the chain.
fn linked(live: &Live) -> Vec<Value> {
    wait_for("the chain", || {
        let records = live.json(&["audit", "list", "-n", "0"]);
        let records = records.as_array().expect("a list").clone();
        records.iter().all(|r| r["position"].is_number()).then_some(records)
    })
}

#[test]
fn a_log_is_read_followed_exported_and_verified_offline() {
    let mut live = Live::start(&[("AETHER_AUDIT_DIGEST_INTERVAL", "1s")]);
    let dir = live.dir.path().to_owned();
    let at = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let (log, state, socket) = (at("log.jsonl"), at("state"), format!("unix://{}", at("run/aether.sock")));
    let mut follower = crate::aether(&dir, &["--server", &socket, "audit", "tail", "--after", "0"]);
    let mut follower = follower.stdout(Stdio::piped()).spawn().expect("starts");
    live.ok(&["apikey", "create", "--name", "one", "--role", "viewer", "-q"]);
    let mut lines = BufReader::new(follower.stdout.take().expect("a pipe")).lines();
    // The first admin key, then this one.
    let told = [lines.next(), lines.next()].map(|line| line.expect("a line").expect("reads"));
    assert!(told[1].contains("local:0  create  api_key key"), "{told:?}");
    follower.kill().expect("kills");
    follower.wait().expect("waits");
    // What a killed server had not linked yet is linked by the next one.
    live.ok(&["apikey", "create", "--name", "two", "-q"]);
    live.signal(Signal::SIGKILL);
    live.terminate();
    live.launch();
    let records = linked(&live);
    assert_eq!(records.iter().filter(|r| r["action"] == "create" && r["resource"] == "api_key").count(), 3);
    let table = live.ok(&["audit", "list", "--resource", "api_key", "-n", "2"]);
    assert!(table.starts_with("ID ") && table.lines().count() == 3, "{table}");
    let anchor = format!("{state}/audit-anchor.jsonl");
    wait_for("an anchor", || std::fs::read_to_string(&anchor).ok().filter(|text| text.contains("\"default\"")));
    live.ok(&["audit", "export", &log]);
    let ocsf = live.ok(&["audit", "export", "--format", "ocsf"]);
    assert!(ocsf.lines().all(|l| serde_json::from_str::<Value>(l).expect("JSON")["class_uid"] == 6003));
    let platform = live.ok(&["audit", "export", "--platform"]);
    assert!(platform.starts_with("{\"begin\":{\"version\":1,\"tenant\":null"), "{platform}");
    assert_eq!(live.terminate(), Some(0));

    let public = format!("{state}/audit-signing.pub");
    let verify =
        |file: &str| crate::run(&dir, &["audit", "verify", file, "--anchor", &anchor, "--public-key", &public]);
    let clean = verify(&log);
    assert_eq!(clean.code, Some(0), "{clean:?}");
    assert!(clean.stdout.contains("The log is whole.") && !clean.stdout.contains("note:"), "{clean:?}");
    let text = std::fs::read_to_string(&log).expect("the log");
    let forged = at("forged.jsonl");
    std::fs::write(&forged, text.replacen("local:0", "local:1", 1)).expect("writes");
    let found = verify(&forged);
    assert_eq!(found.code, Some(1));
    assert!(found.stdout.contains("WRONG: line") && found.stdout.contains("its content was changed"), "{found:?}");
    let json = crate::run(&dir, &["-o", "json", "audit", "verify", &forged]);
    let report: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!((json.code, &report["findings"][0]["fault"]), (Some(1), &Value::from("altered")));
}

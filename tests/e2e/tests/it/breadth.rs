//! What users do beside run and exec: change, follow, wait, measure, forward.

use aether_e2e::{LONG, Server, Settings, wait_for};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

const CREATE: &[&str] = &["agent", "create", "--image", "python:3.11", "--memory", "256", "--wait"];

fn create(server: &Server, name: &str, more: &[&str]) {
    server.cli().ok(&[CREATE, &["--name", name], more].concat());
}

#[test]
fn a_change_holds_from_the_next_start_on_and_events_tell_it() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    let mut follower = cli
        .command(&["-o", "json", "events", "-f", "--since", "1h"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    create(&server, "one", &["-e", "GREETING=hello", "--ttl", "1h"]);
    let greeting = |name: &str| cli.ok(&["exec", name, "--", "sh", "-c", "echo \"$GREETING $(nproc)\""]);
    assert_eq!(greeting("one"), "hello 1\n");
    let changed =
        cli.json(&["agent", "update", "one", "-e", "GREETING=goodbye", "--cpu", "2", "--ttl", "none", "-l", "a=b"]);
    assert_eq!(changed["pending_restart"], serde_json::json!(["env", "resources"]), "{changed}");
    assert!(changed["expires_at"].is_null(), "{changed}");
    assert_eq!(greeting("one"), "hello 1\n", "what runs goes on as it was");
    cli.ok(&["rename", "one", "two"]);
    cli.ok(&["agent", "stop", "two"]);
    cli.ok(&["agent", "start", "two"]);
    cli.ok(&["wait", "two", "--for", "running"]);
    assert_eq!(greeting("two"), "goodbye 2\n");
    let mut waiter = cli
        .command(&["wait", "two", "--for", "gone"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    cli.ok(&["rm", "two"]);
    let status = wait_for("the waiter", LONG, || waiter.try_wait().expect("waits"));
    assert!(status.success());
    let mut kinds = Vec::new();
    let lines = BufReader::new(follower.stdout.take().expect("piped")).lines();
    for line in lines {
        let event: serde_json::Value = serde_json::from_str(&line.expect("text")).expect("JSON");
        kinds.push(event["kind"].as_str().expect("kind").to_owned());
        if event["status"] == "gone" {
            break;
        }
    }
    follower.kill().expect("ends");
    follower.wait().expect("ends");
    let updates = kinds.iter().filter(|k| *k == "agent.updated").count();
    assert!(updates >= 2 && kinds[0] == "agent.created", "{kinds:?}");
}

#[test]
fn figures_follow_what_the_agent_does() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    create(&server, "busy", &[]);
    let idle = cli.json(&["stats", "busy"]);
    cli.ok(&["exec", "-d", "busy", "--", "python3", "-c", "while True: pass"]);
    cli.ok(&["exec", "busy", "--", "sh", "-c", "head -c 30000000 /dev/urandom > /var/tmp/big; sync; ls /proc/self/fd"]);
    let number = |stats: &serde_json::Value, key: &str| stats[key].as_f64().unwrap_or_else(|| panic!("{key}: {stats}"));
    let busy = wait_for("the figures to move", LONG, || {
        let now = cli.json(&["stats", "busy"]);
        (number(&now, "cpu_usage_percent") > 50.0).then_some(now)
    });
    for key in ["cpu_usage_us", "host_cpu_usage_us", "disk_usage_bytes", "host_disk_bytes"] {
        assert!(number(&busy, key) > number(&idle, key), "{key}: {idle} {busy}");
    }
    assert!(number(&busy, "disk_usage_bytes") - number(&idle, "disk_usage_bytes") > 25e6, "{idle} {busy}");
    let memory = number(&busy, "memory_total_bytes");
    assert!(number(&busy, "memory_usage_bytes") < memory && memory < 256.0 * 1048576.0, "{busy}");
    assert!(number(&busy, "host_memory_bytes") > 20e6, "{busy}");
    assert_eq!(number(&busy, "cpu_count"), 1.0);
    let table = cli.ok(&["top"]);
    assert!(table.lines().count() == 2 && table.contains("busy"), "{table}");
    assert!(!table.contains('\u{1b}'), "no control sequences into a pipe");
    let found = cli.run(&["inspect", "busy", "python:3.11"]).json();
    assert_eq!((found[0]["kind"].as_str(), found[1]["kind"].as_str()), (Some("agent"), Some("image")));
    // On a terminal: a live table that ctrl-C ends, and the screen is put back.
    let mut terminal = aether_e2e::Pty::spawn(cli.command(&["top", "-d", "500ms"]), 80, 24);
    terminal.expect("busy", LONG);
    terminal.type_text("\u{3}");
    assert_eq!(terminal.wait(LONG), Some(0));
    assert!(terminal.text().trim_end().ends_with("\u{1b}[?1049l"), "{:?}", terminal.text());
}

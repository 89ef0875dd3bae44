//! What people see, to the letter: on a terminal of 80 columns, in a pipe,
//! with NO_COLOR, and when the reader goes away. The server is one that the
//! test plays, so that every word is known.

use crate::{Run, aether};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

/// A server that answers these paths, each as often as it is asked.
#[allow(clippy::disallowed_methods, reason = "a server of a test")]
fn serve(answers: Vec<(&'static str, String)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = format!("http://{}", listener.local_addr().expect("address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accepts");
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => request.extend_from_slice(&buffer[..count]),
                }
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let found = answers.iter().find(|(prefix, _)| path.starts_with(prefix));
            let (status, body) = match found {
                Some((_, body)) => ("200 OK", body.clone()),
                None => ("404 Not Found", String::new()),
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
    address
}

fn agent(id: &str, name: &str, status: &str, more: &Value) -> Value {
    let mut agent = json!({
        "id": id, "name": name, "tenant_id": "default",
        "config": { "image": "registry.example.com/team/a-rather-long-name/python:3.11",
            "command": ["python3"], "args": ["-c", "while True: print('working')"], "health": null },
        "env_names": [], "status": status, "desired": "running", "version": 7, "generation": 2,
        "created_at": "2020-01-02T03:04:05Z",
    });
    for (key, value) in more.as_object().expect("an object") {
        agent[key] = value.clone();
    }
    agent
}

fn answers() -> Vec<(&'static str, String)> {
    let page = json!({ "data": [
        agent("agtc0aaaaaaaaaaaaaaaa", "web", "stopped", &json!({ "exit_code": 3 })),
        agent("agtc0bbbbbbbbbbbbbbbb", "a-worker-with-a-long-name", "pending", &json!({ "queue_position": 2 })),
        agent("agtc0cccccccccccccccc", "evil\u{1b}[31m", "failed", &json!({ "error": { "code": "BOOT_FAILED", "message": "m" } })),
    ], "page": 1, "per_page": 100, "total": 3 });
    let events = json!({ "data": [{ "id": "0-1", "time": "2026-01-02T03:04:05.678Z", "kind": "agent.observed",
        "agent_id": "agtc0aaaaaaaaaaaaaaaa", "agent_name": "web", "version": 2, "generation": 1,
        "data": { "from": "creating", "to": "running" } }], "next": "0-1", "more": false });
    let audit = json!({ "data": [
        { "id": 8, "time": "2026-01-02T03:04:05.678Z", "actor": "keyc0a", "action": "delete", "resource": "agent",
          "resource_id": "agtc0aaaaaaaaaaaaaaaa", "result": "success", "address": "192.0.2.7", "details": {}, "position": 3 },
        { "id": 7, "time": "2026-01-02T03:04:05.000Z", "actor": "local:0", "action": "audit:read", "resource": "route",
          "result": "denied", "details": {} },
    ], "page": 1, "per_page": 100, "total": 2 });
    let usage = json!({ "images": { "count": 2, "active": 1, "bytes": 300_000_000, "reclaimable_bytes": 100_000_000 },
        "agents": { "count": 1, "active": 1, "bytes": 5_000_000, "reclaimable_bytes": 0 } });
    let stats = json!({ "cpu_usage_percent": 12.34, "cpu_usage_us": 1_500_000, "cpu_count": 2,
        "memory_usage_bytes": 100_000_000, "memory_total_bytes": 256_000_000, "disk_usage_bytes": 5_000_000,
        "disk_total_bytes": 10_000_000_000u64, "network_rx_bytes": 1000, "network_tx_bytes": 2000, "processes": 3,
        "uptime_ms": 65_000, "host_cpu_usage_us": 2_500_000, "host_memory_bytes": 120_000_000,
        "host_disk_bytes": 6_000_000, "sampled_at": "2026-01-02T03:04:05Z" });
    vec![
        ("/v1/agents/web/stats", stats.to_string()),
        ("/v1/agents?", page.to_string()),
        ("/v1/events", events.to_string()),
        ("/v1/audit?", audit.to_string()),
        ("/v1/system/df", usage.to_string()),
    ]
}

fn plain(dir: &Path, server: &str, args: &[&str]) -> Run {
    crate::run(dir, &[&["--server", server], args].concat())
}

/// On a terminal of so many columns, as `script` makes one.
fn on_terminal(dir: &Path, columns: u32, env: &[(&str, &str)], words: &str) -> String {
    let mut script = Command::new("script");
    script.args([
        "-qec",
        &format!("stty cols {columns} rows 24; {} {words}", env!("CARGO_BIN_EXE_aether")),
        "/dev/null",
    ]);
    script.env("HOME", dir).env("TERM", "xterm").env_remove("COLUMNS").envs(env.iter().copied());
    let out = script.current_dir(dir).stdin(Stdio::null()).output().expect("script is installed");
    String::from_utf8_lossy(&out.stdout).replace("\r\n", "\n")
}

#[test]
fn in_a_pipe_every_cell_is_whole_and_nothing_is_coloured() {
    let dir = tempfile::tempdir().expect("tempdir");
    let server = serve(answers());
    let listed = plain(dir.path(), &server, &["ps"]);
    let lines: Vec<&str> = listed.stdout.lines().collect();
    assert!(lines[0].starts_with("ID                      NAME                        IMAGE"), "{}", lines[0]);
    assert!(lines[1].contains("python3 -c 'while True: print") && lines[1].contains("stopped (3)"), "{}", lines[1]);
    assert!(lines[2].contains("pending (queue 2)") && lines[3].contains("failed (BOOT_FAILED)"), "{listed:?}");
    assert!(!listed.stdout.contains('\u{1b}') && listed.stderr.is_empty(), "{listed:?}");
    let ids = "agtc0aaaaaaaaaaaaaaaa\nagtc0bbbbbbbbbbbbbbbb\nagtc0cccccccccccccccc\n";
    assert_eq!(plain(dir.path(), &server, &["ps", "-q"]).stdout, ids);
    let events = plain(dir.path(), &server, &["events"]).stdout;
    assert_eq!(events, "2026-01-02T03:04:05.678Z  agent.observed  web  creating → running\n");
    let usage = "KIND     TOTAL   ACTIVE   SIZE      RECLAIMABLE\n\
                 images   2       1        300 MB    100 MB\n\
                 agents   1       1        5.00 MB   0 B\n";
    assert_eq!(plain(dir.path(), &server, &["system", "df"]).stdout, usage);
    let audit = "ID   TIME                       ACTOR     ACTION       RESOURCE                      RESULT    ADDRESS     POSITION\n\
                 8    2026-01-02T03:04:05.678Z   keyc0a    delete       agent agtc0aaaaaaaaaaaaaaaa   success   192.0.2.7   3\n\
                 7    2026-01-02T03:04:05.000Z   local:0   audit:read   route                         denied                -\n";
    assert_eq!(plain(dir.path(), &server, &["audit", "list"]).stdout, audit);
    let stats = "CPU:          12.3 % of 2 CPUs, 1.5 s in all\n\
                 Memory:       100 MB of 256 MB\n\
                 Disk:         5.00 MB of 10.0 GB\n\
                 Network:      1.00 kB in, 2.00 kB out\n\
                 Processes:    3\n\
                 Up:           65 seconds\n\
                 Host CPU:     2.5 s\n\
                 Host memory:  120 MB\n\
                 Host disk:    6.00 MB\n";
    assert_eq!(plain(dir.path(), &server, &["stats", "web"]).stdout, stats);
    let top = "AGENT   CPU %   MEMORY          DISK      IN/s   OUT/s   PROCS\n\
               web     12.3    100 MB/256 MB   5.00 MB   -      -       3\n";
    assert_eq!(plain(dir.path(), &server, &["top", "web"]).stdout, top);
    for args in [&["ps"][..], &["stats", "web"], &["events"], &["system", "df"]] {
        let json = plain(dir.path(), &server, &[&["-o", "json"], args].concat());
        assert!(serde_json::from_str::<Value>(&json.stdout).is_ok(), "{args:?}: {json:?}");
    }
}

#[test]
fn a_terminal_of_80_columns_is_not_overrun() {
    let dir = tempfile::tempdir().expect("tempdir");
    let server = serve(answers());
    for words in
        ["ps", "top -n 1 web", "system df", "--help", "agent update --help", "run --help", "port-forward --help"]
    {
        let shown = on_terminal(dir.path(), 80, &[("AETHER_SERVER", &server), ("NO_COLOR", "1")], words);
        assert!(!shown.trim().is_empty(), "{words}");
        // `top` uses the terminal's other screen; that is no colour.
        let text = shown.replace("\u{1b}[?1049h\u{1b}[?25l", "").replace("\u{1b}[?25h\u{1b}[?1049l", "");
        let text = text.replace("\u{1b}[H", "").replace("\u{1b}[K", "").replace("\u{1b}[J", "");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{words}: {line:?}");
        }
        assert!(!text.contains('\u{1b}'), "{words}: NO_COLOR is heeded, and a guest's text does not command: {text:?}");
    }
    let wide = on_terminal(dir.path(), 200, &[("AETHER_SERVER", &server)], "ps");
    assert!(wide.contains("a-worker-with-a-long-name"), "{wide}");
    let narrow = on_terminal(dir.path(), 80, &[("AETHER_SERVER", &server)], "ps");
    assert!(narrow.contains("agtc0bbbbbbbbbbbbbbbb") && narrow.contains('…'), "{narrow}");
}

#[test]
fn a_reader_that_goes_away_ends_every_command_in_silence() {
    let dir = tempfile::tempdir().expect("tempdir");
    let many: Vec<Value> =
        (0..3000).map(|n| agent("agtc0aaaaaaaaaaaaaaaa", &format!("agent-{n}"), "stopped", &json!({}))).collect();
    let page = json!({ "data": many, "page": 1, "per_page": 100, "total": 3000 }).to_string();
    let server = serve(vec![("/v1/agents?", page)]);
    for words in ["ps", "-o json ps", "ps -q", "--help", "help agent create"] {
        let line = format!("{} {words} | head -c 10 >/dev/null; echo ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_aether"));
        let mut shell = Command::new("bash");
        shell.args(["-c", &line]).env("AETHER_SERVER", &server).env("HOME", dir.path()).current_dir(dir.path());
        let out = shell.output().expect("bash");
        assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "0", "{words}");
        assert!(out.stderr.is_empty(), "{words}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn errors_go_to_stderr_and_leave_stdout_alone() {
    let dir = tempfile::tempdir().expect("tempdir");
    let server = serve(Vec::new());
    for args in [&["ps"][..], &["stats", "web"], &["events"], &["inspect", "web"], &["port-forward", "web", "0:80"]] {
        let run = plain(dir.path(), &server, args);
        assert_eq!(run.code, Some(1), "{args:?}: {run:?}");
        assert!(run.stdout.is_empty() && run.stderr.starts_with("error: "), "{args:?}: {run:?}");
    }
    let token = aether(dir.path(), &["--server", &server, "ps"]).env("AETHER_TOKEN", "aether_sk_s3cr3t").output();
    assert!(!String::from_utf8_lossy(&token.expect("starts").stderr).contains("s3cr3t"));
}

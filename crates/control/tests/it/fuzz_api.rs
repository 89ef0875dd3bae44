//! Test 28, its API part: requests that schemathesis makes of the OpenAPI
//! document, as every kind of caller. No answer is a 5xx, or another than the
//! document says. `AETHER_FUZZ_API_SECONDS` is the budget of each caller; in
//! CI there are three of them.

use crate::harness::{Server, start};
use aether_core::Role;
use aether_counted::{Counted, seed, trials};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use tokio::process::Command;

const SECONDS: &str = "AETHER_FUZZ_API_SECONDS";
const SECONDS_CI: u64 = 4;
/// Streams last until their client goes; every one has a test of its own.
const STREAMS: [&str; 3] = ["list_events", "exec_stream", "forward_port"];
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// Where `scripts/deps.sh test` puts it.
const HOME: &str = "/usr/local/lib/aether-schemathesis";

async fn run(server: &Server, key: Option<&str>, (seconds, seed): (u64, u64)) -> Output {
    let mut command = Command::new("python3");
    let home = std::env::var_os("AETHER_SCHEMATHESIS").map_or_else(|| PathBuf::from(HOME), PathBuf::from);
    command.env("PYTHONPATH", home).args(["-m", "schemathesis.cli", "run"]).arg(format!("{}/openapi.json", server.url));
    command.args(["--phases", "coverage,fuzzing", "--workers", "1", "--request-timeout", "30", "--no-color"]);
    command.args(["--max-time", &seconds.to_string(), "--seed", &seed.to_string(), "--continue-on-failure"]);
    command.args(["--checks", CHECKS, "--generation-database", "none", "--warnings", "off"]);
    for stream in STREAMS {
        command.args(["--exclude-operation-id", stream]);
    }
    if let Some(key) = key {
        command.args(["-H", &format!("Authorization: Bearer {key}")]);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command.output().await.expect("python3 runs")
}

/// How many requests it tells of.
fn generated(text: &str) -> Option<u64> {
    let line = text.lines().rev().find(|line| line.contains(" generated"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_meets_a_bug_or_an_undocumented_answer() {
    let server = start().await;
    let (seconds, seed) = (trials(SECONDS, SECONDS_CI), seed() % (1 << 32));
    let mut counted = Counted::new("api_fuzz", 28, "requests made of the OpenAPI document", seed);
    server.agent("a").await;
    let mut callers = vec![("nobody", None)];
    for role in [Role::PlatformAdmin, Role::Operator, Role::Admin, Role::Developer, Role::Viewer, Role::Auditor] {
        callers.push((role.as_str(), Some(server.key("default", role, None).await)));
    }
    callers.push(("another tenant", Some(server.key("other", Role::Admin, None).await)));
    if std::env::var_os(SECONDS).is_none() {
        callers.retain(|(name, _)| ["nobody", "admin", "platform_admin"].contains(name));
    }
    let mut wrong = Vec::new();
    for (name, key) in &callers {
        let output = run(&server, key.as_deref(), (seconds, seed)).await;
        let text = String::from_utf8_lossy(&output.stdout);
        counted.n += generated(&text).unwrap_or(0);
        if !output.status.success() || generated(&text).is_none() {
            counted.failures += 1;
            let errors = String::from_utf8_lossy(&output.stderr);
            wrong.push(format!("as {name}: {}\n{text}\n{errors}", output.status));
        }
    }
    counted.tell("callers", callers.len() as u64);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

//! The examples of docs/api.md, run as they stand there: against the scripted
//! node, over the socket, with curl.

use crate::harness::{over_socket, start};
use serde_json::json;
use std::process::Stdio;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.md");

fn examples() -> Vec<String> {
    let page = std::fs::read_to_string(PAGE).expect("the page");
    let lines = page.lines().filter_map(|l| l.strip_prefix("    "));
    lines.filter(|l| l.starts_with("api ") || l.contains("| api ")).map(str::to_owned).collect()
}

/// The page's own `alias`, as a function, which scripts can use.
fn prelude(socket: &str) -> String {
    let page = std::fs::read_to_string(PAGE).expect("the page");
    let alias = page.lines().find_map(|l| l.strip_prefix("    alias api='")).expect("the alias");
    let command = alias.trim_end_matches('\'').replace("/run/aether/aether.sock", socket);
    format!("set -o pipefail; api() {{ {command} --fail-with-body --max-time 20 \"$@\"; }}")
}

#[tokio::test]
async fn every_example_works() {
    let server = start().await;
    // One example removes it.
    let pull = server.post("/v1/images", json!({ "reference": "localhost:5000/team/python:3.11" }));
    assert!(pull.send().await.expect("answered").status().is_success());
    let examples = examples();
    assert!(examples.len() > 15, "{examples:?}");
    let dir = tempfile::tempdir().expect("tempdir");
    for file in ["data.csv", "python.tar"] {
        std::fs::write(dir.path().join(file), "x".repeat(1000)).expect("writes");
    }
    // What an earlier example deleted, a later one needs; and one follows for ever.
    let again = json!({ "image": "python:3.11", "name": "my-first-agent" });
    let mut created = false;
    for example in examples {
        let (status, _) = over_socket(&server.socket, "/v1/agents/my-first-agent").await;
        created |= example.contains("\"name\":\"my-first-agent\"");
        if created && status.as_u16() == 404 && !example.contains("\"name\":") {
            let made = crate::harness::ok(server.post("/v1/agents?wait=running", again.clone())).await;
            assert_eq!(made.0.as_u16(), 201, "{}", made.1);
        }
        let endless = example.contains("text/event-stream");
        let command = if endless { example.replacen("api ", "api --max-time 2 ", 1) } else { example.clone() };
        let script = format!("{}\n{command}", prelude(&server.socket.to_string_lossy()));
        let output = tokio::process::Command::new("bash")
            .args(["-c", &script])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .output()
            .await
            .expect("bash and curl are installed");
        let told = format!(
            "{example}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        // 28: curl's own time was over.
        assert_eq!(output.status.code(), Some(if endless { 28 } else { 0 }), "{told}");
        assert!(!told.contains("\"phase\":\"failed\""), "{told}");
    }
    assert!(dir.path().join("home.tar").metadata().is_ok_and(|m| m.len() > 0));
}

//! The HTTP API from outside, with curl.

use aether_e2e::{Server, Settings};
use serde_json::Value;
use std::process::Command;

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

pub(crate) fn curl(args: &[&str]) -> Answer {
    let out = Command::new("curl").args(["-sS", "-m", "120", "-w", "\n%{http_code}"]).args(args).output();
    let text = String::from_utf8_lossy(&out.expect("curl runs").stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').expect("a status");
    Answer { status: status.parse().expect("a number"), body: body.to_owned() }
}

/// All events there are, in order, over the local socket.
pub(crate) fn all_events(socket: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let url = format!("http://aether/v1/events?limit=100{cursor}");
        let answer = curl(&["--unix-socket", socket, &url]);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let page: Value = serde_json::from_str(&answer.body).expect("JSON");
        let events = page["data"].as_array().expect("a list").clone();
        let Some(last) = events.last().and_then(|e| e["id"].as_str()) else { return all };
        cursor = format!("&after={last}");
        all.extend(events);
    }
}

#[test]
fn over_tcp_a_key_is_needed_and_over_the_socket_none() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let server = Server::with_image(Settings::default().with("server.address", &format!("127.0.0.1:{port}")));
    let base = format!("http://127.0.0.1:{port}");
    let url = |path: &str| format!("{base}{path}");

    assert_eq!(curl(&[&url("/health")]).status, 200);
    assert_eq!(curl(&[&url("/readiness")]).status, 200);
    let denied = curl(&[&url("/v1/agents")]);
    assert_eq!(denied.status, 401);
    assert!(denied.body.contains("UNAUTHORIZED") && denied.body.contains("remedy"), "{}", denied.body);
    let wrong = curl(&["-H", "Authorization: Bearer aether_sk_wrong", &url("/v1/agents")]);
    assert_eq!(wrong.status, 401);

    let key = std::fs::read_to_string(server.path("state/admin.key")).expect("the first start made an admin key");
    let bearer = format!("Authorization: Bearer {}", key.trim());
    let with_key = |args: &[&str]| curl(&[&["-H", bearer.as_str()], args].concat());
    assert_eq!(with_key(&[&url("/v1/agents")]).status, 200);
    let json = "Content-Type: application/json";
    let created =
        with_key(&["-H", json, "-d", r#"{"name":"by-curl","image":"python:3.11"}"#, &url("/v1/agents?wait=running")]);
    assert!(created.status == 201, "{} {}", created.status, created.body);
    let exec =
        with_key(&["-H", json, "-d", r#"{"command":["sh","-c","echo hi; exit 4"]}"#, &url("/v1/agents/by-curl/exec")]);
    assert_eq!(exec.status, 200, "{}", exec.body);
    let result: serde_json::Value = serde_json::from_str(&exec.body).expect("JSON");
    assert_eq!((&result["stdout"], &result["exit_code"]), (&"hi\n".into(), &4.into()));

    let bad =
        with_key(&["-H", json, "-d", r#"{"image":"python:3.11","resources":{"memory_mb":1}}"#, &url("/v1/agents")]);
    assert_eq!(bad.status, 400);
    assert!(bad.body.contains("VALIDATION_ERROR") && bad.body.contains("resources.memory_mb"), "{}", bad.body);
    assert_eq!(with_key(&["-X", "PATCH", &url("/v1/version")]).status, 405);
    assert_eq!(with_key(&[&url("/v1/nothing")]).status, 404);
    let document = curl(&[&url("/openapi.json")]);
    assert!(document.status == 200 && document.body.contains("/v1/agents/{id}/exec"));
    let metrics = curl(&[&url("/metrics")]);
    assert!(metrics.body.contains("aether_api_requests_total"), "{}", metrics.body);

    let socket = server.path("run/aether.sock").to_string_lossy().into_owned();
    assert_eq!(curl(&["--unix-socket", &socket, "http://localhost/v1/agents"]).status, 200);
    assert_eq!(with_key(&["-X", "DELETE", &url("/v1/agents/by-curl")]).status, 204);
    assert_eq!(server.finish(), Vec::<String>::new());
}

//! The WebSocket form of exec, and logs.

use crate::harness::{Server, ok, problem, start};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

pub(crate) type Socket = WebSocketStream<TcpStream>;

pub(crate) async fn open(server: &Server, path: &str) -> Result<Socket, Error> {
    open_as(server, &server.admin, path).await
}

pub(crate) async fn open_as(server: &Server, key: &str, path: &str) -> Result<Socket, Error> {
    open_with(server, path, &[("authorization", &format!("Bearer {key}"))]).await
}

/// With an idempotency key.
async fn keyed(server: &Server, path: &str, key: &str) -> Result<Socket, Error> {
    open_with(server, path, &[("authorization", &format!("Bearer {}", server.admin)), ("idempotency-key", key)]).await
}

async fn open_with(server: &Server, path: &str, headers: &[(&'static str, &str)]) -> Result<Socket, Error> {
    let mut request = format!("ws://{}{path}", server.address).into_client_request().expect("request");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("header"));
    }
    let stream = TcpStream::connect(server.address).await.expect("connects");
    client_async(request, stream).await.map(|(socket, _)| socket)
}

async fn say(socket: &mut Socket, frame: Value) {
    socket.send(Message::Text(frame.to_string().into())).await.expect("sent");
}

/// The next text frame; output before it is gathered.
async fn frame(socket: &mut Socket, output: &mut Vec<u8>) -> Value {
    loop {
        match socket.next().await.expect("open").expect("frame") {
            Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
            Message::Binary(data) => output.extend_from_slice(&data[1..]),
            _ => {}
        }
    }
}

async fn output(socket: &mut Socket, wanted: &str) {
    let mut got = Vec::new();
    while got.len() < wanted.len() {
        if let Message::Binary(data) = socket.next().await.expect("open").expect("frame") {
            assert_eq!(data[0], 1);
            got.extend_from_slice(&data[1..]);
        }
    }
    assert_eq!(String::from_utf8_lossy(&got), wanted);
}

#[tokio::test]
async fn stdin_resize_close_and_exit() {
    let server = start().await;
    let id = server.agent("term").await;
    let mut socket = open(&server, &format!("/v1/agents/{id}/exec")).await.expect("upgraded");
    say(
        &mut socket,
        json!({ "type": "start", "command": ["cat"], "open_stdin": true, "tty": true, "cols": 80, "rows": 24 }),
    )
    .await;
    let started = frame(&mut socket, &mut Vec::new()).await;
    assert_eq!((started["type"].as_str(), started["pid"].as_u64()), (Some("started"), Some(7)));
    socket.send(Message::Binary(b"hello".to_vec().into())).await.expect("sent");
    output(&mut socket, "hello").await;
    say(&mut socket, json!({ "type": "resize", "cols": 100, "rows": 30 })).await;
    output(&mut socket, "100x30").await;
    say(&mut socket, json!({ "type": "close_stdin" })).await;
    let exited = frame(&mut socket, &mut Vec::new()).await;
    assert_eq!((exited["type"].as_str(), exited["exit_code"].as_i64()), (Some("exited"), Some(0)));
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
}

#[tokio::test]
async fn signals_and_attaching() {
    let server = start().await;
    let id = server.agent("term").await;
    let mut socket = open(&server, &format!("/v1/agents/{id}/exec")).await.expect("upgraded");
    say(&mut socket, json!({ "type": "start", "command": ["cat"], "open_stdin": true })).await;
    let started = frame(&mut socket, &mut Vec::new()).await;
    say(&mut socket, json!({ "type": "signal", "signal": "SIGINT" })).await;
    assert_eq!(frame(&mut socket, &mut Vec::new()).await["signal"], "SIGINT");
    let exec = started["exec_id"].as_str().expect("id");
    let mut socket = open(&server, &format!("/v1/agents/{id}/exec?exec_id={exec}&offset=3")).await.expect("upgraded");
    assert_eq!(frame(&mut socket, &mut Vec::new()).await["type"], "started");
    let mut seen = Vec::new();
    assert_eq!(frame(&mut socket, &mut seen).await["type"], "exited");
    assert_eq!(seen, b"again\n");
}

#[tokio::test]
async fn a_repeat_on_a_stopped_agent_tells_what_is_recorded() {
    let server = start().await;
    let id = server.agent("term").await;
    let path = format!("/v1/agents/{id}/exec");
    let start = |command: &str| json!({ "type": "start", "command": [command, "3"] });
    let mut socket = keyed(&server, &path, "k").await.expect("upgraded");
    say(&mut socket, start("exit")).await;
    assert_eq!(frame(&mut socket, &mut Vec::new()).await["type"], "started");
    assert_eq!(frame(&mut socket, &mut Vec::new()).await["exit_code"], 3);
    ok(server.request(reqwest::Method::POST, &format!("/v1/agents/{id}/stop?wait=stopped"))).await;
    server.exec_ended(&id).await;
    let mut socket = keyed(&server, &path, "k").await.expect("upgraded");
    say(&mut socket, start("exit")).await;
    let exited = frame(&mut socket, &mut Vec::new()).await;
    assert_eq!((exited["type"].as_str(), exited["exit_code"].as_i64()), (Some("exited"), Some(3)), "{exited}");
    for (key, command, code) in [("k", "other", "IDEMPOTENCY_MISMATCH"), ("new", "exit", "CONFLICT")] {
        let mut socket = keyed(&server, &path, key).await.expect("upgraded");
        say(&mut socket, start(command)).await;
        assert_eq!(frame(&mut socket, &mut Vec::new()).await["problem"]["code"], code);
    }
    let attach = keyed(&server, &format!("{path}?exec_id=exec0aaaaaaaaaaaaaaaa"), "k").await;
    assert!(matches!(attach, Err(Error::Http(response)) if response.status() == 409), "there is no guest to attach to");
    assert!(matches!(open(&server, &path).await, Err(Error::Http(response)) if response.status() == 409));
    assert_eq!(server.node.all_runs(), 1);
}

#[tokio::test]
async fn large_output_arrives_whole() {
    let server = start().await;
    let id = server.agent("term").await;
    let mut socket = open(&server, &format!("/v1/agents/{id}/exec")).await.expect("upgraded");
    say(&mut socket, json!({ "type": "start", "command": ["flood", "8000000"] })).await;
    let mut seen = Vec::new();
    assert_eq!(frame(&mut socket, &mut seen).await["type"], "started");
    assert_eq!(frame(&mut socket, &mut seen).await["type"], "exited");
    assert_eq!(seen.len(), 8_000_000);
}

#[tokio::test]
async fn bad_streams_are_refused() {
    let server = start().await;
    let id = server.agent("term").await;
    let path = format!("/v1/agents/{id}/exec");
    problem(server.get(&path), 400, "BAD_REQUEST").await;
    let refused = |error: Result<Socket, Error>| match error {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("upgraded: {other:?}"),
    };
    assert_eq!(refused(open(&server, "/v1/agents/absent/exec").await), 404);
    assert_eq!(refused(open(&server, &format!("{path}?exec_id=nonsense")).await), 404);
    for (first, code) in [
        (json!({ "type": "close_stdin" }), "BAD_REQUEST"),
        (json!({ "type": "start", "command": [] }), "VALIDATION_ERROR"),
        (json!({ "type": "start", "command": ["a"], "nonsense": 1 }), "VALIDATION_ERROR"),
        (json!({ "type": "attach", "exec_id": "exec0aaaaaaaaaaaaaaaa" }), "NOT_FOUND"),
    ] {
        let mut socket = open(&server, &path).await.expect("upgraded");
        say(&mut socket, first).await;
        let error = frame(&mut socket, &mut Vec::new()).await;
        assert_eq!((error["type"].as_str(), error["problem"]["code"].as_str()), (Some("error"), Some(code)));
    }
    let mut socket = open(&server, &path).await.expect("upgraded");
    say(&mut socket, json!({ "type": "start", "command": ["cat"], "open_stdin": true })).await;
    frame(&mut socket, &mut Vec::new()).await;
    say(&mut socket, json!({ "type": "resize", "cols": 0, "rows": 1 })).await;
    assert_eq!(frame(&mut socket, &mut Vec::new()).await["problem"]["code"], "VALIDATION_ERROR");
}

#[tokio::test]
async fn a_drain_says_goodbye_to_streams() {
    let mut server = start().await;
    let id = server.agent("term").await;
    let mut socket = open(&server, &format!("/v1/agents/{id}/exec")).await.expect("upgraded");
    say(&mut socket, json!({ "type": "start", "command": ["cat"], "open_stdin": true })).await;
    frame(&mut socket, &mut Vec::new()).await;
    server.stop.cancel();
    let goodbye = frame(&mut socket, &mut Vec::new()).await;
    // The scripted node goes down with the same token: either is a goodbye.
    let told = goodbye["problem"]["code"] == "SERVICE_UNAVAILABLE" || goodbye["type"] == "unknown";
    assert!(told, "{goodbye}");
    let done = tokio::time::timeout(std::time::Duration::from_secs(60), &mut server.done).await;
    assert!(done.is_ok_and(|d| d.is_ok()), "the server ends");
}

#[tokio::test]
async fn logs_plain_and_followed() {
    let server = start().await;
    let id = server.agent("talker").await;
    let plain = server.get(&format!("/v1/agents/{id}/logs?tail=2")).send().await.expect("answered");
    assert_eq!(plain.text().await.expect("text"), "line 0\nline 1\n");
    let events = server.get(&format!("/v1/agents/{id}/logs?follow=true&tail=1")).header("accept", "text/event-stream");
    let response = events.send().await.expect("answered");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.bytes_stream();
    assert_eq!(body.next().await.expect("open").expect("chunk"), "id: 0\ndata: line 0\n\n");
    server.node.log_line();
    assert_eq!(body.next().await.expect("open").expect("chunk"), "id: 3\ndata: line 3\n\n");
    problem(server.get(&format!("/v1/agents/{id}/logs?since=never")), 400, "VALIDATION_ERROR").await;
    problem(server.get("/v1/agents/absent/logs"), 404, "NOT_FOUND").await;
    ok(server.post("/v1/agents", json!({ "image": "a", "name": "big", "resources": { "memory_mb": 131_072 } }))).await;
    let none = server.get("/v1/agents/big/logs").send().await.expect("answered");
    assert_eq!((none.status().as_u16(), none.text().await.expect("text")), (200, String::new()));
}

#[tokio::test]
async fn a_repeat_on_a_deleted_agent_tells_what_is_recorded() {
    let server = start().await;
    let id = server.agent("term").await;
    let path = "/v1/agents/term/exec";
    let start = || json!({ "type": "start", "command": ["exit", "3"] });
    let mut socket = keyed(&server, path, "k").await.expect("upgraded");
    say(&mut socket, start()).await;
    let started = frame(&mut socket, &mut Vec::new()).await;
    assert_eq!(frame(&mut socket, &mut Vec::new()).await["exit_code"], 3);
    server.exec_ended(&id).await;
    ok(server.request(reqwest::Method::DELETE, path.trim_end_matches("/exec"))).await;
    let mut socket = keyed(&server, path, "k").await.expect("upgraded");
    say(&mut socket, start()).await;
    assert_eq!(frame(&mut socket, &mut Vec::new()).await["exit_code"], 3, "{started}");
    let mut socket = keyed(&server, path, "new").await.expect("upgraded");
    say(&mut socket, start()).await;
    assert_eq!(frame(&mut socket, &mut Vec::new()).await["problem"]["code"], "NOT_FOUND");
    assert!(matches!(open(&server, path).await, Err(Error::Http(response)) if response.status() == 404));
    assert_eq!(server.node.all_runs(), 1);
}

//! Limits, problem documents outside the handlers, drain, a locked store.

use crate::harness::{ok, problem, start, start_with};
use reqwest::Method;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn every_error_is_a_problem_document() {
    let server = start().await;
    problem(server.get("/nowhere"), 404, "NOT_FOUND").await;
    problem(server.get("/v1/agents/a/b/c/d"), 404, "NOT_FOUND").await;
    problem(server.request(Method::PATCH, "/v1/agents"), 405, "METHOD_NOT_ALLOWED").await;
    let refused = server.request(Method::PATCH, "/v1/agents").send().await.expect("answered");
    assert!(refused.headers()["allow"].to_str().is_ok_and(|a| a.contains("POST")));
    problem(server.get("/v1/agents/%ff"), 400, "BAD_REQUEST").await;
    let response = server.get("/health").header("x-request-id", "mine-1").send().await.expect("answered");
    let headers = response.headers();
    assert_eq!(headers["x-request-id"], "mine-1");
    assert_eq!(
        (&headers["x-content-type-options"], &headers["cache-control"]),
        (&"nosniff".parse().expect("v"), &"no-store".parse().expect("v"))
    );
    assert!(headers.get("access-control-allow-origin").is_none());
    let hostile = server.get("/nowhere").header("x-request-id", "a b").send().await.expect("answered");
    assert!(hostile.headers()["x-request-id"].to_str().is_ok_and(|id| id.starts_with("req")));
    let (status, ready) = ok(server.get("/readiness")).await;
    assert_eq!((status.as_u16(), ready["checks"]["store"]["ok"].as_bool()), (200, Some(true)));
}

#[tokio::test]
async fn lists_are_answered_while_the_node_is_opened() {
    let server = start().await;
    let id = server.agent("known").await;
    let opened = tokio_util::sync::CancellationToken::new();
    let url = server.second_as(|control| control.before_its_node(opened.clone())).await;
    let get = |path: &str| server.client.get(format!("{url}{path}")).bearer_auth(&server.admin);
    let (status, list) = ok(get("/v1/agents")).await;
    assert_eq!((status.as_u16(), list["data"][0]["id"].as_str()), (200, Some(&*id)), "{list}");
    let (status, ready) = ok(get("/readiness")).await;
    let serving = &ready["checks"]["serving"];
    assert_eq!((status.as_u16(), serving["error"].as_str()), (503, Some("the node of this server is being opened")));
    opened.cancel();
    let (status, ready) = ok(get("/readiness")).await;
    assert_eq!((status.as_u16(), &ready["checks"]["serving"]["ok"]), (200, &json!(true)), "{ready}");
}

async fn closed_within(mut stream: TcpStream, limit: Duration) -> bool {
    let mut buf = [0; 1024];
    let ended = async { while stream.read(&mut buf).await.is_ok_and(|n| n > 0) {} };
    tokio::time::timeout(limit, ended).await.is_ok()
}

#[tokio::test]
async fn slow_clients_are_cut() {
    let server = start_with(|cfg| cfg.limits.header_timeout = Duration::from_millis(500)).await;
    for begin in ["", "P", "GET / HTTP/1.1\r\nhost: a\r\nx: ", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.expect("connects");
        stream.write_all(begin.as_bytes()).await.expect("written");
        assert!(closed_within(stream, Duration::from_secs(20)).await, "{begin:?} was left open");
    }
    let mut stream = TcpStream::connect(server.address).await.expect("connects");
    let head = format!("GET /health HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_body_that_never_comes_meets_the_deadline() {
    let server = start_with(|cfg| cfg.deadlines.short = Duration::from_millis(500)).await;
    let body = futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
    let request = server.request(Method::POST, "/v1/auth/keys").header("content-type", "application/json");
    problem(request.body(reqwest::Body::wrap_stream(body)), 504, "TIMEOUT").await;
}

#[tokio::test]
async fn a_body_that_does_not_come_in_time_is_a_408() {
    let server = start_with(|cfg| cfg.limits.header_timeout = Duration::from_secs(4)).await;
    let id = server.agent("late").await;
    for path in ["/v1/auth/keys".to_owned(), format!("/v1/agents/{id}/exec")] {
        let body = futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
        let request = server.request(Method::POST, &path).header("content-type", "application/json");
        problem(request.body(reqwest::Body::wrap_stream(body)), 408, "REQUEST_TIMEOUT").await;
    }
}

#[tokio::test]
async fn large_bodies_share_their_room_and_small_ones_need_none() {
    let server = start_with(|cfg| {
        cfg.limits.json_bytes_in_all = 100_000;
        // Held for as long as the test wants.
        cfg.limits.header_timeout = Duration::from_secs(600);
        cfg.deadlines.short = Duration::from_secs(600);
    })
    .await;
    let begun = |bytes: usize| {
        let first = futures::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from(vec![b' '; bytes]))]);
        let body = reqwest::Body::wrap_stream(futures::StreamExt::chain(first, futures::stream::pending()));
        server.request(Method::POST, "/v1/auth/keys").header("content-type", "application/json").body(body)
    };
    let mut held = tokio::spawn(begun(110_000).send());
    let mut refused = false;
    for _ in 0..200 {
        refused = problem_code(begun(40_000)).await == "SERVICE_UNAVAILABLE";
        if refused {
            break;
        }
        // Where the smaller one came first the larger one was refused.
        if held.is_finished() {
            held = tokio::spawn(begun(110_000).send());
        }
    }
    assert!(refused, "there was room for both");
    let small = json!({ "name": "x".repeat(10_000), "role": "none" });
    problem(server.post("/v1/auth/keys", small), 400, "VALIDATION_ERROR").await;
    held.abort();
}

/// Of an answer that comes at once; empty if none does.
async fn problem_code(request: reqwest::RequestBuilder) -> String {
    let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_millis(500), request.send()).await else {
        return String::new();
    };
    if answer.status().as_u16() == 503 {
        assert!(answer.headers().contains_key("retry-after"));
    }
    let body: serde_json::Value = answer.json().await.expect("JSON");
    body["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn who_comes_gets_the_place_of_who_rests() {
    let server = start_with(|cfg| {
        cfg.limits.header_timeout = Duration::from_secs(120);
        cfg.limits.max_connections = 6;
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(TcpStream::connect(server.address).await.expect("connects"));
    }
    for _ in 0..3 {
        let answer = server.client.get(format!("{}/health", server.url)).header("connection", "close").send();
        let answer = tokio::time::timeout(Duration::from_secs(30), answer).await.expect("before any time-out");
        assert_eq!(answer.expect("answered").status().as_u16(), 200);
    }
    assert!(closed_within(held.remove(0), Duration::from_secs(30)).await, "the first has rested longest");
}

#[tokio::test]
async fn a_websocket_is_a_connection_like_others() {
    let server = start_with(|cfg| cfg.limits.max_connections_per_peer = 2).await;
    let id = server.agent("web").await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let stream = tokio::net::UnixStream::connect(&server.socket).await.expect("connects");
        let url = format!("ws://aether/v1/agents/{id}/ports/7");
        held.push(tokio_tungstenite::client_async(url, stream).await.expect("upgraded").0);
    }
    let mut more = tokio::net::UnixStream::connect(&server.socket).await.expect("connects");
    let read = tokio::time::timeout(Duration::from_secs(20), more.read(&mut [0; 16])).await.expect("closed in time");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn requests_of_one_peer_are_bounded_too() {
    let server = start_with(|cfg| {
        cfg.limits.max_connections_per_peer = 3;
        cfg.deadlines.wait = Duration::from_secs(6);
    })
    .await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().expect("client");
    let asked = |n: u32| {
        let body = json!({ "image": "never", "name": format!("n{n}") });
        client.post(format!("{}/v1/agents?wait=true", server.url)).bearer_auth(&server.admin).json(&body).send()
    };
    let mut refused = 0;
    for answer in futures::future::join_all((0..8).map(asked)).await {
        let answer = answer.expect("answered");
        if answer.status().as_u16() == 503 {
            assert!(answer.headers().contains_key("retry-after"));
            refused += 1;
        }
    }
    assert!(refused > 0 && refused < 8, "{refused} of 8");
}

#[tokio::test]
async fn an_answer_that_nobody_takes_ends_its_connection() {
    let server = start_with(|cfg| cfg.limits.untaken = Duration::from_secs(1)).await;
    let socket = tokio::net::TcpSocket::new_v4().expect("socket");
    socket.set_recv_buffer_size(4096).expect("set");
    let mut stream = socket.connect(server.address).await.expect("connects");
    let asked = b"GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n".repeat(500);
    let asking = async {
        loop {
            if stream.write_all(&asked).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asking).await.expect("the server closes it");
}

#[tokio::test]
async fn connections_from_one_address_are_bounded() {
    let server = start_with(|cfg| cfg.limits.max_connections_per_peer = 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(server.address).await.expect("connects"));
    }
    let more = TcpStream::connect(server.address).await.expect("connects");
    assert!(closed_within(more, Duration::from_secs(20)).await);
}

#[tokio::test]
async fn connections_of_one_local_user_are_bounded_and_given_back() {
    let server = start_with(|cfg| cfg.limits.max_connections_per_peer = 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(tokio::net::UnixStream::connect(&server.socket).await.expect("connects"));
    }
    let mut more = tokio::net::UnixStream::connect(&server.socket).await.expect("connects");
    let mut buffer = [0; 16];
    let read = tokio::time::timeout(Duration::from_secs(20), more.read(&mut buffer)).await.expect("closed in time");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    held.clear();
    server
        .until(|s| async move {
            let Ok(mut stream) = tokio::net::UnixStream::connect(&s.socket).await else { return false };
            let asked = stream.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
            let mut answer = Vec::new();
            asked.is_ok() && stream.read_to_end(&mut answer).await.is_ok() && answer.starts_with(b"HTTP/1.1 200")
        })
        .await;
}

#[tokio::test]
async fn http2_heads_and_streams_are_bounded() {
    let server = start_with(|cfg| {
        cfg.limits.header_bytes = 16 * 1024;
        cfg.limits.h2_streams = 4;
    })
    .await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().expect("client");
    let giant = client.get(format!("{}/health", server.url)).header("x", "y".repeat(64 * 1024)).send().await;
    assert!(giant.as_ref().map_or(true, |answer| answer.status().as_u16() == 431), "{giant:?}");
    // More than may be open at once take their turns: none is lost.
    let all = (0..32).map(|_| client.get(format!("{}/health", server.url)).send());
    for answer in futures::future::join_all(all).await {
        assert_eq!(answer.expect("answered").status().as_u16(), 200);
    }
}

#[tokio::test]
async fn running_requests_end_before_the_server() {
    let mut server = start().await;
    let id = server.agent("last").await;
    let request = server.post(&format!("/v1/agents/{id}/exec"), json!({ "command": ["sleep"], "timeout": 2 }));
    let call = tokio::spawn(request.send());
    server.until(|s| async move { s.node.all_runs() == 1 }).await;
    // Of the control plane alone: the node's side goes on.
    server.stop.cancel();
    let done = tokio::time::timeout(Duration::from_secs(60), &mut server.done).await;
    assert!(done.is_ok_and(|d| d.is_ok()), "the server ends");
    assert!(call.await.expect("joined").is_ok(), "the running request was answered");
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_locked_store_is_a_503_and_heals() {
    let server = start_with(|cfg| cfg.deadlines.short = Duration::from_secs(60)).await;
    let lock = rusqlite::Connection::open(&server.database).expect("opens");
    lock.execute_batch("BEGIN IMMEDIATE").expect("locks");
    let body = problem(server.post("/v1/agents", json!({ "image": "never" })), 503, "SERVICE_UNAVAILABLE").await;
    assert!(body["retry_after"].is_u64() && !body.to_string().contains("sqlite"));
    lock.execute_batch("ROLLBACK").expect("unlocks");
    server
        .until(|s| async move { ok(s.post("/v1/agents", json!({ "image": "never" }))).await.0.as_u16() == 201 })
        .await;
}

#[tokio::test]
async fn browsers_are_let_in_from_listed_origins_only() {
    let server = start_with(|cfg| {
        cfg.cors = Some(aether_control::CorsConfig { allowed_origins: vec!["https://console.example".into()] });
    })
    .await;
    for (origin, allowed) in [("https://console.example", true), ("https://evil.example", false)] {
        let preflight = server.client.request(Method::OPTIONS, format!("{}/v1/agents", server.url));
        let preflight = preflight.header("origin", origin).header("access-control-request-method", "POST");
        let headers = preflight.send().await.expect("answered").headers().clone();
        assert_eq!(headers.get("access-control-allow-origin").is_some(), allowed, "{origin}");
    }
}

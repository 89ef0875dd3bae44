//! What is open when its caller's right to it ends, ends.

use crate::harness::{Server, ok, start};
use crate::stream::{Socket, open_as};
use crate::tenants::operated;
use aether_core::Role;
use futures::{SinkExt, StreamExt};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// As a revoked key must be dead everywhere.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Several looks at the right.
const LASTS: Duration = Duration::from_secs(3);

/// One of everything that stays open.
struct Open {
    events: reqwest::Response,
    logs: reqwest::Response,
    terminal: Socket,
    port: Socket,
    exec: tokio::task::JoinHandle<(StatusCode, Value)>,
    upload: tokio::task::JoinHandle<Result<reqwest::Response, reqwest::Error>>,
}

async fn streamed(server: &Server, key: &str, path: &str) -> reqwest::Response {
    let request = server.as_key(key, Method::GET, path).header("accept", "text/event-stream");
    let mut response = request.send().await.expect("answered");
    assert_eq!(response.status(), StatusCode::OK);
    response.chunk().await.expect("unbroken").expect("a greeting or a line");
    response
}

impl Open {
    async fn all(server: &Server, key: &str, agent: &str) -> Self {
        let under = format!("/v1/agents/{agent}");
        let mut terminal = open_as(server, key, &format!("{under}/exec")).await.expect("upgraded");
        let begin = json!({ "type": "start", "command": ["cat"], "open_stdin": true });
        terminal.send(Message::Text(begin.to_string().into())).await.expect("sent");
        assert!(matches!(terminal.next().await, Some(Ok(Message::Text(_)))), "started");
        let exec = server.as_key(key, Method::POST, &format!("{under}/exec")).json(&json!({ "command": ["sleep"] }));
        let never = reqwest::Body::wrap_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let upload = server.as_key(key, Method::PUT, &format!("{under}/files?path=/tmp/x")).body(never);
        Self {
            events: streamed(server, key, "/v1/events").await,
            logs: streamed(server, key, &format!("{under}/logs?follow=true")).await,
            terminal,
            port: open_as(server, key, &format!("{under}/ports/7")).await.expect("upgraded"),
            exec: tokio::spawn(ok(exec)),
            upload: tokio::spawn(upload.send()),
        }
    }

    async fn ends(mut self) {
        let all = async {
            while let Ok(Some(_)) = self.events.chunk().await {}
            while let Ok(Some(_)) = self.logs.chunk().await {}
            for mut socket in [self.terminal, self.port] {
                let mut last = None;
                while let Some(Ok(message)) = socket.next().await {
                    last = Some(message);
                }
                let Some(Message::Close(Some(close))) = last else { panic!("no farewell: {last:?}") };
                assert_eq!(u16::from(close.code), 1008);
            }
            let (status, body) = self.exec.await.expect("joined");
            assert_eq!((status, body["code"].as_str()), (StatusCode::UNAUTHORIZED, Some("UNAUTHORIZED")));
            let upload = self.upload.await.expect("joined");
            assert!(upload.is_err() || upload.is_ok_and(|r| r.status() == StatusCode::UNAUTHORIZED));
        };
        timeout(ENDS_WITHIN, all).await.expect("ends with the right to it");
    }

    async fn lasts(&mut self) {
        let text = || Message::Text(json!({ "type": "resize", "cols": 9, "rows": 9 }).to_string().into());
        tokio::time::sleep(LASTS).await;
        self.terminal.send(text()).await.expect("sent");
        assert!(matches!(self.terminal.next().await, Some(Ok(Message::Binary(_)))), "is answered");
        self.port.send(Message::Binary(vec![7].into())).await.expect("sent");
        assert!(matches!(self.port.next().await, Some(Ok(Message::Binary(_)))), "is answered");
        assert!(!self.exec.is_finished() && !self.upload.is_finished());
    }
}

/// Two keys of a new tenant with an agent: each in clear, the first's id too.
async fn tenant(server: &Server, tenant: &str) -> (String, String, String) {
    let admin = server.key(tenant, Role::Admin, None).await;
    let body = json!({ "image": "python:3.11", "name": "a" });
    ok(server.as_key(&admin, Method::POST, "/v1/agents?wait=running").json(&body)).await;
    let request = json!({ "name": "second", "role": "developer" });
    let (_, made) = ok(server.as_key(&admin, Method::POST, "/v1/auth/keys").json(&request)).await;
    let text = |field: &str| made[field].as_str().expect("text").to_owned();
    (admin, text("key"), text("id"))
}

#[tokio::test]
async fn what_a_revoked_key_opened_ends_and_nothing_else() {
    let server = start().await;
    let (admin, key, id) = tenant(&server, "acme").await;
    let (of_key, mut of_another) = (Open::all(&server, &key, "a").await, Open::all(&server, &admin, "a").await);
    // On another server, as it may happen.
    let second = server.second().await;
    let revoke = server.client.delete(format!("{second}/v1/auth/keys/{id}")).bearer_auth(&admin);
    assert_eq!(revoke.send().await.expect("answered").status(), StatusCode::NO_CONTENT);
    of_key.ends().await;
    of_another.lasts().await;
}

#[tokio::test]
async fn what_a_tenant_opened_ends_with_its_suspension() {
    let server = operated().await;
    let (admin, _, _) = tenant(&server, "acme").await;
    let (neighbour, _, _) = tenant(&server, "other").await;
    let (open, mut of_another) = (Open::all(&server, &admin, "a").await, Open::all(&server, &neighbour, "a").await);
    let set = async |what: &str| ok(server.post(&format!("/v1/tenants/acme/{what}"), json!({}))).await.0;
    assert_eq!(set("suspend").await, StatusCode::OK);
    open.ends().await;
    of_another.lasts().await;
    // A right that was given back is a new one.
    assert_eq!(set("resume").await, StatusCode::OK);
    Open::all(&server, &admin, "a").await.lasts().await;
}

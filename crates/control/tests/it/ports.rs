//! Forwarded connections over the WebSocket.

use crate::harness::{problem, start};
use crate::stream::{Socket, open};
use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::{Error, Message};

async fn next(socket: &mut Socket) -> Option<Message> {
    loop {
        match socket.next().await?.ok()? {
            Message::Ping(_) | Message::Pong(_) => {}
            other => return Some(other),
        }
    }
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_direction_ends_by_itself() {
    let server = start().await;
    let id = server.agent("web").await;
    let mut socket = open(&server, &format!("/v1/agents/{id}/ports/7")).await.expect("upgraded");
    // Larger than a piece, and than all that may be under way.
    let sent: Vec<u8> = (0..700_000u32).map(|n| n as u8).collect();
    socket.send(Message::Binary(sent.clone().into())).await.expect("sent");
    let mut got = Vec::new();
    while got.len() < sent.len() {
        match next(&mut socket).await {
            Some(Message::Binary(data)) => got.extend_from_slice(&data),
            other => panic!("{other:?}"),
        }
    }
    assert!(got == sent, "as it was sent");
    socket.send(Message::Text("eof".into())).await.expect("sent");
    assert_eq!(next(&mut socket).await, Some(Message::Text("eof".into())));
    socket.close(None).await.expect("closes");
}

#[tokio::test]
async fn a_broken_connection_and_wrong_frames_end_it() {
    let server = start().await;
    server.agent("web").await;
    for (port, frame) in [(9, Message::Binary(vec![1].into())), (7, Message::Text("hello".into()))] {
        let mut socket = open(&server, &format!("/v1/agents/web/ports/{port}")).await.expect("upgraded");
        socket.send(frame).await.expect("sent");
        let close = next(&mut socket).await;
        assert!(matches!(&close, Some(Message::Close(Some(frame))) if u16::from(frame.code) == 1011), "{close:?}");
    }
}

#[tokio::test]
async fn refusals_come_before_the_upgrade() {
    let server = start().await;
    server.agent("web").await;
    crate::harness::ok(server.post("/v1/agents", json!({ "image": "never", "name": "slow" }))).await;
    for (path, status) in [("web/ports/8", 409), ("slow/ports/7", 409), ("absent/ports/7", 404), ("web/ports/0", 400)] {
        match open(&server, &format!("/v1/agents/{path}")).await {
            Err(Error::Http(response)) => {
                assert_eq!(response.status().as_u16(), status, "{path}");
                assert_eq!(response.headers()["content-type"], "application/problem+json");
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    problem(server.get("/v1/agents/web/ports/7"), 400, "BAD_REQUEST").await;
}

//! What nodes and control plane say to each other.

use crate::harness::{ok, start, start_with};
use aether_core::Timestamp;
use aether_proto::node::node_control_client::NodeControlClient;
use aether_proto::node::node_message::Message;
use aether_proto::node::{NodeHeartbeat, NodeHello, NodeMessage};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn a_node_that_falls_silent_is_lost_and_found_again() {
    let server = start_with(|cfg| {
        cfg.node.lease = Duration::from_millis(1500);
        cfg.node.heartbeat = Duration::from_millis(300);
    })
    .await;
    let id = server.agent("survivor").await;
    server.stop_node.cancel();
    let path = format!("/v1/agents/{id}");
    let status = |wanted: &'static str| {
        let (server, path) = (&server, path.clone());
        async move {
            server
                .until(|s| {
                    let path = path.clone();
                    async move { ok(s.get(&path)).await.1["status"] == wanted }
                })
                .await;
        }
    };
    status("lost").await;
    let back = server.stop.child_token();
    tokio::spawn(server.node.clone().session(server.control.clone(), 2, back));
    status("running").await;
    let sets = server.node.desired_sets();
    assert_eq!(sets.iter().filter(|(full, _)| *full).count(), 2, "each session begins with the full set: {sets:?}");
    assert!(sets.iter().rev().find(|(full, _)| *full).is_some_and(|(_, ids)| *ids == [id.clone()]));
}

/// As after writes that failed for longer than a lease, or a clock that leapt.
#[tokio::test]
async fn a_node_that_was_written_off_is_asked_for_all_it_has() {
    let server = start().await;
    let id = server.agent("survivor").await;
    server.stop_node.cancel();
    let again = server.node.clone().session(server.control.clone(), 2, server.stop.child_token());
    let session = tokio::spawn(again);
    server.until(|s| async move { s.node.desired_sets().iter().filter(|(full, _)| *full).count() == 2 }).await;
    let epoch = server.store.take_leadership("another").await.expect("leads");
    let later = Timestamp::from_unix_ms(u64::MAX);
    assert_eq!(server.store.expire_nodes(&epoch, Duration::ZERO, later).await.expect("expires").len(), 1);
    // Its next heartbeat is in time again, and says nothing of its agents.
    let ended = tokio::time::timeout(Duration::from_secs(60), session).await.expect("the session is ended");
    let ended = ended.expect("runs").expect_err("with a reason");
    assert_eq!(ended.code(), tonic::Code::Aborted, "{ended}");
    tokio::spawn(server.node.clone().session(server.control.clone(), 2, server.stop.child_token()));
    let path = format!("/v1/agents/{id}");
    server
        .until(|s| {
            let path = path.clone();
            async move { ok(s.get(&path)).await.1["status"] == "running" }
        })
        .await;
}

#[tokio::test]
async fn bad_first_messages_end_the_stream() {
    let server = start().await;
    let hello = NodeHello { node_id: "nodc0bbbbbbbbbbbbbbbb".into(), protocol: 1, ..NodeHello::default() };
    for (first, code) in [
        (Message::Heartbeat(NodeHeartbeat::default()), tonic::Code::InvalidArgument),
        (Message::Hello(NodeHello { protocol: 9, ..hello.clone() }), tonic::Code::FailedPrecondition),
        (Message::Hello(NodeHello { node_id: "../x".into(), ..hello.clone() }), tonic::Code::InvalidArgument),
        (Message::Hello(hello), tonic::Code::InvalidArgument),
    ] {
        let mut client = NodeControlClient::new(server.control.channel());
        let (sender, messages) = tokio::sync::mpsc::channel(1);
        sender.send(NodeMessage { message: Some(first) }).await.expect("room");
        let stream = tokio_stream::wrappers::ReceiverStream::new(messages);
        let mut answers = client.session(stream).await.expect("opened").into_inner();
        let status = answers.message().await.expect_err("refused");
        assert_eq!(status.code(), code, "{status}");
    }
}

#[tokio::test]
async fn fifty_at_once_are_all_placed() {
    let server = start().await;
    let small = json!({ "image": "a", "resources": { "memory_mb": 128, "disk_mb": 1024 } });
    let creates = (0..50).map(|_| ok(server.post("/v1/agents?wait=running", small.clone())));
    for (status, agent) in futures::future::join_all(creates).await {
        assert_eq!((status.as_u16(), agent["status"].as_str()), (201, Some("running")), "{agent}");
    }
}

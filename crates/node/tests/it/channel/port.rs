//! Connections to ports inside, over the channel.

use super::sandbox::{LIMIT, Sandbox};
use aether_node::channel::ErrorCode;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

type Piece = Result<Bytes, String>;

fn pieces() -> (mpsc::Sender<Piece>, ReceiverStream<Piece>) {
    let (sender, receiver) = mpsc::channel(4);
    (sender, ReceiverStream::new(receiver))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_direction_ends_by_itself() {
    let sandbox = Sandbox::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("address").port();
    // Reads to the end, and only then answers with how much there was.
    let inside = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.expect("reads");
        let sum: u64 = all.iter().map(|b| u64::from(*b)).sum();
        stream.write_all(format!("{} {sum}", all.len()).as_bytes()).await.expect("writes");
    });
    let (sender, inward) = pieces();
    let outward = sandbox.client.port(port, inward).await.expect("connected");
    let content: Vec<u8> = (0..1_500_000u32).map(|n| n as u8).collect();
    let sum: u64 = content.iter().map(|b| u64::from(*b)).sum();
    for piece in content.chunks(60_000) {
        sender.send(Ok(Bytes::copy_from_slice(piece))).await.expect("taken");
    }
    drop(sender);
    let answer: Vec<u8> = tokio::time::timeout(LIMIT, outward.map_ok(|b| b.to_vec()).try_concat())
        .await
        .expect("in time")
        .expect("whole");
    assert_eq!(String::from_utf8_lossy(&answer), format!("1500000 {sum}"));
    inside.await.expect("ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_closes_the_connection() {
    let sandbox = Sandbox::start().await;
    let listener = TcpListener::bind("[::1]:0").await.expect("binds");
    let port = listener.local_addr().expect("address").port();
    let (sender, inward) = pieces();
    let mut outward = sandbox.client.port(port, inward).await.expect("connected by the other family");
    let (mut stream, _) = listener.accept().await.expect("accepts");
    stream.write_all(b"hello").await.expect("writes");
    let first = tokio::time::timeout(LIMIT, outward.next()).await.expect("in time").expect("a piece").expect("whole");
    assert_eq!(first, "hello");
    drop((sender, outward));
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("in time");
    assert!(ended.is_err() || rest.is_empty(), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_a_listener_is_refused() {
    let sandbox = Sandbox::start().await;
    let unused = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("address").port();
    let (_sender, inward) = pieces();
    let refused = sandbox.client.port(unused, inward).await.err().expect("refused");
    assert_eq!(refused.code(), Some(ErrorCode::AlreadyExists));
    assert!(refused.to_string().contains(&unused.to_string()), "{refused}");
}

//! What both WebSocket routes need of a client: its messages one by one, and
//! pings, so that one that is dead is seen.
//!
//! Not here: what a message means.

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, Interval};

const PING_EVERY: Duration = Duration::from_secs(20);
/// Three pings without a sign of life.
const SILENCE: Duration = Duration::from_secs(65);

/// Shared by the two pumps of a stream.
pub(super) type Sink = Mutex<SplitSink<WebSocket, Message>>;

pub(super) struct Source {
    stream: SplitStream<WebSocket>,
    heard: Instant,
    ping: Interval,
}

impl Source {
    pub(super) fn new(stream: SplitStream<WebSocket>) -> Self {
        let now = Instant::now();
        Self { stream, heard: now, ping: tokio::time::interval_at(now + PING_EVERY, PING_EVERY) }
    }

    /// The next message with content; `None` once the client is gone.
    pub(super) async fn next(&mut self, sink: &Sink) -> Option<Message> {
        loop {
            let message = tokio::select! {
                message = self.stream.next() => message,
                _ = self.ping.tick() => {
                    let silent = self.heard.elapsed() > SILENCE;
                    if silent || sink.lock().await.send(Message::Ping(Bytes::new())).await.is_err() {
                        return None;
                    }
                    continue;
                }
            };
            self.heard = Instant::now();
            match message {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(message)) => return Some(message),
            }
        }
    }
}

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
const PING_SENT: Duration = Duration::from_secs(1);
/// Per connection and from its beginning, so not the library's 128 KiB.
pub(super) const READ_BUFFER: usize = 16 * 1024;

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
                    // Where the other pump is in the midst of sending, the
                    // client is behind: the accept loop watches what it
                    // takes, and here its own messages are still to be read.
                    let Ok(mut sink) = sink.try_lock() else { continue };
                    let ping = tokio::time::timeout(PING_SENT, sink.send(Message::Ping(Bytes::new())));
                    if self.heard.elapsed() > SILENCE || matches!(ping.await, Ok(Err(_))) {
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

//! A WebSocket to the server over the same streams and with the same errors
//! as every other request.

use super::{Client, PATIENCE, empty, refusal, too_fast};
use crate::error::CliError;
use aether_core::api::{ExecClientFrame, ExecServerFrame};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Method, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Output frames are at most 64 KiB plus a byte; this leaves room.
const MAX_MESSAGE: usize = 1024 * 1024;

/// What the server sent.
#[derive(Debug)]
pub(crate) enum Incoming {
    Frame(ExecServerFrame),
    Stdout(Bytes),
    Stderr(Bytes),
    /// The stream is over without a last word.
    Lost(String),
}

/// The stream of one exec.
pub(crate) struct Socket(WebSocketStream<TokioIo<Upgraded>>);

/// A WebSocket at this path; a refusal is the server's problem document.
pub(crate) async fn connect(client: &Client, path: &str) -> Result<WebSocketStream<TokioIo<Upgraded>>, CliError> {
    let mut patience = PATIENCE;
    loop {
        let answer = try_connect(client, path).await;
        patience = too_fast(answer.as_ref().err(), patience).await;
        if patience.is_zero() {
            return answer;
        }
    }
}

async fn try_connect(client: &Client, path: &str) -> Result<WebSocketStream<TokioIo<Upgraded>>, CliError> {
    let key = generate_key();
    let headers = [
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_VERSION, "13"),
        (header::SEC_WEBSOCKET_KEY, key.as_str()),
    ];
    let request = client.request(Method::GET, path, &headers).body(empty());
    let request = request.map_err(|e| CliError::failed(format!("cannot form the request: {e}")))?;
    let response = client.exchange(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response, path).await);
    }
    let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    if accepted.is_none_or(|a| a.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(CliError::failed("the server's WebSocket answer does not fit the question"));
    }
    let upgraded = hyper::upgrade::on(response)
        .await
        .map_err(|e| CliError::failed(format!("the connection could not become a stream: {e}")))?;
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let io = TokioIo::new(upgraded);
    Ok(WebSocketStream::from_raw_socket(io, Role::Client, Some(config)).await)
}

impl Socket {
    pub(crate) async fn open(client: &Client, path: &str) -> Result<Self, CliError> {
        connect(client, path).await.map(Self)
    }

    pub(crate) async fn send(&mut self, frame: &ExecClientFrame) -> Result<(), String> {
        let text = serde_json::to_string(frame).map_err(|e| e.to_string())?;
        self.0.send(Message::text(text)).await.map_err(|e| e.to_string())
    }

    pub(crate) async fn send_stdin(&mut self, bytes: Bytes) -> Result<(), String> {
        self.0.send(Message::Binary(bytes)).await.map_err(|e| e.to_string())
    }

    /// Can be cancelled: nothing is lost.
    pub(crate) async fn next(&mut self) -> Incoming {
        loop {
            let message = match self.0.next().await {
                None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => {
                    return Incoming::Lost("the server closed the stream".to_owned());
                }
                Some(Err(e)) => return Incoming::Lost(e.to_string()),
                Some(Ok(message)) => message,
            };
            match message {
                Message::Text(text) => {
                    return match serde_json::from_str(&text) {
                        Ok(frame) => Incoming::Frame(frame),
                        Err(e) => Incoming::Lost(format!("a frame cannot be read: {e}")),
                    };
                }
                Message::Binary(mut bytes) => match bytes.first() {
                    Some(1) => return Incoming::Stdout(bytes.split_off(1)),
                    Some(2) => return Incoming::Stderr(bytes.split_off(1)),
                    _ => return Incoming::Lost("an output frame of an unknown kind".to_owned()),
                },
                Message::Close(frame) => {
                    let reason = frame.map(|f| f.reason.to_string()).filter(|r| !r.is_empty());
                    return Incoming::Lost(reason.unwrap_or_else(|| "the server closed the stream".to_owned()));
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Says goodbye, so that the server sees a detach and not a broken line.
    pub(crate) async fn close(mut self) {
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), self.0.close(None)).await;
    }
}

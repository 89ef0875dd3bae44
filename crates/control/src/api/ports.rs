//! `GET /v1/agents/{id}/ports/{port}` with an upgrade: one TCP connection to
//! a port inside the sandbox over a WebSocket. Binary frames are its bytes;
//! the text frame `eof` is the end of the sender's direction. The client
//! closes when it has both ends.
//!
//! Whether something listens is known before the upgrade is answered, so a
//! refusal is an ordinary problem document. No queue of more than a few
//! pieces stands between the two ends: a slow one slows the other.

use super::Caller;
use super::extract::Params;
use super::socket::{READ_BUFFER, Sink, Source};
use crate::app::App;
use crate::problem::ApiError;
use aether_core::Problem;
use aether_proto::node::port_request::Message as Ask;
use aether_proto::node::{PortOpen, PortPiece, PortRequest};
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, State};
use axum::response::Response;
use futures::stream::SplitStream;
use futures::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

const FRAME_MOST: usize = 1 << 20;
const WRITE_BUFFER_MOST: usize = 2 << 20;
/// Pieces of at most this go to the node; it holds a few of them.
const PIECE: usize = 64 * 1024;
const PIECES: usize = 4;
const OPEN_LIMIT: Duration = Duration::from_secs(25);
/// The end of one direction.
const EOF: &str = "eof";

/// Connect to a port inside the sandbox, over a WebSocket.
#[utoipa::path(
    get, path = "/v1/agents/{id}/ports/{port}", operation_id = "forward_port", tag = "agents",
    params(
        ("id" = String, Path, description = "Id, name or alias"),
        ("port" = u16, Path, description = "1 to 65535"),
    ),
    responses(
        (status = 101, description = "A WebSocket; frames are described in docs/api.md"), (status = 400, body = Problem),
        (status = 404, body = Problem),
        (status = 409, description = "Not running, or nothing listens on the port", body = Problem),
        (status = 503, description = "Too many connections into this agent", body = Problem),
    )
)]
pub(crate) async fn forward(
    State(app): State<App>,
    caller: Caller,
    Path((id, port)): Path<(String, String)>,
    params: Params,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    params.done()?;
    let agent = app.agent(&caller, &id).await?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| ApiError::field("port", "must be 1 to 65535"))?;
    let upgrade = upgrade.map_err(|_| ApiError::bad_request("This is a WebSocket: send an upgrade."))?;
    let mut client = app.live_client(&agent).await?;
    let (to_node, requests) = mpsc::channel(PIECES);
    let open = PortOpen { agent_id: agent.id.to_string(), port: u32::from(port) };
    to_node.try_send(PortRequest { message: Some(Ask::Open(open)) }).expect("a new channel has room");
    let connect = async {
        let mut from_node = client.port(ReceiverStream::new(requests)).await?.into_inner();
        // The empty piece that says that it stands, or the error in its place.
        from_node.message().await?;
        Ok::<_, tonic::Status>(from_node)
    };
    let from_node = tokio::time::timeout(OPEN_LIMIT, connect)
        .await
        .map_err(|_| ApiError::timeout("The port did not answer.", "Try again."))?
        .map_err(|status| match status.code() {
            tonic::Code::FailedPrecondition => ApiError::conflict(
                format!("Nothing listens on port {port} in the agent."),
                "Start a server there first, on 127.0.0.1, ::1 or all addresses.",
            ),
            _ => status.into(),
        })?;
    let task = app.tasks.token();
    Ok(upgrade
        .read_buffer_size(READ_BUFFER)
        .max_message_size(FRAME_MOST)
        .max_frame_size(FRAME_MOST)
        .max_write_buffer_size(WRITE_BUFFER_MOST)
        .on_upgrade(move |socket| async move {
            let _task = task;
            serve((&app, &caller), to_node, from_node, socket).await;
        }))
}

/// How a direction ended.
enum End {
    /// In order: the other direction may go on.
    Eof,
    /// The way to the client, or the client, is gone.
    Client,
    /// The connection inside broke.
    Broken,
}

async fn serve(
    (app, caller): (&App, &Caller),
    to_node: mpsc::Sender<PortRequest>,
    from_node: Streaming<PortPiece>,
    socket: WebSocket,
) {
    let (sink, source) = socket.split();
    let sink = Mutex::new(sink);
    let outward = to_client(from_node, &sink);
    let inward = from_client(source, to_node, &sink);
    tokio::pin!(outward, inward);
    let mut outward_over = false;
    let code = loop {
        let end = tokio::select! {
            end = &mut outward, if !outward_over => { outward_over = true; end }
            end = &mut inward => end,
            () = app.draining.cancelled() => break close_code::RESTART,
            () = caller.dismissed() => break close_code::POLICY,
        };
        match end {
            // The client may still send, until it closes.
            End::Eof => {}
            End::Client => return,
            End::Broken => break close_code::ERROR,
        }
    };
    let farewell = async {
        let mut sink = sink.lock().await;
        sink.send(Message::Close(Some(CloseFrame { code, reason: "".into() }))).await
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), farewell).await;
}

async fn to_client(mut from_node: Streaming<PortPiece>, sink: &Sink) -> End {
    loop {
        let message = match from_node.message().await {
            Ok(Some(piece)) if piece.data.is_empty() => continue,
            Ok(Some(piece)) => Message::Binary(piece.data),
            Ok(None) => {
                let said = sink.lock().await.send(Message::Text(EOF.into())).await;
                return if said.is_ok() { End::Eof } else { End::Client };
            }
            Err(status) => {
                tracing::debug!(%status, "a forwarded connection broke");
                return End::Broken;
            }
        };
        if sink.lock().await.send(message).await.is_err() {
            return End::Client;
        }
    }
}

/// Goes on after the client's `eof`, to answer pings and to see it go.
async fn from_client(source: SplitStream<WebSocket>, to_node: mpsc::Sender<PortRequest>, sink: &Sink) -> End {
    let (mut source, mut to_node) = (Source::new(source), Some(to_node));
    while let Some(message) = source.next(sink).await {
        match message {
            Message::Binary(mut data) => {
                let Some(sender) = &to_node else { return End::Broken };
                while !data.is_empty() {
                    let piece = data.split_to(data.len().min(PIECE));
                    if sender.send(PortRequest { message: Some(Ask::Data(piece)) }).await.is_err() {
                        // The node took no more: the other pump says why.
                        std::future::pending::<()>().await;
                    }
                }
            }
            // Its direction is over; from here on only its going away counts.
            Message::Text(text) if text.as_str() == EOF => to_node = None,
            _ => return End::Broken,
        }
    }
    End::Client
}

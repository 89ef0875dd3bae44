//! `GET /v1/agents/{id}/exec` with an upgrade: a process or terminal over a
//! WebSocket. Control is text frames (`core::api::Exec{Client,Server}Frame`),
//! stdin is the client's binary frames, output the server's, whose first byte
//! names the stream.
//!
//! Two pumps, one each way, and no queue of more than a few frames between:
//! a slow reader slows the process, a slow process slows the writer. When the
//! client goes away the process lives on; a watcher waits for its end.

use super::Caller;
use super::exec::{exec_id_of, present, valid_signal};
use super::extract::{Params, idempotency, parse};
use super::socket::{READ_BUFFER, Sink, Source};
use crate::app::{App, not_reachable};
use crate::exec::{self, Begin, Begun, Ledger, Opened, Past};
use crate::problem::{ApiError, clean};
use aether_core::api::{ExecClientFrame, ExecServerFrame};
use aether_core::{Code, Observed, Problem};
use aether_proto::node::exec_request::Message as ToNode;
use aether_proto::node::exec_response::Message as FromNode;
use aether_proto::node::{ExecRequest, ExecResize, ExecResponse};
use aether_store::AgentRow;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, State};
use axum::response::Response;
use bytes::{BufMut, BytesMut};
use futures::stream::SplitStream;
use futures::{SinkExt, StreamExt};
use http::HeaderMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use tonic::Streaming;

/// One frame from the client: a JSON request is at most as large as a POST's.
const FRAME_MOST: usize = 1 << 20;
/// What may wait for a slow client before its connection is given up.
const WRITE_BUFFER_MOST: usize = 4 << 20;
const FIRST_FRAME: Duration = Duration::from_secs(7);

/// Run a command or a terminal over a WebSocket.
#[utoipa::path(
    get, path = "/v1/agents/{id}/exec", operation_id = "exec_stream", tag = "exec",
    params(
        ("id" = String, Path, description = "Id, name or alias"),
        ("wait" = Option<bool>, Query, description = "Wait until the agent runs, at most 60 s"),
        ("exec_id" = Option<String>, Query, description = "Attach to this exec instead of starting one"),
        ("offset" = Option<u64>, Query, description = "With exec_id: from here in its output"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat attaches to the first exec"),
    ),
    responses(
        (status = 101, description = "A WebSocket; frames are described in docs/api.md"), (status = 400, body = Problem),
        (status = 404, body = Problem), (status = 409, description = "Not running", body = Problem),
    )
)]
pub(crate) async fn stream(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    mut params: Params,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let wait = params.flag("wait");
    let exec_id = params.text("exec_id");
    let offset = params.number("offset", 0..=u64::MAX).unwrap_or(0);
    params.done()?;
    // The agent first: what it is matters more than how it was asked.
    let found = present(&app, &caller, &id, wait).await;
    // A repeat may ask what became of its exec; what it repeats is in its first frame.
    let repeat = exec_id.is_none() && headers.contains_key("idempotency-key");
    let found = match found {
        Err(error) if !repeat || error.problem.code != Code::NotFound => return Err(error),
        Ok(agent) if agent.observed != Observed::Running && !repeat => return Err(not_reachable(&agent)),
        found => found,
    };
    let attach = exec_id.map(|text| exec_id_of(&text)).transpose()?;
    let upgrade = upgrade
        .map_err(|_| ApiError::bad_request("This is a WebSocket: send an upgrade, or POST for request and answer."))?;
    let begin = attach.map(|exec_id| Begin::Attach { exec_id, offset });
    let task = app.tasks.token();
    Ok(upgrade
        .read_buffer_size(READ_BUFFER)
        .max_message_size(FRAME_MOST)
        .max_frame_size(FRAME_MOST)
        .max_write_buffer_size(WRITE_BUFFER_MOST)
        .on_upgrade(move |socket| async move {
            let _task = task;
            serve(app, caller, (id, found), headers, begin, socket).await;
        }))
}

async fn serve(
    app: App,
    caller: Caller,
    (id, found): (String, Result<Arc<AgentRow>, ApiError>),
    headers: HeaderMap,
    begin: Option<Begin>,
    mut socket: WebSocket,
) {
    let opened = async {
        let begin = match begin {
            Some(begin) => begin,
            None => first_frame(&mut socket, &headers, &id).await?,
        };
        let place = crate::inflight::exec(&app, &caller).await?;
        Ok((exec::open(&app, &caller, found, begin).await?, place))
    };
    let opened = tokio::select! {
        opened = opened => opened,
        () = caller.dismissed() => Err(ApiError::unauthorized()),
    };
    let (opened, _place) = match opened {
        Ok((Begun::Running(opened), place)) => (*opened, place),
        Ok((Begun::Over(past), _)) => return tell(socket, &past).await,
        Err(error) => return refuse(socket, error).await,
    };
    let (sink, source) = socket.split();
    let sink = Mutex::new(sink);
    let Opened { to_node, mut from_node, ledger, .. } = opened;
    let ended = tokio::select! {
        ended = to_client(&mut from_node, &sink, &ledger) => ended,
        gone = from_client(source, &to_node, &sink) => Err(gone),
        () = app.draining.cancelled() => {
            let error = ApiError::unavailable("The server is shutting down; attach again by exec_id.", 5);
            let _ = send(&sink, &ExecServerFrame::Error { problem: error.problem }).await;
            Err(Gone::Draining)
        }
        () = caller.dismissed() => Err(Gone::Protocol("you may no longer do this".to_owned())),
    };
    let close = match &ended {
        Ok(()) => CloseFrame { code: close_code::NORMAL, reason: "".into() },
        Err(Gone::Protocol(reason)) => CloseFrame { code: close_code::POLICY, reason: reason.as_str().into() },
        Err(Gone::Draining) => CloseFrame { code: close_code::RESTART, reason: "".into() },
        Err(Gone::Client) => CloseFrame { code: close_code::AWAY, reason: "".into() },
    };
    let farewell = async { sink.lock().await.send(Message::Close(Some(close))).await };
    let _ = tokio::time::timeout(Duration::from_secs(1), farewell).await;
    if ended.is_err() && !app.draining.is_cancelled() {
        watch(app, to_node, from_node, ledger);
    }
}

/// Why the pumps stopped before the process did.
enum Gone {
    Client,
    Draining,
    Protocol(String),
}

async fn first_frame(socket: &mut WebSocket, headers: &HeaderMap, id: &str) -> Result<Begin, ApiError> {
    let deadline = Instant::now() + FIRST_FRAME;
    loop {
        let next = tokio::time::timeout_at(deadline, socket.recv())
            .await
            .map_err(|_| ApiError::timeout("No first frame came.", "Send a start or attach frame first."))?;
        let text = match next {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(_)) => return Err(ApiError::bad_request("The first frame must be text: start or attach.")),
            Some(Err(_)) | None => return Err(ApiError::bad_request("The client went away.")),
        };
        return match parse::<ExecClientFrame>(text.as_bytes())? {
            ExecClientFrame::Start(asked) => {
                exec::check(&asked, true)?;
                let idempotency = idempotency(headers, &(id, &asked))?;
                Ok(Begin::Start { asked, idempotency })
            }
            ExecClientFrame::Attach { exec_id, offset } => Ok(Begin::Attach { exec_id: exec_id_of(&exec_id)?, offset }),
            _ => Err(ApiError::bad_request("The first frame must be start or attach.")),
        };
    }
}

async fn refuse(mut socket: WebSocket, error: ApiError) {
    if let Some(reason) = &error.inward {
        tracing::warn!(?reason, "an exec stream was refused");
    }
    last(&mut socket, &ExecServerFrame::Error { problem: error.problem }, close_code::POLICY).await;
}

/// A repeat whose exec is over: what is recorded of it.
async fn tell(mut socket: WebSocket, past: &Past) {
    let frame = if past.end.outcome == "exited" {
        ExecServerFrame::Exited {
            exit_code: past.end.exit_code,
            signal: past.end.exit_signal.clone(),
            timed_out: false,
            duration_ms: 0,
            error: Some(past.reason()),
        }
    } else {
        ExecServerFrame::Unknown { reason: past.reason() }
    };
    last(&mut socket, &frame, close_code::NORMAL).await;
}

async fn last(socket: &mut WebSocket, frame: &ExecServerFrame, code: u16) {
    let farewell = async {
        socket.send(text_of(frame)).await?;
        let close = CloseFrame { code, reason: "".into() };
        socket.send(Message::Close(Some(close))).await?;
        // Until the client has read it: a reset could overtake the frame.
        while let Some(Ok(_)) = socket.recv().await {}
        Ok::<(), axum::Error>(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), farewell).await;
}

/// The node's frames to the client, until the process has ended.
async fn to_client(from_node: &mut Streaming<ExecResponse>, sink: &Sink, ledger: &Ledger) -> Result<(), Gone> {
    loop {
        let message = match from_node.message().await {
            Ok(Some(ExecResponse { message: Some(message) })) => message,
            Ok(Some(ExecResponse { message: None })) => continue,
            Ok(None) => FromNode::Unknown("the node ended the stream".to_owned()),
            Err(status) if status.code() == tonic::Code::NotFound => {
                let error = ApiError::from(status);
                return send(sink, &ExecServerFrame::Error { problem: error.problem }).await;
            }
            Err(status) => {
                tracing::debug!(%status, "an exec's stream broke");
                FromNode::Unknown("the way to the sandbox broke".to_owned())
            }
        };
        match message {
            FromNode::Started(s) => send(sink, &ExecServerFrame::Started { exec_id: s.exec_id, pid: s.pid }).await?,
            FromNode::Output(output) => {
                let mut frame = BytesMut::with_capacity(output.data.len() + 1);
                frame.put_u8(if output.stream == 2 { 2 } else { 1 });
                frame.extend_from_slice(&output.data);
                sink.lock().await.send(Message::Binary(frame.freeze())).await.map_err(|_| Gone::Client)?;
            }
            FromNode::Gap(gap) => send(sink, &ExecServerFrame::Gap { from: gap.from, to: gap.to }).await?,
            FromNode::Exited(exited) => {
                ledger.exited(&exited);
                let frame = ExecServerFrame::Exited {
                    exit_code: exited.exit_code,
                    signal: exited.signal.as_deref().map(clean),
                    timed_out: exited.timed_out,
                    duration_ms: exited.duration_ms,
                    error: (!exited.error.is_empty()).then(|| clean(&exited.error)),
                };
                return send(sink, &frame).await;
            }
            FromNode::Unknown(reason) => {
                ledger.unknown();
                return send(sink, &ExecServerFrame::Unknown { reason: clean(&reason) }).await;
            }
        }
    }
}

/// The client's frames to the node, with pings so that a dead client is seen.
async fn from_client(source: SplitStream<WebSocket>, to_node: &mpsc::Sender<ExecRequest>, sink: &Sink) -> Gone {
    let mut source = Source::new(source);
    while let Some(message) = source.next(sink).await {
        let message = match message {
            Message::Text(text) => match control(text.as_bytes()) {
                Ok(message) => message,
                Err(error) => {
                    let reason = error.problem.detail.chars().take(100).collect();
                    let _ = send(sink, &ExecServerFrame::Error { problem: error.problem }).await;
                    return Gone::Protocol(reason);
                }
            },
            other => ToNode::Stdin(other.into_data()),
        };
        if to_node.send(ExecRequest { message: Some(message) }).await.is_err() {
            // The exec has ended; its last frame is on the other pump.
            std::future::pending::<()>().await;
        }
    }
    Gone::Client
}

fn control(text: &[u8]) -> Result<ToNode, ApiError> {
    match parse::<ExecClientFrame>(text)? {
        ExecClientFrame::CloseStdin => Ok(ToNode::CloseStdin(true)),
        ExecClientFrame::Resize { cols, rows } if (1..=10_000).contains(&cols) && (1..=10_000).contains(&rows) => {
            Ok(ToNode::Resize(ExecResize { cols, rows }))
        }
        ExecClientFrame::Resize { .. } => Err(ApiError::field("cols, rows", "must be 1 to 10000")),
        ExecClientFrame::Signal { signal } if valid_signal(&signal) => Ok(ToNode::Signal(signal)),
        ExecClientFrame::Signal { .. } => Err(ApiError::field("signal", "must be a signal's name or number")),
        ExecClientFrame::Start(_) | ExecClientFrame::Attach { .. } => Err(ApiError::new(
            Code::Conflict,
            "The stream has begun: start and attach come first and once.",
            "Open another stream for another exec.",
        )),
    }
}

fn text_of(frame: &ExecServerFrame) -> Message {
    let text = serde_json::to_string(frame).expect("a frame is text and numbers: it always serialises");
    Message::Text(text.into())
}

async fn send(sink: &Sink, frame: &ExecServerFrame) -> Result<(), Gone> {
    sink.lock().await.send(text_of(frame)).await.map_err(|_| Gone::Client)
}

/// Waits for the end of an exec that nobody looks at, to record it. Its
/// output is dropped here and stays in the guest's ring for who attaches.
fn watch(app: App, to_node: mpsc::Sender<ExecRequest>, mut from_node: Streaming<ExecResponse>, ledger: Ledger) {
    let draining = app.draining.clone();
    app.tasks.spawn(async move {
        let _request_side_open = to_node;
        let end = async {
            loop {
                match from_node.message().await {
                    Ok(Some(ExecResponse { message: Some(FromNode::Exited(exited)) })) => return Some(exited),
                    Ok(Some(ExecResponse { message: Some(FromNode::Unknown(_)) }) | None) | Err(_) => return None,
                    Ok(Some(_)) => {}
                }
            }
        };
        tokio::select! {
            end = end => match end {
                Some(exited) => ledger.exited(&exited),
                None => ledger.unknown(),
            },
            () = draining.cancelled() => {}
        }
    });
}

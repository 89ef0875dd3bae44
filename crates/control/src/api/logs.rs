//! `GET /v1/agents/{id}/logs`: the main process's output, as plain text or as
//! server-sent events, past and following.

use super::Caller;
use super::extract::Params;
use crate::app::App;
use crate::problem::ApiError;
use aether_core::{Problem, Timestamp};
use aether_proto::node::{LogLine, LogsRequest};
use aether_store::AgentRow;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tonic::Streaming;

const TAIL: u64 = 100;
const TAIL_MOST: u64 = 100_000;
/// Comments that keep proxies from cutting a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Lines that are ready together go out together.
const TOGETHER: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain { timestamps: bool },
    Events,
}

/// The agent's log.
#[utoipa::path(
    get, path = "/v1/agents/{id}/logs", operation_id = "agent_logs", tag = "agents",
    params(
        ("id" = String, Path, description = "Id, name or alias"),
        ("follow" = Option<bool>, Query, description = "Go on until the agent ends"),
        ("tail" = Option<u64>, Query, description = "Lines of the past, default 100"),
        ("since" = Option<String>, Query, description = "RFC 3339 time, or how long ago (5m)"),
        ("timestamps" = Option<bool>, Query, description = "Plain text: each line begins with its time"),
    ),
    responses(
        (status = 200, description = "Plain text, or one event per line with `Accept: text/event-stream`",
            body = String, content_type = "text/plain"),
        (status = 404, body = Problem),
    )
)]
pub(crate) async fn logs(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let follow = params.flag("follow");
    let tail = params.number("tail", 0..=TAIL_MOST).unwrap_or(TAIL);
    let since = params.time("since", app.clock.now());
    let timestamps = params.flag("timestamps");
    params.done()?;
    let wants_events =
        headers.get_all(ACCEPT).iter().any(|v| v.to_str().is_ok_and(|t| t.contains("text/event-stream")));
    let form = if wants_events { Form::Events } else { Form::Plain { timestamps } };
    let agent = app.agent(&caller, &id).await?;
    let agent = if follow { placed(&app, &caller, agent).await? } else { agent };
    if agent.node_id.is_none() {
        return Ok(answer(form, Body::empty()));
    }
    let request = LogsRequest {
        agent_id: agent.id.to_string(),
        follow,
        tail: u32::try_from(tail).unwrap_or(u32::MAX),
        since_ms: since.map_or(0, Timestamp::unix_ms),
    };
    let lines = app.client_for(&agent).await?.logs(request).await?.into_inner();
    Ok(answer(form, Body::from_stream(render(app, lines, form))))
}

/// An agent that is followed before it has a node gets one first; its log
/// cannot have begun.
async fn placed(app: &App, caller: &Caller, agent: Arc<AgentRow>) -> Result<Arc<AgentRow>, ApiError> {
    let mut agent = agent;
    while agent.node_id.is_none() && agent.desired == aether_core::Desired::Running && !app.draining.is_cancelled() {
        let id = agent.id.to_string();
        let limit = app.cfg().deadlines.wait;
        agent = crate::wait::until(app, caller, &id, limit, |row| row.node_id.is_some()).await?.row();
    }
    Ok(agent)
}

fn answer(form: Form, body: Body) -> Response {
    let kind = match form {
        Form::Plain { .. } => "text/plain; charset=utf-8",
        Form::Events => "text/event-stream",
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // nginx and others would hold lines back otherwise.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn render(app: App, lines: Streaming<LogLine>, form: Form) -> impl futures::Stream<Item = Result<Bytes, Infallible>> {
    let lines = lines.ready_chunks(TOGETHER);
    futures::stream::unfold((lines, false), move |(mut lines, over)| {
        let draining = app.draining.clone();
        async move {
            if over {
                return None;
            }
            let next = tokio::select! {
                () = draining.cancelled() => return None,
                next = tokio::time::timeout(KEEP_ALIVE, lines.next()) => next,
            };
            match next {
                Ok(None) => None,
                Ok(Some(batch)) => {
                    let mut out = BytesMut::new();
                    let mut over = false;
                    for line in batch {
                        match line {
                            Ok(line) => write_line(&mut out, form, &line),
                            Err(status) => {
                                tracing::debug!(%status, "a log stream broke");
                                over = true;
                            }
                        }
                    }
                    Some((Ok(out.freeze()), (lines, over)))
                }
                Err(_) if form == Form::Events => Some((Ok(Bytes::from_static(b": still here\n\n")), (lines, false))),
                // An empty chunk says nothing; plain text has no comments.
                Err(_) => Some((Ok(Bytes::new()), (lines, false))),
            }
        }
    })
}

fn write_line(out: &mut BytesMut, form: Form, line: &LogLine) {
    match form {
        Form::Plain { timestamps } => {
            if timestamps {
                out.extend_from_slice(Timestamp::from_unix_ms(line.time_ms).to_string().as_bytes());
                out.put_u8(b' ');
            }
            out.extend_from_slice(&line.line);
            out.put_u8(b'\n');
        }
        Form::Events => {
            // One data line per log line: a stray CR would end it early.
            let text = String::from_utf8_lossy(&line.line).replace(['\r', '\n'], " ");
            out.extend_from_slice(format!("id: {}\ndata: {text}\n\n", line.time_ms).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine { time_ms: 1, stream: 1, line: Bytes::copy_from_slice(text.as_bytes()) }
    }

    #[test]
    fn forms() {
        let mut out = BytesMut::new();
        write_line(&mut out, Form::Plain { timestamps: false }, &line("a"));
        write_line(&mut out, Form::Plain { timestamps: true }, &line("b"));
        assert_eq!(out, "a\n1970-01-01T00:00:00.001Z b\n");
        let mut out = BytesMut::new();
        write_line(&mut out, Form::Events, &line("a\rdata: forged"));
        assert_eq!(out, "id: 1\ndata: a data: forged\n\n");
    }

    #[test]
    fn since_is_a_time_or_an_age() {
        let now = Timestamp::from_unix_ms(600_000);
        let of = |text: &str| Params::of(&[("since", text)]).time("since", now).map(Timestamp::unix_ms);
        assert_eq!(of("5m"), Some(300_000));
        assert_eq!(of("1970-01-01T00:00:01Z"), Some(1000));
        assert_eq!(of("2h"), Some(0));
        assert_eq!(of("yesterday"), None);
    }
}

//! `/v1/agents/{id}/exec` (request and answer) and `/v1/agents/{id}/execs`.

use super::Caller;
use super::extract::{Json, Params, idempotency};
use crate::app::App;
use crate::exec;
use crate::problem::{ApiError, clean};
use crate::wait::{self, Waited};
use aether_core::api::{ExecChunk, ExecInfo, ExecRequest, ExecResult, SignalRequest};
use aether_core::{ExecId, Problem, Timestamp};
use aether_proto::node::{self, ExecGetRequest, ExecListRequest, ExecSignalRequest};
use aether_store::AgentRow;
use axum::extract::{Path, State};
use base64::Engine as _;
use http::{HeaderMap, StatusCode};
use std::sync::Arc;

/// Output in one answer of `GET …/execs/{exec_id}`.
const READ_MOST: u32 = 1 << 20;
const MAX_SIGNAL: usize = 16;

/// Run a command and answer with its output. A non-zero exit is still 200.
#[utoipa::path(
    post, path = "/v1/agents/{id}/exec", operation_id = "exec", tag = "exec", request_body = ExecRequest,
    params(
        ("id" = String, Path, description = "Id, name or alias"),
        ("wait" = Option<bool>, Query, description = "Wait until the agent runs, at most 60 s"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat attaches to the first exec"),
    ),
    responses(
        (status = 200, body = ExecResult), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, description = "Not running", body = Problem), (status = 422, body = Problem),
        (status = 504, description = "Killed at its timeout; `instance` names the exec", body = Problem),
    )
)]
pub(crate) async fn run(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    mut params: Params,
    Json(asked): Json<ExecRequest>,
) -> Result<axum::Json<ExecResult>, ApiError> {
    let wait = params.flag("wait");
    params.done()?;
    exec::check(&asked, false)?;
    let idempotency = idempotency(&headers, &(&id, &asked))?;
    // Large, and room for them would be kept while the body is still to come.
    let found = Box::pin(present(&app, &caller, &id, wait)).await;
    Box::pin(exec::run(&app, caller, found, asked, idempotency)).await.map(axum::Json)
}

/// The agent as it is; with `wait` as it settled.
pub(super) async fn present(app: &App, caller: &Caller, id: &str, wait: bool) -> Result<Arc<AgentRow>, ApiError> {
    if !wait {
        return app.agent(caller, id).await;
    }
    match wait::until(app, caller, id, app.cfg().deadlines.wait, wait::running_settled).await? {
        Waited::Settled(row) | Waited::RanOut(row) => Ok(row),
    }
}

/// The execs of a running agent.
#[utoipa::path(
    get, path = "/v1/agents/{id}/execs", operation_id = "list_execs", tag = "exec",
    params(("id" = String, Path, description = "Id, name or alias")),
    responses((status = 200, body = Vec<ExecInfo>), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<axum::Json<Vec<ExecInfo>>, ApiError> {
    params.done()?;
    let agent = app.agent(&caller, &id).await?;
    let mut client = app.live_client(&agent).await?;
    let answer = client.exec_list(ExecListRequest { agent_id: agent.id.to_string() }).await?.into_inner();
    Ok(axum::Json(answer.execs.into_iter().map(info).collect()))
}

/// One exec: its state, and its output from an offset.
#[utoipa::path(
    get, path = "/v1/agents/{id}/execs/{exec_id}", operation_id = "get_exec", tag = "exec",
    params(
        ("id" = String, Path, description = "Id, name or alias"),
        ("exec_id" = String, Path),
        ("offset" = Option<u64>, Query, description = "`next_offset` of the answer before; default 0"),
    ),
    responses((status = 200, body = ExecInfo), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path((id, exec_id)): Path<(String, String)>,
    mut params: Params,
) -> Result<axum::Json<ExecInfo>, ApiError> {
    let offset = params.number("offset", 0..=u64::MAX).unwrap_or(0);
    params.done()?;
    let agent = app.agent(&caller, &id).await?;
    let exec_id = exec_id_of(&exec_id)?;
    let mut client = app.live_client(&agent).await?;
    let request =
        ExecGetRequest { agent_id: agent.id.to_string(), exec_id: exec_id.to_string(), offset, max_bytes: READ_MOST };
    let answer = client.exec_get(request).await?.into_inner();
    let chunks = answer.output.into_iter().map(|o| ExecChunk {
        stream: if o.stream == 2 { "stderr" } else { "stdout" }.to_owned(),
        offset: o.offset,
        data: base64::engine::general_purpose::STANDARD.encode(&o.data),
    });
    let output = Some(chunks.collect());
    let base = info(answer.info.ok_or_else(|| ApiError::internal("the node answered an exec without its state"))?);
    Ok(axum::Json(ExecInfo { output, next_offset: Some(answer.next_offset), ..base }))
}

/// Send a signal to an exec.
#[utoipa::path(
    post, path = "/v1/agents/{id}/execs/{exec_id}/signal", operation_id = "signal_exec", tag = "exec", request_body = SignalRequest,
    params(("id" = String, Path, description = "Id, name or alias"), ("exec_id" = String, Path)),
    responses((status = 204), (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn signal(
    State(app): State<App>,
    caller: Caller,
    Path((id, exec_id)): Path<(String, String)>,
    params: Params,
    Json(request): Json<SignalRequest>,
) -> Result<StatusCode, ApiError> {
    params.done()?;
    if !valid_signal(&request.signal) {
        return Err(ApiError::field("signal", "must be a name such as SIGINT or TERM, or a number from 1 to 64"));
    }
    let agent = app.agent(&caller, &id).await?;
    let exec_id = exec_id_of(&exec_id)?;
    let mut client = app.live_client(&agent).await?;
    let request =
        ExecSignalRequest { agent_id: agent.id.to_string(), exec_id: exec_id.to_string(), signal: request.signal };
    client.exec_signal(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn exec_id_of(text: &str) -> Result<ExecId, ApiError> {
    text.parse().map_err(|_| ApiError::not_found("exec"))
}

pub(super) fn valid_signal(text: &str) -> bool {
    let number = text.parse::<u8>().is_ok_and(|n| (1..=64).contains(&n));
    let name = text.bytes().next().is_some_and(|c| c.is_ascii_alphabetic())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-'));
    text.len() <= MAX_SIGNAL && (number || name)
}

fn info(e: node::ExecInfo) -> ExecInfo {
    ExecInfo {
        exec_id: e.exec_id,
        command: e.command,
        pid: e.pid,
        state: e.state,
        exit_code: e.exit_code,
        exit_signal: e.signal.as_deref().map(clean),
        started_at: Timestamp::from_unix_ms(e.started_at_ms),
        duration_ms: e.duration_ms,
        tty: e.tty,
        output: None,
        next_offset: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for good in ["SIGINT", "TERM", "9", "64", "SIGRTMIN+3"] {
            assert!(valid_signal(good), "{good}");
        }
        for bad in ["", "0", "65", "-9", "SIG INT", "SIGINT\n", &"A".repeat(17)] {
            assert!(!valid_signal(bad), "{bad:?}");
        }
    }
}

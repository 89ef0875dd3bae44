//! `/v1/agents/{id}`: what the user wants of it: start, stop, delete.

use super::Caller;
use super::agents::{info, wait_for};
use super::extract::{MaybeJson, Params, idempotency};
use crate::app::App;
use crate::problem::ApiError;
use crate::telemetry;
use crate::wait::{self, Waited};
use aether_core::api::{AgentInfo, StopRequest};
use aether_core::{Code, Desired, Problem};
use aether_store::{AgentRow, DesireOptions, Idempotency};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use std::sync::Arc;
use std::time::Duration;

pub(super) const GRACE: Duration = Duration::from_secs(1);
pub(super) const GRACE_MOST: Duration = Duration::from_secs(30);
const STOP_TIMEOUT_S: u64 = 30;
const STOP_TIMEOUT_MOST_S: u64 = 300;

/// What is wanted, and how.
struct Wish {
    name: &'static str,
    desired: Desired,
    options: DesireOptions,
}

/// Records the wish; under an idempotency key once, and a repeat tells of the
/// agent that its name meant at first.
async fn wish(app: &App, caller: &Caller, headers: &HeaderMap, id: &str, wish: Wish) -> Result<AgentRow, ApiError> {
    let asked = (id, wish.options.force, wish.options.stop_timeout_ms);
    let key = idempotency(headers, &asked)?;
    let done = record(app, caller, id, &wish, key).await;
    telemetry::operation(wish.name, caller.tenant(), done.is_ok());
    done
}

async fn record(
    app: &App,
    caller: &Caller,
    id: &str,
    wish: &Wish,
    key: Option<Idempotency>,
) -> Result<AgentRow, ApiError> {
    let (scope, desired, options) = (caller.scope(), wish.desired, wish.options);
    let row = match (app.agent(caller, id).await, &key) {
        (Err(error), Some(key)) if error.problem.code == Code::NotFound => {
            return app.store.known_wish(&scope, desired, key).await?.ok_or(error);
        }
        (found, _) => found?,
    };
    let done = match key {
        None => app.store.set_desired(&scope, &row.id, desired, options, None).await,
        Some(key) => app.store.set_desired_once(&scope, &row.id, desired, options, key).await,
    };
    Ok(done?)
}

/// Delete an agent, from whatever state, with its disk.
#[utoipa::path(
    delete, path = "/v1/agents/{id}", operation_id = "delete_agent", tag = "agents",
    params(
        ("id" = String, Path, description = "Id, name or alias"),
        ("grace" = Option<String>, Query, description = "Seconds from the signal to the kill: 1, at most 30"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat deletes nothing newer of that name"),
    ),
    responses(
        (status = 204, description = "Its end is decided; the name is free"), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem),
    )
)]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<StatusCode, ApiError> {
    let grace = params.duration("grace", GRACE_MOST).unwrap_or(GRACE);
    params.done()?;
    let options = DesireOptions { force: grace.is_zero(), stop_timeout_ms: u32::try_from(grace.as_millis()).ok() };
    wish(&app, &caller, &headers, &id, Wish { name: "delete", desired: Desired::Gone, options }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Start a stopped or failed agent on its disk.
#[utoipa::path(
    post, path = "/v1/agents/{id}/start", operation_id = "start_agent", tag = "agents",
    params(
        ("id" = String, Path, description = "Id, name or alias"),
        ("wait" = Option<String>, Query, description = "`running`: answer when it runs, or 202 after at most 60 s"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat starts nothing again"),
    ),
    responses(
        (status = 200, body = AgentInfo), (status = 202, body = AgentInfo),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem),
    )
)]
pub(crate) async fn start(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let wait = wait_for(&mut params, "running");
    params.done()?;
    let start = Wish { name: "start", desired: Desired::Running, options: DesireOptions::default() };
    let row = wish(&app, &caller, &headers, &id, start).await?;
    answer(&app, &caller, row, wait, wait::running_settled).await
}

/// Stop a running agent; its disk is kept.
#[utoipa::path(
    post, path = "/v1/agents/{id}/stop", operation_id = "stop_agent", tag = "agents", request_body = Option<StopRequest>,
    params(
        ("id" = String, Path, description = "Id, name or alias"),
        ("wait" = Option<String>, Query, description = "`stopped`: answer when it is, or 202 after at most 60 s"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat stops nothing again"),
    ),
    responses(
        (status = 200, body = AgentInfo), (status = 202, body = AgentInfo),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem),
    )
)]
pub(crate) async fn stop(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    mut params: Params,
    MaybeJson(body): MaybeJson<StopRequest>,
) -> Result<Response, ApiError> {
    let wait = wait_for(&mut params, "stopped");
    let timeout_s = body.timeout.unwrap_or(STOP_TIMEOUT_S);
    if timeout_s > STOP_TIMEOUT_MOST_S {
        params.bad("timeout", format!("must be at most {STOP_TIMEOUT_MOST_S} seconds"));
    }
    params.done()?;
    let options =
        DesireOptions { force: body.force || timeout_s == 0, stop_timeout_ms: u32::try_from(timeout_s * 1000).ok() };
    let row = wish(&app, &caller, &headers, &id, Wish { name: "stop", desired: Desired::Stopped, options }).await?;
    answer(&app, &caller, row, wait, wait::stop_settled).await
}

async fn answer(
    app: &App,
    caller: &Caller,
    row: AgentRow,
    wait: bool,
    settled: fn(&AgentRow) -> bool,
) -> Result<Response, ApiError> {
    // A repeat may tell of an agent that is gone: nothing to wait for.
    if !wait || row.desired == Desired::Gone {
        return Ok(axum::Json(info(row)).into_response());
    }
    match wait::until(app, caller, row.id.as_str(), app.cfg().deadlines.wait, settled).await? {
        Waited::Settled(row) => Ok(axum::Json(info(Arc::unwrap_or_clone(row))).into_response()),
        Waited::RanOut(row) => Ok((StatusCode::ACCEPTED, axum::Json(info(Arc::unwrap_or_clone(row)))).into_response()),
    }
}

//! `PATCH /v1/agents/{id}`: change an agent that is there.

use super::Caller;
use super::agents::{etag, info};
use super::extract::{Json, Params, if_match};
use crate::app::App;
use crate::problem::ApiError;
use crate::telemetry;
use aether_core::api::{AgentPatch, AgentUpdated};
use aether_core::{Code, Problem};
use aether_store::StoreError;
use axum::extract::{Path, State};
use http::header::ETAG;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Change an agent's name, labels, metadata, env, resources, process_restart,
/// recovery or ttl.
#[utoipa::path(
    patch, path = "/v1/agents/{id}", operation_id = "update_agent", tag = "agents", request_body = AgentPatch,
    params(
        ("id" = String, Path, description = "Id, name or alias"),
        ("If-Match" = Option<String>, Header, description = "The ETag that was read: refuse if it has changed since"),
    ),
    responses(
        (status = 200, body = AgentUpdated, headers(("ETag" = String, description = "The version, for If-Match"))),
        (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, description = "The name is taken", body = Problem),
        (status = 412, description = "The version has changed", body = Problem),
    )
)]
pub(crate) async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    params: Params,
    Json(patch): Json<AgentPatch>,
) -> Result<([(HeaderName, HeaderValue); 1], axum::Json<AgentUpdated>), ApiError> {
    params.done()?;
    let expected = if_match(&headers)?;
    let patch = patch.check().map_err(ApiError::validation)?;
    // Large, and room for them would be kept while the body is still to come.
    let row = Box::pin(app.agent(&caller, &id)).await?;
    let done = Box::pin(app.store.update_agent(&caller.scope(), &row.id, patch, expected)).await;
    telemetry::operation("update", caller.tenant(), done.is_ok());
    let updated = done.map_err(|error| match error {
        StoreError::VersionConflict { current } => changed_meanwhile(current),
        other => other.into(),
    })?;
    let changed = updated.changed.iter().map(|field| (*field).to_owned()).collect();
    let version = updated.agent.version;
    Ok(([(ETAG, etag(version))], axum::Json(AgentUpdated { agent: info(updated.agent), changed })))
}

fn changed_meanwhile(current: u64) -> ApiError {
    ApiError::new(
        Code::PreconditionFailed,
        format!("The agent has version {current} by now, not one that If-Match names."),
        "Read the agent again, look at what changed, and repeat with its ETag.",
    )
}

//! Health, readiness, metrics, version, the OpenAPI document, the nodes.

use super::Caller;
use super::extract::Params;
use crate::app::App;
use crate::problem::{ApiError, KeepBody};
use crate::telemetry;
use aether_core::api::{HealthInfo, NodeAmounts, NodeInfo, ReadinessCheck, ReadinessInfo, VersionInfo};
use aether_core::{Code, Problem};
use aether_store::NodeStatus;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

/// A readiness check that takes longer has failed.
const CHECK_LIMIT: Duration = Duration::from_secs(2);

/// The server's process answers.
#[utoipa::path(get, path = "/health", tag = "system", security(()), responses((status = 200, body = HealthInfo)))]
pub(crate) async fn health(State(app): State<App>) -> axum::Json<HealthInfo> {
    axum::Json(HealthInfo { status: "ok".to_owned(), time: app.clock.now() })
}

/// As `/health`.
#[utoipa::path(get, path = "/v1/health", tag = "system", security(()), responses((status = 200, body = HealthInfo)))]
pub(crate) async fn health_v1(state: State<App>) -> axum::Json<HealthInfo> {
    health(state).await
}

/// Whether the server can do its work: each dependency with its latency.
#[utoipa::path(
    get, path = "/readiness", tag = "system", security(()),
    responses((status = 200, body = ReadinessInfo), (status = 503, body = ReadinessInfo))
)]
pub(crate) async fn readiness(State(app): State<App>) -> Response {
    let mut checks = BTreeMap::new();
    checks.insert("store".to_owned(), check_store(&app).await);
    checks.insert("nodes".to_owned(), check_nodes(&app).await);
    let not_serving = match (app.draining.is_cancelled(), app.opened.is_cancelled()) {
        (true, _) => Some("shutting down"),
        (false, false) => Some("the node of this server is being opened"),
        (false, true) => None,
    };
    let serving = ReadinessCheck { ok: not_serving.is_none(), latency_ms: 0.0, error: not_serving.map(str::to_owned) };
    checks.insert("serving".to_owned(), serving);
    // A control plane without nodes still accepts and keeps work.
    let ok = checks.iter().all(|(name, check)| check.ok || name == "nodes");
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = ReadinessInfo { status: if ok { "ready" } else { "not_ready" }.to_owned(), checks };
    let mut response = (status, axum::Json(body)).into_response();
    response.extensions_mut().insert(KeepBody);
    response
}

async fn check_store(app: &App) -> ReadinessCheck {
    match tokio::time::timeout(CHECK_LIMIT, app.store.ping()).await {
        Ok(Ok(latency)) => ReadinessCheck { ok: true, latency_ms: latency.as_secs_f64() * 1000.0, error: None },
        // The store's own words stay inside.
        Ok(Err(error)) => {
            tracing::warn!(%error, "the store is not ready");
            failed("the store does not answer")
        }
        Err(_) => failed("the store takes too long"),
    }
}

async fn check_nodes(app: &App) -> ReadinessCheck {
    let started = app.clock.monotonic();
    let nodes = tokio::time::timeout(CHECK_LIMIT, app.store.nodes()).await;
    let latency_ms = app.clock.monotonic().saturating_sub(started).as_secs_f64() * 1000.0;
    match nodes {
        Ok(Ok(nodes)) if nodes.iter().any(|n| n.status == NodeStatus::Ready) => {
            ReadinessCheck { ok: true, latency_ms, error: None }
        }
        _ => ReadinessCheck { latency_ms, ..failed("no node is ready") },
    }
}

fn failed(text: &str) -> ReadinessCheck {
    ReadinessCheck { ok: false, latency_ms: 0.0, error: Some(text.to_owned()) }
}

/// Prometheus text.
#[utoipa::path(
    get, path = "/metrics", tag = "system", security(()),
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain"))
)]
pub(crate) async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    telemetry::refresh(&app.store, app.clock.as_ref()).await;
    let text = telemetry::render().ok_or_else(|| {
        ApiError::new(Code::ServiceUnavailable, "Metrics go elsewhere in this process.", "Ask the operator where.")
    })?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// Version of the server and of its API.
#[utoipa::path(get, path = "/v1/version", tag = "system", security(()), responses((status = 200, body = VersionInfo)))]
pub(crate) async fn version(State(app): State<App>) -> axum::Json<VersionInfo> {
    axum::Json(VersionInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: app.cfg().commit.clone(),
        api: "v1".to_owned(),
    })
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "system", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
pub(crate) async fn openapi_json() -> Response {
    // Made once: it is open to strangers, and large.
    static DOCUMENT: LazyLock<Bytes> =
        LazyLock::new(|| serde_json::to_vec(&super::openapi()).expect("the document serialises").into());
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

/// This document.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "system", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
pub(crate) async fn openapi_json_v1() -> Response {
    openapi_json().await
}

/// The nodes with capacity, reservations and the age of their leases.
#[utoipa::path(
    get, path = "/v1/scheduler/nodes", operation_id = "list_nodes", tag = "scheduler",
    responses((status = 200, body = Vec<NodeInfo>), (status = 403, body = Problem))
)]
pub(crate) async fn nodes(
    State(app): State<App>,
    _caller: Caller,
    params: Params,
) -> Result<axum::Json<Vec<NodeInfo>>, ApiError> {
    params.done()?;
    let now = app.clock.now();
    let nodes = app.store.nodes().await?;
    let shown = nodes.into_iter().map(|n| NodeInfo {
        id: n.id.to_string(),
        status: n.status.as_str().to_owned(),
        engine: n.engine,
        isolation: n.isolation,
        capacity: NodeAmounts { ..n.capacity },
        reserved: NodeAmounts { ..n.reserved },
        labels: n.labels,
        boots_queued: n.heartbeat.boots_queued,
        boots_running: n.heartbeat.boots_running,
        sandboxes: n.heartbeat.sandboxes,
        lease_age_ms: u64::try_from(now.since(n.lease_renewed_at).as_millis()).unwrap_or(u64::MAX),
        version: n.version,
    });
    Ok(axum::Json(shown.collect()))
}

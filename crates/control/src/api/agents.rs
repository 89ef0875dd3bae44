//! `/v1/agents`: create, list, get, health, stats.

mod shown;

pub(crate) use shown::Shown;

use super::Caller;
use super::extract::{Json, Params, idempotency};
use crate::app::App;
use crate::problem::ApiError;
use crate::wait::{self, Waited};
use crate::{scheduler, telemetry};
use aether_core::api::{AgentConfig, AgentHealth, AgentInfo, AgentStats, CheckedConfig, Page};
use aether_core::id::DEFAULT_CELL;
use aether_core::image::ImageRef;
use aether_core::{AgentId, AgentName, Code, Desired, Observed, Permission, Problem, Timestamp};
use aether_proto::node::AgentRequest;
use aether_store::{AgentFilter, AgentRow, Created, Idempotency, NewAgent, PageRequest, StoreError};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use std::collections::BTreeMap;
use std::sync::Arc;

const PER_PAGE: u32 = 20;
const PER_PAGE_MOST: u64 = 100;
/// Of all images of a filter together: a query has a bounded size.
const MAX_SPELLINGS: usize = 100;
const MAX_TERMS: usize = 100;
const MAX_PREFIX: usize = 64;
/// Made-up names that hit a taken one: three in a row is no accident.
const NAME_TRIES: usize = 3;

/// Create an agent and start it.
#[utoipa::path(
    post, path = "/v1/agents", operation_id = "create_agent", tag = "agents", request_body = AgentConfig,
    params(
        ("wait" = Option<String>, Query, description = "`running`: answer when it runs, or 202 after at most 60 s"),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeat answers with the first agent"),
    ),
    responses(
        (status = 201, body = AgentInfo), (status = 202, description = "`wait` ran out; the current state", body = AgentInfo),
        (status = 400, body = Problem), (status = 403, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem),
        (status = 507, description = "The server's disk is nearly full", body = Problem),
    )
)]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    mut params: Params,
    Json(config): Json<AgentConfig>,
) -> Result<Response, ApiError> {
    let wait = wait_for(&mut params, "running");
    params.done()?;
    let idempotency = idempotency(&headers, &config)?;
    let checked = checked(&caller, config)?;
    if wait && scheduler::could_ever_fit(&Box::pin(app.store.nodes()).await?, checked.spec.resources) == Some(false) {
        return Err(ApiError::new(
            Code::CapacityUnavailable,
            "No node is large enough for these resources, even when empty.",
            "Ask for less CPU, memory or disk, or add a larger node.",
        )
        .retry_after(60));
    }
    // Large, and room for it would be kept while the body is still to come.
    let created = Box::pin(insert(&app, &caller, checked, idempotency)).await;
    telemetry::operation("create", caller.tenant(), created.is_ok());
    let row = created?.agent;
    if !wait || row.desired == Desired::Gone {
        return Ok(created_answer(StatusCode::CREATED, row));
    }
    let id = row.id.to_string();
    match Box::pin(wait::until(&app, &caller, &id, app.cfg().deadlines.wait, wait::running_settled)).await? {
        Waited::Settled(row) => Ok(created_answer(StatusCode::CREATED, Arc::unwrap_or_clone(row))),
        Waited::RanOut(row) => Ok(created_answer(StatusCode::ACCEPTED, Arc::unwrap_or_clone(row))),
    }
}

/// The config's parts, each within its limits, in the caller's own tenant.
pub(super) fn checked(caller: &Caller, config: AgentConfig) -> Result<CheckedConfig, ApiError> {
    if config.tenant_id.as_ref().is_some_and(|t| t != caller.tenant()) {
        return Err(ApiError::new(
            Code::Forbidden,
            "tenant_id is not the caller's tenant.",
            "Leave tenant_id out, or use a key of that tenant.",
        ));
    }
    let checked = config.check().map_err(ApiError::validation)?;
    super::secrets::may_name(caller, &checked.spec.secrets)?;
    Ok(checked)
}

pub(super) async fn insert(
    app: &App,
    caller: &Caller,
    checked: CheckedConfig,
    idempotency: Option<Idempotency>,
) -> Result<Created, ApiError> {
    crate::room::check(app.cfg().store_dir.as_deref())?;
    let mut tries = 0;
    loop {
        tries += 1;
        let name = checked.name.clone().unwrap_or_else(|| AgentName::make_up(app.rng.as_ref()));
        let new = NewAgent {
            id: AgentId::generate(DEFAULT_CELL, app.rng.as_ref()),
            name,
            alias: checked.alias.clone(),
            spec: checked.spec.clone(),
            env: checked.env.clone(),
            idempotency: idempotency.clone(),
        };
        let made_up = new.name.clone();
        match app.store.create_agent(&caller.scope(), new).await {
            Err(StoreError::NameTaken { name })
                if checked.name.is_none() && name == made_up.as_str() && tries < NAME_TRIES => {}
            other => return Ok(other?),
        }
    }
}

fn created_answer(status: StatusCode, row: AgentRow) -> Response {
    let location = HeaderValue::from_str(&format!("/v1/agents/{}", row.id)).expect("ids are letters and digits");
    (status, [(LOCATION, location)], axum::Json(info(row))).into_response()
}

/// `wait=<state>` or `wait=true`.
pub(super) fn wait_for(params: &mut Params, state: &str) -> bool {
    match params.text("wait").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(text) if text == state => true,
        Some(_) => {
            params.bad("wait", format!("must be {state}"));
            false
        }
    }
}

/// List the tenant's agents, newest first.
#[utoipa::path(
    get, path = "/v1/agents", operation_id = "list_agents", tag = "agents",
    params(
        ("page" = Option<u32>, Query, description = "From 1; `cursor` wins over it"),
        ("per_page" = Option<u32>, Query, description = "1 to 100, default 20"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("status" = Option<String>, Query, description = "One or more states, separated by commas; `state` is the same"),
        ("label" = Option<Vec<String>>, Query, description = "`key=value`; all of them must match"),
        ("metadata" = Option<Vec<String>>, Query, description = "`key=value`; all of them must match"),
        ("image" = Option<Vec<String>>, Query, description = "A reference, in any spelling, or a digest; any of them"),
        ("name_prefix" = Option<String>, Query, description = "How the name begins"),
        ("created_after" = Option<String>, Query, description = "At this RFC 3339 time or later, or an age (5m)"),
        ("created_before" = Option<String>, Query, description = "Before this RFC 3339 time, or an age (5m)"),
    ),
    responses((status = 200, body = Page<AgentInfo>), (status = 400, body = Problem))
)]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    mut params: Params,
) -> Result<axum::Json<Page<AgentInfo>>, ApiError> {
    let (filter, page) = list_request(&mut params, app.clock.now());
    params.done()?;
    let (number, per_page) = (page.page.unwrap_or(1), page.limit);
    let found = app.store.list_agents(&caller.scope(), filter, page).await?;
    Ok(axum::Json(Page {
        data: found.rows.into_iter().map(info).collect(),
        page: number,
        per_page,
        total: found.total,
        next_cursor: found.next_cursor,
    }))
}

fn list_request(params: &mut Params, now: Timestamp) -> (AgentFilter, PageRequest) {
    let per_page = params.number("per_page", 1..=PER_PAGE_MOST).and_then(|n| u32::try_from(n).ok());
    let page = PageRequest {
        limit: per_page.unwrap_or(PER_PAGE),
        cursor: params.text("cursor"),
        page: params.number("page", 1..=1_000_000).and_then(|n| u32::try_from(n).ok()),
    };
    let mut filter = AgentFilter::default();
    let states: Vec<String> = ["status", "state"].into_iter().flat_map(|name| params.all(name)).collect();
    for text in states {
        for state in text.split(',') {
            match state.parse::<Observed>() {
                Ok(state) => filter.status.push(state),
                Err(error) => params.bad("status", error.to_string()),
            }
        }
    }
    filter.labels = pairs(params, "label");
    filter.metadata = pairs(params, "metadata");
    for text in params.all("image") {
        match text.parse::<ImageRef>() {
            Ok(image) => filter.images.extend(image.spellings()),
            Err(error) => params.bad("image", error.to_string()),
        }
        filter.images.push(text);
    }
    filter.name_prefix = params.text("name_prefix");
    if filter.images.len() > MAX_SPELLINGS || filter.name_prefix.as_ref().is_some_and(|p| p.len() > MAX_PREFIX) {
        params.bad("image", "too many images, or too long a name_prefix");
    }
    // Each is a term of the store's query, whose depth is bounded.
    if filter.status.len() > MAX_TERMS || filter.labels.len() + filter.metadata.len() > MAX_TERMS {
        params.bad("label", format!("at most {MAX_TERMS} labels and metadata, and as many states"));
    }
    filter.created_after = params.time("created_after", now);
    filter.created_before = params.time("created_before", now);
    (filter, page)
}

fn pairs(params: &mut Params, name: &str) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    for text in params.all(name) {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                map.insert(key.to_owned(), value.to_owned());
            }
            _ => params.bad(name, "must be key=value"),
        }
    }
    map
}

/// One agent, by id, name or alias.
#[utoipa::path(
    get, path = "/v1/agents/{id}", operation_id = "get_agent", tag = "agents",
    params(
        ("id" = String, Path, description = "Id, name or alias"),
        ("show" = Option<String>, Query, description = "`env`: values too; needs agent:read_env, audited"),
    ),
    responses(
        (status = 200, body = AgentInfo, headers(("ETag" = String, description = "The version, for If-Match"))),
        (status = 403, body = Problem), (status = 404, body = Problem),
    )
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let show = match params.text("show").as_deref() {
        None => false,
        Some("env") => true,
        Some(_) => {
            params.bad("show", "must be env");
            false
        }
    };
    params.done()?;
    let row = app.agent(&caller, &id).await?;
    let version = row.version;
    if show && !caller.may(Permission::AgentReadEnv) {
        return Err(ApiError::forbidden(Permission::AgentReadEnv.as_str()));
    }
    let tag = [(ETAG, etag(version))];
    if show {
        let env = Some(app.store.agent_env(&caller.scope(), &row.id).await?);
        return Ok((tag, axum::Json(AgentInfo { env, ..info(Arc::unwrap_or_clone(row)) })).into_response());
    }
    let document =
        app.shown.document(row).map_err(|e| ApiError::internal(format!("an agent does not serialise: {e}")))?;
    Ok((tag, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], document).into_response())
}

/// Ask the guest whether it is well.
#[utoipa::path(
    get, path = "/v1/agents/{id}/health", operation_id = "agent_health", tag = "agents",
    params(("id" = String, Path, description = "Id, name or alias")),
    responses((status = 200, body = AgentHealth), (status = 404, body = Problem))
)]
pub(crate) async fn health(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<axum::Json<AgentHealth>, ApiError> {
    params.done()?;
    let row = app.agent(&caller, &id).await?;
    let unhealthy = |message: String| AgentHealth {
        healthy: false,
        probe: None,
        failures: 0,
        message,
        checked_at: app.clock.now(),
    };
    if row.observed != Observed::Running {
        return Ok(axum::Json(unhealthy(format!("the agent is {}", row.observed))));
    }
    let mut client = app.client_for(&row).await?;
    let health = match client.health(AgentRequest { agent_id: row.id.to_string() }).await {
        Ok(answer) => {
            let h = answer.into_inner();
            AgentHealth {
                healthy: h.healthy,
                probe: Some(h.probe).filter(|probe| matches!(probe.as_str(), "starting" | "healthy" | "unhealthy")),
                failures: h.probe_failures,
                message: crate::problem::clean(&h.message),
                checked_at: Timestamp::from_unix_ms(h.checked_at_ms),
            }
        }
        // That it cannot be asked is the answer.
        Err(status) => {
            tracing::debug!(agent = %row.id, %status, "health could not be asked");
            unhealthy("the guest does not answer".to_owned())
        }
    };
    Ok(axum::Json(health))
}

/// What the agent uses now.
#[utoipa::path(
    get, path = "/v1/agents/{id}/stats", operation_id = "agent_stats", tag = "agents",
    params(("id" = String, Path, description = "Id, name or alias")),
    responses((status = 200, body = AgentStats), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn stats(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<axum::Json<AgentStats>, ApiError> {
    params.done()?;
    let row = app.agent(&caller, &id).await?;
    let mut client = app.live_client(&row).await?;
    let s = client.stats(AgentRequest { agent_id: row.id.to_string() }).await?.into_inner();
    Ok(axum::Json(AgentStats {
        cpu_usage_percent: s.cpu_usage_percent,
        memory_usage_bytes: s.memory_usage_bytes,
        memory_total_bytes: s.memory_total_bytes,
        disk_usage_bytes: s.disk_usage_bytes,
        disk_total_bytes: s.disk_total_bytes,
        network_rx_bytes: s.network_rx_bytes,
        network_tx_bytes: s.network_tx_bytes,
        processes: s.processes,
        uptime_ms: s.uptime_ms,
        host_memory_bytes: s.host_memory_bytes,
        cpu_usage_us: s.cpu_usage_us,
        cpu_count: s.cpu_count,
        host_cpu_usage_us: s.host_cpu_usage_us,
        host_disk_bytes: s.host_disk_bytes,
        sampled_at: Timestamp::from_unix_ms(s.sampled_at_ms),
    }))
}

/// A version as an entity tag.
pub(super) fn etag(version: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("digits in quotes")
}

/// A row as the API shows it, without the env's values.
pub(crate) fn info(row: AgentRow) -> AgentInfo {
    let unhealthy = row.unhealthy && row.observed == Observed::Running;
    AgentInfo {
        id: row.id,
        name: row.name.to_string(),
        alias: row.alias.map(|a| a.to_string()),
        tenant_id: row.tenant,
        config: row.spec,
        env_names: row.env_names,
        env: None,
        secret_versions: row.secret_versions,
        status: row.observed,
        unhealthy,
        unhealthy_reason: row.unhealthy_reason.filter(|_| unhealthy),
        desired: row.desired,
        version: row.version,
        generation: row.generation,
        pending_restart: row.pending_restart,
        node: row.node_id.map(|n| n.to_string()),
        isolation: row.isolation,
        engine: row.engine,
        disk_encryption: row.disk_encryption,
        image_digest: row.image_digest,
        placement_reason: row.placement_reason,
        queue_position: row.queue_position,
        exit_code: row.exit_code,
        exit_signal: row.exit_signal,
        restarts: row.restarts,
        error: row.error,
        created_at: row.created_at,
        started_at: row.started_at,
        stopped_at: row.stopped_at,
        expires_at: row.expires_at,
    }
}

#[cfg(test)]
mod fuzz;

//! `/v1/service-accounts`: principals of the tenant that are no people.

use super::Caller;
use super::extract::{Json, Params};
use super::roles::{checked_role, held};
use crate::app::App;
use crate::problem::ApiError;
use aether_core::api::{ServiceAccountInfo, ServiceAccountRequest};
use aether_core::id::DEFAULT_CELL;
use aether_core::{AgentName, Code, FieldError, Problem, Role, RoleName, ServiceAccountId, TenantId};
use aether_store::{NewServiceAccount, ServiceAccountRow};
use axum::extract::{Path, State};
use http::StatusCode;

fn info(row: ServiceAccountRow) -> ServiceAccountInfo {
    ServiceAccountInfo {
        id: row.id.to_string(),
        name: row.name.to_string(),
        role: row.role.to_string(),
        enabled: row.enabled,
        keys: row.keys,
        created_at: row.created_at,
    }
}

async fn find(app: &App, caller: &Caller, id: &str) -> Result<ServiceAccountRow, ApiError> {
    let found = app.store.find_service_account(&caller.scope(), id).await?;
    found.ok_or_else(|| ApiError::not_found("service account"))
}

/// Make a service account; keys are made for it with `service_account`.
#[utoipa::path(
    post, path = "/v1/service-accounts", operation_id = "create_service_account", tag = "auth",
    request_body = ServiceAccountRequest,
    responses(
        (status = 201, body = ServiceAccountInfo), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 409, body = Problem),
    )
)]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    params: Params,
    Json(request): Json<ServiceAccountRequest>,
) -> Result<(StatusCode, axum::Json<ServiceAccountInfo>), ApiError> {
    params.done()?;
    let mut errors = Vec::new();
    let name = request.name.parse::<AgentName>();
    errors.extend(name.as_ref().err().map(|error| FieldError::new("name", error.to_string())));
    let role = request.role.as_deref().map_or_else(|| Ok(RoleName::from(Role::Developer)), checked_role);
    errors.extend(role.as_ref().err().cloned());
    let (Ok(name), Ok(role)) = (name, role) else { return Err(ApiError::validation(errors)) };
    if role.of_platform() && caller.tenant != TenantId::default_tenant() {
        return Err(ApiError::field("role", "is the platform's: the tenant `default` alone has such principals"));
    }
    if !caller.may_grant(held(&app, &caller, &role).await?) {
        return Err(ApiError::new(
            Code::Forbidden,
            "The service account would hold permissions that you do not.",
            "Choose a lesser role.",
        ));
    }
    let id = ServiceAccountId::generate(DEFAULT_CELL, app.rng.as_ref());
    let row = app.store.create_service_account(&caller.scope(), NewServiceAccount { id, name, role }).await?;
    Ok((StatusCode::CREATED, axum::Json(info(row))))
}

/// The tenant's service accounts.
#[utoipa::path(
    get, path = "/v1/service-accounts", operation_id = "list_service_accounts", tag = "auth",
    responses((status = 200, body = Vec<ServiceAccountInfo>))
)]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    params: Params,
) -> Result<axum::Json<Vec<ServiceAccountInfo>>, ApiError> {
    params.done()?;
    let rows = app.store.list_service_accounts(&caller.scope()).await?;
    Ok(axum::Json(rows.into_iter().map(info).collect()))
}

/// One service account.
#[utoipa::path(
    get, path = "/v1/service-accounts/{id}", operation_id = "get_service_account", tag = "auth",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = ServiceAccountInfo), (status = 404, body = Problem))
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<axum::Json<ServiceAccountInfo>, ApiError> {
    params.done()?;
    find(&app, &caller, &id).await.map(|row| axum::Json(info(row)))
}

async fn set_enabled(
    app: &App,
    caller: &Caller,
    row: ServiceAccountRow,
    enabled: bool,
) -> Result<ServiceAccountInfo, ApiError> {
    app.store.set_service_account_enabled(&caller.scope(), &row.id, enabled).await?;
    Ok(ServiceAccountInfo { enabled, ..info(row) })
}

/// Refuse all of a service account's keys, at once, until it is enabled again.
#[utoipa::path(
    post, path = "/v1/service-accounts/{id}/disable", operation_id = "disable_service_account", tag = "auth",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = ServiceAccountInfo), (status = 404, body = Problem))
)]
pub(crate) async fn disable(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<axum::Json<ServiceAccountInfo>, ApiError> {
    params.done()?;
    let row = find(&app, &caller, &id).await?;
    set_enabled(&app, &caller, row, false).await.map(axum::Json)
}

/// Take a disabled service account's keys again.
#[utoipa::path(
    post, path = "/v1/service-accounts/{id}/enable", operation_id = "enable_service_account", tag = "auth",
    params(("id" = String, Path, description = "Id or name")),
    responses(
        (status = 200, body = ServiceAccountInfo), (status = 403, body = Problem), (status = 404, body = Problem),
    )
)]
pub(crate) async fn enable(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<axum::Json<ServiceAccountInfo>, ApiError> {
    params.done()?;
    let row = find(&app, &caller, &id).await?;
    if !caller.may_grant(row.permissions) {
        return Err(ApiError::new(
            Code::Forbidden,
            "The service account holds permissions that you do not.",
            "Have it enabled by somebody who holds them.",
        ));
    }
    set_enabled(&app, &caller, row, true).await.map(axum::Json)
}

/// Delete a service account; its keys are revoked with it.
#[utoipa::path(
    delete, path = "/v1/service-accounts/{id}", operation_id = "delete_service_account", tag = "auth",
    params(("id" = String, Path, description = "Id or name")),
    responses((status = 204), (status = 404, body = Problem))
)]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<StatusCode, ApiError> {
    params.done()?;
    let row = find(&app, &caller, &id).await?;
    app.store.delete_service_account(&caller.scope(), &row.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

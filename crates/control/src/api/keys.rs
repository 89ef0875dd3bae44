//! `/v1/auth/keys`: API keys of the tenant.

use super::Caller;
use super::extract::{Json, Params};
use crate::app::App;
use crate::auth::{ApiKey, may_grant};
use crate::problem::ApiError;
use aether_core::api::{KeyCreated, KeyInfo, KeyRequest, Page};
use aether_core::id::DEFAULT_CELL;
use aether_core::{Code, FieldError, KeyId, Permission, Problem, Role, TenantId};
use aether_store::{KeyRow, NewKey};
use axum::extract::{Path, State};
use http::StatusCode;
use std::collections::BTreeSet;

const MAX_NAME: usize = 64;

/// Make an API key; its secret is shown this once.
#[utoipa::path(
    post, path = "/v1/auth/keys", operation_id = "create_key", tag = "auth", request_body = KeyRequest,
    responses((status = 201, body = KeyCreated), (status = 400, body = Problem), (status = 403, body = Problem))
)]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    params: Params,
    Json(request): Json<KeyRequest>,
) -> Result<(StatusCode, axum::Json<KeyCreated>), ApiError> {
    params.done()?;
    let (role, scopes) = checked(&app, &request)?;
    if role.of_platform() && caller.tenant != TenantId::default_tenant() {
        return Err(ApiError::field("role", "is the platform's: such keys are made in the tenant `default` alone"));
    }
    if !may_grant(&caller, role, scopes.as_ref()) {
        return Err(ApiError::new(
            Code::Forbidden,
            "The key would hold permissions that you do not.",
            "Choose a lesser role, or narrow it by scopes.",
        ));
    }
    let key = ApiKey::generate(app.rng.as_ref());
    let new = NewKey {
        id: KeyId::generate(DEFAULT_CELL, app.rng.as_ref()),
        name: request.name,
        hash: app.auth.pepper.hash(&key),
        prefix: key.prefix(),
        role,
        scopes,
        expires_at: request.expires_at,
    };
    let row = app.store.create_key(&caller.scope(), new).await?;
    let created = KeyCreated {
        info: info(row),
        key: key.text().expose().to_owned(),
        e2b_key: key.e2b_text().expose().to_owned(),
    };
    Ok((StatusCode::CREATED, axum::Json(created)))
}

fn checked(app: &App, request: &KeyRequest) -> Result<(Role, Option<BTreeSet<Permission>>), ApiError> {
    let mut errors = Vec::new();
    let bad_name =
        request.name.is_empty() || request.name.len() > MAX_NAME || request.name.chars().any(char::is_control);
    if bad_name {
        errors.push(FieldError::new("name", format!("must be 1 to {MAX_NAME} bytes without control characters")));
    }
    let role = request.role.as_deref().unwrap_or(Role::Developer.as_str()).parse::<Role>();
    if role.is_err() {
        let known = "must be one of platform_admin, operator, admin, developer, viewer, auditor";
        errors.push(FieldError::new("role", known));
    }
    let mut scopes = BTreeSet::new();
    for text in request.scopes.iter().flatten() {
        match text.parse::<Permission>() {
            Ok(permission) => drop(scopes.insert(permission)),
            Err(_) => {
                errors.push(FieldError::new("scopes", format!("{:?} is not a permission", crate::problem::clean(text))))
            }
        }
    }
    if request.expires_at.is_some_and(|at| at <= app.clock.now()) {
        errors.push(FieldError::new("expires_at", "must be in the future"));
    }
    match role {
        Ok(role) if errors.is_empty() => Ok((role, request.scopes.as_ref().map(|_| scopes))),
        _ => Err(ApiError::validation(errors)),
    }
}

/// List the tenant's keys, without their secrets.
#[utoipa::path(
    get, path = "/v1/auth/keys", operation_id = "list_keys", tag = "auth",
    params(("page" = Option<u32>, Query), ("per_page" = Option<u32>, Query, description = "1 to 100, default 20")),
    responses((status = 200, body = Page<KeyInfo>))
)]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    mut params: Params,
) -> Result<axum::Json<Page<KeyInfo>>, ApiError> {
    let page = params.number("page", 1..=1_000_000).unwrap_or(1);
    let per_page = params.number("per_page", 1..=100).unwrap_or(20);
    params.done()?;
    let keys = app.store.list_keys(&caller.scope()).await?;
    let total = keys.len() as u64;
    let first = usize::try_from((page - 1) * per_page).unwrap_or(usize::MAX);
    let data = keys.into_iter().skip(first).take(per_page as usize).map(info).collect();
    Ok(axum::Json(Page { data, page: page as u32, per_page: per_page as u32, total, next_cursor: None }))
}

/// Revoke a key, at once and for good.
#[utoipa::path(
    delete, path = "/v1/auth/keys/{id}", operation_id = "revoke_key", tag = "auth",
    params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem))
)]
pub(crate) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<StatusCode, ApiError> {
    params.done()?;
    let id: KeyId = id.parse().map_err(|_| ApiError::not_found("key"))?;
    app.store.revoke_key(&caller.scope(), &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn info(row: KeyRow) -> KeyInfo {
    KeyInfo {
        id: row.id.to_string(),
        name: row.name,
        prefix: row.prefix,
        role: row.role.as_str().to_owned(),
        scopes: row.scopes.map(|s| s.into_iter().map(|p| p.as_str().to_owned()).collect()),
        created_at: row.created_at,
        expires_at: row.expires_at,
        last_used_at: row.last_used_at,
        revoked_at: row.revoked_at,
    }
}

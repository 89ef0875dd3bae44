//! `/v1/auth/keys`: API keys of the tenant.

use super::Caller;
use super::extract::{Json, MaybeJson, Params};
use super::roles::{checked_role, held};
use crate::app::App;
use crate::auth::{ApiKey, principal_of};
use crate::problem::ApiError;
use aether_core::api::{
    Budget, KeyAllow, KeyCreated, KeyInfo, KeyPatch, KeyRequest, KeyRotation, Page, QuotaUsage, validate_key_name,
};
use aether_core::id::DEFAULT_CELL;
use aether_core::tenant::{BudgetOf, Limits};
use aether_core::{
    Code, FieldError, KeyId, Permission, PermissionSet, Problem, Reach, Role, RoleName, TenantId, Timestamp,
};
use aether_store::{BudgetRow, KeyChange, KeyRow, NewKey, Rotation, ServiceAccountRow};
use axum::extract::{Path, State};
use http::StatusCode;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long an old secret works beside the new one.
const OVERLAP: Duration = Duration::from_secs(24 * 3600);
const OVERLAP_MOST: Duration = Duration::from_secs(30 * 24 * 3600);

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
    let account = match &request.service_account {
        None => None,
        Some(name) => {
            let found = app.store.find_service_account(&caller.scope(), name).await?;
            Some(found.ok_or_else(|| ApiError::field("service_account", "there is no such service account"))?)
        }
    };
    let asked = checked(&app, &request, account.as_ref())?;
    if asked.role.of_platform() && caller.tenant != TenantId::default_tenant() {
        return Err(ApiError::field("role", "is the platform's: such keys are made in the tenant `default` alone"));
    }
    let held = held(&app, &caller, &asked.role).await?.scoped(asked.scopes.as_ref());
    grants(&caller, held)?;
    let key = ApiKey::generate(app.rng.as_ref());
    let new = NewKey {
        id: KeyId::generate(DEFAULT_CELL, app.rng.as_ref()),
        name: request.name,
        hash: app.auth.pepper.hash(&key),
        prefix: key.prefix(),
        role: asked.role,
        scopes: asked.scopes,
        expires_at: request.expires_at,
        reach: asked.reach,
        budget: asked.budget,
        service_account: account.map(|account| account.id),
    };
    let row = app.store.create_key(&caller.scope(), new).await?;
    Ok((StatusCode::CREATED, axum::Json(shown_once(info(row, asked.budget), &key))))
}

fn shown_once(info: KeyInfo, key: &ApiKey) -> KeyCreated {
    KeyCreated { info, key: key.text().expose().to_owned(), e2b_key: key.e2b_text().expose().to_owned() }
}

/// Nobody hands out, renews or lengthens what they do not have.
fn grants(caller: &Caller, held: PermissionSet) -> Result<(), ApiError> {
    if caller.may_grant(held) {
        return Ok(());
    }
    Err(ApiError::new(
        Code::Forbidden,
        "The key would hold permissions that you do not.",
        "Choose a lesser role, or narrow it by scopes.",
    ))
}

/// A request whose parts are well formed by themselves.
struct Asked {
    role: RoleName,
    scopes: Option<BTreeSet<Permission>>,
    reach: Option<Reach>,
    budget: Option<Limits>,
}

fn checked(app: &App, request: &KeyRequest, account: Option<&ServiceAccountRow>) -> Result<Asked, ApiError> {
    let mut errors: Vec<FieldError> = validate_key_name(&request.name).into_iter().collect();
    let mut role = RoleName::from(Role::Developer);
    match (&request.role, account) {
        (None, None) => {}
        (None, Some(account)) => role = account.role.clone(),
        (Some(_), Some(_)) => errors.push(FieldError::new("role", "is the service account's: leave it out")),
        (Some(text), None) => match checked_role(text) {
            Ok(named) => role = named,
            Err(error) => errors.push(error),
        },
    }
    let scopes = request.scopes.as_ref().map(|scopes| super::roles::checked_permissions("scopes", scopes));
    let scopes = scopes.transpose().unwrap_or_else(|wrong| {
        errors.extend(wrong);
        None
    });
    errors.extend(request.expires_at.and_then(|at| not_past(app, at)));
    let reach = request.allow.as_ref().map(KeyAllow::check).transpose();
    let budget = request.budget.map(Budget::check).transpose();
    errors.extend(reach.as_ref().err().into_iter().chain(budget.as_ref().err()).flatten().cloned());
    match (reach, budget) {
        (Ok(reach), Ok(budget)) if errors.is_empty() => {
            Ok(Asked { role, scopes: scopes.map(|set| set.iter().collect()), reach, budget })
        }
        _ => Err(ApiError::validation(errors)),
    }
}

fn not_past(app: &App, at: Timestamp) -> Option<FieldError> {
    (at <= app.clock.now()).then(|| FieldError::new("expires_at", "must be in the future"))
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
    let paging = params.paging();
    params.done()?;
    let (mut page, rows) = paging.of(app.store.list_keys(&caller.scope()).await?);
    for row in rows {
        let budget = budget_of(&app, &row).await?;
        page.data.push(info(row, budget.map(|budget| budget.limits)));
    }
    Ok(axum::Json(page))
}

async fn budget_of(app: &App, row: &KeyRow) -> Result<Option<BudgetRow>, ApiError> {
    if !row.budgeted {
        return Ok(None);
    }
    Ok(app.store.budget(&row.tenant, BudgetOf::Key(row.id.clone())).await?)
}

fn key_id(text: &str) -> Result<KeyId, ApiError> {
    text.parse().map_err(|_| ApiError::not_found("key"))
}

async fn find(app: &App, caller: &Caller, id: &KeyId) -> Result<KeyRow, ApiError> {
    app.store.find_key(&caller.scope(), id).await?.ok_or_else(|| ApiError::not_found("key"))
}

/// The key with what its agents hold of its budget.
async fn whole(app: &App, row: KeyRow) -> Result<KeyInfo, ApiError> {
    let budget = budget_of(app, &row).await?;
    let usage = budget.as_ref().map(|budget| QuotaUsage::from(budget.used));
    Ok(KeyInfo { usage, ..info(row, budget.map(|budget| budget.limits)) })
}

/// One key, without its secret.
#[utoipa::path(
    get, path = "/v1/auth/keys/{id}", operation_id = "get_key", tag = "auth",
    params(("id" = String, Path)),
    responses((status = 200, body = KeyInfo), (status = 404, body = Problem))
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<axum::Json<KeyInfo>, ApiError> {
    params.done()?;
    let row = find(&app, &caller, &key_id(&id)?).await?;
    whole(&app, row).await.map(axum::Json)
}

/// Rename a key, move its end, or set its budget. What it may do is for good.
#[utoipa::path(
    patch, path = "/v1/auth/keys/{id}", operation_id = "update_key", tag = "auth", request_body = KeyPatch,
    params(("id" = String, Path)),
    responses(
        (status = 200, body = KeyInfo), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    )
)]
pub(crate) async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
    Json(patch): Json<KeyPatch>,
) -> Result<axum::Json<KeyInfo>, ApiError> {
    params.done()?;
    let id = key_id(&id)?;
    let row = find(&app, &caller, &id).await?;
    let mut errors: Vec<FieldError> = patch.name.as_deref().and_then(validate_key_name).into_iter().collect();
    errors.extend(patch.expires_at.flatten().and_then(|at| not_past(&app, at)));
    let budget = match patch.budget {
        Some(Some(budget)) => budget.check().map(|limits| Some(Some(limits))),
        Some(None) => Ok(Some(None)),
        None => Ok(None),
    };
    let budget = budget.unwrap_or_else(|wrong| {
        errors.extend(wrong);
        None
    });
    if !errors.is_empty() {
        return Err(ApiError::validation(errors));
    }
    grants(&caller, row.permissions)?;
    let change = KeyChange { name: patch.name, expires_at: patch.expires_at, budget };
    let row = app.store.update_key(&caller.scope(), &id, change).await?;
    whole(&app, row).await.map(axum::Json)
}

/// Give a key a new secret, shown this once; the old one works on for a while.
#[utoipa::path(
    post, path = "/v1/auth/keys/{id}/rotate", operation_id = "rotate_key", tag = "auth",
    request_body = Option<KeyRotation>, params(("id" = String, Path)),
    responses(
        (status = 200, description = "The same key with its new secret", body = KeyCreated),
        (status = 400, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, description = "Too many of its secrets still work", body = Problem),
    )
)]
pub(crate) async fn rotate(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
    MaybeJson(rotation): MaybeJson<KeyRotation>,
) -> Result<axum::Json<KeyCreated>, ApiError> {
    params.done()?;
    let id = key_id(&id)?;
    let row = find(&app, &caller, &id).await?;
    let overlap = match &rotation.overlap {
        None => OVERLAP,
        Some(text) => aether_core::time::parse_duration(text)
            .filter(|overlap| *overlap <= OVERLAP_MOST)
            .ok_or_else(|| ApiError::field("overlap", "must be a duration such as 24h, at most 720h"))?,
    };
    grants(&caller, row.permissions)?;
    let key = ApiKey::generate(app.rng.as_ref());
    let previous_until = app.clock.now().plus(overlap);
    let new = Rotation { hash: app.auth.pepper.hash(&key), prefix: key.prefix(), previous_until };
    let row = app.store.rotate_key(&caller.scope(), &id, new).await?;
    let info = whole(&app, row).await?;
    Ok(axum::Json(shown_once(info, &key)))
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
    app.store.revoke_key(&caller.scope(), &key_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn info(row: KeyRow, budget: Option<Limits>) -> KeyInfo {
    let permissions = principal_of(&row).permissions();
    KeyInfo {
        id: row.id.to_string(),
        name: row.name,
        prefix: row.prefix,
        role: row.role.to_string(),
        scopes: row.scopes.map(|s| s.into_iter().map(|p| p.as_str().to_owned()).collect()),
        permissions: permissions.iter().map(|p| p.as_str().to_owned()).collect(),
        allow: row.reach.as_deref().map(KeyAllow::from),
        budget: budget.map(Budget::from),
        usage: None,
        // One that was deleted by its id: its name may be another's by now.
        service_account: row.account.map(|a| a.name.map_or_else(|| a.id.to_string(), |name| name.to_string())),
        created_at: row.created_at,
        expires_at: row.expires_at,
        last_used_at: row.last_used_at,
        revoked_at: row.revoked_at,
        rotated_at: row.rotated_at,
        previous_until: row.previous_until,
    }
}

//! `/v1/tenants`: a tenant's view of itself, and what operators do with
//! tenants.

use super::Caller;
use super::extract::{Json, Params};
use crate::app::App;
use crate::problem::ApiError;
use aether_core::api::{
    Page, Quota, QuotaUsage, TenantDeletion, TenantInfo, TenantPatch, TenantRequest, TenantUpdate, validate_tenant,
};
use aether_core::tenant::{TenantStatus, Tier};
use aether_core::{Code, FieldError, Problem, TenantId};
use aether_store::{NewTenant, StoreError, TenantChange, TenantRow};
use axum::extract::{Path, State};
use http::StatusCode;

const PER_PAGE: u32 = 20;
const PER_PAGE_MOST: u64 = 100;

/// The id of a path; one that can be none's is as absent as any.
pub(super) fn tenant_id(text: &str) -> Result<TenantId, ApiError> {
    text.parse().map_err(|_| ApiError::not_found("tenant"))
}

pub(super) async fn find(app: &App, id: &TenantId) -> Result<TenantRow, ApiError> {
    let row = app.store.find_tenant(id).await?.filter(|row| row.status != TenantStatus::Erased);
    row.ok_or_else(|| ApiError::not_found("tenant"))
}

async fn info(app: &App, row: TenantRow) -> Result<TenantInfo, ApiError> {
    let quota = app.store.quota(&row.id).await?;
    Ok(TenantInfo {
        id: row.id.to_string(),
        name: row.name,
        tier: quota.tier,
        status: row.status,
        metadata: row.metadata,
        quota: Quota::new(row.id.as_str(), quota.tier, quota.limits),
        usage: QuotaUsage::from(quota.used),
        created_at: row.created_at,
    })
}

/// The caller's own tenant: what it may have and has.
#[utoipa::path(
    get, path = "/v1/tenants/me", operation_id = "get_own_tenant", tag = "tenants",
    responses((status = 200, body = TenantInfo))
)]
pub(crate) async fn me(
    State(app): State<App>,
    caller: Caller,
    params: Params,
) -> Result<axum::Json<TenantInfo>, ApiError> {
    params.done()?;
    let row = find(&app, &caller.tenant).await?;
    info(&app, row).await.map(axum::Json)
}

/// Change the name or the metadata of the caller's own tenant.
#[utoipa::path(
    patch, path = "/v1/tenants/me", operation_id = "update_own_tenant", tag = "tenants", request_body = TenantPatch,
    responses((status = 200, body = TenantInfo), (status = 400, body = Problem))
)]
pub(crate) async fn update_me(
    State(app): State<App>,
    caller: Caller,
    params: Params,
    Json(patch): Json<TenantPatch>,
) -> Result<axum::Json<TenantInfo>, ApiError> {
    params.done()?;
    let id = caller.tenant.clone();
    change(&app, &caller, &id, patch.into()).await
}

async fn change(
    app: &App,
    caller: &Caller,
    id: &TenantId,
    update: TenantUpdate,
) -> Result<axum::Json<TenantInfo>, ApiError> {
    let errors = validate_tenant(update.name.as_deref(), update.metadata.as_ref());
    if !errors.is_empty() {
        return Err(ApiError::validation(errors));
    }
    let change = TenantChange { name: update.name, metadata: update.metadata, tier: update.tier };
    let row = app.store.update_tenant(&caller.scope(), id, change).await.map_err(kept)?;
    info(app, row).await.map(axum::Json)
}

/// List all tenants, by id.
#[utoipa::path(
    get, path = "/v1/tenants", operation_id = "list_tenants", tag = "tenants",
    params(
        ("per_page" = Option<u32>, Query, description = "1 to 100, default 20"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = Page<TenantInfo>), (status = 400, body = Problem))
)]
pub(crate) async fn list(
    State(app): State<App>,
    _caller: Caller,
    params: Params,
) -> Result<axum::Json<Page<TenantInfo>>, ApiError> {
    let page = page_of(&app, params).await?;
    let mut data = Vec::with_capacity(page.data.len());
    for row in page.data {
        data.push(info(&app, row).await?);
    }
    let Page { page, per_page, total, next_cursor, .. } = page;
    Ok(axum::Json(Page { data, page, per_page, total, next_cursor }))
}

/// One page of tenants, as the query asks.
pub(super) async fn page_of(app: &App, mut params: Params) -> Result<Page<TenantRow>, ApiError> {
    let per_page = params.number("per_page", 1..=PER_PAGE_MOST).and_then(|n| u32::try_from(n).ok()).unwrap_or(PER_PAGE);
    let after = params.text("cursor").map(|text| text.parse::<TenantId>());
    if matches!(after, Some(Err(_))) {
        params.bad("cursor", "is not one that this API gave out");
    }
    params.done()?;
    // One more than asked: whether there is a next page.
    let (mut data, total) = app.store.list_tenants(after.and_then(Result::ok), per_page + 1).await?;
    let more = data.len() > per_page as usize;
    data.truncate(per_page as usize);
    let next_cursor = data.last().filter(|_| more).map(|row| row.id.to_string());
    Ok(Page { data, page: 1, per_page, total, next_cursor })
}

/// Create a tenant with the limits of its tier.
#[utoipa::path(
    post, path = "/v1/tenants", operation_id = "create_tenant", tag = "tenants", request_body = TenantRequest,
    responses((status = 201, body = TenantInfo), (status = 400, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    params: Params,
    Json(request): Json<TenantRequest>,
) -> Result<(StatusCode, axum::Json<TenantInfo>), ApiError> {
    params.done()?;
    let mut errors = validate_tenant(request.name.as_deref(), Some(&request.metadata));
    let id = request.id.parse::<TenantId>().ok().filter(|id| id.as_str() != "me");
    let Some(id) = id.filter(|_| errors.is_empty()) else {
        if request.id.parse::<TenantId>().is_err() || request.id == "me" {
            let rule = "must be 1 to 50 of a-z, 0-9 and '-', first and last a letter or digit, and not `me`";
            errors.push(FieldError::new("id", rule));
        }
        return Err(ApiError::validation(errors));
    };
    let new = NewTenant {
        name: request.name.unwrap_or_else(|| id.to_string()),
        tier: request.tier.unwrap_or(Tier::Free),
        metadata: request.metadata,
        id,
    };
    let row = app.store.create_tenant(&caller.scope(), new).await?;
    Ok((StatusCode::CREATED, axum::Json(info(&app, row).await?)))
}

/// Show one tenant.
#[utoipa::path(
    get, path = "/v1/tenants/{id}", operation_id = "get_tenant", tag = "tenants", params(("id" = String, Path)),
    responses((status = 200, body = TenantInfo), (status = 404, body = Problem))
)]
pub(crate) async fn get(
    State(app): State<App>,
    _caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<axum::Json<TenantInfo>, ApiError> {
    params.done()?;
    let row = find(&app, &tenant_id(&id)?).await?;
    info(&app, row).await.map(axum::Json)
}

/// Change a tenant's name, metadata or tier. The tier sets all of its limits.
#[utoipa::path(
    patch, path = "/v1/tenants/{id}", operation_id = "update_tenant", tag = "tenants", request_body = TenantUpdate,
    params(("id" = String, Path)),
    responses(
        (status = 200, body = TenantInfo), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, description = "It is being deleted", body = Problem),
    )
)]
pub(crate) async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
    Json(request): Json<TenantUpdate>,
) -> Result<axum::Json<TenantInfo>, ApiError> {
    params.done()?;
    change(&app, &caller, &tenant_id(&id)?, request).await
}

/// Suspend a tenant: its keys are refused and nothing new begins; what runs
/// goes on.
#[utoipa::path(
    post, path = "/v1/tenants/{id}/suspend", operation_id = "suspend_tenant", tag = "tenants",
    params(("id" = String, Path)),
    responses(
        (status = 200, body = TenantInfo), (status = 404, body = Problem),
        (status = 409, description = "It is `default`, or being deleted", body = Problem),
    )
)]
pub(crate) async fn suspend(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<axum::Json<TenantInfo>, ApiError> {
    params.done()?;
    set_active(&app, &caller, &id, false).await
}

/// Let a suspended tenant work again.
#[utoipa::path(
    post, path = "/v1/tenants/{id}/resume", operation_id = "resume_tenant", tag = "tenants",
    params(("id" = String, Path)),
    responses(
        (status = 200, body = TenantInfo), (status = 404, body = Problem),
        (status = 409, description = "It is being deleted", body = Problem),
    )
)]
pub(crate) async fn resume(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<axum::Json<TenantInfo>, ApiError> {
    params.done()?;
    set_active(&app, &caller, &id, true).await
}

async fn set_active(app: &App, caller: &Caller, id: &str, active: bool) -> Result<axum::Json<TenantInfo>, ApiError> {
    let done = app.store.set_tenant_active(&caller.scope(), &tenant_id(id)?, active).await;
    info(app, done.map_err(kept)?).await.map(axum::Json)
}

/// One that is being deleted takes no change.
pub(super) fn kept(error: StoreError) -> ApiError {
    match error {
        StoreError::TenantInactive { status } => {
            ApiError::conflict(format!("The tenant is {status}."), "Nothing can be changed of it any more.")
        }
        other => other.into(),
    }
}

/// Delete a tenant: its keys are revoked at once, its agents ended, and then
/// all that it had is erased but its audit records. Repeat it to see how far
/// it is.
#[utoipa::path(
    delete, path = "/v1/tenants/{id}", operation_id = "delete_tenant", tag = "tenants", params(("id" = String, Path)),
    responses(
        (status = 202, description = "Under way; the report so far", body = TenantDeletion),
        (status = 404, description = "There is none, or it is erased by now", body = Problem),
        (status = 409, description = "It is `default`", body = Problem),
    )
)]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<(StatusCode, axum::Json<TenantDeletion>), ApiError> {
    params.done()?;
    let id = tenant_id(&id)?;
    let erasure = app.store.delete_tenant(&caller.scope(), &id).await?;
    let deletion = TenantDeletion {
        id: id.to_string(),
        status: TenantStatus::Deleting.to_string(),
        agents_left: erasure.agents_left,
        keys_revoked: erasure.keys_revoked,
    };
    Ok((StatusCode::ACCEPTED, axum::Json(deletion)))
}

/// What a caller of a tenant that may not work is told.
pub(crate) fn inactive(status: TenantStatus) -> ApiError {
    ApiError::new(
        Code::Forbidden,
        format!("The tenant is {status}."),
        "Ask the operator of this installation; `aether tenant resume` ends a suspension.",
    )
}

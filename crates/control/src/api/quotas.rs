//! `/v1/quotas`: what tenants may have, and what they have.

use super::Caller;
use super::extract::{Json, Params};
use super::tenants::{find, kept, page_of, tenant_id};
use crate::app::App;
use crate::problem::ApiError;
use aether_core::api::{Page, Quota, QuotaReport, QuotaRequest, QuotaUsage};
use aether_core::{Permission, Problem, TenantId};
use aether_store::QuotaRow;
use axum::extract::{Path, State};

/// The tenant of the path, where the caller may look at it: its own, or any
/// for an operator. Another's is as absent as one that is not there.
pub(super) async fn visible(app: &App, caller: &Caller, id: &str) -> Result<TenantId, ApiError> {
    let id = if id == "me" { caller.tenant.clone() } else { tenant_id(id)? };
    if id != caller.tenant && !caller.may(Permission::PlatformAdmin) {
        return Err(ApiError::not_found("tenant"));
    }
    find(app, &id).await.map(|row| row.id)
}

fn document(row: &QuotaRow) -> Quota {
    Quota::new(row.tenant.as_str(), row.tier, row.limits)
}

/// List the quotas of all tenants.
#[utoipa::path(
    get, path = "/v1/quotas", operation_id = "list_quotas", tag = "quotas",
    params(
        ("per_page" = Option<u32>, Query, description = "1 to 100, default 20"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = Page<QuotaReport>), (status = 400, body = Problem))
)]
pub(crate) async fn list(
    State(app): State<App>,
    _caller: Caller,
    params: Params,
) -> Result<axum::Json<Page<QuotaReport>>, ApiError> {
    let page = page_of(&app, params).await?;
    let mut data = Vec::with_capacity(page.data.len());
    for tenant in page.data {
        let row = app.store.quota(&tenant.id).await?;
        data.push(QuotaReport { quota: document(&row), usage: QuotaUsage::from(row.used) });
    }
    let Page { page, per_page, total, next_cursor, .. } = page;
    Ok(axum::Json(Page { data, page, per_page, total, next_cursor }))
}

/// What a tenant may have.
#[utoipa::path(
    get, path = "/v1/quotas/{tenant_id}", operation_id = "get_quota", tag = "quotas",
    params(("tenant_id" = String, Path, description = "The caller's own (also as `me`), or any for an operator")),
    responses((status = 200, body = Quota), (status = 404, body = Problem))
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<axum::Json<Quota>, ApiError> {
    params.done()?;
    let id = visible(&app, &caller, &id).await?;
    Ok(axum::Json(document(&app.store.quota(&id).await?)))
}

/// What a tenant may have, and what it holds of it now.
#[utoipa::path(
    get, path = "/v1/quotas/{tenant_id}/usage", operation_id = "get_quota_usage", tag = "quotas",
    params(("tenant_id" = String, Path, description = "The caller's own (also as `me`), or any for an operator")),
    responses((status = 200, body = QuotaReport), (status = 404, body = Problem))
)]
pub(crate) async fn usage(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<axum::Json<QuotaReport>, ApiError> {
    params.done()?;
    let id = visible(&app, &caller, &id).await?;
    let row = app.store.quota(&id).await?;
    Ok(axum::Json(QuotaReport { quota: document(&row), usage: QuotaUsage::from(row.used) }))
}

/// Set a tenant's limits. What is absent becomes its tier's, `null` lifts a
/// limit. What the tenant holds already stays, above a new limit too.
#[utoipa::path(
    put, path = "/v1/quotas/{tenant_id}", operation_id = "set_quota", tag = "quotas", request_body = QuotaRequest,
    params(("tenant_id" = String, Path)),
    responses(
        (status = 200, body = Quota), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, description = "It is being deleted", body = Problem),
    )
)]
pub(crate) async fn set(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
    Json(request): Json<QuotaRequest>,
) -> Result<axum::Json<Quota>, ApiError> {
    params.done()?;
    let id = find(&app, &tenant_id(&id)?).await?.id;
    let present = app.store.quota(&id).await?;
    let (tier, limits) = request.check(id.as_str(), present.tier).map_err(ApiError::validation)?;
    app.store.set_quota(&caller.scope(), &id, tier, limits).await.map_err(kept)?;
    Ok(axum::Json(Quota::new(id.as_str(), tier, limits)))
}

//! `/v1/users`: people of the tenant, who log in with a password.

use super::Caller;
use super::extract::{Json, Params};
use crate::app::App;
use crate::auth::{PASSWORD_LEAST, PASSWORD_MOST};
use crate::problem::ApiError;
use aether_core::api::{Page, UserInfo, UserPatch, UserRequest};
use aether_core::id::DEFAULT_CELL;
use aether_core::{Code, FieldError, Principal, Problem, Role, Secret, TenantId, UserId};
use aether_store::{NewUser, UserChange, UserRow};
use axum::extract::{Path, State};
use http::StatusCode;

const MAX_NAME: usize = 64;

/// Lower-case, so that no two are told apart by their letters' size.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = name.bytes().next().is_some_and(plain) && name.bytes().last().is_some_and(plain);
    ends && name.len() <= MAX_NAME
        && name.bytes().all(|b| plain(b) || matches!(b, b'-' | b'_' | b'.' | b'@'))
        // An id is never a name: each is looked up by either.
        && name.parse::<UserId>().is_err()
}

fn role(text: Option<&str>, errors: &mut Vec<FieldError>) -> Option<Role> {
    let role = text.map(str::parse);
    if let Some(Err(_)) = role {
        let known = "must be one of platform_admin, operator, admin, developer, viewer, auditor";
        errors.push(FieldError::new("role", known));
    }
    role.and_then(Result::ok)
}

fn password(text: Option<String>, errors: &mut Vec<FieldError>) -> Option<Secret> {
    let password = Secret::new(text?);
    if !(PASSWORD_LEAST..=PASSWORD_MOST).contains(&password.expose().chars().count()) {
        errors.push(FieldError::new("password", format!("must have {PASSWORD_LEAST} to {PASSWORD_MOST} characters")));
    }
    Some(password)
}

/// Nobody makes a user who may more than they do, nor changes one.
fn granted(caller: &Principal, role: Role) -> Result<(), ApiError> {
    if role.of_platform() && caller.tenant != TenantId::default_tenant() {
        return Err(ApiError::field("role", "is the platform's: such users are in the tenant `default` alone"));
    }
    if caller.may_grant(role.permissions()) {
        return Ok(());
    }
    Err(ApiError::new(
        Code::Forbidden,
        "The user has, or would have, permissions that you do not.",
        "Choose a lesser role, or ask somebody who holds them.",
    ))
}

/// Make a user of the tenant.
#[utoipa::path(
    post, path = "/v1/users", operation_id = "create_user", tag = "users", request_body = UserRequest,
    responses(
        (status = 201, body = UserInfo), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 409, description = "The name is taken", body = Problem),
    )
)]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    params: Params,
    Json(request): Json<UserRequest>,
) -> Result<(StatusCode, axum::Json<UserInfo>), ApiError> {
    params.done()?;
    let mut errors = Vec::new();
    if !is_name(&request.name) {
        let rule = "must be 1 to 64 of a-z, 0-9, '-', '_', '.' and '@', first and last a letter or digit, and no id";
        errors.push(FieldError::new("name", rule));
    }
    let role = role(request.role.as_deref(), &mut errors).unwrap_or(Role::Developer);
    let password = password(request.password, &mut errors);
    if !errors.is_empty() {
        return Err(ApiError::validation(errors));
    }
    granted(&caller, role)?;
    let password = match password {
        Some(password) => Some(app.passwords.hash(password, app.rng.as_ref()).await?),
        None => None,
    };
    let id = UserId::generate(DEFAULT_CELL, app.rng.as_ref());
    let row = app.store.create_user(&caller.scope(), NewUser { id, name: request.name, role, password }).await?;
    Ok((StatusCode::CREATED, axum::Json(info(row))))
}

/// List the tenant's users, by name.
#[utoipa::path(
    get, path = "/v1/users", operation_id = "list_users", tag = "users",
    params(("page" = Option<u32>, Query), ("per_page" = Option<u32>, Query, description = "1 to 100, default 20")),
    responses((status = 200, body = Page<UserInfo>))
)]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    mut params: Params,
) -> Result<axum::Json<Page<UserInfo>>, ApiError> {
    let paging = params.paging();
    params.done()?;
    let (page, rows) = paging.of(app.store.list_users(&caller.scope()).await?);
    Ok(axum::Json(Page { data: rows.map(info).collect(), ..page }))
}

async fn find(app: &App, caller: &Caller, id: &str) -> Result<UserRow, ApiError> {
    app.store.get_user(&caller.scope(), id).await?.ok_or_else(|| ApiError::not_found("user"))
}

/// Show one user, by id or name.
#[utoipa::path(
    get, path = "/v1/users/{id}", operation_id = "get_user", tag = "users", params(("id" = String, Path)),
    responses((status = 200, body = UserInfo), (status = 404, body = Problem))
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<axum::Json<UserInfo>, ApiError> {
    params.done()?;
    find(&app, &caller, &id).await.map(info).map(axum::Json)
}

/// Change a user's role or password, or disable it. A new password and
/// disabling end all of the user's logins.
#[utoipa::path(
    patch, path = "/v1/users/{id}", operation_id = "update_user", tag = "users", request_body = UserPatch,
    params(("id" = String, Path)),
    responses(
        (status = 200, body = UserInfo), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    )
)]
pub(crate) async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
    Json(patch): Json<UserPatch>,
) -> Result<axum::Json<UserInfo>, ApiError> {
    params.done()?;
    let mut errors = Vec::new();
    let role = role(patch.role.as_deref(), &mut errors);
    let password = password(patch.password, &mut errors);
    if !errors.is_empty() {
        return Err(ApiError::validation(errors));
    }
    let row = find(&app, &caller, &id).await?;
    granted(&caller, row.role)?;
    granted(&caller, role.unwrap_or(row.role))?;
    let password = match password {
        Some(password) => Some(app.passwords.hash(password, app.rng.as_ref()).await?),
        None => None,
    };
    let change = UserChange { role, password, disabled: patch.disabled };
    let row = app.store.update_user(&caller.scope(), &row.id, change).await?;
    Ok(axum::Json(info(row)))
}

/// Delete a user, with all of its logins.
#[utoipa::path(
    delete, path = "/v1/users/{id}", operation_id = "delete_user", tag = "users", params(("id" = String, Path)),
    responses((status = 204), (status = 403, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    params: Params,
) -> Result<StatusCode, ApiError> {
    params.done()?;
    let row = find(&app, &caller, &id).await?;
    granted(&caller, row.role)?;
    app.store.delete_user(&caller.scope(), &row.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn info(row: UserRow) -> UserInfo {
    UserInfo {
        id: row.id.to_string(),
        name: row.name,
        role: row.role.as_str().to_owned(),
        has_password: row.password.is_some(),
        disabled: row.disabled_at.is_some(),
        created_at: row.created_at,
        last_login_at: row.last_login_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "ann", "ann.b@example.com", "a-1_b"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "Ann", "a b", "-a", "a.", "é", &"a".repeat(65), "usrc0aaaaaaaaaaaaaaaa", "a\n", "a/b"] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}

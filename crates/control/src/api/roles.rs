//! `/v1/roles`: a tenant's own named sets of permissions, and what a role is
//! wherever one is named.

use super::Caller;
use super::extract::{Json, Params};
use crate::app::App;
use crate::problem::{ApiError, clean};
use aether_core::api::{RoleInfo, RolePatch, RoleRequest};
use aether_core::{AgentName, Code, FieldError, Permission, PermissionSet, Problem, Role, RoleName};
use aether_store::RoleRow;
use axum::extract::{Path, State};
use http::StatusCode;

/// Of a request; that such a role is there is not asked here.
pub(super) fn checked_role(text: &str) -> Result<RoleName, FieldError> {
    text.parse().map_err(|_| {
        let known = Role::ALL.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ");
        FieldError::new("role", format!("must be one of {known}, or a role of the tenant's own"))
    })
}

pub(super) fn checked_permissions(field: &str, texts: &[String]) -> Result<PermissionSet, Vec<FieldError>> {
    let wrong = |text: &String| FieldError::new(field, format!("{:?} is not a permission", clean(text)));
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for text in texts {
        match text.parse::<Permission>() {
            Ok(permission) => found.push(permission),
            Err(_) => errors.push(wrong(text)),
        }
    }
    if errors.is_empty() { Ok(found.into_iter().collect()) } else { Err(errors) }
}

/// What a role is now.
pub(super) async fn held(app: &App, caller: &Caller, role: &RoleName) -> Result<PermissionSet, ApiError> {
    match role {
        RoleName::BuiltIn(role) => Ok(role.permissions()),
        RoleName::Own(name) => {
            let row = app.store.find_role(&caller.scope(), name).await?;
            Ok(row.ok_or_else(|| ApiError::field("role", "there is no such role"))?.permissions)
        }
    }
}

/// Those of a request, which the caller may hand out.
fn granted(caller: &Caller, texts: &[String]) -> Result<PermissionSet, ApiError> {
    let permissions = checked_permissions("permissions", texts).map_err(ApiError::validation)?;
    if !PermissionSet::of_tenant().covers(permissions) {
        let platforms = permissions.iter().filter(|p| !PermissionSet::of_tenant().contains(*p));
        let platforms: Vec<&str> = platforms.map(Permission::as_str).collect();
        let message = format!("{}: of the platform, in no tenant's own role", platforms.join(", "));
        return Err(ApiError::field("permissions", message));
    }
    if !caller.may_grant(permissions) {
        return Err(ApiError::new(
            Code::Forbidden,
            "The role would hold permissions that you do not.",
            "Leave them out, or have it done by somebody who holds them.",
        ));
    }
    Ok(permissions)
}

/// The name of a path: a built-in role is there, and is nobody's to change.
fn own(text: &str) -> Result<AgentName, ApiError> {
    match text.parse() {
        Ok(RoleName::Own(name)) => Ok(name),
        Ok(RoleName::BuiltIn(_)) => Err(ApiError::conflict(
            "This role is built in: it is the same for every tenant.",
            "Make a role of your own under another name.",
        )),
        Err(_) => Err(ApiError::not_found("role")),
    }
}

fn texts(permissions: PermissionSet) -> Vec<String> {
    permissions.iter().map(|p| p.as_str().to_owned()).collect()
}

fn info(row: RoleRow) -> RoleInfo {
    RoleInfo {
        name: row.name.to_string(),
        built_in: false,
        permissions: texts(row.permissions),
        updated_at: Some(row.updated_at),
    }
}

fn built_in(role: Role) -> RoleInfo {
    let permissions = texts(role.permissions());
    RoleInfo { name: role.as_str().to_owned(), built_in: true, permissions, updated_at: None }
}

/// The built-in roles, and the tenant's own.
#[utoipa::path(
    get, path = "/v1/roles", operation_id = "list_roles", tag = "auth",
    responses((status = 200, body = Vec<RoleInfo>))
)]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    params: Params,
) -> Result<axum::Json<Vec<RoleInfo>>, ApiError> {
    params.done()?;
    let own = app.store.list_roles(&caller.scope()).await?;
    let roles = Role::ALL.iter().map(|role| built_in(*role)).chain(own.into_iter().map(info));
    Ok(axum::Json(roles.collect()))
}

/// Make a role of the tenant's own.
#[utoipa::path(
    post, path = "/v1/roles", operation_id = "create_role", tag = "auth", request_body = RoleRequest,
    responses(
        (status = 201, body = RoleInfo), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 409, body = Problem),
    )
)]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    params: Params,
    Json(request): Json<RoleRequest>,
) -> Result<(StatusCode, axum::Json<RoleInfo>), ApiError> {
    params.done()?;
    let name = match request.name.parse() {
        Ok(RoleName::Own(name)) => name,
        Ok(RoleName::BuiltIn(_)) => return Err(ApiError::field("name", "is a built-in role's")),
        Err(error) => return Err(ApiError::field("name", error.to_string())),
    };
    let permissions = granted(&caller, &request.permissions)?;
    let row = app.store.create_role(&caller.scope(), &name, permissions).await?;
    Ok((StatusCode::CREATED, axum::Json(info(row))))
}

/// One role.
#[utoipa::path(
    get, path = "/v1/roles/{name}", operation_id = "get_role", tag = "auth", params(("name" = String, Path)),
    responses((status = 200, body = RoleInfo), (status = 404, body = Problem))
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
) -> Result<axum::Json<RoleInfo>, ApiError> {
    params.done()?;
    let name: RoleName = name.parse().map_err(|_| ApiError::not_found("role"))?;
    let found = match name {
        RoleName::BuiltIn(role) => Some(built_in(role)),
        RoleName::Own(name) => app.store.find_role(&caller.scope(), &name).await?.map(info),
    };
    found.map(axum::Json).ok_or_else(|| ApiError::not_found("role"))
}

/// Give a role other permissions; holds at once for whoever has it.
#[utoipa::path(
    patch, path = "/v1/roles/{name}", operation_id = "update_role", tag = "auth", request_body = RolePatch,
    params(("name" = String, Path)),
    responses(
        (status = 200, body = RoleInfo), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, description = "Built in", body = Problem),
    )
)]
pub(crate) async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
    Json(patch): Json<RolePatch>,
) -> Result<axum::Json<RoleInfo>, ApiError> {
    params.done()?;
    let name = own(&name)?;
    let permissions = granted(&caller, &patch.permissions)?;
    let row = app.store.update_role(&caller.scope(), &name, permissions).await?;
    Ok(axum::Json(info(row)))
}

/// Delete a role that nobody has.
#[utoipa::path(
    delete, path = "/v1/roles/{name}", operation_id = "delete_role", tag = "auth", params(("name" = String, Path)),
    responses(
        (status = 204), (status = 404, body = Problem),
        (status = 409, description = "In use, or built in", body = Problem),
    )
)]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
) -> Result<StatusCode, ApiError> {
    params.done()?;
    app.store.delete_role(&caller.scope(), &own(&name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

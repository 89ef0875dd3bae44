//! `/v1/secrets`: secrets of the tenant. Values come in; none goes out.

use super::Caller;
use super::extract::{Json, MaybeJson, Params};
use crate::app::App;
use crate::problem::ApiError;
use aether_core::api::{Page, SecretInfo, SecretRequest, SecretRotation, SecretVersionInfo};
use aether_core::secrets::{MAX_DESCRIPTION, MAX_VALUE_BYTES};
use aether_core::{Code, FieldError, Problem, SecretName};
use aether_store::{SecretRow, SecretVersionRow, StoreError};
use axum::extract::{Path, State};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::StatusCode;
use zeroize::Zeroizing;

const RANDOM_BYTES: u32 = 32;
const RANDOM_LEAST: u32 = 16;
const RANDOM_MOST: u32 = 1024;

/// Set a secret: a new one, or a new version of one.
///
/// Agents that run keep the version they began with; the next start gets the newest.
#[utoipa::path(
    put, path = "/v1/secrets/{name}", operation_id = "set_secret", tag = "secrets", request_body = SecretRequest,
    params(("name" = String, Path, description = "1 to 128 letters, digits, `_`, `-` and `.`")),
    responses(
        (status = 200, description = "A new version", body = SecretInfo),
        (status = 201, description = "A new secret", body = SecretInfo), (status = 400, body = Problem),
        (status = 413, body = Problem), (status = 502, body = Problem), (status = 503, body = Problem),
    )
)]
pub(crate) async fn set(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
    Json(request): Json<SecretRequest>,
) -> Result<(StatusCode, axum::Json<SecretInfo>), ApiError> {
    params.done()?;
    let parsed = name.parse::<SecretName>();
    let mut errors = Vec::new();
    if let Err(error) = &parsed {
        errors.push(FieldError::new("name", error.to_string()));
    }
    let long = |text: &String| text.len() > MAX_DESCRIPTION || text.chars().any(char::is_control);
    if request.description.as_ref().is_some_and(long) {
        let message = format!("at most {MAX_DESCRIPTION} bytes, without control characters");
        errors.push(FieldError::new("description", message));
    }
    let value = value_of(request.value, request.value_base64).map_err(|e| errors.push(e)).ok();
    let (Ok(name), Some(value), true) = (parsed, value, errors.is_empty()) else {
        return Err(ApiError::validation(errors));
    };
    crate::room::check(app.cfg().store_dir.as_deref())?;
    let row = app.secrets.set(&caller.scope(), name, value, request.description).await?;
    let status = if row.version == 1 { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, axum::Json(info(row, Vec::new()))))
}

/// What is wrong with it never repeats it.
fn value_of(text: Option<String>, base64: Option<String>) -> Result<Zeroizing<Vec<u8>>, FieldError> {
    let (text, base64) = (text.map(Zeroizing::new), base64.map(Zeroizing::new));
    let (field, value) = match (text, base64) {
        (Some(text), None) => ("value", Zeroizing::new(text.as_bytes().to_vec())),
        (None, Some(text)) => {
            let decoded = STANDARD.decode(text.as_bytes());
            let bytes = decoded.map_err(|_| FieldError::new("value_base64", "is not standard base64"))?;
            ("value_base64", Zeroizing::new(bytes))
        }
        _ => return Err(FieldError::new("value", "give either value or value_base64")),
    };
    if value.is_empty() || value.len() > MAX_VALUE_BYTES {
        return Err(FieldError::new(field, format!("must be 1 to {MAX_VALUE_BYTES} bytes")));
    }
    Ok(value)
}

/// List the tenant's secrets by name, without their values.
#[utoipa::path(
    get, path = "/v1/secrets", operation_id = "list_secrets", tag = "secrets",
    params(("page" = Option<u32>, Query), ("per_page" = Option<u32>, Query, description = "1 to 100, default 20")),
    responses((status = 200, body = Page<SecretInfo>))
)]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    mut params: Params,
) -> Result<axum::Json<Page<SecretInfo>>, ApiError> {
    let paging = params.paging();
    params.done()?;
    let (page, rows) = paging.of(app.store.list_secrets(&caller.scope()).await?);
    Ok(axum::Json(Page { data: rows.map(|row| info(row, Vec::new())).collect(), ..page }))
}

/// One secret and the versions that are kept, without their values.
#[utoipa::path(
    get, path = "/v1/secrets/{name}", operation_id = "get_secret", tag = "secrets", params(("name" = String, Path)),
    responses((status = 200, body = SecretInfo), (status = 404, body = Problem))
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
) -> Result<axum::Json<SecretInfo>, ApiError> {
    params.done()?;
    let found = app.store.find_secret(&caller.scope(), &known(&name)?).await?;
    let (row, versions) = found.ok_or_else(|| ApiError::not_found("secret"))?;
    Ok(axum::Json(info(row, versions)))
}

/// Delete a secret with all its versions.
///
/// Agents that run keep what they were given; their next start fails.
#[utoipa::path(
    delete, path = "/v1/secrets/{name}", operation_id = "delete_secret", tag = "secrets",
    params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 503, body = Problem))
)]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
) -> Result<StatusCode, ApiError> {
    params.done()?;
    app.secrets.delete(&caller.scope(), &known(&name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Make a new version of a random value that nobody sees but agents.
#[utoipa::path(
    post, path = "/v1/secrets/{name}/rotate", operation_id = "rotate_secret", tag = "secrets",
    request_body(content = SecretRotation, description = "May be empty"), params(("name" = String, Path)),
    responses(
        (status = 200, body = SecretInfo), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 502, body = Problem), (status = 503, body = Problem),
    )
)]
pub(crate) async fn rotate(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
    MaybeJson(request): MaybeJson<SecretRotation>,
) -> Result<axum::Json<SecretInfo>, ApiError> {
    params.done()?;
    let bytes = request.bytes.unwrap_or(RANDOM_BYTES);
    if !(RANDOM_LEAST..=RANDOM_MOST).contains(&bytes) {
        return Err(ApiError::field("bytes", format!("must be {RANDOM_LEAST} to {RANDOM_MOST}")));
    }
    let (scope, name) = (caller.scope(), known(&name)?);
    app.store.find_secret(&scope, &name).await?.ok_or_else(|| ApiError::not_found("secret"))?;
    let mut random = Zeroizing::new(vec![0; bytes as usize]);
    app.rng.fill(&mut random);
    let value = Zeroizing::new(URL_SAFE_NO_PAD.encode(&*random).into_bytes());
    let row = app.secrets.set(&scope, name, value, None).await?;
    Ok(axum::Json(info(row, Vec::new())))
}

/// What cannot be a name is nobody's.
fn known(name: &str) -> Result<SecretName, ApiError> {
    name.parse().map_err(|_| StoreError::NotFound { what: "secret" }.into())
}

fn info(row: SecretRow, versions: Vec<SecretVersionRow>) -> SecretInfo {
    let version = |v: SecretVersionRow| SecretVersionInfo {
        version: v.version,
        backend: v.backend.as_str().to_owned(),
        bytes: v.bytes,
        created_at: v.created_at,
        created_by: v.created_by,
    };
    SecretInfo {
        name: row.name,
        description: row.description,
        version: row.version,
        backend: row.backend.as_str().to_owned(),
        created_at: row.created_at,
        created_by: row.created_by,
        updated_at: row.updated_at,
        updated_by: row.updated_by,
        versions: versions.into_iter().map(version).collect(),
    }
}

/// An agent that names secrets is given what they hold, and whoever may run
/// something in it can read them.
pub(super) fn may_name(caller: &Caller, secrets: &[aether_core::SecretRef]) -> Result<(), ApiError> {
    let needed = aether_core::Permission::SecretUse;
    if secrets.is_empty() || caller.may(needed) {
        return Ok(());
    }
    Err(ApiError::new(
        Code::Forbidden,
        format!("Naming secrets in an agent needs the permission {}.", needed.as_str()),
        "Use a key whose role and scopes include it, or leave secrets out.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_of_two_and_never_repeated() {
        let of = |text: Option<&str>, base64: Option<&str>| value_of(text.map(Into::into), base64.map(Into::into));
        assert_eq!(of(Some("a"), None).expect("text").as_slice(), b"a");
        assert_eq!(of(None, Some("/w==")).expect("bytes").as_slice(), [0xff]);
        assert_eq!(of(Some(&"x".repeat(MAX_VALUE_BYTES)), None).expect("the most").len(), MAX_VALUE_BYTES);
        let long = "hunter2".repeat(MAX_VALUE_BYTES);
        for (text, base64) in [
            (None, None),
            (Some("a"), Some("YQ==")),
            (Some(""), None),
            (Some(long.as_str()), None),
            (None, Some("hunter2!")),
        ] {
            let error = of(text, base64).expect_err("refused");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}

//! `/v1/auth`: tokens for keys, logins, their refresh and their end; and the
//! public keys that tokens are verified with.
//!
//! These routes are open: the credential is in the body. Who is wrong too
//! often waits (see `auth::attempts`).

use super::Caller;
use super::extract::{Json, Params};
use super::roles::checked_permissions;
use crate::app::App;
use crate::auth::{Peer, RefreshToken};
use crate::problem::ApiError;
use crate::rates::Class;
use aether_core::api::{Jwks, LoginInfo, LoginRequest, RefreshRequest, TokenInfo, TokenRequest};
use aether_core::id::DEFAULT_CELL;
use aether_core::{Code, Principal, Problem, Secret, SessionId, TenantId, TenantScope};
use aether_store::{AuditEntry, NewSession, Refreshed, Subject};
use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use serde_json::json;

/// Runs what a stranger may get wrong only so often.
async fn attempt<T>(app: &App, peer: &Peer, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    app.attempts.begin(peer, app.clock.monotonic()).map_err(|wait| {
        ApiError::new(
            Code::RateLimited,
            "Too many wrong keys or passwords came from this address.",
            "Wait as long as Retry-After says, and send the right one.",
        )
        .retry_after(wait.as_secs() + 1)
    })?;
    let done = work.await;
    if !matches!(&done, Err(error) if error.problem.status == 401) {
        app.attempts.succeeded(peer);
    }
    done
}

/// Whoever is let in is counted as with any other request.
async fn charge(app: &App, principal: &Principal) -> Result<(), ApiError> {
    app.rates.charge(principal, Class::Other).await.map(|_| ()).map_err(ApiError::from)
}

fn signing_failed() -> ApiError {
    ApiError::internal("a token was not signed")
}

fn subject(principal: &Principal) -> Result<Subject, ApiError> {
    principal.credential.to_string().parse().map_err(|_| ApiError::internal("only keys and users have tokens"))
}

/// Exchange an API key for a token that holds for an hour, or as configured.
#[utoipa::path(
    post, path = "/v1/auth/token", operation_id = "create_token", tag = "auth", request_body = TokenRequest,
    responses(
        (status = 200, body = TokenInfo), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 429, description = "Too many wrong keys from this address", body = Problem),
    )
)]
pub(crate) async fn token(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    params: Params,
    Json(request): Json<TokenRequest>,
) -> Result<axum::Json<TokenInfo>, ApiError> {
    params.done()?;
    let scopes = request.scopes.as_deref().map(|texts| checked_permissions("scopes", texts));
    let scopes = scopes.transpose().map_err(ApiError::validation)?.map(|scopes| scopes.iter().collect());
    let principal = attempt(&app, &peer, Box::pin(app.auth.by_key(&request.api_key))).await?;
    charge(&app, &principal).await?;
    let principal = scopes.iter().fold(principal, |principal, scopes| principal.narrowed(scopes));
    let subject = subject(&principal)?;
    let at = (app.clock.now(), app.rng.as_ref());
    let issued = app.auth.tokens.get().issue(&principal, &subject, None, at).ok_or_else(signing_failed)?;
    let entry = AuditEntry {
        action: "login".to_owned(),
        resource: "token".to_owned(),
        resource_id: Some(issued.id.to_string()),
        result: "success".to_owned(),
        details: json!({ "expires_in": issued.expires_in }),
        error: None,
    };
    app.store.audit(&principal.scope().from_address(peer.describe()), entry).await?;
    Ok(axum::Json(TokenInfo { token: issued.text, expires_in: issued.expires_in }))
}

/// Log in with an API key, or with user and password where local users are
/// on: a token, and a refresh token for the next one.
#[utoipa::path(
    post, path = "/v1/auth/login", operation_id = "login", tag = "auth", request_body = LoginRequest,
    responses(
        (status = 200, body = LoginInfo), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 429, description = "Too many wrong keys or passwords from this address", body = Problem),
    )
)]
pub(crate) async fn login(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    params: Params,
    Json(request): Json<LoginRequest>,
) -> Result<axum::Json<LoginInfo>, ApiError> {
    params.done()?;
    let principal = match request {
        LoginRequest { api_key: Some(key), user: None, password: None, tenant: None } => {
            attempt(&app, &peer, Box::pin(app.auth.by_key(&key))).await?
        }
        LoginRequest { api_key: None, user: Some(user), password: Some(password), tenant } => {
            if !app.cfg().local_users {
                return Err(ApiError::bad_request("There are no local users here: log in with an API key."));
            }
            let tenant = tenant.map_or_else(|| Ok(TenantId::default_tenant()), |text| text.parse()).ok();
            let password = Secret::new(password);
            attempt(&app, &peer, Box::pin(by_password(&app, &peer, tenant, &user, password))).await?
        }
        _ => return Err(ApiError::bad_request("Send `api_key`, or `user` and `password` with the user's `tenant`.")),
    };
    charge(&app, &principal).await?;
    let subject = subject(&principal)?;
    let first = RefreshToken::first(SessionId::generate(DEFAULT_CELL, app.rng.as_ref()), app.rng.as_ref());
    let new = NewSession {
        id: first.session.clone(),
        subject: subject.clone(),
        secret: first.hash(&app.auth.pepper),
        expires_at: app.clock.now().plus(app.cfg().jwt.session_duration),
    };
    app.store.begin_session(&principal.scope().from_address(peer.describe()), new).await?;
    answer(&app, &principal, &subject, &first)
}

fn answer(
    app: &App,
    principal: &Principal,
    subject: &Subject,
    next: &RefreshToken,
) -> Result<axum::Json<LoginInfo>, ApiError> {
    let at = (app.clock.now(), app.rng.as_ref());
    let issued = app.auth.tokens.get().issue(principal, subject, Some(&next.session), at);
    let issued = issued.ok_or_else(signing_failed)?;
    Ok(axum::Json(LoginInfo {
        token: issued.text,
        refresh_token: next.text(&app.auth.pepper).expose().to_owned(),
        expires_in: issued.expires_in,
    }))
}

/// Who is nobody has no password that is right, and that takes as long.
async fn by_password(
    app: &App,
    peer: &Peer,
    tenant: Option<TenantId>,
    name: &str,
    password: Secret,
) -> Result<Principal, ApiError> {
    let row = match &tenant {
        Some(tenant) if super::users::is_name(name) => app.store.find_user_by_name(tenant, name).await?,
        _ => None,
    };
    let known = row.as_ref().and_then(|row| row.password.as_ref());
    let fits = password.expose().chars().count() <= crate::auth::PASSWORD_MOST;
    let right = fits && app.passwords.matches(password, known).await?;
    match row {
        Some(row) if right => app.auth.of_user(&row),
        Some(row) => {
            denied(app, peer, &row.tenant, row.id.as_str()).await;
            Err(ApiError::unauthorized())
        }
        None => Err(ApiError::unauthorized()),
    }
}

/// The tenant learns that somebody was wrong about one of its users.
async fn denied(app: &App, peer: &Peer, tenant: &TenantId, user: &str) {
    let entry = AuditEntry {
        action: "login".to_owned(),
        resource: "user".to_owned(),
        resource_id: Some(user.to_owned()),
        result: "denied".to_owned(),
        details: json!({ "reason": "wrong password" }),
        error: None,
    };
    let scope = TenantScope::system(tenant.clone(), "login").from_address(peer.describe());
    if let Err(error) = app.store.audit(&scope, entry).await {
        tracing::warn!(%error, "a denied login was not audited");
    }
}

/// Exchange a refresh token for a new token and the next refresh token. One
/// that comes a second time is in two hands: it ends the login.
#[utoipa::path(
    post, path = "/v1/auth/refresh", operation_id = "refresh", tag = "auth", request_body = RefreshRequest,
    responses(
        (status = 200, body = LoginInfo), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 429, description = "Too many wrong tokens from this address", body = Problem),
    )
)]
pub(crate) async fn refresh(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    params: Params,
    Json(request): Json<RefreshRequest>,
) -> Result<axum::Json<LoginInfo>, ApiError> {
    params.done()?;
    attempt(&app, &peer, Box::pin(refreshed(&app, &peer, &request.refresh_token))).await
}

async fn refreshed(app: &App, peer: &Peer, text: &str) -> Result<axum::Json<LoginInfo>, ApiError> {
    let token = RefreshToken::parse(text, &app.auth.pepper).ok_or_else(ApiError::unauthorized)?;
    let session = app.store.find_session(&token.session, token.hash(&app.auth.pepper)).await?;
    let session = session.ok_or_else(ApiError::unauthorized)?;
    let principal = app.auth.of_subject(&session.subject).await?;
    // What is refused here has spent nothing.
    charge(app, &principal).await?;
    let scope = principal.scope().from_address(peer.describe());
    match app.store.refresh_session(&scope, &session.id, token.counter).await? {
        Refreshed::Next(session) => answer(app, &principal, &session.subject, &token.with_counter(session.counter)),
        Refreshed::Reused | Refreshed::Gone => Err(ApiError::unauthorized()),
    }
}

/// Revoke the token that this request brings, with all others of its login.
#[utoipa::path(
    post, path = "/v1/auth/logout", operation_id = "logout", tag = "auth",
    responses((status = 204), (status = 400, description = "An API key is no token", body = Problem))
)]
pub(crate) async fn logout(State(app): State<App>, caller: Caller, params: Params) -> Result<StatusCode, ApiError> {
    params.done()?;
    let Some(token) = caller.token() else {
        return Err(ApiError::new(
            Code::BadRequest,
            "The request brings no token that could be revoked.",
            "Log out with the token itself; an API key is revoked by DELETE /v1/auth/keys/{id}.",
        ));
    };
    app.store.revoke_token(&caller.scope(), &token.id, token.expires_at, token.session.as_ref()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The public keys that this server's tokens are verified with; none where
/// they are signed with a secret.
#[utoipa::path(
    get, path = "/.well-known/jwks.json", operation_id = "jwks", tag = "auth",
    responses((status = 200, body = Jwks))
)]
pub(crate) async fn jwks(State(app): State<App>, params: Params) -> Result<axum::Json<Jwks>, ApiError> {
    params.done()?;
    Ok(axum::Json(app.auth.tokens.get().keys().jwks()))
}

//! Before each handler: credentials, rate, permission, deadline.

use super::routes::{Access, Deadline, Rule};
use crate::app::App;
use crate::auth::{Held, Peer, Presented, Standing};
use crate::problem::ApiError;
use crate::server::Patience;
use aether_core::{Code, Permission, Principal, TenantId, TenantScope};
use aether_store::AuditEntry;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::request::Parts;
use std::ops::Deref;

/// Names the tenant that an operator acts for.
const TENANT_HEADER: &str = "aether-tenant";

/// The authenticated caller of a request, with where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    principal: Principal,
    address: String,
    /// What it brought, if that is a token.
    token: Option<Presented>,
    /// What a long request stands on.
    held: Option<Held>,
}

impl Caller {
    /// The key to the tenant's data, with the address for the audit.
    pub(crate) fn scope(&self) -> TenantScope {
        self.principal.scope().from_address(self.address.clone())
    }

    pub(crate) fn tenant(&self) -> &str {
        self.principal.tenant.as_str()
    }

    pub(crate) fn token(&self) -> Option<&Presented> {
        self.token.as_ref()
    }

    /// Returns when the caller may no longer do what it does in a long
    /// request; never for others.
    pub(crate) async fn dismissed(&self) {
        match &self.held {
            Some(held) => held.lost().await,
            None => std::future::pending().await,
        }
    }
}

impl Deref for Caller {
    type Target = Principal;
    fn deref(&self) -> &Principal {
        &self.principal
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        // Only open routes have none; a handler there that asks is a bug.
        parts.extensions.get::<Caller>().cloned().ok_or_else(ApiError::unauthorized)
    }
}

pub(super) async fn guard(State((app, rule)): State<(App, Rule)>, mut request: Request, next: Next) -> Response {
    // None: nobody is asked for; then what the caller must hold, if anything.
    let needed = match rule.access {
        Access::Open => None,
        Access::Metrics if !app.cfg().metrics_enabled => return crate::problem::no_route().await.into_response(),
        Access::Metrics => app.cfg().metrics_auth.then_some(Some(Permission::AgentRead)),
        Access::Caller => Some(None),
        Access::Needs(permission) => Some(Some(permission)),
    };
    let Some(needed) = needed else { return within(&app, rule.deadline, next.run(request)).await };
    let peer = request.extensions().get::<Peer>().cloned();
    let mut caller = match authenticate(&app, peer, request.headers()).await {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    let left = match app.rates.charge(&caller, rule.class).await {
        Ok(left) => left,
        Err(refused) => {
            let mut response = ApiError::from(refused).into_response();
            refused.left().write(response.headers_mut());
            return with_caller(response, caller);
        }
    };
    if let Some(permission) = needed.filter(|permission| !caller.may(*permission)) {
        deny(&app, &caller, permission, &request);
        return with_caller(ApiError::forbidden(permission.as_str()).into_response(), caller);
    }
    if let Some(permission) = needed.filter(|_| rule.deadline != Deadline::Short) {
        caller.held = Standing::hold(&app, &caller, caller.token(), permission);
    }
    let mut response = match caller.held.clone() {
        Some(held) => standing(&app, &rule, &held, (&caller, request), next).await,
        None => {
            request.extensions_mut().insert(caller.clone());
            within(&app, rule.deadline, next.run(request)).await
        }
    };
    if let Some(left) = left {
        left.write(response.headers_mut());
    }
    if rule.deadline == Deadline::Stream && !response.status().is_client_error() {
        response.extensions_mut().insert(Patience::Stream);
    }
    with_caller(response, caller)
}

/// Served for as long as the caller may: its body, the wait for an answer,
/// the answer's body. An upgraded connection minds [`Caller::dismissed`].
async fn standing(app: &App, rule: &Rule, held: &Held, (caller, request): (&Caller, Request), next: Next) -> Response {
    let mut request = request.map(|body| held.body(body));
    request.extensions_mut().insert(caller.clone());
    let response = tokio::select! {
        // First: a body that broke off for it is not the client's fault.
        biased;
        () = held.lost() => return ApiError::unauthorized().into_response(),
        response = within(app, rule.deadline, next.run(request)) => response,
    };
    match rule.deadline {
        Deadline::Stream => response.map(|body| held.body(body)),
        Deadline::Short | Deadline::Wait | Deadline::Exec => response,
    }
}

/// For the access log and the metrics, which stand outside.
fn with_caller(mut response: Response, caller: Caller) -> Response {
    response.extensions_mut().insert(caller);
    response
}

async fn authenticate(app: &App, peer: Option<Peer>, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let peer = peer.ok_or_else(|| ApiError::internal("a request without its peer: the accept loop sets it"))?;
    let (principal, token) = app.auth.caller(&peer, headers).await?;
    let principal = in_named_tenant(app, principal, headers).await?;
    Ok(Caller { principal, address: peer.describe(), token, held: None })
}

/// Operators of the platform act for a tenant by naming it; everybody else is
/// in their own, whatever they name, and learns nothing of others.
async fn in_named_tenant(app: &App, principal: Principal, headers: &HeaderMap) -> Result<Principal, ApiError> {
    let mut named = headers.get_all(TENANT_HEADER).iter();
    let Some(value) = named.next() else { return Ok(principal) };
    let wrong = || ApiError::field(TENANT_HEADER, "must come once and be a tenant's id");
    let tenant: TenantId = value.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
    if named.next().is_some() {
        return Err(wrong());
    }
    if tenant == principal.tenant {
        return Ok(principal);
    }
    if !principal.may(Permission::PlatformAdmin) {
        return Err(ApiError::new(
            Code::Forbidden,
            "Only operators of the platform act for another tenant.",
            "Leave the header Aether-Tenant out (`--tenant` of the command line), or use a key of that tenant.",
        ));
    }
    match app.store.find_tenant(&tenant).await? {
        Some(row) => Ok(principal.acting_for(row.id)),
        None => Err(ApiError::not_found("tenant")),
    }
}

/// A denial is audited; that it could not be written must not open the door.
fn deny(app: &App, caller: &Caller, permission: Permission, request: &Request) {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str).to_owned();
    let (store, scope) = (app.store.clone(), caller.scope());
    let entry = AuditEntry {
        action: permission.as_str().to_owned(),
        resource: "route".to_owned(),
        resource_id: None,
        result: "denied".to_owned(),
        details: serde_json::json!({ "method": request.method().as_str(), "route": route }),
        error: None,
    };
    app.tasks.spawn(async move {
        if let Err(error) = store.audit(&scope, entry).await {
            tracing::warn!(%error, "a denial was not audited");
        }
    });
}

async fn within(app: &App, deadline: Deadline, work: impl Future<Output = Response>) -> Response {
    let limit = match deadline {
        Deadline::Short => app.cfg().deadlines.short,
        // The handler keeps the wait itself; this is the line behind it.
        Deadline::Wait => app.cfg().deadlines.wait + app.cfg().deadlines.short,
        Deadline::Exec | Deadline::Stream => return work.await,
    };
    match tokio::time::timeout(limit, work).await {
        Ok(response) => response,
        Err(_) => ApiError::timeout(
            format!("The request took longer than {} s.", limit.as_secs_f64()),
            "Look at the state first: it may have been done; then try again.",
        )
        .into_response(),
    }
}

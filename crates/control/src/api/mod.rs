//! The HTTP API: one file per resource, handlers that translate and nothing
//! else, and one table (`routes`) that says what each route needs.
//!
//! ```text
//! envelope (request id, log, metrics, panics, headers)
//!   └► lawful (what hyper lets pass and two readers could read in two ways)
//!   └► guard (credentials, rate, permission, deadline; per route, from the table)
//!        └► handler
//! ```

mod agents;
mod audit;
mod audit_export;
mod auth;
mod budgets;
mod bulk;
mod document;
mod envelope;
mod events;
mod exec;
mod exec_stream;
mod extract;
mod files;
mod guard;
mod image_reach;
mod images;
mod keys;
mod lawful;
#[cfg(test)]
mod limits_page;
mod logs;
mod master_key;
#[cfg(test)]
mod pages;
mod ports;
mod quotas;
mod roles;
mod routes;
mod secrets;
mod service_accounts;
mod socket;
mod system;
mod tenants;
#[cfg(test)]
mod tests;
mod update;
mod usage;
mod users;
mod wishes;

pub(crate) use agents::Shown;
pub use document::openapi;
#[cfg(test)]
pub(crate) use extract::parse;
pub(crate) use guard::Caller;
pub(crate) use tenants::inactive;

use crate::app::App;
use crate::config::ControlConfig;
use aether_core::Live;
use axum::Router;
use http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// The whole API over the app's state.
pub(crate) fn router(app: &App) -> Router {
    let mut router = Router::new();
    for entry in routes::table() {
        let guarded =
            entry.handlers.route_layer(axum::middleware::from_fn_with_state((app.clone(), entry.rule), guard::guard));
        router = router.route(&entry.path, guarded);
    }
    let router = router
        .fallback(crate::problem::no_route)
        .method_not_allowed_fallback(crate::problem::method_not_allowed)
        .with_state(app.clone());
    let router = if app.cfg().cors.is_some() { router.layer(cors_layer(app.live_cfg().clone())) } else { router };
    router.layer(axum::middleware::from_fn_with_state(app.clone(), envelope::envelope))
}

/// Asked of the settings each time: a reload changes the origins.
fn cors_layer(cfg: Live<ControlConfig>) -> CorsLayer {
    let allowed = move |origin: &HeaderValue, _: &http::request::Parts| {
        let cfg = cfg.get();
        cfg.cors.as_ref().is_some_and(|cors| cors.allowed_origins.iter().any(|o| o.as_bytes() == origin.as_bytes()))
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allowed))
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            http::header::AUTHORIZATION,
            http::header::CONTENT_TYPE,
            http::header::IF_MATCH,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("last-event-id"),
            HeaderName::from_static("aether-tenant"),
            HeaderName::from_static("x-api-key"),
            HeaderName::from_static("x-request-id"),
        ])
        .expose_headers([
            http::header::ETAG,
            http::header::RETRY_AFTER,
            HeaderName::from_static("ratelimit-limit"),
            HeaderName::from_static("ratelimit-remaining"),
            HeaderName::from_static("ratelimit-reset"),
            HeaderName::from_static("x-request-id"),
        ])
}

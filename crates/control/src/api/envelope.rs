//! Around every request: its id, the drain, its form, panics, security headers,
//! the access log and the metrics. Bodies, query strings and headers are never
//! logged: they hold users' data and keys.

use super::guard::Caller;
use super::lawful;
use crate::app::App;
use crate::auth::Peer;
use crate::problem::{self, ApiError};
use crate::server::Crowded;
use crate::telemetry;
use aether_core::RequestId;
use aether_core::id::DEFAULT_CELL;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::panic::AssertUnwindSafe;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID: usize = 128;
/// Told to clients that come during a drain.
const RESTART_S: u64 = 5;
const CROWDED_S: u64 = 1;

pub(super) async fn envelope(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = app.clock.monotonic();
    let id =
        given_id(request.headers()).unwrap_or_else(|| RequestId::generate(DEFAULT_CELL, app.rng.as_ref()).to_string());
    let seen = Seen::of(&request);
    metrics::gauge!(telemetry::IN_FLIGHT).increment(1.0);
    let _counted = InFlight;
    let response = if app.draining.is_cancelled() && seen.route != "/health" && seen.route != "/readiness" {
        ApiError::unavailable("The server is shutting down.", RESTART_S).into_response()
    } else if request.extensions().get::<Crowded>().is_some() {
        ApiError::unavailable("Too many requests are at work, from this address or in all.", CROWDED_S).into_response()
    } else if let Some(refusal) = lawful::refusal(&request) {
        refusal
    } else {
        caught(next.run(request)).await
    };
    let (mut response, mark) = problem::finish(response, &id);
    let took = app.clock.monotonic().saturating_sub(started);
    let caller = response.extensions_mut().remove::<Caller>();
    seen.record(&response, caller.as_ref(), mark.as_ref(), &id, took);
    security_headers(response.headers_mut(), app.cfg().tls.is_some());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// A panic ends its request and nothing else.
async fn caught(work: impl Future<Output = Response>) -> Response {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(response) => response,
        // The panic hook has written where and why to the log.
        Err(_) => ApiError::internal("the handler panicked").into_response(),
    }
}

struct InFlight;

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::gauge!(telemetry::IN_FLIGHT).decrement(1.0);
    }
}

/// What is known of a request before it is handed on.
struct Seen {
    method: &'static str,
    /// The pattern, never the path: ids would make endless label values.
    route: String,
    peer: String,
}

impl Seen {
    fn of(request: &Request) -> Self {
        let method = match request.method().as_str() {
            "GET" => "GET",
            "HEAD" => "HEAD",
            "POST" => "POST",
            "PUT" => "PUT",
            "PATCH" => "PATCH",
            "DELETE" => "DELETE",
            "OPTIONS" => "OPTIONS",
            _ => "OTHER",
        };
        let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
        let peer = request.extensions().get::<Peer>().map(Peer::describe).unwrap_or_default();
        Self { method, route, peer }
    }

    fn record(
        self,
        response: &Response,
        caller: Option<&Caller>,
        mark: Option<&problem::ProblemMark>,
        id: &str,
        took: std::time::Duration,
    ) {
        let status = response.status().as_u16();
        let tenant = caller.map_or("", |c| c.tenant());
        metrics::counter!(
            telemetry::REQUESTS,
            "method" => self.method,
            "endpoint" => self.route.clone(),
            "status" => status.to_string(),
            "tenant_id" => tenant.to_owned()
        )
        .increment(1);
        metrics::histogram!(telemetry::REQUEST_SECONDS, "method" => self.method, "endpoint" => self.route.clone())
            .record(took.as_secs_f64());
        let actor = caller.map(|c| c.credential.to_string()).unwrap_or_default();
        let code = mark.map_or("", |m| m.problem.code.as_str());
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let (method, route, peer) = (self.method, self.route, self.peer);
        match mark.and_then(|m| m.inward.as_ref()) {
            Some(reason) => tracing::warn!(
                target: "aether::access", method, route, status, duration_ms, request_id = id, peer, tenant, actor,
                code, reason = ?reason, "request failed"
            ),
            None => tracing::info!(
                target: "aether::access", method, route, status, duration_ms, request_id = id, peer, tenant, actor,
                code, "request"
            ),
        }
    }
}

/// The caller's own id where it is harmless to repeat in headers and logs.
fn given_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(REQUEST_ID)?.to_str().ok()?;
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    (!text.is_empty() && text.len() <= MAX_REQUEST_ID && text.bytes().all(plain)).then(|| text.to_owned())
}

fn security_headers(headers: &mut HeaderMap, tls: bool) {
    let mut set = |name: &'static str, value: &'static str| {
        headers.entry(HeaderName::from_static(name)).or_insert(HeaderValue::from_static(value));
    };
    set("x-content-type-options", "nosniff");
    set("x-frame-options", "DENY");
    set("referrer-policy", "no-referrer");
    set("content-security-policy", "default-src 'none'; frame-ancestors 'none'");
    set("cache-control", "no-store");
    if tls {
        set("strict-transport-security", "max-age=31536000");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_problem_without_its_text() {
        let response = caught(async { panic!("secret path /var/lib/x") }).await;
        let (response, mark) = problem::finish(response, "req-1");
        assert_eq!(
            (response.status().as_u16(), mark.map(|m| m.problem.code)),
            (500, Some(aether_core::Code::InternalError))
        );
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.expect("body");
        assert!(!String::from_utf8_lossy(&body).contains("/var/lib"));
    }

    #[test]
    fn only_harmless_ids_are_repeated() {
        let given = |text: &[u8]| {
            let value = HeaderValue::from_bytes(text).expect("header");
            given_id(&HeaderMap::from_iter([(REQUEST_ID, value)]))
        };
        assert_eq!(given(b"abc-1.2_3"), Some("abc-1.2_3".into()));
        for bad in [b"".as_slice(), b"a b", b"a\tb", b"<script>", "é".as_bytes(), &[b'a'; 129]] {
            assert_eq!(given(bad), None);
        }
    }
}

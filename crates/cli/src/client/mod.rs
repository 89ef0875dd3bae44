//! The client of the HTTP API: one connection per request, since a command
//! makes few, and no pool means no state to go stale.

mod endpoint;
mod sse;
mod stream;
pub(crate) mod websocket;

pub(crate) use endpoint::Endpoint;
pub(crate) use sse::SseStream;
pub(crate) use stream::{LineStream, file_body, reader_body};
pub(crate) use websocket::Socket;

use crate::error::CliError;
use aether_core::{Code, Problem, Secret};
use bytes::Bytes;
use http::{HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// The largest JSON answer we read; a full page of agents is far below.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
const MAX_PROBLEM: usize = 1024 * 1024;
/// So long in all a command waits for its turn.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Talks to one server as one caller. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    endpoint: Arc<Endpoint>,
    token: Option<Arc<Secret>>,
    /// Whom to act for, where it is named.
    tenant: Option<Arc<str>>,
}

impl Client {
    pub(crate) fn new(endpoint: Endpoint, token: Option<Secret>) -> Self {
        Self { endpoint: Arc::new(endpoint), token: token.map(Arc::new), tenant: None }
    }

    /// What it asks with.
    pub(crate) fn token(&self) -> Option<&Secret> {
        self.token.as_deref()
    }

    /// Acts for this tenant.
    pub(crate) fn acting_for(self, tenant: Option<&str>) -> Self {
        Self { tenant: tenant.map(Arc::from), ..self }
    }

    fn request(&self, method: Method, path: &str, headers: &[(HeaderName, &str)]) -> http::request::Builder {
        let mut builder = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.endpoint.authority())
            .header(header::USER_AGENT, concat!("aether/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &self.token {
            let mut value = http::HeaderValue::from_str(&format!("Bearer {}", token.expose()));
            if let Ok(value) = &mut value {
                value.set_sensitive(true);
            }
            if let Ok(value) = value {
                builder = builder.header(header::AUTHORIZATION, value);
            }
        }
        if let Some(tenant) = &self.tenant {
            builder = builder.header(TENANT, &**tenant);
        }
        for (name, value) in headers {
            builder = builder.header(name, *value);
        }
        builder
    }

    /// Sends a request; an answer of 400 and above becomes an error.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Body,
    ) -> Result<Response<Incoming>, CliError> {
        let request = self.request(method, path, headers).body(body);
        let request = request.map_err(|e| CliError::failed(format!("cannot form the request: {e}")))?;
        let response = self.exchange(request).await?;
        if response.status().as_u16() >= 400 {
            return Err(refusal(response, path).await);
        }
        Ok(response)
    }

    /// As [`Client::send`] with a body that can be sent again: where the server
    /// says that this came too fast, it did nothing, so we wait and repeat.
    pub(crate) async fn send_whole(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: &[u8],
    ) -> Result<Response<Incoming>, CliError> {
        let mut patience = PATIENCE;
        loop {
            let answer = self.send(method.clone(), path, headers, full(body.to_vec())).await;
            patience = too_fast(answer.as_ref().err(), patience).await;
            if patience.is_zero() {
                return answer;
            }
        }
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Response<Incoming>, CliError> {
        let io = TokioIo::new(self.endpoint.connect().await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(|e| self.broken(&e))?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(|e| self.broken(&e))
    }

    fn broken(&self, e: &hyper::Error) -> CliError {
        let cause = std::error::Error::source(e).map(|s| format!(": {s}")).unwrap_or_default();
        CliError::with_remedy(
            format!("the connection to {} failed: {e}{cause}", self.endpoint),
            "Look at the server's log; if it has ended, start it again with `aether server`.",
        )
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        json(self.send_whole(Method::GET, path, &[], &[]).await?).await
    }

    /// DELETEs what answers with a report.
    pub(crate) async fn delete_for<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        json(self.send_whole(Method::DELETE, path, &[], &[]).await?).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), CliError> {
        self.send_whole(Method::DELETE, path, &[], &[]).await.map(drop)
    }

    /// POSTs a JSON document; the answer's status comes with it.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        headers: &[(HeaderName, &str)],
    ) -> Result<(StatusCode, T), CliError> {
        self.with_body(Method::POST, path, body, headers).await
    }

    pub(crate) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        headers: &[(HeaderName, &str)],
    ) -> Result<T, CliError> {
        self.with_body(Method::PATCH, path, body, headers).await.map(|(_, answer)| answer)
    }

    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, CliError> {
        self.with_body(Method::PUT, path, body, &[]).await.map(|(_, answer)| answer)
    }

    /// POSTs nothing, for no answer.
    pub(crate) async fn post_empty(&self, path: &str) -> Result<(), CliError> {
        self.send_whole(Method::POST, path, &[], &[]).await.map(drop)
    }

    async fn with_body<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        headers: &[(HeaderName, &str)],
    ) -> Result<(StatusCode, T), CliError> {
        let bytes = serde_json::to_vec(body).map_err(|e| CliError::failed(format!("cannot form the request: {e}")))?;
        let mut all = vec![(header::CONTENT_TYPE, "application/json")];
        all.extend_from_slice(headers);
        let response = self.send_whole(method, path, &all, &bytes).await?;
        Ok((response.status(), json(response).await?))
    }
}

const TENANT: HeaderName = HeaderName::from_static("aether-tenant");

/// A name of ours for one intent, so that a repeated request is not a second
/// one.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

pub(crate) fn empty() -> Body {
    full(Vec::new())
}

pub(crate) fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
}

async fn json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, CliError> {
    let bytes = collect(response.into_body(), MAX_ANSWER).await?;
    serde_json::from_slice(&bytes).map_err(|e| {
        CliError::with_remedy(
            format!("the server's answer cannot be read: {e}"),
            "Server and client may be of different versions: compare with `aether version`.",
        )
    })
}

async fn collect(body: Incoming, limit: usize) -> Result<Bytes, CliError> {
    let read = Limited::new(body, limit).collect().await;
    read.map(http_body_util::Collected::to_bytes).map_err(|e| CliError::failed(format!("the answer broke off: {e}")))
}

/// What a refusal for speed says.
fn wait_told(error: Option<&CliError>) -> Option<Duration> {
    let Some(CliError::Problem(problem)) = error else { return None };
    (problem.code == Code::RateLimited).then(|| Duration::from_secs(problem.retry_after.unwrap_or(1).max(1)))
}

/// Waits as long as a refusal for speed says, and tells what is left of
/// `patience`: nothing where it was another answer, or the wait is too long.
async fn too_fast(error: Option<&CliError>, patience: Duration) -> Duration {
    let Some(wait) = wait_told(error) else { return Duration::ZERO };
    let left = patience.saturating_sub(wait);
    if !left.is_zero() {
        tokio::time::sleep(wait).await;
    }
    left
}

/// The problem document of an answer, or the nearest thing to one.
async fn refusal(response: Response<Incoming>, path: &str) -> CliError {
    let status = response.status();
    let bytes = collect(response.into_body(), MAX_PROBLEM).await.unwrap_or_default();
    match serde_json::from_slice::<Problem>(&bytes) {
        Ok(problem) => CliError::Problem(Box::new(with_name(with_remedy_for_auth(problem), path))),
        Err(_) => CliError::Problem(Box::new(unreadable(status, &bytes))),
    }
}

fn unreadable(status: StatusCode, body: &[u8]) -> Problem {
    let code = Code::ALL.iter().copied().find(|c| c.status() == status.as_u16()).unwrap_or(Code::InternalError);
    let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
    let detail = match text.trim() {
        "" => format!("the server answered {status}"),
        text => format!("the server answered {status}: {text}"),
    };
    let mut problem = Problem::new(code, detail, "Check that --server names an Aether server.");
    problem.status = status.as_u16();
    problem
}

fn with_remedy_for_auth(mut problem: Problem) -> Problem {
    if problem.code == Code::Unauthorized {
        problem.remedy = "Give an API key in AETHER_TOKEN, or use the local socket as root or a member of the group \
                          `aether`. The first key is in the file admin.key of the server's state folder."
            .to_owned();
    }
    problem
}

/// The server answers for an unknown agent as for another tenant's, without
/// its name; the user sees the name that was typed.
fn with_name(mut problem: Problem, path: &str) -> Problem {
    let path = path.split('?').next().unwrap_or(path);
    let agent = path.strip_prefix("/v1/agents/").map(|rest| rest.split('/').next().unwrap_or(rest));
    let (named, remedy) = match problem.detail.as_str() {
        "There is no such agent." => (agent, "`aether agent list` shows what there is."),
        "There is no such image." => (
            path.strip_prefix("/v1/images/"),
            "`aether image list` shows what there is; `aether image pull` and `aether image import` bring more.",
        ),
        _ => return problem,
    };
    if let Some(name) = named.filter(|name| !name.is_empty()) {
        problem.detail = format!("{}: {}", problem.detail.trim_end_matches('.'), decode(name));
        remedy.clone_into(&mut problem.remedy);
    }
    problem
}

/// The inverse of [`encode`].
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = &tail[2..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// One path segment or query value.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    // "." and ".." would be resolved away as path segments.
    if out == "." || out == ".." { out.replace('.', "%2E") } else { out }
}

/// A query string of the parameters that are there, with its `?`.
pub(crate) fn query(parameters: &[(&str, Option<String>)]) -> String {
    let mut out = String::new();
    for (name, value) in parameters {
        if let Some(value) = value {
            out.push(if out.is_empty() { '?' } else { '&' });
            out.push_str(&format!("{name}={}", encode(value)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_thing_is_named_as_it_was_typed() {
        let absent = |what: &str| Problem::new(Code::NotFound, format!("There is no such {what}."), "");
        let agent = with_name(absent("agent"), "/v1/agents/no%20body/exec?x=1");
        assert_eq!(agent.detail, "There is no such agent: no body");
        let image = with_name(absent("image"), "/v1/images/docker.io%2Flibrary%2Fx%3A1");
        assert_eq!(image.detail, "There is no such image: docker.io/library/x:1");
        assert_eq!(with_name(absent("key"), "/v1/auth/keys/x").detail, "There is no such key.");
        assert_eq!(decode(&encode("a/b %é")), "a/b %é");
    }

    #[test]
    fn paths_are_encoded() {
        assert_eq!(encode("docker.io/library/python:3.11"), "docker.io%2Flibrary%2Fpython%3A3.11");
        assert_eq!((encode(".."), encode("é")), ("%2E%2E".into(), "%C3%A9".into()));
        assert_eq!(query(&[("a", Some("x y".into())), ("b", None), ("c", Some("1".into()))]), "?a=x%20y&c=1");
        assert_eq!(query(&[("a", None)]), "");
    }

    #[test]
    fn an_answer_of_something_else_is_still_an_error_with_its_status() {
        let p = unreadable(StatusCode::BAD_GATEWAY, b"<html>nginx</html>");
        assert_eq!((p.status, p.code), (502, Code::BadGateway));
        assert!(p.detail.contains("nginx"));
        assert_eq!(unreadable(StatusCode::IM_A_TEAPOT, b"").status, 418);
    }

    fn refused(code: Code, retry_after: Option<u64>) -> CliError {
        let mut problem = Problem::new(code, "x", "x");
        problem.retry_after = retry_after;
        CliError::Problem(Box::new(problem))
    }

    #[tokio::test]
    async fn only_a_refusal_for_speed_is_waited_for_and_not_for_ever() {
        assert_eq!(wait_told(None), None);
        for code in [Code::QuotaExceeded, Code::ServiceUnavailable, Code::Unauthorized] {
            assert_eq!(wait_told(Some(&refused(code, Some(1)))), None);
        }
        assert_eq!(wait_told(Some(&refused(Code::RateLimited, Some(7)))), Some(Duration::from_secs(7)));
        assert_eq!(wait_told(Some(&refused(Code::RateLimited, None))), Some(Duration::from_secs(1)));
        let long = refused(Code::RateLimited, Some(PATIENCE.as_secs()));
        assert_eq!(too_fast(Some(&long), PATIENCE).await, Duration::ZERO, "it does not wait in vain");
    }
}

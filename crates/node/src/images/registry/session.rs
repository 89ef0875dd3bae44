//! Requests to one registry for one pull: redirects, credentials, deadlines.

use super::super::manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use super::super::{Credentials, ImageError, ImagesConfig, PullSpec, Timeouts, text};
use super::auth::{self, Challenge};
use super::guard::{Denied, Guard};
use aether_core::Rng;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Client, Response, StatusCode, Url};
use std::error::Error as _;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

const MAX_REDIRECTS: u32 = 5;
/// However long a registry asks us to wait.
const MAX_PAUSE: Duration = Duration::from_secs(30);

pub(super) struct Session {
    http: Client,
    guard: Guard,
    base: Url,
    pub registry: String,
    pub repository: String,
    pub timeouts: Timeouts,
    credentials: Option<Credentials>,
    /// What the registry accepted last.
    authorization: Mutex<Option<HeaderValue>>,
    rng: Arc<dyn Rng>,
}

/// How one attempt failed.
pub(super) enum Failure {
    /// Worth another attempt, after this long if the registry said so.
    Again(ImageError, Option<Duration>),
    Final(ImageError),
}

impl From<ImageError> for Failure {
    fn from(e: ImageError) -> Self {
        Failure::Final(e)
    }
}

impl Session {
    pub(super) fn new(config: &ImagesConfig, spec: &PullSpec, rng: Arc<dyn Rng>) -> Result<Self, ImageError> {
        let registry = spec.reference.registry.clone();
        let guard = Guard::new(config, &registry);
        let scheme = if guard.plain_http(&registry, spec.insecure)? { "http" } else { "https" };
        // Docker's own registry answers under another name than its images have.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { &registry };
        let bad =
            |_| ImageError::BadReference { reference: registry.clone(), reason: "the registry is not a host".into() };
        let base = Url::parse(&format!("{scheme}://{host}/v2/{}/", spec.reference.repository)).map_err(bad)?;
        let http = Client::builder()
            .user_agent(concat!("aether/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(guard.resolver())
            // A proxy would resolve names itself, out of the guard's sight.
            .no_proxy()
            .connect_timeout(config.timeouts.connect)
            .build()
            .map_err(|e| ImageError::Io { doing: "set up HTTP".into(), detail: e.to_string() })?;
        Ok(Self {
            http,
            guard,
            base,
            registry,
            repository: spec.reference.repository.clone(),
            timeouts: config.timeouts.clone(),
            credentials: spec.credentials.clone(),
            authorization: Mutex::new(None),
            rng,
        })
    }

    /// Repeats what may work the next time, with growing, jittered pauses.
    pub(super) async fn retry<T, Fut>(&self, mut attempt: impl FnMut() -> Fut) -> Result<T, ImageError>
    where
        Fut: Future<Output = Result<T, Failure>>,
    {
        let mut tried = 0;
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(Failure::Final(e)) => return Err(e),
                Err(Failure::Again(e, _)) if tried >= self.timeouts.retries => return Err(e),
                Err(Failure::Again(e, wish)) => {
                    tracing::debug!(registry = %self.registry, attempt = tried, "trying again: {e}");
                    self.pause(tried, wish).await;
                    tried += 1;
                }
            }
        }
    }

    pub(super) async fn pause(&self, tried: u32, wish: Option<Duration>) {
        let grown = self.timeouts.backoff.saturating_mul(1 << tried.min(10)).min(MAX_PAUSE);
        let mut random = [0u8; 2];
        self.rng.fill(&mut random);
        // Half to all of it, so that many nodes do not come back together.
        let part = 0.5 + f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX) / 2.0;
        tokio::time::sleep(wish.unwrap_or(grown.mul_f64(part)).min(MAX_PAUSE)).await;
    }

    /// One GET below the repository, with credentials where asked for and
    /// redirects followed. The answer is a success.
    pub(super) async fn get(&self, path: &str, from: u64) -> Result<Response, Failure> {
        let url = self.base.join(path).map_err(|e| ImageError::Catalogue(e.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if path.starts_with("manifests/") {
            for kind in [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST] {
                headers.append(ACCEPT, HeaderValue::from_static(kind));
            }
        }
        if from > 0 {
            headers.insert(
                RANGE,
                HeaderValue::from_str(&format!("bytes={from}-")).map_err(|e| ImageError::Catalogue(e.to_string()))?,
            );
        }
        let mut response = self.follow(url.clone(), &headers).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.authorize(&response).await?;
            response = self.follow(url, &headers).await?;
        }
        self.judge(response)
    }

    async fn follow(&self, start: Url, headers: &HeaderMap) -> Result<Response, Failure> {
        let mut url = start.clone();
        for _ in 0..=MAX_REDIRECTS {
            self.guard.check(&url)?;
            let mut request = self.http.get(url.clone()).headers(headers.clone());
            // Credentials are for the registry, not for where it points.
            if url.origin() == start.origin()
                && let Some(value) = self.authorization.lock().await.clone()
            {
                request = request.header(AUTHORIZATION, value);
            }
            let response = self.send(request).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let target = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).and_then(|l| url.join(l).ok());
            url = target.ok_or_else(|| self.lying("it redirects to nowhere"))?;
        }
        Err(self.lying(&format!("it redirects more than {MAX_REDIRECTS} times")).into())
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, Failure> {
        let limit = self.timeouts.connect + self.timeouts.idle;
        match timeout(limit, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) => Err(self.failed(&e)),
            Err(_) => Err(Failure::Again(self.slow("no answer"), None)),
        }
    }

    /// What a failed request says of the registry.
    pub(super) fn failed(&self, e: &reqwest::Error) -> Failure {
        let mut cause = e.source();
        let mut last = e.to_string();
        while let Some(c) = cause {
            if let Some(denied) = c.downcast_ref::<Denied>() {
                return Failure::Final(ImageError::Refused(denied.to_string()));
            }
            last = c.to_string();
            cause = c.source();
        }
        let detail = text::clip(&last, 200);
        if e.is_timeout() {
            return Failure::Again(self.slow(&detail), None);
        }
        Failure::Again(ImageError::Unreachable { registry: self.registry.clone(), detail }, None)
    }

    fn judge(&self, response: Response) -> Result<Response, Failure> {
        let registry = self.registry.clone();
        let status = response.status();
        let wish = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let wish = wish.map(Duration::from_secs);
        let detail = format!("it answers {}", status.as_u16());
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(ImageError::Unauthorized { registry, detail }.into())
            }
            StatusCode::NOT_FOUND => Err(ImageError::NotInRegistry(self.repository.clone()).into()),
            StatusCode::TOO_MANY_REQUESTS => Err(Failure::Again(ImageError::Busy { registry, detail }, wish)),
            s if s.is_server_error() || s == StatusCode::REQUEST_TIMEOUT => {
                Err(Failure::Again(ImageError::Unreachable { registry, detail }, wish))
            }
            _ => Err(self.lying(&detail).into()),
        }
    }

    async fn authorize(&self, response: &Response) -> Result<(), Failure> {
        let challenges: Vec<Challenge> = (response.headers().get_all(WWW_AUTHENTICATE).iter())
            .filter_map(|h| auth::parse_challenge(h.to_str().ok()?))
            .collect();
        let unauthorized =
            |detail: &str| ImageError::Unauthorized { registry: self.registry.clone(), detail: detail.into() };
        let bearer = challenges.iter().find(|c| matches!(c, Challenge::Bearer { .. }));
        let value = match bearer.or(challenges.first()) {
            Some(Challenge::Basic) => {
                let given = self.credentials.as_ref().ok_or_else(|| unauthorized("none were given"))?;
                auth::basic(given).ok_or_else(|| unauthorized("they cannot be sent in a header"))?
            }
            Some(Challenge::Bearer { realm, service, scope }) => {
                self.token(realm, service.as_deref(), scope.as_deref()).await?
            }
            None => return Err(unauthorized("it asks for them in a way that is not supported").into()),
        };
        *self.authorization.lock().await = Some(value);
        Ok(())
    }

    async fn token(&self, realm: &str, service: Option<&str>, scope: Option<&str>) -> Result<HeaderValue, Failure> {
        let ours = format!("repository:{}:pull", self.repository);
        let url = auth::token_url(realm, service, scope.unwrap_or(&ours))?;
        self.guard.check(&url)?;
        let mut request = self.http.get(url);
        if let Some(value) = self.credentials.as_ref().and_then(auth::basic) {
            request = request.header(AUTHORIZATION, value);
        }
        let response = self.send(request).await?;
        let response = match response.status().is_redirection() {
            true => return Err(self.lying("its token server redirects").into()),
            false => self.judge(response).map_err(|failure| match failure {
                Failure::Final(ImageError::NotInRegistry(_)) => self.lying("its token server answers 404").into(),
                other => other,
            })?,
        };
        let body = self.body(response, auth::MAX_TOKEN as u64, "a token").await?;
        auth::bearer(&body).ok_or_else(|| self.lying("its token server sent no token").into())
    }

    /// A small answer, whole.
    pub(super) async fn body(&self, mut response: Response, limit: u64, what: &str) -> Result<Vec<u8>, Failure> {
        let mut out = Vec::new();
        while let Some(chunk) = self.chunk(&mut response).await? {
            out.extend_from_slice(&chunk);
            if out.len() as u64 > limit {
                return Err(self.lying(&format!("{what} is larger than {limit} bytes")).into());
            }
        }
        Ok(out)
    }

    /// The next piece; each must come within the idle limit.
    pub(super) async fn chunk(&self, response: &mut Response) -> Result<Option<bytes::Bytes>, Failure> {
        match timeout(self.timeouts.idle, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(e)) => Err(self.failed(&e)),
            Err(_) => Err(Failure::Again(self.slow("it stopped sending"), None)),
        }
    }

    pub(super) fn lying(&self, detail: &str) -> ImageError {
        ImageError::Lying { registry: self.registry.clone(), detail: detail.to_owned() }
    }

    pub(super) fn slow(&self, detail: &str) -> ImageError {
        ImageError::TooSlow { registry: self.registry.clone(), detail: detail.to_owned() }
    }
}

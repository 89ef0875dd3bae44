//! What handlers take from requests, each with its limit and its refusal.

use crate::app::App;
use crate::problem::ApiError;
use aether_core::api::Page;
use aether_core::{Code, FieldError, Timestamp};
use aether_store::Idempotency;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// A JSON body of at most `json_body_bytes`.
pub(crate) struct Json<T>(pub(crate) T);

/// As [`Json`], with the default where the body is empty.
pub(crate) struct MaybeJson<T>(pub(crate) T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for Json<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let typed = is_json(request.headers());
        let body = collect(app, request).await?;
        if !typed {
            return Err(not_json());
        }
        body.parse(&app.readers).await.map(Json)
    }
}

impl<T: DeserializeOwned + Default + Send + 'static> FromRequest<App> for MaybeJson<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let typed = is_json(request.headers());
        let body = collect(app, request).await?;
        if body.bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        if typed { body.parse(&app.readers).await.map(MaybeJson) } else { Err(not_json()) }
    }
}

pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).as_deref() == Some("application/json")
}

fn not_json() -> ApiError {
    ApiError::new(
        Code::UnsupportedMediaType,
        "This route takes application/json.",
        "Send the header Content-Type: application/json.",
    )
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// So much of each JSON body needs no room of the others'.
const FREE_BYTES: usize = 16 * 1024;

/// A whole body, and the room that it takes until it is parsed.
struct Whole<'a> {
    bytes: bytes::Bytes,
    _held: Option<SemaphorePermit<'a>>,
}

async fn collect(app: &App, request: Request) -> Result<Whole<'_>, ApiError> {
    let limits = app.cfg().limits.clone();
    let told = content_length(request.headers()).unwrap_or(0);
    if told > limits.json_body_bytes as u64 {
        return Err(too_large(limits.json_body_bytes));
    }
    // Pages that nothing is written to cost nothing; growing would copy.
    let bytes = bytes::BytesMut::with_capacity(told as usize);
    let whole = gather(&app.bodies, request.into_body(), bytes, limits.json_body_bytes);
    tokio::time::timeout(limits.header_timeout, whole).await.map_err(|_| {
        ApiError::late(format!("The body took longer than {} s to come.", limits.header_timeout.as_secs_f64()))
    })?
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(
        Code::PayloadTooLarge,
        format!("The body is larger than {limit} bytes."),
        "Send less; files and archives have routes of their own.",
    )
}

/// Large bodies that come in at the same time share what memory there is for
/// them: who holds back the end of many must not take it all.
async fn gather(room: &Semaphore, body: Body, mut bytes: bytes::BytesMut, limit: usize) -> Result<Whole<'_>, ApiError> {
    let mut body = Limited::new(body, limit);
    let mut held: Option<SemaphorePermit<'_>> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => too_large(limit),
            None => ApiError::bad_request("The body ended early."),
        })?;
        let Ok(data) = frame.into_data() else { continue };
        bytes.extend_from_slice(&data);
        let has = held.as_ref().map_or(0, SemaphorePermit::num_permits);
        let needs = bytes.len().saturating_sub(FREE_BYTES + has);
        if needs > 0 {
            let full = |_| ApiError::unavailable("Too many large bodies are coming in.", 1);
            let more = room.try_acquire_many(u32::try_from(needs).unwrap_or(u32::MAX)).map_err(full)?;
            match &mut held {
                Some(held) => held.merge(more),
                None => held = Some(more),
            }
        }
    }
    Ok(Whole { bytes: bytes.freeze(), _held: held })
}

impl Whole<'_> {
    /// A large body is one long step, which holds up whoever shares its
    /// thread: large ones are parsed elsewhere, few at a time, so that a flood
    /// of them leaves a processor to everybody else.
    async fn parse<T: DeserializeOwned + Send + 'static>(self, readers: &Arc<Semaphore>) -> Result<T, ApiError> {
        if self.bytes.len() <= FREE_BYTES {
            return parse(&self.bytes);
        }
        let ended = |e: &dyn std::fmt::Display| ApiError::internal(format!("a body was not parsed to its end: {e}"));
        let turn = readers.clone().acquire_owned().await.map_err(|e| ended(&e))?;
        let bytes = self.bytes.clone();
        let work = move || {
            let _turn = turn;
            parse(&bytes)
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| ended(&e))?
    }
}

pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            let text = without_value(&error.to_string());
            // An unknown field's name is the client's, of any length.
            let field = text.split('`').nth(1).filter(|_| text.contains(" field ")).unwrap_or("body");
            ApiError::field(&crate::problem::clean(field), crate::problem::clean(&text))
        }
        _ => ApiError::bad_request(format!("The body is not JSON: {error}.")),
    })
}

/// The texts of what was sent may be secrets: an answer, which others log, has
/// none of them.
fn without_value(text: &str) -> String {
    match (text.find(": string \""), text.rfind("\", expected")) {
        (Some(from), Some(to)) if from < to => format!("{}: a string{}", &text[..from], &text[to + 1..]),
        _ => text.to_owned(),
    }
}

/// Wrong parameters that one answer names.
const MAX_ERRORS: usize = 50;

/// The query string. Each parameter is taken once by name; whatever is left
/// at [`Params::done`] is unknown and refused.
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

impl FromRequestParts<App> for Params {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let pairs = Query::<Vec<(String, String)>>::from_request_parts(parts, app).await;
        let Ok(Query(pairs)) = pairs else { return Err(ApiError::bad_request("The query string cannot be read.")) };
        Ok(Self { pairs, errors: Vec::new() })
    }
}

/// Which part is asked for of a list that is read whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paging {
    page: u64,
    per_page: u64,
}

impl Paging {
    /// The page without its data yet, and the rows that are on it.
    pub(crate) fn of<R, T>(self, rows: Vec<R>) -> (Page<T>, impl Iterator<Item = R>) {
        let Self { page, per_page } = self;
        let total = rows.len() as u64;
        let first = usize::try_from((page - 1) * per_page).unwrap_or(usize::MAX);
        let data = Vec::new();
        let page = Page { data, page: page as u32, per_page: per_page as u32, total, next_cursor: None };
        (page, rows.into_iter().skip(first).take(per_page as usize))
    }
}

impl Params {
    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self { pairs, errors: Vec::new() }
    }

    /// All values of a parameter that may be repeated.
    pub(crate) fn all(&mut self, name: &str) -> Vec<String> {
        let (taken, left) = std::mem::take(&mut self.pairs).into_iter().partition(|(k, _)| k == name);
        self.pairs = left;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().map(|(_, v)| v).collect()
    }

    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let mut values = self.all(name);
        if values.len() > 1 {
            self.bad(name, "may be given once");
        }
        values.pop()
    }

    /// `true`, `1`, or the bare name.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        match self.text(name).as_deref() {
            None | Some("false" | "0") => false,
            Some("" | "true" | "1") => true,
            Some(_) => {
                self.bad(name, "must be true or false");
                false
            }
        }
    }

    pub(crate) fn number(&mut self, name: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let text = self.text(name)?;
        match text.parse::<u64>() {
            Ok(n) if range.contains(&n) => Some(n),
            _ => {
                self.bad(name, format!("must be a whole number from {} to {}", range.start(), range.end()));
                None
            }
        }
    }

    /// `page` and `per_page`.
    pub(crate) fn paging(&mut self) -> Paging {
        let page = self.number("page", 1..=1_000_000).unwrap_or(1);
        Paging { page, per_page: self.number("per_page", 1..=100).unwrap_or(20) }
    }

    /// Seconds or Go's form, at most `most`.
    pub(crate) fn duration(&mut self, name: &str, most: Duration) -> Option<Duration> {
        let text = self.text(name)?;
        match aether_core::time::parse_duration(&text) {
            Some(d) if d <= most => Some(d),
            _ => {
                self.bad(name, format!("must be seconds or a duration such as 5s, at most {} s", most.as_secs()));
                None
            }
        }
    }

    /// An RFC 3339 time, or how long ago.
    pub(crate) fn time(&mut self, name: &str, now: Timestamp) -> Option<Timestamp> {
        let text = self.text(name)?;
        let ago = || aether_core::time::parse_duration(&text).map(|age| now.minus(age));
        let found = Timestamp::parse_rfc3339(&text).or_else(ago);
        if found.is_none() {
            self.bad(name, "must be an RFC 3339 time or a duration such as 5m");
        }
        found
    }

    /// Beyond the first ones, more would only make the answer long.
    pub(crate) fn bad(&mut self, name: &str, message: impl Into<String>) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(FieldError::new(name, message));
        }
    }

    /// Refuses what was wrong and what nobody took.
    pub(crate) fn done(mut self) -> Result<(), ApiError> {
        for (name, _) in std::mem::take(&mut self.pairs) {
            self.bad(&crate::problem::clean(&name), "is not a parameter of this route");
        }
        if self.errors.is_empty() { Ok(()) } else { Err(ApiError::validation(self.errors)) }
    }
}

/// The versions that `If-Match` names; `None`: any will do. Entity tags of
/// agents are versions in quotes; bare numbers are taken too.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<Vec<u64>>, ApiError> {
    let values: Vec<&str> =
        headers.get_all(http::header::IF_MATCH).iter().map(|v| v.to_str().unwrap_or_default()).collect();
    if values.is_empty() {
        return Ok(None);
    }
    let mut versions = Vec::new();
    for tag in values.iter().flat_map(|value| value.split(',')).map(str::trim) {
        if tag == "*" {
            return Ok(None);
        }
        // A weak tag never matches (RFC 9110, 13.1.1), but is well formed.
        let weak = tag.starts_with("W/");
        let bare = tag.trim_start_matches("W/").trim_matches('"');
        match bare.parse::<u64>() {
            Ok(version) if !weak => versions.push(version),
            Ok(_) => {}
            Err(_) => return Err(ApiError::field("If-Match", "must be the ETag of the agent, as in \"7\"")),
        }
    }
    Ok(Some(versions))
}

const MAX_IDEMPOTENCY_KEY: usize = 255;

/// `Idempotency-Key`, with the hash of what is asked under it.
pub(crate) fn idempotency(headers: &HeaderMap, asked: &impl serde::Serialize) -> Result<Option<Idempotency>, ApiError> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    let plain = key.bytes().all(|b| (b' '..=b'~').contains(&b));
    if key.is_empty() || !plain || key.len() > MAX_IDEMPOTENCY_KEY || values.next().is_some() {
        return Err(ApiError::field("Idempotency-Key", "must come once, as 1 to 255 visible ASCII characters"));
    }
    let body = serde_json::to_vec(asked).map_err(|e| ApiError::internal(format!("request does not serialise: {e}")))?;
    Ok(Some(Idempotency { key: key.to_owned(), request_hash: Sha256::digest(&body).into() }))
}

/// A body as a stream of chunks, cut when no byte moves for `idle`.
pub(crate) fn chunks(
    body: Body,
    idle: Duration,
) -> impl futures::Stream<Item = Result<bytes::Bytes, ApiError>> + Send + Unpin {
    let stream = Box::pin(body.into_data_stream());
    futures::stream::unfold(Some(stream), move |stream| {
        Box::pin(async move {
            let mut stream = stream?;
            match tokio::time::timeout(idle, futures::StreamExt::next(&mut stream)).await {
                Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(stream))),
                Ok(Some(Err(_))) => Some((Err(ApiError::bad_request("The body ended early.")), None)),
                Ok(None) => None,
                Err(_) => Some((Err(ApiError::late("No byte of the body came for too long.")), None)),
            }
        })
    })
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    /// On which thread it was parsed.
    #[derive(Debug)]
    struct Parsed(std::thread::ThreadId);

    impl<'de> serde::Deserialize<'de> for Parsed {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            serde::de::IgnoredAny::deserialize(from)?;
            Ok(Self(std::thread::current().id()))
        }
    }

    #[tokio::test]
    async fn large_bodies_are_parsed_elsewhere_and_few_at_a_time() {
        let readers = Arc::new(Semaphore::new(1));
        let whole = |bytes: usize| Whole { bytes: format!("\"{}\"", "x".repeat(bytes)).into(), _held: None };
        let here = std::thread::current().id();
        assert_eq!(whole(10).parse::<Parsed>(&readers).await.expect("JSON").0, here);
        assert_ne!(whole(FREE_BYTES).parse::<Parsed>(&readers).await.expect("JSON").0, here);
        let _taken = readers.acquire().await.expect("open");
        let second = whole(FREE_BYTES).parse::<Parsed>(&readers);
        assert!(tokio::time::timeout(Duration::from_millis(50), second).await.is_err());
    }

    #[test]
    fn unknown_and_wrong_parameters_are_named() {
        let mut params = Params::of(&[("a", "1"), ("b", "x"), ("c", "2"), ("c", "3"), ("d", "maybe"), ("e", "9h")]);
        assert_eq!(params.number("b", 0..=5), None);
        assert_eq!(params.text("c").as_deref(), Some("3"));
        assert!(!params.flag("d"));
        assert_eq!(params.duration("e", Duration::from_secs(30)), None);
        let error = params.done().expect_err("wrong");
        let fields: Vec<_> = error.problem.errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, ["b", "c", "d", "e", "a"]);
    }

    #[test]
    fn if_match_names_versions() {
        let of = |values: &[&str]| {
            let pairs = values.iter().map(|v| (http::header::IF_MATCH, v.parse().expect("header")));
            if_match(&pairs.collect()).map_err(|e| e.problem.code)
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["*"]), Ok(None));
        assert_eq!(of(&["\"7\""]), Ok(Some(vec![7])));
        assert_eq!(of(&["\"7\", \"8\"", "9"]), Ok(Some(vec![7, 8, 9])));
        assert_eq!(of(&["W/\"7\""]), Ok(Some(Vec::new())), "matches nothing");
        for bad in ["", "x", "\"\"", "-1"] {
            assert_eq!(of(&[bad]), Err(Code::ValidationError), "{bad}");
        }
    }

    #[test]
    fn json_errors_name_the_field() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct T {
            #[allow(dead_code, reason = "only parsed")]
            image: String,
        }
        let field = |text: &str| parse::<T>(text.as_bytes()).expect_err("bad").problem.errors[0].field.clone();
        assert_eq!(field(r#"{"imgae":"a"}"#), "imgae");
        assert_eq!(field("{}"), "image");
        assert_eq!(field(r#"{"image":1}"#), "body");
        assert_eq!(parse::<T>(b"{").expect_err("bad").problem.code, Code::BadRequest);
        let deep = "[".repeat(100_000);
        assert_eq!(parse::<serde_json::Value>(deep.as_bytes()).expect_err("deep").problem.status, 400);
    }
}

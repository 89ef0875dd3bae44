//! The one conversion from errors to answers: code, outward message, inward
//! message. Outward goes nothing that names a path, an address, a statement
//! or a secret; the inward text goes to the log with the request's id.

use aether_core::tenant::{BudgetOf, Excess, Resource};
use aether_core::{Code, FieldError, Problem};
use aether_store::StoreError;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// Longer texts from a node or a guest are cut.
const MAX_DETAIL_CHARS: usize = 500;
/// Somebody has to free something first.
const QUOTA_RETRY_S: u64 = 10;

/// What a handler fails with.
#[derive(Debug)]
pub struct ApiError {
    pub problem: Box<Problem>,
    /// For the log alone.
    pub inward: Option<String>,
}

/// Attached to each problem answer so that the outermost layer can write the
/// request's id into the document and the inward text into the log.
#[derive(Clone, Debug)]
pub(crate) struct ProblemMark {
    pub(crate) problem: Problem,
    pub(crate) inward: Option<String>,
}

/// What makes room for more of it.
fn room_by(resource: Resource) -> &'static str {
    match resource {
        Resource::Agents | Resource::Cpu | Resource::Memory | Resource::Disk => {
            "Stop or delete agents that are not needed"
        }
        Resource::Images => "Remove images that are not needed",
        Resource::ExecSessions => "Wait until an exec has ended",
    }
}

impl ApiError {
    pub fn new(code: Code, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: Box::new(Problem::new(code, detail, remedy)), inward: None }
    }

    pub fn validation(errors: Vec<FieldError>) -> Self {
        Self { problem: Box::new(Problem::validation(errors)), inward: None }
    }

    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Self::validation(vec![FieldError::new(field, message)])
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, detail, "Correct the request; /openapi.json describes each route.")
    }

    pub fn unauthorized() -> Self {
        Self::new(
            Code::Unauthorized,
            "The request has no valid API key or token.",
            "Send `Authorization: Bearer <key>` with a key or token that is neither expired nor revoked.",
        )
    }

    pub fn stranger() -> Self {
        Self::new(
            Code::Forbidden,
            "This local user may not use the socket.",
            "Run it as root or join the group `aether` (then log in again), or send an API key.",
        )
    }

    pub fn forbidden(permission: &str) -> Self {
        Self::new(
            Code::Forbidden,
            format!("This needs the permission {permission}."),
            "Use a key whose role and scopes include it.",
        )
    }

    /// What is there, and what the caller does not reach.
    pub fn narrowed(to: &str) -> Self {
        Self::new(
            Code::Forbidden,
            format!("The key is narrowed to {}.", clean(to)),
            "Stay within it, or use a key that reaches further.",
        )
    }

    pub fn no_agent() -> Self {
        Self::not_found("agent")
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(
            Code::NotFound,
            format!("There is no such {what}."),
            format!("List each {what} to see what there is."),
        )
    }

    pub fn conflict(detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Code::Conflict, detail, remedy)
    }

    /// 429 where freeing something would help, 403 where the request is larger
    /// than all that the tenant may have.
    pub fn quota(of: Option<&BudgetOf>, excess: Excess) -> Self {
        let (whose, shown) = match of {
            None => ("tenant's quota".to_owned(), "`aether quota get` shows it"),
            Some(BudgetOf::Key(id)) => (format!("budget of the key {id}"), "`aether key get` shows it"),
            Some(BudgetOf::Label { key, value }) => {
                let label = clean(&format!("{key}={value}"));
                (format!("budget of the label {label}"), "`aether quota get --label` shows it")
            }
        };
        let raised = if of.is_some() { "budget" } else { "quota" };
        let mut error = Self::new(
            Code::QuotaExceeded,
            format!("The {whose} does not allow it: {excess}."),
            format!("{}, or have the {raised} raised; {shown}.", room_by(excess.resource)),
        );
        if excess.could_fit() {
            return error.retry_after(QUOTA_RETRY_S);
        }
        error.problem.status = StatusCode::FORBIDDEN.as_u16();
        error.problem.retryable = false;
        error.problem.remedy = format!("Ask for less, or have the {raised} raised; {shown}.");
        error
    }

    pub fn internal(inward: impl Into<String>) -> Self {
        let mut error = Self::new(
            Code::InternalError,
            "Something went wrong on our side.",
            "Try again; if it stays, tell the operator the request id.",
        );
        error.inward = Some(inward.into());
        error
    }

    pub fn unavailable(detail: impl Into<String>, retry_after: u64) -> Self {
        let mut error = Self::new(Code::ServiceUnavailable, detail, "Try again after the time in Retry-After.");
        error.problem.retry_after = Some(retry_after);
        error
    }

    pub fn timeout(detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Code::Timeout, detail, remedy)
    }

    /// The client's body did not come in time.
    pub fn late(detail: impl Into<String>) -> Self {
        Self::new(Code::RequestTimeout, detail, "Send the body without pauses.")
    }

    #[must_use]
    pub fn inward(mut self, text: impl Into<String>) -> Self {
        self.inward = Some(text.into());
        self
    }

    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.problem.retry_after = Some(seconds);
        self
    }

    #[must_use]
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.problem.instance = Some(instance.into());
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = *self.problem;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(axum::body::Body::from(body_of(&problem)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
        if let Some(seconds) = problem.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(ProblemMark { problem, inward: self.inward });
        response
    }
}

/// The document's bytes.
pub(crate) fn body_of(problem: &Problem) -> Vec<u8> {
    serde_json::to_vec(problem).expect("a problem is text, numbers and lists: it always serialises")
}

/// Writes the request id into a problem answer; also turns axum's own bare
/// answers (405 without body, for one) into problem documents.
pub(crate) fn finish(response: Response, request_id: &str) -> (Response, Option<ProblemMark>) {
    let (mut parts, body) = response.into_parts();
    let mark = match parts.extensions.remove::<ProblemMark>() {
        Some(mark) => Some(mark),
        None if is_bare_error(&parts) => Some(ProblemMark { problem: bare(parts.status), inward: None }),
        None => None,
    };
    let Some(mut mark) = mark else { return (Response::from_parts(parts, body), None) };
    mark.problem.request_id = Some(request_id.to_owned());
    let bytes = body_of(&mark.problem);
    parts.headers.insert(CONTENT_TYPE, PROBLEM_JSON);
    parts.headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    (Response::from_parts(parts, axum::body::Body::from(bytes)), Some(mark))
}

/// An error that no handler of ours made: it has no problem document.
fn is_bare_error(parts: &http::response::Parts) -> bool {
    (parts.status.is_client_error() || parts.status.is_server_error())
        && parts.headers.get(CONTENT_TYPE).is_none_or(|t| t != PROBLEM_JSON)
        && parts.extensions.get::<KeepBody>().is_none()
}

/// Marks an error answer whose body is its own (readiness).
#[derive(Clone, Copy)]
pub(crate) struct KeepBody;

fn bare(status: StatusCode) -> Problem {
    let code = Code::ALL
        .iter()
        .copied()
        .find(|c| c.status() == status.as_u16() && *c != Code::ValidationError)
        .unwrap_or(if status.is_server_error() { Code::InternalError } else { Code::BadRequest });
    let mut problem = Problem::new(code, code.title().to_owned() + ".", "See /openapi.json for what each route takes.");
    problem.status = status.as_u16();
    problem
}

/// 405 with its `Allow` header kept by axum.
pub(crate) async fn method_not_allowed() -> ApiError {
    ApiError::new(Code::MethodNotAllowed, "This route does not take this method.", "See the Allow header.")
}

pub(crate) async fn no_route() -> ApiError {
    ApiError::new(Code::NotFound, "There is no such route.", "See /openapi.json for the routes there are.")
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        use StoreError as E;
        match error {
            E::NotFound { what } => Self::not_found(what),
            E::NameTaken { .. } => {
                Self::conflict(format!("{error}."), "Choose another name, or delete the agent that has it.")
            }
            E::AlreadyExists { what } => Self::conflict(format!("This {what} exists already."), "Choose another id."),
            E::IllegalState { .. } => Self::conflict(format!("{error}."), "Look at the agent's status first."),
            E::VersionConflict { .. } => {
                Self::conflict("The agent was changed at the same time.", "Read it again and repeat the request.")
            }
            E::Invalid { errors } => Self::validation(errors),
            E::IdempotencyMismatch => Self::new(
                Code::IdempotencyMismatch,
                "This Idempotency-Key was used with another request.",
                "Use a new key for a new request.",
            ),
            E::InProgress => Self::conflict(
                "A request with this Idempotency-Key is still in progress.",
                "Repeat it after the time in Retry-After.",
            )
            .retry_after(1),
            E::BadCursor => Self::field("cursor", "is not one that this API gave out"),
            E::CursorExpired => Self::field("cursor", "is too old: begin again without one, after a fresh list"),
            E::QuotaExceeded { of, excess, .. } => Self::quota(of.as_ref(), excess),
            E::Narrowed { detail } => Self::narrowed(&detail),
            E::InUse { what, by } => Self::conflict(
                format!("This {what} is in use by {}.", by.join(", ")),
                format!("Give them another {what}, or delete them, first."),
            ),
            E::TooMany { what, most } => {
                Self::conflict(format!("There are {most} {what} already, which is the most."), "Remove some first.")
            }
            E::SecretMissing { name } => Self::conflict(
                format!("The agent names the secret {name}, which is not there."),
                "Set the secret, or make another agent without it.",
            ),
            E::TenantInactive { status } => crate::api::inactive(status),
            E::DefaultTenant => Self::conflict(
                "The tenant `default` can be neither suspended nor deleted: operators come in through it.",
                "Suspend or delete another tenant.",
            ),
            E::NoRoom { .. } => Self::new(Code::CapacityUnavailable, "No node has room.", "Free something, or wait."),
            E::Locked | E::Unavailable { .. } => {
                Self::unavailable("The database does not answer.", 1).inward(error.to_string())
            }
            E::Full => Self::unavailable("The server's disk is full.", 30).inward(error.to_string()),
            E::Fenced { .. } => Self::unavailable("Another server has taken over.", 1).inward(error.to_string()),
            E::SchemaTooNew { .. }
            | E::SchemaTooOld { .. }
            | E::SchemaMismatch { .. }
            | E::SchemaForeign
            | E::Corrupt { .. }
            | E::Unsealable
            | E::Internal { .. } => Self::internal(error.to_string()),
        }
    }
}

/// What a node, or a guest through it, answered. Texts of the caller's own
/// making go outward, cut and cleaned; the node's internal ones do not.
/// The code and remedy that a node gives beside a status, where it does.
fn told_beside(status: &tonic::Status) -> Option<(Code, String)> {
    let text = |key| status.metadata().get(key).and_then(|v| v.to_str().ok());
    let code: Code = serde_json::from_value(text("aether-code")?.into()).ok()?;
    Some((code, clean(text("aether-remedy")?)))
}

impl From<tonic::Status> for ApiError {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code as T;
        if let Some((code, remedy)) = told_beside(&status)
            && code != Code::InternalError
        {
            return Self::new(code, clean(status.message()), remedy);
        }
        let said = clean(status.message());
        let told = |fallback: &str| if said.is_empty() { fallback.to_owned() } else { said.clone() };
        match status.code() {
            T::NotFound => Self::new(Code::NotFound, told("There is no such thing."), "Check the path or name."),
            T::InvalidArgument | T::OutOfRange => Self::bad_request(told("The node refused the request.")),
            T::AlreadyExists | T::FailedPrecondition | T::Aborted => {
                Self::conflict(told("This is not possible in the current state."), "Look at the current state first.")
            }
            T::PermissionDenied => Self::new(
                Code::Forbidden,
                told("The sandbox's user may not do this."),
                "Choose another user with `user=`, or another path.",
            ),
            T::ResourceExhausted if mentions_space(&said) => Self::new(
                Code::InsufficientStorage,
                told("No space left."),
                "Free space, or make the agent with a larger disk.",
            ),
            T::ResourceExhausted => {
                Self::new(Code::RateLimited, told("Too much at once."), "Try again a little later.").retry_after(1)
            }
            T::DeadlineExceeded => Self::timeout(told("The sandbox did not answer in time."), "Try again."),
            T::Unavailable | T::Cancelled => {
                Self::unavailable("The agent's node or sandbox cannot be reached.", 2).inward(format!("{status}"))
            }
            T::Unimplemented => {
                Self::new(Code::BadRequest, "This node does not support it.", "Update the node.").inward(said)
            }
            T::DataLoss => Self::new(Code::BadGateway, told("An upstream failed."), "Try again.").inward(said),
            T::Ok | T::Unknown | T::Internal | T::Unauthenticated => {
                let outward = Self::internal(format!("node: {status}"));
                Self { problem: Box::new(Problem { status: 500, ..*outward.problem }), inward: outward.inward }
            }
        }
    }
}

fn mentions_space(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["space", "disk", "quota", "enospc", "full"].iter().any(|w| text.contains(w))
}

/// Control characters out, length bounded.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .take(MAX_DETAIL_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inward_texts_stay_inward() {
        let error = ApiError::from(StoreError::Internal { detail: "SELECT secret FROM /var/lib".into() });
        assert_eq!(error.problem.status, 500);
        let outward = String::from_utf8(body_of(&error.problem)).expect("utf-8");
        assert!(!outward.contains("SELECT") && !outward.contains("/var/lib"));
        assert!(error.inward.is_some_and(|t| t.contains("SELECT")));
        let node = ApiError::from(tonic::Status::internal("panic at /root/x.rs"));
        assert!(!String::from_utf8(body_of(&node.problem)).expect("utf-8").contains("x.rs"));
    }

    #[test]
    fn node_answers_have_documented_codes() {
        let status = |s: tonic::Status| ApiError::from(s).problem.status;
        assert_eq!(status(tonic::Status::not_found("no file")), 404);
        assert_eq!(status(tonic::Status::invalid_argument("bad path")), 400);
        assert_eq!(status(tonic::Status::failed_precondition("a directory")), 409);
        assert_eq!(status(tonic::Status::resource_exhausted("No space left on device")), 507);
        assert_eq!(status(tonic::Status::resource_exhausted("execs")), 429);
        assert_eq!(status(tonic::Status::deadline_exceeded("")), 504);
        assert_eq!(status(tonic::Status::unavailable("connect refused 10.0.0.1")), 503);
        assert_eq!(status(tonic::Status::permission_denied("")), 403);
        assert_eq!(status(tonic::Status::unknown("x")), 500);
    }

    #[test]
    fn guests_words_are_cut_and_cleaned() {
        assert_eq!(clean("a\x1b[31m\nb"), "a [31m b");
        assert_eq!(clean(&"x".repeat(5000)).len(), MAX_DETAIL_CHARS);
    }

    #[test]
    fn a_bare_answer_becomes_a_problem() {
        let mut response = Response::new(axum::body::Body::empty());
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        let (response, mark) = finish(response, "req-1");
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
        let problem = mark.expect("made").problem;
        assert_eq!((problem.code, problem.request_id.as_deref()), (Code::MethodNotAllowed, Some("req-1")));
    }
}

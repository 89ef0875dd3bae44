//! Errors as users see them: RFC 9457 problem documents with a code, a
//! remedy and whether trying again can help.

use serde::{Deserialize, Serialize};

/// The documented error codes. The HTTP status of each is fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    ValidationError,
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    /// The client took too long to send its body.
    RequestTimeout,
    Conflict,
    PreconditionFailed,
    PayloadTooLarge,
    UnsupportedMediaType,
    IdempotencyMismatch,
    QuotaExceeded,
    RateLimited,
    InternalError,
    /// A registry or another upstream answered wrongly.
    BadGateway,
    ServiceUnavailable,
    /// No node has room.
    CapacityUnavailable,
    Timeout,
    /// A disk is full: the agent's, or the node's.
    InsufficientStorage,
}

impl Code {
    pub const ALL: &'static [Code] = &[
        Code::ValidationError,
        Code::BadRequest,
        Code::Unauthorized,
        Code::Forbidden,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::NotAcceptable,
        Code::RequestTimeout,
        Code::Conflict,
        Code::PreconditionFailed,
        Code::PayloadTooLarge,
        Code::UnsupportedMediaType,
        Code::IdempotencyMismatch,
        Code::QuotaExceeded,
        Code::RateLimited,
        Code::InternalError,
        Code::BadGateway,
        Code::ServiceUnavailable,
        Code::CapacityUnavailable,
        Code::Timeout,
        Code::InsufficientStorage,
    ];

    /// The HTTP status that goes with the code. `QUOTA_EXCEEDED` is 429, or
    /// 403 where the request exceeds the whole quota (the problem says so).
    pub fn status(self) -> u16 {
        match self {
            Code::ValidationError | Code::BadRequest => 400,
            Code::Unauthorized => 401,
            Code::Forbidden => 403,
            Code::NotFound => 404,
            Code::MethodNotAllowed => 405,
            Code::NotAcceptable => 406,
            Code::RequestTimeout => 408,
            Code::Conflict => 409,
            Code::PreconditionFailed => 412,
            Code::PayloadTooLarge => 413,
            Code::UnsupportedMediaType => 415,
            Code::IdempotencyMismatch => 422,
            Code::QuotaExceeded | Code::RateLimited => 429,
            Code::InternalError => 500,
            Code::BadGateway => 502,
            Code::ServiceUnavailable | Code::CapacityUnavailable => 503,
            Code::Timeout => 504,
            Code::InsufficientStorage => 507,
        }
    }

    pub fn retryable(self) -> bool {
        matches!(
            self,
            Code::RequestTimeout
                | Code::QuotaExceeded
                | Code::RateLimited
                | Code::BadGateway
                | Code::ServiceUnavailable
                | Code::CapacityUnavailable
                | Code::Timeout
        )
    }

    pub fn title(self) -> &'static str {
        match self {
            Code::ValidationError => "A field is outside its limits",
            Code::BadRequest => "The request cannot be understood",
            Code::Unauthorized => "No valid credentials",
            Code::Forbidden => "Not permitted",
            Code::NotFound => "Not found",
            Code::MethodNotAllowed => "Method not allowed",
            Code::NotAcceptable => "No acceptable form",
            Code::RequestTimeout => "The body did not come in time",
            Code::Conflict => "In conflict with the current state",
            Code::PreconditionFailed => "The version has changed",
            Code::PayloadTooLarge => "The body is too large",
            Code::UnsupportedMediaType => "Unsupported media type",
            Code::IdempotencyMismatch => "The key was used with another body",
            Code::QuotaExceeded => "Quota exceeded",
            Code::RateLimited => "Too many requests",
            Code::InternalError => "Internal error",
            Code::BadGateway => "An upstream failed",
            Code::ServiceUnavailable => "Service unavailable",
            Code::CapacityUnavailable => "No node has room",
            Code::Timeout => "Took too long",
            Code::InsufficientStorage => "No space left",
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Code::ValidationError => "VALIDATION_ERROR",
            Code::BadRequest => "BAD_REQUEST",
            Code::Unauthorized => "UNAUTHORIZED",
            Code::Forbidden => "FORBIDDEN",
            Code::NotFound => "NOT_FOUND",
            Code::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Code::NotAcceptable => "NOT_ACCEPTABLE",
            Code::RequestTimeout => "REQUEST_TIMEOUT",
            Code::Conflict => "CONFLICT",
            Code::PreconditionFailed => "PRECONDITION_FAILED",
            Code::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Code::UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
            Code::IdempotencyMismatch => "IDEMPOTENCY_MISMATCH",
            Code::QuotaExceeded => "QUOTA_EXCEEDED",
            Code::RateLimited => "RATE_LIMITED",
            Code::InternalError => "INTERNAL_ERROR",
            Code::BadGateway => "BAD_GATEWAY",
            Code::ServiceUnavailable => "SERVICE_UNAVAILABLE",
            Code::CapacityUnavailable => "CAPACITY_UNAVAILABLE",
            Code::Timeout => "TIMEOUT",
            Code::InsufficientStorage => "INSUFFICIENT_STORAGE",
        }
    }

    pub fn from_text(text: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|c| c.as_str() == text)
    }
}

/// One field that is wrong, and its limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FieldError {
    pub field: String,
    pub message: String,
    pub code: Code,
}

impl FieldError {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into(), code: Code::ValidationError }
    }
}

/// An RFC 9457 problem document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `https://aether.dev/problems/…`: a name, not an address to fetch.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    pub code: Code,
    /// What to do about it.
    pub remedy: String,
    /// The same text under the earlier version's name.
    pub suggestion: String,
    pub retryable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Seconds, as in the `Retry-After` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = remedy.into();
        Self {
            kind: format!("https://aether.dev/problems/{}", code.as_str().to_ascii_lowercase().replace('_', "-")),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            instance: None,
            errors: Vec::new(),
            code,
            suggestion: remedy.clone(),
            remedy,
            retryable: code.retryable(),
            request_id: None,
            retry_after: None,
        }
    }

    /// A 400 that lists every wrong field.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let detail = errors.iter().map(|e| format!("{}: {}", e.field, e.message)).collect::<Vec<_>>().join("; ");
        let mut problem = Self::new(Code::ValidationError, detail, "Correct the named fields and send it again.");
        problem.errors = errors;
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_serialise_as_documented() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_string(code).ok(), Some(format!("\"{}\"", code.as_str())));
            assert_eq!(Code::from_text(code.as_str()), Some(*code));
        }
    }

    #[test]
    fn a_validation_problem_names_the_fields() {
        let p = Problem::validation(vec![FieldError::new("image", "is empty")]);
        assert_eq!((p.status, p.detail.as_str()), (400, "image: is empty"));
    }
}

use super::bounds::bounded_text;
use super::lane::CutError;
use connectrpc::{ConnectError, ErrorCode};

/// Why a call to the guest failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChannelError {
    /// No answer within the deadline.
    #[error("the guest did not answer in time")]
    Timeout,
    /// The channel is cut and could not be opened again.
    #[error("the guest is gone")]
    Gone,
    /// The guest said something that is no part of the protocol.
    #[error("the guest broke the protocol: {0}")]
    Protocol(String),
    /// The guest refused; its message is bounded and escaped.
    #[error("{message}")]
    Remote { code: ErrorCode, message: String },
}

impl ChannelError {
    pub(super) fn protocol(what: &str) -> Self {
        ChannelError::Protocol(bounded_text(what, 200))
    }

    pub(super) fn remote(code: ErrorCode, message: &str) -> Self {
        let message = bounded_text(message, 1024);
        let message = if message.is_empty() { code.as_str().to_owned() } else { message };
        ChannelError::Remote { code, message }
    }

    /// The guest's own code, if it answered.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ChannelError::Remote { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl From<ConnectError> for ChannelError {
    fn from(error: ConnectError) -> Self {
        if let Some(source) = error.source_arc() {
            // Made here, not by the guest: the connection failed under the call.
            return match source.downcast_ref::<ChannelError>() {
                Some(own) => own.clone(),
                None => ChannelError::Gone,
            };
        }
        let message = error.message.as_deref().unwrap_or_default();
        match error.code {
            ErrorCode::DeadlineExceeded => ChannelError::Timeout,
            ErrorCode::Internal if CutError::made(message) => ChannelError::Gone,
            _ if UNREADABLE.iter().any(|begin| message.starts_with(begin)) => ChannelError::protocol(message),
            code => ChannelError::remote(code, message),
        }
    }
}

/// How Connect's client begins its errors about an answer that is none. A
/// guest that says the same of itself says that it breaks the protocol.
const UNREADABLE: [&str; 8] = [
    "failed to decode response",
    "message size ",
    "response body size exceeds",
    "response buffer exceeds",
    "unexpected content-type",
    "unsupported response compression",
    "received compressed message",
    "Connect streaming response ended",
];

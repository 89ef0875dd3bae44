//! What can go wrong with an image, with the facts, and what users see of it.

use aether_core::api::failure as agent_code;
use aether_core::{Code, Problem};
use std::path::Path;

/// Cloneable, because everyone who waits for one pull gets its outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("{reference:?} is not an image reference: {reason}")]
    BadReference { reference: String, reason: String },
    #[error("{0:?} is not a platform: write os/architecture, such as linux/amd64")]
    BadPlatform(String),
    #[error("there is no image {0} here")]
    NotFound(String),
    #[error("the registry has no image {0}")]
    NotInRegistry(String),
    #[error("{reference} is not there for {wanted}; it is for {available}")]
    NoPlatform { reference: String, wanted: String, available: String },
    #[error("the registry {registry} wants credentials, or does not accept these: {detail}")]
    Unauthorized { registry: String, detail: String },
    #[error("the registry {registry} does not answer: {detail}")]
    Unreachable { registry: String, detail: String },
    #[error("the registry {registry} took too long: {detail}")]
    TooSlow { registry: String, detail: String },
    #[error("the registry {registry} asks to wait: {detail}")]
    Busy { registry: String, detail: String },
    /// It said one thing and sent another: digest, size, media type, length.
    #[error("the registry {registry} sent something wrong: {detail}")]
    Lying { registry: String, detail: String },
    /// A request would have gone where the operator does not allow it.
    #[error("{0}")]
    Refused(String),
    #[error("the image is not valid: {0}")]
    Invalid(String),
    #[error("the image is too large: {what} is above the limit of {limit}")]
    TooLarge { what: String, limit: u64 },
    #[error("the image {image} is in use by {agents} agent(s)")]
    InUse { image: String, agents: u32 },
    #[error("no space left on the node's disk for {0}")]
    DiskFull(String),
    /// What takes room is refused before it is begun, or given up.
    #[error("the node's disk is nearly full: {free_mb} MB are free, and {kept_mb} MB are kept for what must go on")]
    DiskNearlyFull { free_mb: u64, kept_mb: u64 },
    /// As for the disk: refused before it is begun, or given up.
    #[error("the node is short of memory: {0}")]
    NoMemory(String),
    #[error("the work on this image was cancelled")]
    Cancelled,
    #[error("{what} is missing: {remedy}")]
    Missing { what: String, remedy: String },
    /// The converter ended without a verdict on the image (killed, no memory).
    #[error("the converter failed: {0}")]
    Converter(String),
    #[error("cannot {doing}: {detail}")]
    Io { doing: String, detail: String },
    #[error("the image catalogue failed: {0}")]
    Catalogue(String),
}

impl ImageError {
    /// Turns an I/O error into the right variant: full disks are told apart.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> ImageError {
        let doing = doing.into();
        // By kind: wrappers such as tempfile's keep that, not the number.
        move |e| match e.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ImageError::DiskFull(doing),
            _ => ImageError::Io { doing, detail: e.to_string() },
        }
    }

    pub(crate) fn io_at(verb: &str, path: &Path) -> impl FnOnce(std::io::Error) -> ImageError {
        Self::io(format!("{verb} {}", path.display()))
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        ImageError::Invalid(reason.into())
    }

    /// The documented HTTP code.
    pub fn code(&self) -> Code {
        match self {
            ImageError::BadReference { .. } | ImageError::BadPlatform(_) => Code::ValidationError,
            ImageError::Refused(_) => Code::Forbidden,
            ImageError::NotFound(_) | ImageError::NotInRegistry(_) | ImageError::NoPlatform { .. } => Code::NotFound,
            ImageError::Unauthorized { .. } => Code::Unauthorized,
            ImageError::Unreachable { .. } | ImageError::Busy { .. } | ImageError::Lying { .. } => Code::BadGateway,
            ImageError::TooSlow { .. } => Code::Timeout,
            ImageError::Invalid(_) => Code::BadRequest,
            ImageError::TooLarge { .. } => Code::PayloadTooLarge,
            ImageError::InUse { .. } => Code::Conflict,
            ImageError::DiskFull(_) | ImageError::DiskNearlyFull { .. } => Code::InsufficientStorage,
            ImageError::Cancelled | ImageError::NoMemory(_) => Code::ServiceUnavailable,
            ImageError::Missing { .. }
            | ImageError::Converter(_)
            | ImageError::Io { .. }
            | ImageError::Catalogue(_) => Code::InternalError,
        }
    }

    /// The code an agent shows that could not start because of its image.
    pub fn agent_code(&self) -> &'static str {
        match self {
            ImageError::BadReference { .. }
            | ImageError::BadPlatform(_)
            | ImageError::NotFound(_)
            | ImageError::NotInRegistry(_)
            | ImageError::NoPlatform { .. } => agent_code::IMAGE_NOT_FOUND,
            ImageError::Invalid(_) | ImageError::TooLarge { .. } => agent_code::IMAGE_INVALID,
            ImageError::DiskFull(_) | ImageError::DiskNearlyFull { .. } => agent_code::DISK_FULL,
            ImageError::NoMemory(_) => agent_code::NO_CAPACITY,
            ImageError::Unauthorized { .. }
            | ImageError::Unreachable { .. }
            | ImageError::TooSlow { .. }
            | ImageError::Busy { .. }
            | ImageError::Lying { .. }
            | ImageError::Refused(_)
            | ImageError::Cancelled => agent_code::IMAGE_PULL_FAILED,
            ImageError::InUse { .. }
            | ImageError::Missing { .. }
            | ImageError::Converter(_)
            | ImageError::Io { .. }
            | ImageError::Catalogue(_) => agent_code::NODE_ERROR,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            ImageError::BadReference { .. } => "Write it as [registry/]name[:tag], such as python:3.11.",
            ImageError::BadPlatform(_) => "Leave the platform out to get the node's own.",
            ImageError::NotFound(_) => {
                "Run `aether image list`, or get it: `aether image pull` or `aether image import`."
            }
            ImageError::NotInRegistry(_) => "Check the name and the tag; a private image needs credentials.",
            ImageError::NoPlatform { .. } => "Choose an image that is built for this node's architecture.",
            ImageError::Unauthorized { .. } => "Give a username and a password (or token) that may pull this image.",
            ImageError::Unreachable { .. } | ImageError::TooSlow { .. } => {
                "Check the registry's address and the node's network, then try again."
            }
            ImageError::Busy { .. } => "Try again later, or with credentials: limits are often higher with them.",
            ImageError::Lying { .. } => "Try again; if it stays, push the image again or ask the registry's operator.",
            ImageError::Refused(_) => "The operator can allow the host in the configuration (images.allow_hosts).",
            ImageError::Invalid(_) => "Build the image again, and check it with another tool such as skopeo inspect.",
            ImageError::TooLarge { .. } => "Make the image smaller, or raise images.max_image_bytes.",
            ImageError::InUse { .. } => "Destroy the agents that use it first.",
            ImageError::DiskFull(_) | ImageError::DiskNearlyFull { .. } => {
                "Free space on the node: `aether image prune`, `aether system prune`, or destroy agents."
            }
            ImageError::NoMemory(_) => "Stop agents or other programs on the node, then try again.",
            ImageError::Cancelled => "Ask again.",
            ImageError::Missing { remedy, .. } => remedy.as_str(),
            ImageError::Converter(_) | ImageError::Io { .. } | ImageError::Catalogue(_) => {
                "Look at the node's log; `aether doctor` names what is missing."
            }
        }
        .to_owned()
    }

    /// The outward form. Paths and I/O details stay inside.
    pub fn problem(&self) -> Problem {
        let detail = match self {
            ImageError::Io { .. } | ImageError::Catalogue(_) => "the node could not store the image".to_owned(),
            ImageError::DiskFull(_) => "no space left on the node's disk for this image".to_owned(),
            other => other.to_string(),
        };
        Problem::new(self.code(), detail, self.remedy())
    }
}

impl From<rusqlite::Error> for ImageError {
    fn from(e: rusqlite::Error) -> Self {
        match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => ImageError::DiskFull("the image catalogue".to_owned()),
            _ => ImageError::Catalogue(e.to_string()),
        }
    }
}

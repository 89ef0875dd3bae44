use std::io;

/// Why layers could not be merged.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The image's fault.
    #[error("{0}")]
    Invalid(String),
    #[error("{what} is above the limit of {limit}")]
    TooLarge { what: String, limit: u64 },
    /// Reading a layer's file or writing the stream.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl ConvertError {
    pub(super) fn invalid(reason: impl Into<String>) -> Self {
        ConvertError::Invalid(reason.into())
    }
}

/// A name out of an archive, fit for a message.
pub(super) fn show(name: &[u8]) -> String {
    super::super::text::clip(&String::from_utf8_lossy(name), 120)
}

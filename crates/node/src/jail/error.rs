use std::io;

/// Why a process could not be started in a jail.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    #[error("cannot {doing}: {source}")]
    Io { doing: String, source: io::Error },
    /// The verb ran and refused; its reason, bounded.
    #[error("{0}")]
    Refused(String),
    #[error("the jail verb did not answer within {0} s")]
    Timeout(u64),
    #[error("the jail verb answered nonsense: {0}")]
    Protocol(String),
    /// A field of the command that cannot be right.
    #[error("bad jail plan: {0}")]
    Plan(String),
}

impl JailError {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> JailError {
        let doing = doing.into();
        move |source| JailError::Io { doing, source }
    }
}

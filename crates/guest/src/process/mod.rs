//! Processes of the sandbox: who they run as, how they are started, what
//! they write, and how they end.

pub mod exec;
pub mod ring;
pub mod spawn;
pub mod table;
pub mod users;

/// Why a process cannot be started, before anything ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartError {
    /// The request is wrong; the text says how.
    Invalid(String),
    /// There is no room for more.
    Full(String),
    /// The program is not there, or is none: shown as an exit code too.
    Program { exit_code: i32, message: String },
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Invalid(message) | StartError::Full(message) | StartError::Program { message, .. } => {
                f.write_str(message)
            }
        }
    }
}

impl std::error::Error for StartError {}

/// `SIGTERM`, or `SIG34` where there is no name.
pub fn signal_name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number).map_or_else(|_| format!("SIG{number}"), |signal| signal.to_string())
}

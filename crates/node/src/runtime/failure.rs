//! Why a run did not come up: a documented code and a sentence without paths.

use crate::cgroup::OutOfMemory;
use crate::channel::ChannelError;
use crate::engine::{EngineError, VmmExit};
use crate::images::ImageError;
use crate::journal::JournalError;
use crate::network::NetworkError;
use aether_core::api::failure;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub code: &'static str,
    pub message: String,
}

impl Failure {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// How an attempt to boot ended, when not well.
#[derive(Debug)]
pub(crate) enum BootEnd {
    /// Something else is wanted now, or the daemon ends.
    Cancelled,
    Failed(Failure),
}

impl From<Failure> for BootEnd {
    fn from(failure: Failure) -> Self {
        BootEnd::Failed(failure)
    }
}

impl From<ImageError> for BootEnd {
    fn from(e: ImageError) -> Self {
        let problem = e.problem();
        BootEnd::Failed(Failure::new(e.agent_code(), format!("{} {}", sentence(&problem.detail), problem.remedy)))
    }
}

impl From<EngineError> for BootEnd {
    fn from(e: EngineError) -> Self {
        tracing::warn!(error = %e, "the engine could not boot");
        BootEnd::Failed(match e {
            EngineError::NoSpace(_) => {
                Failure::new(failure::DISK_FULL, "The node's disk is full. Free space on it, then start the agent.")
            }
            EngineError::DiedAtOnce(exit) => died(&exit, failure::BOOT_FAILED, "The sandbox ended while booting"),
            EngineError::Missing { what, remedy } => {
                Failure::new(failure::NODE_ERROR, format!("{what} is missing on the node: {remedy}"))
            }
            EngineError::Jail(_) | EngineError::Io { .. } => {
                Failure::new(failure::BOOT_FAILED, "The node could not start the sandbox; its log says why.")
            }
        })
    }
}

impl From<NetworkError> for BootEnd {
    fn from(e: NetworkError) -> Self {
        tracing::warn!(error = %e, "no network slot");
        BootEnd::Failed(Failure::new(failure::NODE_ERROR, "The node could not make a network; its log says why."))
    }
}

impl From<JournalError> for BootEnd {
    fn from(e: JournalError) -> Self {
        tracing::error!(error = %e, "the journal failed");
        BootEnd::Failed(match e {
            JournalError::NoSpace => {
                Failure::new(failure::DISK_FULL, "The node's disk is full. Free space on it, then start the agent.")
            }
            _ => Failure::new(failure::NODE_ERROR, "The node's journal failed; its log says why."),
        })
    }
}

/// The guest did not come up, or refused its identity.
pub(crate) fn guest(e: &ChannelError, limit_s: u64) -> Failure {
    match e {
        ChannelError::Timeout | ChannelError::Gone => Failure::new(
            failure::BOOT_TIMEOUT,
            format!("The guest did not answer within {limit_s} s. Look at the image and the node's load."),
        ),
        ChannelError::Protocol(_) => Failure::new(failure::BOOT_FAILED, e.to_string()),
        ChannelError::Remote { message, .. } => Failure::new(failure::BOOT_FAILED, message.clone()),
    }
}

/// A VMM that ended unasked.
pub(crate) fn died(exit: &VmmExit, code: &'static str, what: &str) -> Failure {
    match exit.out_of_memory {
        Some(OutOfMemory::Group) => {
            return Failure::new(
                failure::OUT_OF_MEMORY,
                "The sandbox used more memory than its engine may. Give the agent more memory.",
            );
        }
        // Not its own fault: where its policy says so it is started again.
        Some(OutOfMemory::Host) => {
            return Failure::new(
                code,
                format!("{what}: the node ran out of memory. Free memory on the node, then start the agent."),
            );
        }
        None => {}
    }
    let how = match (exit.code, exit.signal) {
        (_, Some(signal)) => format!(" by signal {signal}"),
        (Some(code), None) => format!(" with code {code}"),
        (None, None) => String::new(),
    };
    let detail = if exit.detail.is_empty() { String::new() } else { format!(": {}", exit.detail) };
    Failure::new(code, format!("{what}{how}{detail}"))
}

fn sentence(text: &str) -> String {
    let mut chars = text.trim_end_matches('.').chars();
    match chars.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), chars.as_str()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_are_told_apart() {
        let oom = |whose| VmmExit { out_of_memory: Some(whose), signal: Some(9), ..VmmExit::default() };
        assert_eq!(died(&oom(OutOfMemory::Group), failure::SANDBOX_DIED, "x").code, failure::OUT_OF_MEMORY);
        let host = died(&oom(OutOfMemory::Host), failure::SANDBOX_DIED, "The sandbox ended");
        assert_eq!(host.code, failure::SANDBOX_DIED, "so that `recovery: restart` begins it again");
        assert!(host.message.starts_with("The sandbox ended: the node ran out of memory."), "{}", host.message);
        let killed = VmmExit { signal: Some(9), ..VmmExit::default() };
        let f = died(&killed, failure::SANDBOX_DIED, "The sandbox ended");
        assert_eq!((f.code, f.message.as_str()), (failure::SANDBOX_DIED, "The sandbox ended by signal 9"));
        assert_eq!(sentence("there is no image x here"), "There is no image x here.");
    }
}

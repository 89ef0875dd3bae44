//! The jail: how a process that handles hostile bytes is confined.
//!
//! ```text
//!  daemon (async, many threads)              aether jail (one thread, root)            the program
//!  Command ── spawn, stdin = socketpair ──▶  receives JailPlan (memfd) and descriptors
//!                                            cgroup, namespaces, private root
//!                                            clone(CLONE_PARENT) ──────────────────▶   limits, ids, caps,
//!           ◀── pid, pidfd ────────────────  exits                                     seccomp, exec
//!           ◀── end of file = exec done, or an error ──────────────────────────────┘
//! ```
//!
//! The program becomes the daemon's own child (so that its exit code can be
//! read) in a session of its own (so that it outlives the daemon). Nothing is
//! done between fork and exec in the async process, and no helper program is
//! run. Secrets travel in the plan or in descriptors, never in argv.
//!
//! Not here: what is run and with which arguments; the engines and the image
//! converter say that.

mod bundle;
mod command;
mod confine;
mod error;
mod plan;
mod remove;
mod root;
mod seccomp_list;
mod spawn;
mod verb;
mod wire;

pub use bundle::Bundle;
pub use command::Command;
pub use error::JailError;
pub use plan::{Bind, InlineFile, JailLimits, JailPlan};
pub use remove::remove_dir;
pub use spawn::Jailed;
pub(crate) use spawn::{has_ended, reap, wait_pidfd};
pub use verb::main;

/// The hidden verb's name on the command line.
pub const VERB: &str = "jail";

//! The node: everything between an assignment and a running sandbox.
//!
//! - `engine`: what runs a sandbox; `jail`: how its process is confined
//! - `network`: slots made in advance, rules, the resolver
//! - `images`: references to read-only devices
//! - `channel`: the byte stream to the guest and the clients on it
//!
//! Not here: what should be. The control plane says that; the node makes it
//! true, journals before each side effect, and reports what is.

mod admission;
pub mod cgroup;
pub mod channel;
pub mod config;
mod data;
pub mod engine;
pub mod failpoint;
pub mod images;
pub mod jail;
pub mod journal;
pub mod kernel;
mod loops;
pub mod memory;
pub mod network;
pub mod node;
mod runtime;
mod session;
mod uids;

pub use aether_proto::pipe::pipe;
pub use config::NodeConfig;
pub use node::{ControlDialer, DataListener, Node, NodeError, NodeParts, NodeReloader};

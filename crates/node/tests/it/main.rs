//! The node's parts against the real kernel. Run as root.

mod channel;
mod engine;
mod images;
mod jail;
mod network;
mod runtime;

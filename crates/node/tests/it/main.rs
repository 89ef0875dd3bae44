//! The node's parts against the real kernel. Run as root.

mod images;
mod engine;
mod jail;
mod network;
mod runtime;

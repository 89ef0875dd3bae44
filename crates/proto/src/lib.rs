//! Wire contracts of Aether: what the guest serves over the sandbox channel
//! (Connect), and what control plane and node say to each other (gRPC).
//!
//! Not here: any behaviour but the channel's handshake, which both ends share.

/// The handshake below HTTP/2 on a sandbox channel.
pub mod channel;

/// Connect services inside a sandbox: `aether.guest.v1` and E2B's `process`
/// and `filesystem`.
#[cfg(feature = "guest")]
#[allow(warnings, clippy::all, clippy::pedantic, reason = "generated")]
pub mod guest {
    include!(concat!(env!("OUT_DIR"), "/guest_services.rs"));
}

/// gRPC between control plane and node.
#[cfg(feature = "node")]
#[allow(warnings, clippy::all, reason = "generated")]
pub mod node {
    tonic::include_proto!("aether.node.v1");
}

#[cfg(feature = "node")]
mod secret;

/// An in-memory stand-in for a TCP connection between the two.
#[cfg(feature = "node")]
pub mod pipe;
#[cfg(feature = "node")]
pub use pipe::pipe;

/// The ways to a node's data service.
#[cfg(feature = "node")]
pub mod transport;

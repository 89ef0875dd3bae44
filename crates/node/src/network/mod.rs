//! Network slots: namespace, tap, veth, rules and resolver sockets, made in
//! advance and named by number.

mod config;
mod conntrack;
mod deny;
mod dns;
mod error;
mod host;
mod link;
mod netns;
mod nft;
mod pool;
mod rules;
mod slot;
mod tap;

pub use config::{MAX_SLOTS, NetworkConfig};
pub use error::NetworkError;
pub use pool::{ClaimedNet, GuestNet, GuestNet6, NetworkPool, SlotCounters};

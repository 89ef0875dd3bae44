//! Network slots: namespace, tap, veth, rules and resolver sockets, made in
//! advance and named by number.
//!
//! ```text
//!  guest ── tap0 │ namespace <prefix>-<slot>          │ <prefix>-<slot> ── host ── uplink
//!  10.200.0.2    │ 10.200.0.1   judged, masqueraded   │   judged again, masqueraded
//!                │ resolver on :53 (this process)     │
//! ```
//!
//! - `pool` who holds which slot, `sweep` what nobody holds; `slot` how one is made, changed, removed
//! - `rules`, `deny` what may pass, as pure text and lists
//! - `host` the node's own table and forwarding; `dns` the resolver
//! - `netns`, `link`, `tap`, `nft`, `conntrack` the kernel's interfaces
//!
//! The kernel is the truth: whatever a crash leaves is found by name and
//! either adopted or swept. docs/network.md is the operator's view.
//!
//! Not here: which slot an agent has (the runtime's journal), allow lists of
//! tenants, bandwidth limits.

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
mod sweep;
mod tap;

pub use config::{MAX_SLOTS, NetworkConfig, Share};
pub use error::NetworkError;
pub use host::forward_blockers;
pub use pool::{ClaimedNet, GuestNet, GuestNet6, NetworkPool, SlotCounters};

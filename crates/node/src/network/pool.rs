//! The pool: which slot is in which hands.

use super::{NetworkConfig, NetworkError};
use aether_core::spec::NetworkPolicy;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

/// What the guest is told. The same in every slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestNet {
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway: Ipv4Addr,
    pub dns: Ipv4Addr,
    pub mac: [u8; 6],
    pub mtu: u32,
    /// Only where the operator gave sandboxes a prefix.
    pub ipv6: Option<GuestNet6>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestNet6 {
    pub address: Ipv6Addr,
    pub prefix_len: u8,
    pub gateway: Ipv6Addr,
}

/// A slot in the caller's hands.
#[derive(Debug)]
pub struct ClaimedNet {
    /// IFF_TAP | IFF_NO_PI | IFF_VNET_HDR; the VMM's only way out. Always there after a claim.
    pub tap: Option<OwnedFd>,
    pub guest: GuestNet,
}

/// Since the claim, as the host's end of the link counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounters {
    /// Towards the sandbox.
    pub rx_bytes: u64,
    pub rx_packets: u64,
    /// From the sandbox.
    pub tx_bytes: u64,
    pub tx_packets: u64,
}

/// Cheap to clone; all clones are one pool.
#[derive(Clone, Debug)]
pub struct NetworkPool {}

impl NetworkPool {
    /// Loads the host's rules, lets the host forward, and starts to make
    /// spare slots. Leaves the slots of an earlier daemon alone: `adopt` the
    /// live ones, then `sweep`.
    pub async fn open(cfg: NetworkConfig) -> Result<Self, NetworkError> {
        cfg.validate()?;
        Err(NetworkError::Closed)
    }

    /// Takes a slot, ready-made if it is spare, else made now.
    pub async fn claim(&self, slot: u32, policy: NetworkPolicy) -> Result<ClaimedNet, NetworkError> {
        let _ = (slot, policy);
        Err(NetworkError::Closed)
    }

    /// Slots that can be claimed without making anything, lowest first.
    pub fn ready_slots(&self) -> Vec<u32> {
        Vec::new()
    }

    /// After a restart of the daemon: the slot's sandbox lives. Rules are
    /// loaded anew, resolver sockets re-opened; the tap stays the VMM's.
    /// False when the namespace is gone.
    pub async fn adopt(&self, slot: u32, policy: NetworkPolicy) -> Result<bool, NetworkError> {
        let _ = (slot, policy);
        Err(NetworkError::Closed)
    }

    /// After the VMM's end: flows cut, a fresh tap, back to the spares or
    /// removed. Safe to call again.
    pub async fn release(&self, slot: u32) -> Result<(), NetworkError> {
        let _ = slot;
        Err(NetworkError::Closed)
    }

    /// Removes every trace with our prefix that is neither claimed, spare
    /// nor in `live`; returns what was removed.
    pub async fn sweep(&self, live: &BTreeSet<u32>) -> Result<Vec<String>, NetworkError> {
        let _ = live;
        Err(NetworkError::Closed)
    }

    /// Changes what a claimed slot may reach; existing flows are cut.
    pub async fn set_policy(&self, slot: u32, policy: NetworkPolicy) -> Result<(), NetworkError> {
        let _ = (slot, policy);
        Err(NetworkError::Closed)
    }

    pub async fn counters(&self, slot: u32) -> Result<SlotCounters, NetworkError> {
        let _ = slot;
        Err(NetworkError::Closed)
    }

    /// Removes all that is not claimed. With nothing claimed, nothing is
    /// left: no namespace, link, mount, table or changed setting. Claimed
    /// slots keep working, but for the resolver, until another daemon adopts
    /// them.
    pub async fn close(self) -> Result<(), NetworkError> {
        Ok(())
    }
}

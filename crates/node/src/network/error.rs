//! What can go wrong with the network.

use std::net::IpAddr;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("the network option {key} {reason}")]
    Config { key: &'static str, reason: String },
    #[error("slot {slot} does not exist: the node has {slots} (node.network_slots)")]
    NoSuchSlot { slot: u32, slots: u32 },
    #[error("slot {slot} is in use")]
    InUse { slot: u32 },
    #[error("slot {slot} is not claimed")]
    NotClaimed { slot: u32 },
    #[error("slot {slot}'s tap is still held by a process")]
    TapBusy { slot: u32 },
    #[error(
        "the sandboxes' uplink network {net} overlaps {address} of interface {interface}: choose another node.prefix"
    )]
    UplinkTaken { net: ipnet::Ipv4Net, address: IpAddr, interface: String },
    #[error("node.prefix {prefix} is in use by another daemon on this host: end it or choose another prefix")]
    PrefixTaken { prefix: String },
    #[error("nft is missing: install nftables")]
    NftMissing,
    #[error("nft refused {what}: {message}")]
    Nft { what: String, message: String },
    #[error("the network pool is closed")]
    Closed,
    #[error("cannot {doing}: {source}")]
    Io { doing: String, source: std::io::Error },
    #[error("cannot {doing}: {message}")]
    Netlink { doing: String, message: String },
}

impl NetworkError {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> NetworkError {
        let doing = doing.into();
        move |source| NetworkError::Io { doing, source }
    }

    pub(crate) fn netlink(doing: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
        let doing = doing.into();
        move |e| NetworkError::Netlink { doing, message: e.to_string() }
    }
}

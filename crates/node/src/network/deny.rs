//! What no sandbox may reach, whatever a tenant allows. One list serves the
//! packet rules and the resolver's filter. Pure.

use super::NetworkConfig;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const BUILT_IN4: [([u8; 4], u8); 11] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

const BUILT_IN6: [([u16; 8], u8); 7] = [
    ([0, 0, 0, 0, 0, 0, 0, 0], 128),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128),
    ([0, 0, 0, 0, 0, 0xffff, 0, 0], 96),
    // NAT64 with a prefix local to the site: where it leads is the site's business.
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
];

/// Denied and, stronger, opened by the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lists {
    pub(crate) deny4: Vec<Ipv4Net>,
    pub(crate) deny6: Vec<Ipv6Net>,
    pub(crate) allow4: Vec<Ipv4Net>,
    pub(crate) allow6: Vec<Ipv6Net>,
}

impl Lists {
    pub(crate) fn new(cfg: &NetworkConfig) -> Self {
        let mut deny4: Vec<Ipv4Net> = BUILT_IN4.iter().map(|(a, n)| Ipv4Net::new_assert((*a).into(), *n)).collect();
        // Other sandboxes, should the operator have chosen a carve outside the list.
        deny4.push(cfg.uplink_net.trunc());
        let mut deny6: Vec<Ipv6Net> = BUILT_IN6.iter().map(|(a, n)| Ipv6Net::new_assert((*a).into(), *n)).collect();
        deny6.extend(cfg.ipv6_prefix.map(|p| p.trunc()));
        for net in &cfg.deny {
            match net {
                IpNet::V4(n) => deny4.push(n.trunc()),
                IpNet::V6(n) => deny6.push(n.trunc()),
            }
        }
        let deny4 = Ipv4Net::aggregate(&deny4);
        // NAT64 and 6to4 addresses are judged by the IPv4 address inside them.
        deny6.extend(deny4.iter().flat_map(|n| [nat64(n), six_to_four(n)]));
        let (mut allow4, mut allow6) = (Vec::new(), Vec::new());
        for net in &cfg.allow {
            match net {
                IpNet::V4(n) => allow4.push(n.trunc()),
                IpNet::V6(n) => allow6.push(n.trunc()),
            }
        }
        Self {
            deny4,
            deny6: Ipv6Net::aggregate(&deny6),
            allow4: Ipv4Net::aggregate(&allow4),
            allow6: Ipv6Net::aggregate(&allow6),
        }
    }

    /// Whether a sandbox may not go there.
    pub(crate) fn denies(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => !self.allow4.iter().any(|n| n.contains(&a)) && self.deny4.iter().any(|n| n.contains(&a)),
            IpAddr::V6(a) => !self.allow6.iter().any(|n| n.contains(&a)) && self.deny6.iter().any(|n| n.contains(&a)),
        }
    }
}

fn nat64(net: &Ipv4Net) -> Ipv6Net {
    let base = u128::from(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0));
    Ipv6Net::new_assert(Ipv6Addr::from(base | u128::from(u32::from(net.network()))), 96 + net.prefix_len())
}

fn six_to_four(net: &Ipv4Net) -> Ipv6Net {
    let base = u128::from(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0));
    let inner: Ipv4Addr = net.network();
    Ipv6Net::new_assert(Ipv6Addr::from(base | (u128::from(u32::from(inner)) << 80)), 16 + net.prefix_len())
}

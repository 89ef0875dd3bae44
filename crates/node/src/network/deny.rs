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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lists(change: impl FnOnce(&mut NetworkConfig)) -> Lists {
        let mut cfg = NetworkConfig::new("/run/test", "aether");
        change(&mut cfg);
        Lists::new(&cfg)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn the_first_and_last_of_each_range_are_denied_and_their_neighbours_are_not() {
        let lists = lists(|_| ());
        let ranges = [
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("224.0.0.0", "255.255.255.255"),
            ("::", "::1"),
            ("::ffff:0:0", "::ffff:ffff:ffff"),
            ("64:ff9b::a00:0", "64:ff9b::aff:ffff"),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff"),
            ("2002:a00::", "2002:aff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ];
        for (first, last) in ranges {
            assert!(lists.denies(ip(first)), "{first}");
            assert!(lists.denies(ip(last)), "{last}");
        }
        let open = [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::2",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "2606:4700::1111",
            "fbff::",
            "fec0::1",
        ];
        for address in open {
            assert!(!lists.denies(ip(address)), "{address}");
        }
    }

    #[test]
    fn the_operator_adds_and_opens() {
        let lists = lists(|c| {
            c.allow = vec!["10.9.0.0/16".parse().expect("net"), "fd00:1::/32".parse().expect("net")];
            c.deny = vec!["203.0.113.0/24".parse().expect("net"), "2001:db8:c::/48".parse().expect("net")];
            c.ipv6_prefix = Some("2001:db8:5::/64".parse().expect("net"));
            c.uplink_net = "203.1.0.0/20".parse().expect("net");
        });
        for address in ["10.9.1.2", "fd00:1::7"] {
            assert!(!lists.denies(ip(address)), "{address}");
        }
        for address in
            ["10.8.255.255", "203.0.113.9", "2001:db8:c::1", "2001:db8:5::1", "203.1.15.255", "64:ff9b::cb00:7109"]
        {
            assert!(lists.denies(ip(address)), "{address}");
        }
    }

    proptest! {
        /// An IPv4 address and the ways to write it in IPv6 share their fate;
        /// mapped ones are always denied.
        #[test]
        fn embedded_addresses_are_judged_as_themselves(bits: u32) {
            let lists = lists(|_| ());
            let inner = Ipv4Addr::from(bits);
            let fate = lists.denies(inner.into());
            let nat64 = Ipv6Addr::from((0x64_ff9b << 96) | u128::from(bits));
            let six_to_four = Ipv6Addr::from((0x2002 << 112) | (u128::from(bits) << 80) | 1);
            prop_assert_eq!(lists.denies(nat64.into()), fate);
            prop_assert_eq!(lists.denies(six_to_four.into()), fate);
            prop_assert!(lists.denies(inner.to_ipv6_mapped().into()));
        }
    }
}

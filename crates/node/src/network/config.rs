//! What the operator decides about the network, and every name and address
//! that follows from it. Pure: no I/O.

use super::NetworkError;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// More would not fit the interface names' five digits.
pub const MAX_SLOTS: u32 = 65_535;
/// Interface names hold 15 bytes: prefix, dash, five digits.
const MAX_PREFIX: usize = 9;
const MAX_ALLOW: usize = 256;
const MAX_UPSTREAMS: usize = 8;

/// The guest's side of every slot, equal in all of them, so that a checkpoint
/// restores in any slot without learning new neighbours.
pub(crate) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 2);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
pub(crate) const GUEST_PREFIX_LEN: u8 = 30;
pub(crate) const GUEST_MAC: [u8; 6] = [0x02, 0xae, 0x74, 0x68, 0x00, 0x02];
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x02, 0xae, 0x74, 0x68, 0x00, 0x01];
pub(crate) const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfdae, 0x7468, 0x6572, 0, 0, 0, 0, 2);
pub(crate) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfdae, 0x7468, 0x6572, 0, 0, 0, 0, 1);
pub(crate) const GUEST6_PREFIX_LEN: u8 = 126;

#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Namespaces are bound to files in `run_dir/netns`.
    pub run_dir: PathBuf,
    /// Every host object begins with it: namespace and veth `<prefix>-<slot>`,
    /// table `inet <prefix>_net`. A letter, then at most 8 letters or digits. Two
    /// daemons on one host need two prefixes.
    pub prefix: String,
    /// Slot numbers are below it.
    pub slots: u32,
    /// Slots kept ready-made.
    pub spare: u32,
    /// Two addresses of it per slot, between host and namespace. Two daemons
    /// on one host need two of them.
    pub uplink_net: Ipv4Net,
    /// Sandboxes get IPv6 when the operator routes this prefix (at most /112)
    /// to the node: one address per slot. Without it all IPv6 is dropped.
    pub ipv6_prefix: Option<Ipv6Net>,
    /// Where the resolver asks. Empty: the servers of /etc/resolv.conf.
    pub upstream_dns: Vec<SocketAddr>,
    /// Destinations that the operator opens although they are denied to all.
    pub allow: Vec<IpNet>,
    /// Denied besides the built-in lists: the control plane's addresses.
    pub deny: Vec<IpNet>,
    /// For sandboxes; none: that of the default route's interface.
    pub mtu: Option<u32>,
    /// uid of a slot's VMM is this plus the slot; for the tap's owner.
    pub uid_base: u32,
    pub share: Share,
}

/// What one sandbox may use of the network; zero means no limit. Its slot's
/// rules drop what is more, so that neighbours and the host never see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// MiB a second, in each direction.
    pub mb_per_s: u32,
    /// In each direction.
    pub packets_per_s: u32,
    /// Connections held open, and again as many questions to the resolver:
    /// its part of the host's connection table.
    pub flows: u32,
}

impl Default for Share {
    fn default() -> Self {
        Self { mb_per_s: 125, packets_per_s: 100_000, flows: 8192 }
    }
}

/// The kernel counts bytes times nanoseconds, in 64 bits.
const MAX_MB_PER_S: u32 = 10_000;

impl NetworkConfig {
    /// Defaults. The carve follows from the prefix, so that daemons with
    /// different prefixes rarely need to configure it.
    pub fn new(run_dir: impl Into<PathBuf>, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        let uplink_net = default_uplink(&prefix);
        Self {
            run_dir: run_dir.into(),
            prefix,
            slots: 256,
            spare: 4,
            uplink_net,
            ipv6_prefix: None,
            upstream_dns: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            mtu: None,
            uid_base: 700_000,
            share: Share::default(),
        }
    }

    /// Checks the whole before anything is touched.
    pub fn validate(&self) -> Result<(), NetworkError> {
        let bad = |key: &'static str, reason: String| Err(NetworkError::Config { key, reason });
        let mut bytes = self.prefix.bytes();
        let starts_well = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
        if !starts_well
            || self.prefix.len() > MAX_PREFIX
            || !bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        {
            return bad(
                "prefix",
                format!("must be a lower-case letter and at most {} letters or digits", MAX_PREFIX - 1),
            );
        }
        if self.slots == 0 || self.slots > MAX_SLOTS {
            return bad("slots", format!("must be 1 to {MAX_SLOTS}, is {}", self.slots));
        }
        if self.spare > self.slots {
            return bad("spare", format!("is more than slots ({})", self.slots));
        }
        if u64::from(self.slots) * 2 > 1u64 << (32 - u32::from(self.uplink_net.prefix_len())) {
            return bad(
                "uplink_net",
                format!("{} is too small for {} slots of two addresses", self.uplink_net, self.slots),
            );
        }
        if overlaps(&self.uplink_net, &guest_net()) {
            return bad("uplink_net", format!("{} overlaps the guests' own {}", self.uplink_net, guest_net()));
        }
        if let Some(p) = self.ipv6_prefix
            && p.prefix_len() > 112
        {
            return bad("ipv6_prefix", format!("{p} is too small: /112 or wider is needed"));
        }
        for (key, list) in [("allow", &self.allow), ("deny", &self.deny)] {
            if list.len() > MAX_ALLOW {
                return bad(key, format!("at most {MAX_ALLOW} networks"));
            }
        }
        if self.upstream_dns.len() > MAX_UPSTREAMS {
            return bad("upstream_dns", format!("at most {MAX_UPSTREAMS} servers"));
        }
        if let Some(mtu) = self.mtu
            && !(1280..=65_521).contains(&mtu)
        {
            return bad("mtu", format!("must be 1280 to 65521, is {mtu}"));
        }
        if self.share.mb_per_s > MAX_MB_PER_S {
            return bad("share.mb_per_s", format!("must be at most {MAX_MB_PER_S}, is {}", self.share.mb_per_s));
        }
        Ok(())
    }

    pub(crate) fn check_slot(&self, slot: u32) -> Result<(), NetworkError> {
        if slot >= self.slots {
            return Err(NetworkError::NoSuchSlot { slot, slots: self.slots });
        }
        Ok(())
    }

    /// The host's table. A bare prefix could be a word of nft's language,
    /// as `rt0` is, and nft takes no quoted names here.
    pub(crate) fn table(&self) -> String {
        format!("{}_net", self.prefix)
    }

    /// Namespace file and host interface of a slot.
    pub(crate) fn name(&self, slot: u32) -> String {
        format!("{}-{slot}", self.prefix)
    }

    /// The slot that an object's name belongs to; none for foreign names.
    pub(crate) fn slot_of(&self, name: &str) -> Option<u32> {
        let digits = name.strip_prefix(self.prefix.as_str())?.strip_prefix('-')?;
        let slot: u32 = digits.parse().ok()?;
        (slot.to_string() == digits && slot < MAX_SLOTS).then_some(slot)
    }

    pub(crate) fn netns_dir(&self) -> PathBuf {
        self.run_dir.join("netns")
    }

    pub(crate) fn netns_path(&self, slot: u32) -> PathBuf {
        self.netns_dir().join(self.name(slot))
    }

    /// (host, namespace) ends of the slot's link.
    pub(crate) fn link_addresses(&self, slot: u32) -> (Ipv4Addr, Ipv4Addr) {
        let first = u32::from(self.uplink_net.network()).wrapping_add(slot.wrapping_mul(2));
        (Ipv4Addr::from(first), Ipv4Addr::from(first.wrapping_add(1)))
    }

    /// The slot's address as seen outside, where the operator gave a prefix.
    pub(crate) fn outer6(&self, slot: u32) -> Option<Ipv6Addr> {
        let net = self.ipv6_prefix?;
        Some(Ipv6Addr::from(u128::from(net.network()) | (u128::from(slot) + 1)))
    }
}

pub(crate) fn guest_net() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 200, 0, 0), GUEST_PREFIX_LEN)
}

fn overlaps(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}

/// `aether` has 100.96.0.0/20; any other prefix one of the next 511.
fn default_uplink(prefix: &str) -> Ipv4Net {
    let index = if prefix == "aether" {
        0
    } else {
        // FNV-1a: only to spread, and the same in every version.
        let hash = prefix.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        1 + (hash ^ (hash >> 16)) % 511
    };
    let base = u32::from(Ipv4Addr::new(100, 96, 0, 0));
    Ipv4Net::new_assert(Ipv4Addr::from(base + (index << 12)), 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn config() -> NetworkConfig {
        NetworkConfig::new("/run/test", "aether")
    }

    #[test]
    fn every_slot_has_its_own_valid_names_and_addresses() {
        let mut cfg = NetworkConfig::new("/run/test", "abcdefghi");
        cfg.slots = MAX_SLOTS;
        cfg.uplink_net = "100.64.0.0/15".parse().expect("net");
        cfg.ipv6_prefix = Some("2001:db8::/112".parse().expect("net"));
        cfg.validate().expect("the widest is valid");
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for slot in 0..MAX_SLOTS {
            let name = cfg.name(slot);
            assert!(name.len() <= 15, "{name} is no interface name");
            assert_eq!(cfg.slot_of(&name), Some(slot));
            assert!(names.insert(name));
            let (host, inner) = cfg.link_addresses(slot);
            let outer = cfg.outer6(slot).expect("a prefix is set");
            for a in [host, inner] {
                assert!(cfg.uplink_net.contains(&a) && addresses.insert(IpNet::from(std::net::IpAddr::from(a))));
            }
            assert!(
                cfg.ipv6_prefix.is_some_and(|p| p.contains(&outer))
                    && addresses.insert(IpNet::from(std::net::IpAddr::from(outer)))
            );
        }
    }

    #[test]
    fn what_cannot_work_is_refused_by_key() {
        type Change = fn(&mut NetworkConfig);
        let cases: [(&str, Change); 15] = [
            ("prefix", |c| c.prefix = String::new()),
            ("prefix", |c| c.prefix = "1abc".to_owned()),
            ("prefix", |c| c.prefix = "a-b".to_owned()),
            ("prefix", |c| c.prefix = "a*\" drop".to_owned()),
            ("prefix", |c| c.prefix = "abcdefghij".to_owned()),
            ("slots", |c| c.slots = 0),
            ("slots", |c| c.slots = MAX_SLOTS + 1),
            ("spare", |c| c.spare = 257),
            ("uplink_net", |c| c.uplink_net = "100.96.0.0/24".parse().expect("net")),
            ("uplink_net", |c| c.uplink_net = "10.0.0.0/8".parse().expect("net")),
            ("ipv6_prefix", |c| c.ipv6_prefix = Some("2001:db8::/113".parse().expect("net"))),
            ("allow", |c| c.allow = vec!["10.0.0.1/32".parse().expect("net"); 257]),
            ("deny", |c| c.deny = vec!["10.0.0.1/32".parse().expect("net"); 257]),
            ("mtu", |c| c.mtu = Some(600)),
            ("share.mb_per_s", |c| c.share.mb_per_s = 10_001),
        ];
        for (wanted, change) in cases {
            let mut cfg = config();
            change(&mut cfg);
            match cfg.validate() {
                Err(NetworkError::Config { key, .. }) => assert_eq!(key, wanted),
                other => panic!("{wanted}: {other:?}"),
            }
        }
        config().validate().expect("the default is valid");
    }

    proptest! {
        #[test]
        fn foreign_names_are_nobodys(name in "[a-z0-9-]{0,16}") {
            let cfg = config();
            if let Some(slot) = cfg.slot_of(&name) {
                prop_assert_eq!(cfg.name(slot), name);
            }
        }

        #[test]
        fn default_carves_are_valid(prefix in "[a-z][a-z0-9]{0,8}") {
            let cfg = NetworkConfig::new("/run/test", prefix.clone());
            prop_assert!(cfg.validate().is_ok());
            prop_assert_eq!(cfg.uplink_net, NetworkConfig::new("/", prefix).uplink_net);
        }
    }
}

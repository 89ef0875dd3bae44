//! The packet rules as text for `nft -f -`. Pure functions: configuration in,
//! rules out. Loading a text replaces the whole table in one transaction, so
//! there is no moment without rules.
//!
//! Two layers that each deny by themselves: the sandbox's namespace pins the
//! guest's addresses and judges destinations; the host judges destinations
//! again, and its own addresses. Their size does not depend on the number of
//! sandboxes: the host's rules match interfaces by the prefix of their name.

use super::config::{GATEWAY, GATEWAY_MAC, GATEWAY6, GUEST, GUEST_MAC, GUEST6};
use super::deny::Lists;
use super::{NetworkConfig, Share};
use aether_core::spec::NetworkPolicy;
use std::fmt::Write as _;

/// The table's name inside a sandbox's namespace.
pub(crate) const SLOT_TABLE: &str = "sandbox";
/// Beside one second of the rate, which the kernel allows by itself.
const BURST: u64 = 256 << 10;

/// An empty chain of ours that remembers how `ip_forward` was found. It lives
/// in the kernel as long as the rules do, also when the daemon was killed.
pub(crate) const FOUND_OFF: &str = "found_ip_forward_off";
pub(crate) const FOUND_ON: &str = "found_ip_forward_on";

pub(crate) fn host_rules(cfg: &NetworkConfig, lists: &Lists, forwarding_was_on: bool) -> String {
    let table = cfg.table();
    let ours = format!("\"{}-*\"", cfg.prefix);
    let sets = sets(lists);
    let found = if forwarding_was_on { FOUND_ON } else { FOUND_OFF };
    let (allow4_pre, allow4_in, allow4_out) = if lists.allow4.is_empty() {
        (String::new(), String::new(), String::new())
    } else {
        (
            format!("        iifname {ours} ip daddr @allow4 accept\n"),
            format!("        iifname {ours} ip daddr @allow4 meta l4proto {{ tcp, udp, icmp }} accept\n"),
            "        ip daddr @allow4 accept\n".to_owned(),
        )
    };
    let v6 = cfg.ipv6_prefix.is_some();
    let (allow6_pre, allow6_in, allow6_out) = if lists.allow6.is_empty() || !v6 {
        (String::new(), String::new(), String::new())
    } else {
        (
            format!("        iifname {ours} ip6 daddr @allow6 accept\n"),
            format!("        iifname {ours} ip6 daddr @allow6 meta l4proto {{ tcp, udp, ipv6-icmp }} accept\n"),
            "        ip6 daddr @allow6 accept\n".to_owned(),
        )
    };
    // Neighbour discovery between the namespace and the host; no packet of the guest's.
    let nd = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept";
    let (nd_pre, nd_in, nd_out, v6_out, protocols) = if v6 {
        (
            format!("        iifname {ours} {nd}\n"),
            format!("        iifname {ours} {nd}\n"),
            format!("        oifname {ours} {nd}\n"),
            "        ip6 daddr @deny6 drop\n",
            "tcp, udp, icmp, ipv6-icmp",
        )
    } else {
        (String::new(), String::new(), String::new(), "        meta nfproto ipv6 drop\n", "tcp, udp, icmp")
    };
    format!(
        r#"table inet {table} {{
}}
delete table inet {table}
table inet {table} {{
{sets}    chain {found} {{
    }}
    chain prerouting {{
        type filter hook prerouting priority mangle; policy accept;
{nd_pre}        iifname {ours} fib saddr . iif oif missing drop
{allow4_pre}{allow6_pre}        iifname {ours} fib daddr type {{ local, broadcast, anycast, multicast }} drop
    }}
    chain input {{
        type filter hook input priority filter - 5; policy accept;
{nd_in}{allow4_in}{allow6_in}        iifname {ours} drop
    }}
    chain output {{
        type filter hook output priority filter - 5; policy accept;
{nd_out}        oifname {ours} ct state established,related accept
        oifname {ours} drop
    }}
    chain forward {{
        type filter hook forward priority filter - 5; policy accept;
        iifname {ours} goto from_sandbox
        oifname {ours} goto to_sandbox
    }}
    chain from_sandbox {{
        oifname {ours} drop
        ct state invalid drop
        meta l4proto != {{ {protocols} }} drop
{allow4_out}{allow6_out}        ip daddr @deny4 drop
{v6_out}        accept
    }}
    chain to_sandbox {{
        ct state established,related accept
        drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {uplink} oifname != {ours} masquerade
    }}
}}
"#,
        uplink = cfg.uplink_net.trunc(),
    )
}

/// Removes the host's table, if it is there.
pub(crate) fn drop_host_rules(cfg: &NetworkConfig) -> String {
    format!("table inet {0} {{\n}}\ndelete table inet {0}\n", cfg.table())
}

/// The rules inside a sandbox's namespace: the same text in all slots.
pub(crate) fn slot_rules(cfg: &NetworkConfig, lists: &Lists, policy: NetworkPolicy) -> String {
    let v6 = cfg.ipv6_prefix.is_some();
    let guest = guest_chain(v6, cfg.share);
    let sets = sets(lists);
    let filter = match policy {
        NetworkPolicy::None => filter_none(v6),
        NetworkPolicy::Public => filter_public(lists, v6, cfg.share),
    };
    format!(
        r#"table netdev {SLOT_TABLE} {{
}}
delete table netdev {SLOT_TABLE}
table netdev {SLOT_TABLE} {{
{guest}}}
table inet {SLOT_TABLE} {{
}}
delete table inet {SLOT_TABLE}
table inet {SLOT_TABLE} {{
{sets}{filter}}}
"#
    )
}

/// What may come out of the guest at all: its own addresses, whole packets,
/// three protocols, towards the gateway. On the ingress hook because there
/// fragments have not been put together yet.
fn guest_chain(v6: bool, share: Share) -> String {
    let rate = rate(share, "");
    let (mac, gw_mac) = (mac(GUEST_MAC), mac(GATEWAY_MAC));
    let mut out = format!(
        r#"    chain guest {{
        type filter hook ingress device "tap0" priority -500; policy drop;
{rate}        ether saddr != {mac} drop
        ether type arp arp saddr ether {mac} arp saddr ip {GUEST} accept
        ether type ip ether daddr {gw_mac} ip saddr {GUEST} ip hdrlength 5 ip frag-off & 0x3fff == 0 ip protocol {{ tcp, udp, icmp }} accept
"#
    );
    if v6 {
        let _ = write!(
            out,
            r#"        ether type ip6 ip6 saddr {{ ::, {GUEST6}, fe80::/10 }} ip6 hoplimit 255 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        ether type ip6 ether daddr {gw_mac} ip6 saddr {GUEST6} ip6 nexthdr {{ tcp, udp, ipv6-icmp }} accept
"#
        );
    }
    out.push_str("    }\n");
    out
}

/// Errors that the namespace itself reports to the guest, and for IPv6 the
/// neighbour talk on both links.
fn output_chain(v6: bool, dns: bool) -> String {
    let mut out = String::from(
        r#"    chain output {
        type filter hook output priority filter; policy drop;
        oifname "tap0" icmp type { destination-unreachable, time-exceeded, parameter-problem } accept
"#,
    );
    if dns {
        let _ = write!(
            out,
            r#"        oifname "tap0" ip saddr {GATEWAY} udp sport 53 accept
        oifname "tap0" ip saddr {GATEWAY} tcp sport 53 accept
"#
        );
    }
    if v6 {
        out.push_str(
            r#"        oifname "tap0" icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept
"#,
        );
    }
    out.push_str("    }\n");
    out
}

fn input_chain(v6: bool, dns: Option<Share>) -> String {
    let mut out = String::from(
        r#"    chain input {
        type filter hook input priority filter; policy drop;
"#,
    );
    if let Some(share) = dns {
        out.push_str(&flows(share, &format!("iifname \"tap0\" ip daddr {GATEWAY} th dport 53 ")));
        let _ = write!(
            out,
            r#"        iifname "tap0" ip daddr {GATEWAY} udp dport 53 accept
        iifname "tap0" ip daddr {GATEWAY} tcp dport 53 accept
"#
        );
    }
    if v6 {
        let _ = write!(
            out,
            r#"        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} ip6 hoplimit 255 accept
        iifname "tap0" ip6 daddr {GATEWAY6} reject with icmpv6 admin-prohibited
"#
        );
    }
    out.push_str("        iifname \"tap0\" meta nfproto ipv4 reject with icmp admin-prohibited\n    }\n");
    out
}

/// Nothing leaves; the guest is told at once instead of waiting.
fn filter_none(v6: bool) -> String {
    format!(
        r#"{}{}    chain forward {{
        type filter hook forward priority filter; policy drop;
        iifname "tap0" reject with icmpx admin-prohibited
    }}
"#,
        input_chain(v6, None),
        output_chain(v6, false)
    )
}

/// Drops what is above the rate. First of all rules: a packet that is refused
/// for another reason costs as much.
fn rate(share: Share, matching: &str) -> String {
    let mut out = String::new();
    if share.mb_per_s > 0 {
        let bytes = u64::from(share.mb_per_s) << 20;
        let _ = writeln!(out, "        {matching}limit rate over {bytes} bytes/second burst {BURST} bytes drop");
    }
    if share.packets_per_s > 0 {
        let burst = (share.packets_per_s / 4).max(32);
        let _ = writeln!(
            out,
            "        {matching}limit rate over {}/second burst {burst} packets drop",
            share.packets_per_s
        );
    }
    out
}

/// No new connection above the share.
fn flows(share: Share, matching: &str) -> String {
    match share.flows {
        0 => String::new(),
        flows => format!("        {matching}ct state new ct count over {flows} drop\n"),
    }
}

fn filter_public(lists: &Lists, v6: bool, share: Share) -> String {
    let inward = rate(share, "iifname \"up0\" oifname \"tap0\" ");
    let flows = flows(share, "");
    let protocols = if v6 { "tcp, udp, icmp, ipv6-icmp" } else { "tcp, udp, icmp" };
    let mut judge = String::new();
    if !lists.allow4.is_empty() {
        judge.push_str("        ip daddr @allow4 goto flows\n");
    }
    judge.push_str("        ip daddr @deny4 reject with icmp admin-prohibited\n");
    if !v6 {
        judge.push_str("        meta nfproto ipv6 drop\n");
    } else {
        if !lists.allow6.is_empty() {
            judge.push_str("        ip6 daddr @allow6 goto flows\n");
        }
        judge.push_str("        ip6 daddr @deny6 reject with icmpv6 admin-prohibited\n");
    }
    format!(
        r#"{}{}    chain forward {{
        type filter hook forward priority filter; policy drop;
{inward}        iifname "tap0" oifname "up0" goto out
        iifname "up0" oifname "tap0" ct state established,related accept
    }}
    chain out {{
        ct state invalid drop
        meta l4proto != {{ {protocols} }} drop
{judge}        goto flows
    }}
    chain flows {{
{flows}        accept
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "up0" masquerade
    }}
"#,
        input_chain(v6, Some(share)),
        output_chain(v6, true)
    )
}

fn sets(lists: &Lists) -> String {
    let mut out = String::new();
    set(&mut out, "deny4", "ipv4_addr", &lists.deny4);
    set(&mut out, "deny6", "ipv6_addr", &lists.deny6);
    set(&mut out, "allow4", "ipv4_addr", &lists.allow4);
    set(&mut out, "allow6", "ipv6_addr", &lists.allow6);
    out
}

fn set(out: &mut String, name: &str, kind: &str, nets: &[impl std::fmt::Display]) {
    if nets.is_empty() {
        return;
    }
    let elements: Vec<String> = nets.iter().map(ToString::to_string).collect();
    let _ = writeln!(
        out,
        "    set {name} {{\n        type {kind}; flags interval; auto-merge;\n        elements = {{ {} }}\n    }}",
        elements.join(", ")
    );
}

fn mac(m: [u8; 6]) -> String {
    m.map(|b| format!("{b:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> NetworkConfig {
        NetworkConfig::new("/run/test", "aether")
    }

    fn full() -> NetworkConfig {
        let mut cfg = plain();
        cfg.ipv6_prefix = Some("2001:db8:5::/64".parse().expect("net"));
        cfg.allow = vec!["10.9.0.0/16".parse().expect("net"), "fd00:1::/32".parse().expect("net")];
        cfg
    }

    /// The texts as an operator reads them; renewed by running this test with
    /// AETHER_RENEW_SNAPSHOTS=1.
    fn same(name: &str, text: &str, kept: &str) {
        assert!(text == kept, "{name} differs from its snapshot; it is now:\n{text}");
    }

    #[test]
    fn rules_are_as_reviewed() {
        for (cfg, suffix, kept) in [
            (
                plain(),
                "plain",
                [
                    include_str!("snapshots/host-plain.nft"),
                    include_str!("snapshots/public-plain.nft"),
                    include_str!("snapshots/none-plain.nft"),
                ],
            ),
            (
                full(),
                "full",
                [
                    include_str!("snapshots/host-full.nft"),
                    include_str!("snapshots/public-full.nft"),
                    include_str!("snapshots/none-full.nft"),
                ],
            ),
        ] {
            let lists = Lists::new(&cfg);
            let texts = [
                ("host", host_rules(&cfg, &lists, false)),
                ("public", slot_rules(&cfg, &lists, NetworkPolicy::Public)),
                ("none", slot_rules(&cfg, &lists, NetworkPolicy::None)),
            ];
            for ((name, text), kept) in texts.iter().zip(kept) {
                if std::env::var_os("AETHER_RENEW_SNAPSHOTS").is_some() {
                    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/network/snapshots");
                    std::fs::write(dir.join(format!("{name}-{suffix}.nft")), text).expect("write the snapshot");
                    continue;
                }
                same(&format!("{name}-{suffix}"), text, kept);
            }
        }
    }

    #[test]
    fn the_number_of_slots_changes_no_rule() {
        let (mut one, mut many) = (plain(), plain());
        (one.slots, one.spare, many.slots) = (1, 1, 2000);
        let lists = Lists::new(&one);
        assert_eq!(host_rules(&one, &lists, true), host_rules(&many, &Lists::new(&many), true));
        assert_eq!(
            slot_rules(&one, &lists, NetworkPolicy::Public),
            slot_rules(&many, &Lists::new(&many), NetworkPolicy::Public)
        );
    }
}

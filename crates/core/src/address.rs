//! Which addresses are inside: whoever is told by a stranger where to ask
//! (registries, issuers) does not ask there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Never a public server's: loopback, private, link-local and the like.
pub fn is_internal(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_internal_v4(ip),
        IpAddr::V6(ip) => is_internal_v6(ip),
    }
}

fn is_internal_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0)
            | (192, 168, _)
            | (198, 18..=19, _)
            | (224..=255, _, _)
    )
}

fn is_internal_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    // Addresses that carry an IPv4 address are judged by that one.
    let embedded = match s {
        [0, 0, 0, 0, 0, 0xffff | 0, hi, lo] | [0x64, 0xff9b, 0, 0, 0, 0, hi, lo] => Some((hi, lo)),
        [0x2002, hi, lo, ..] => Some((hi, lo)),
        _ => None,
    };
    if let Some((hi, lo)) = embedded {
        let [a, b] = hi.to_be_bytes();
        let [c, d] = lo.to_be_bytes();
        return is_internal_v4(Ipv4Addr::new(a, b, c, d));
    }
    // Only 2000::/3 is public unicast; documentation and ORCHID are not.
    (s[0] & 0xe000) != 0x2000 || (s[0] == 0x2001 && (s[1] == 0xdb8 || s[1] < 0x200))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_and_outside() {
        let internal = |text: &str| is_internal(text.parse().expect("an address"));
        for inside in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1", "::ffff:10.0.0.1", "2002:7f00:1::"]
        {
            assert!(internal(inside), "{inside}");
        }
        for outside in ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8"] {
            assert!(!internal(outside), "{outside}");
        }
    }
}

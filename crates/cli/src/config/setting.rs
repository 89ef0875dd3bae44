//! How values are read from text: a file's scalar, a variable, a flag.

use aether_core::Secret;
use aether_core::time::parse_duration;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A type that a key can have.
pub(super) trait Setting: Sized {
    /// For people: what to write.
    const KIND: &'static str;
    /// Never shown.
    const SECRET: bool = false;
    fn parse(text: &str) -> Result<Self, String>;
    /// For kinds that have an order.
    fn within(&self, _least: &Self, _most: &Self) -> bool {
        true
    }
}

impl Setting for bool {
    const KIND: &'static str = "true or false";
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err("must be true or false".to_owned()),
        }
    }
}

macro_rules! number_setting {
    ($($type:ty => $kind:literal),+) => {$(
        impl Setting for $type {
            const KIND: &'static str = $kind;
            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!("must be a {} from 0 to {}", $kind, <$type>::MAX))
            }
            fn within(&self, least: &Self, most: &Self) -> bool {
                (least..=most).contains(&self)
            }
        }
    )+};
}
number_setting!(u16 => "whole number", u32 => "whole number", u64 => "whole number", usize => "whole number");

/// A factor of 1 or more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Factor(pub(crate) f64);

impl Setting for Factor {
    const KIND: &'static str = "factor of 1 to 1000";
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(value) if (1.0..=1000.0).contains(&value) => Ok(Self(value)),
            _ => Err("must be a number from 1 to 1000".to_owned()),
        }
    }
}

impl Setting for String {
    const KIND: &'static str = "text";
    fn parse(text: &str) -> Result<Self, String> {
        if text.contains(['\0', '\n']) { Err("must be one line".to_owned()) } else { Ok(text.to_owned()) }
    }
}

impl Setting for PathBuf {
    const KIND: &'static str = "path";
    fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') || text.contains('\0') {
            return Err("must be an absolute path".to_owned());
        }
        Ok(PathBuf::from(text))
    }
}

/// A server elsewhere. An IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Setting for HostPort {
    const KIND: &'static str = "host:port";
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "must be host:port, an IPv6 address in brackets".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => address,
            _ if host.is_empty() || host.contains(|c: char| !(c.is_ascii_alphanumeric() || "-._".contains(c))) => {
                return Err(wrong());
            }
            _ => host,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl Setting for Duration {
    const KIND: &'static str = "duration";
    fn parse(text: &str) -> Result<Self, String> {
        parse_duration(text).ok_or_else(|| "must be a duration such as 15s, 5m or 1h30m".to_owned())
    }
    fn within(&self, least: &Self, most: &Self) -> bool {
        (least..=most).contains(&self)
    }
}

impl Setting for Secret {
    const KIND: &'static str = "secret text";
    const SECRET: bool = true;
    fn parse(text: &str) -> Result<Self, String> {
        if text.contains(['\0', '\n']) { Err("must be one line".to_owned()) } else { Ok(Secret::new(text)) }
    }
}

/// As HS256's own strength wants it.
const SECRET_LEAST: usize = 32;

/// Signs tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JwtSecret(pub(crate) Secret);

impl Setting for JwtSecret {
    const KIND: &'static str = "secret text of 32 characters or more, without commas";
    const SECRET: bool = true;
    fn parse(text: &str) -> Result<Self, String> {
        let plain = !text.contains(['\0', '\n', ',']);
        if plain && text.chars().count() >= SECRET_LEAST {
            return Ok(Self(Secret::new(text)));
        }
        Err("must be one line of 32 characters or more, without commas".to_owned())
    }
}

/// Separated by commas; in a file also a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JwtSecrets(pub(crate) Vec<Secret>);

impl Setting for JwtSecrets {
    const KIND: &'static str = "secret texts of 32 characters or more, separated by commas";
    const SECRET: bool = true;
    fn parse(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(|item| JwtSecret::parse(item).map(|secret| secret.0)).collect::<Result<_, _>>().map(Self)
    }
}

impl Setting for IpAddr {
    const KIND: &'static str = "IP address";
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "must be an IP address".to_owned())
    }
}

/// Empty means none.
impl<T: Setting> Setting for Option<T> {
    const KIND: &'static str = T::KIND;
    const SECRET: bool = T::SECRET;
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::parse(text).map(Some) }
    }
    fn within(&self, least: &Self, most: &Self) -> bool {
        match (self, least, most) {
            (Some(value), Some(least), Some(most)) => value.within(least, most),
            _ => true,
        }
    }
}

/// Separated by commas; in a file also a list.
impl<T: Setting> Setting for Vec<T> {
    const KIND: &'static str = "list";
    fn parse(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(|item| T::parse(item).map_err(|e| format!("{item:?} {e}"))).collect()
    }
}

/// Where to listen. `:8080` means all interfaces, `none` no TCP port at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    None,
    On(Vec<SocketAddr>),
}

impl Setting for Listen {
    const KIND: &'static str = "host:port, :port or none";
    fn parse(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        if let Some(port) = text.strip_prefix(':') {
            let port: u16 = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
            return Ok(Self::On(vec![(Ipv6Addr::UNSPECIFIED, port).into()]));
        }
        let loopback =
            |port: &str| -> Option<Vec<SocketAddr>> { Some(vec![(Ipv4Addr::LOCALHOST, port.parse().ok()?).into()]) };
        let named = text.strip_prefix("localhost:").and_then(loopback);
        let parsed = named.or_else(|| text.parse::<SocketAddr>().ok().map(|a| vec![a]));
        parsed.map(Self::On).ok_or_else(|| "must be ip:port, :port for all interfaces, or none".to_owned())
    }
}

/// A DNS server: an address with or without port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DnsServer(pub(crate) SocketAddr);

impl Setting for DnsServer {
    const KIND: &'static str = "ip or ip:port";
    fn parse(text: &str) -> Result<Self, String> {
        let bare = text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53));
        let address = bare.or_else(|| text.parse().ok());
        address.map(Self).ok_or_else(|| "must be an IP address, optionally with a port".to_owned())
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr(pub(crate) ipnet::IpNet);

impl Setting for Cidr {
    const KIND: &'static str = "address/prefix";
    fn parse(text: &str) -> Result<Self, String> {
        let whole = text.parse::<IpAddr>().ok().map(ipnet::IpNet::from);
        let net = whole.or_else(|| text.parse().ok());
        net.map(|net| Self(net.trunc())).ok_or_else(|| "must be an address or a range such as 10.1.2.0/24".to_owned())
    }
}

/// A range of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr4(pub(crate) ipnet::Ipv4Net);

impl Setting for Cidr4 {
    const KIND: &'static str = "IPv4 range";
    fn parse(text: &str) -> Result<Self, String> {
        let net = text.parse::<ipnet::Ipv4Net>();
        net.map(|net| Self(net.trunc())).map_err(|_| "must be an IPv4 range such as 100.96.0.0/20".to_owned())
    }
}

/// A range of IPv6 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr6(pub(crate) ipnet::Ipv6Net);

impl Setting for Cidr6 {
    const KIND: &'static str = "IPv6 range";
    fn parse(text: &str) -> Result<Self, String> {
        let net = text.parse::<ipnet::Ipv6Net>();
        net.map(|net| Self(net.trunc())).map_err(|_| "must be an IPv6 range such as 2001:db8::/112".to_owned())
    }
}

macro_rules! word_setting {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($variant),+ }

        impl Setting for $name {
            const KIND: &'static str = concat!("one of" $(, " ", $text)+);
            fn parse(text: &str) -> Result<Self, String> {
                match text.to_ascii_lowercase().as_str() {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("must be {}", Self::KIND)),
                }
            }
        }
    };
}

word_setting!(LogLevel { Error = "error", Warn = "warn", Info = "info", Debug = "debug", Trace = "trace" });
word_setting!(/// `auto`: text on a terminal, JSON elsewhere.
LogFormat { Auto = "auto", Json = "json", Text = "text" });
word_setting!(EngineKind { Qemu = "qemu" });
word_setting!(AccelKind { Auto = "auto", Kvm = "kvm", Tcg = "tcg" });
word_setting!(StrategyKind { BinPacking = "bin-packing", Spread = "spread", BestFit = "best-fit" });
word_setting!(SslMode { Disable = "disable", Prefer = "prefer", Require = "require", VerifyCa = "verify-ca", VerifyFull = "verify-full" });

impl LogLevel {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl SslMode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_elsewhere() {
        let at = |host: &str, port| Ok(HostPort { host: host.to_owned(), port });
        assert_eq!(HostPort::parse("redis:6379"), at("redis", 6379));
        assert_eq!(HostPort::parse("10.0.0.1:1"), at("10.0.0.1", 1));
        assert_eq!(HostPort::parse("[::1]:6379"), at("::1", 6379));
        for bad in
            ["redis", ":6379", "redis:0", "redis:65536", "::1:6379", "[redis]:1", "a b:1", "u@h:1", "redis://h:1"]
        {
            assert!(HostPort::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn listening() {
        let on = |text: &str| Listen::On(vec![text.parse().expect("address")]);
        assert_eq!(Listen::parse(":8080"), Ok(on("[::]:8080")));
        assert_eq!(Listen::parse("127.0.0.1:0"), Ok(on("127.0.0.1:0")));
        assert_eq!(Listen::parse("localhost:1"), Ok(on("127.0.0.1:1")));
        assert_eq!(Listen::parse("none"), Ok(Listen::None));
        for bad in ["", ":", ":x", ":99999", "8080", "host:1"] {
            assert!(Listen::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_and_ranges() {
        assert_eq!(Vec::<String>::parse(" a, b ,,"), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(Cidr::parse("10.1.0.0/8").map(|c| c.0.to_string()), Ok("10.0.0.0/8".into()));
        assert_eq!(Cidr::parse("::1").map(|c| c.0.prefix_len()), Ok(128));
        for bad in ["10.0.0.0/33", "10.0.0", "x/8", "10.0.0.0/", "::/129"] {
            assert!(Cidr::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Cidr4::parse("100.80.1.2/16").map(|c| c.0.to_string()), Ok("100.80.0.0/16".into()));
        assert_eq!(Cidr6::parse("2001:db8::1/64").map(|c| c.0.to_string()), Ok("2001:db8::/64".into()));
        assert!(Cidr4::parse("2001:db8::/64").is_err() && Cidr6::parse("10.0.0.0/8").is_err());
        assert_eq!(DnsServer::parse("9.9.9.9").map(|d| d.0.port()), Ok(53));
        assert!(DnsServer::parse("dns.example").is_err());
    }

    #[test]
    fn secrets_are_long_and_shown_by_no_error() {
        let long = "s3cr3t".repeat(6);
        assert_eq!(JwtSecret::parse(&long).map(|s| s.0), Ok(Secret::new(long.clone())));
        assert_eq!(JwtSecrets::parse(&format!("{long}, {long}x")).map(|s| s.0.len()), Ok(2));
        assert_eq!(JwtSecrets::parse("").map(|s| s.0.len()), Ok(0));
        for bad in ["s3cr3t", &format!("{long},{long}"), &format!("{long}\n")] {
            assert!(JwtSecret::parse(bad).is_err_and(|e| !e.contains("s3cr3t")), "{bad:?}");
        }
        assert!(JwtSecrets::parse(&format!("{long},s3cr3t")).is_err_and(|e| !e.contains("s3cr3t")));
    }

    #[test]
    fn factors_are_finite() {
        for bad in ["0.5", "NaN", "inf", "-1", ""] {
            assert!(Factor::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Factor::parse("1.5"), Ok(Factor(1.5)));
    }
}

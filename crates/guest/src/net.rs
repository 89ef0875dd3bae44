//! The sandbox's one interface: address, route, MTU, neighbours, by ioctl.
//! The address never changes while the sandbox lives, so nothing listens.
#![allow(unsafe_code, reason = "network ioctls; each block has a SAFETY note")]

mod ipv6;

pub use ipv6::Config6;

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub interface: String,
    pub address: Ipv4Addr,
    pub prefix_len: u32,
    pub gateway: Option<Ipv4Addr>,
    /// 0: leave.
    pub mtu: u32,
    /// None: the interface has no IPv6 at all.
    pub ipv6: Option<Config6>,
}

/// How long the interface may take to appear.
const APPEARS: Duration = Duration::from_secs(5);

struct Socket(OwnedFd);

impl Socket {
    fn new(family: AddressFamily) -> io::Result<Self> {
        Ok(Self(socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?))
    }

    fn interface(&self, request: libc::c_ulong, ifreq: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: every request used here takes a pointer to an ifreq.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, ifreq as *mut libc::ifreq) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn flags(&self, name: &str, set: i32, clear: i32) -> io::Result<()> {
        let mut request = named(name)?;
        self.interface(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS has written this member.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = (flags | set as libc::c_short) & !(clear as libc::c_short);
        self.interface(libc::SIOCSIFFLAGS, &mut request)
    }
}

fn named(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain data; all zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "bad interface name"));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    Ok(request)
}

fn index(socket: &Socket, name: &str) -> io::Result<i32> {
    let mut request = named(name)?;
    socket.interface(libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: SIOCGIFINDEX has written this member.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex })
}

fn address(ip: Ipv4Addr) -> libc::sockaddr {
    let inet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(ip).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: sockaddr and sockaddr_in have the same size; both are plain data.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inet) }
}

pub fn netmask(prefix_len: u32) -> Option<Ipv4Addr> {
    match prefix_len {
        0 => Some(Ipv4Addr::UNSPECIFIED),
        1..=32 => Some(Ipv4Addr::from(u32::MAX << (32 - prefix_len))),
        _ => None,
    }
}

pub fn loopback_up() -> io::Result<()> {
    Socket::new(AddressFamily::Inet)?.flags("lo", libc::IFF_UP | libc::IFF_RUNNING, 0)
}

/// From nothing or from an older configuration: taking the interface down
/// drops its routes and its neighbours.
pub fn configure(config: &Config) -> io::Result<()> {
    let socket = Socket::new(AddressFamily::Inet)?;
    let name = config.interface.as_str();
    crate::boot::wait_for(APPEARS, || index(&socket, name).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no interface {name}")))?;
    let mask = netmask(config.prefix_len)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "prefix_len is above 32"))?;
    socket.flags(name, 0, libc::IFF_UP)?;
    ipv6::prepare(name, config.ipv6.is_some())?;
    if config.mtu != 0 {
        let mut request = named(name)?;
        request.ifr_ifru.ifru_mtu = i32::try_from(config.mtu).map_err(|_| io::ErrorKind::InvalidInput)?;
        socket.interface(libc::SIOCSIFMTU, &mut request)?;
    }
    let mut request = named(name)?;
    request.ifr_ifru.ifru_addr = address(config.address);
    socket.interface(libc::SIOCSIFADDR, &mut request)?;
    let mut request = named(name)?;
    request.ifr_ifru.ifru_netmask = address(mask);
    socket.interface(libc::SIOCSIFNETMASK, &mut request)?;
    socket.flags(name, libc::IFF_UP | libc::IFF_RUNNING, 0)?;
    if let Some(gateway) = config.gateway {
        default_route(&socket, gateway)?;
    }
    config.ipv6.as_ref().map_or(Ok(()), |ipv6| ipv6::configure(name, ipv6))
}

fn default_route(socket: &Socket, gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: rtentry is plain data; all zero is a valid value.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = address(gateway);
    route.rt_flags = (libc::RTF_UP | libc::RTF_GATEWAY) as libc::c_ushort;
    // SAFETY: SIOCADDRT takes a pointer to an rtentry.
    let result = unsafe { libc::ioctl(socket.0.as_raw_fd(), libc::SIOCADDRT as _, &route) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Forgets the gateway's hardware address: after a restore it is another
/// machine's under the same number.
pub fn forget_neighbour(interface: &str, gateway: Ipv4Addr) -> io::Result<()> {
    let socket = Socket::new(AddressFamily::Inet)?;
    // SAFETY: arpreq is plain data; all zero is a valid value.
    let mut request: libc::arpreq = unsafe { std::mem::zeroed() };
    request.arp_pa = address(gateway);
    for (slot, byte) in request.arp_dev.iter_mut().zip(named(interface)?.ifr_name) {
        *slot = byte;
    }
    // SAFETY: SIOCDARP takes a pointer to an arpreq.
    let result = unsafe { libc::ioctl(socket.0.as_raw_fd(), libc::SIOCDARP as _, &request) };
    let error = io::Error::last_os_error();
    match (result, error.raw_os_error()) {
        (0.., _) | (_, Some(libc::ENXIO | libc::ENOENT)) => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        assert_eq!(netmask(30), Some(Ipv4Addr::new(255, 255, 255, 252)));
        assert_eq!(netmask(32), Some(Ipv4Addr::BROADCAST));
        assert_eq!(netmask(0), Some(Ipv4Addr::UNSPECIFIED));
        assert_eq!(netmask(33), None);
    }

    fn ip(line: &str) -> String {
        let out = std::process::Command::new("ip").args(line.split_whitespace()).output().expect("ip runs");
        assert!(out.status.success(), "ip {line}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// In a network namespace of its own: needs root, as the guest itself.
    #[test]
    fn addresses_and_routes_are_set_and_ipv6_is_off_unless_given() {
        let work = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("a namespace: tests of the network need root");
            ip("link add eth0 type veth peer name far");
            ip("link set far up");
            let mut config = Config {
                interface: "eth0".into(),
                address: Ipv4Addr::new(10, 200, 0, 2),
                prefix_len: 30,
                gateway: Some(Ipv4Addr::new(10, 200, 0, 1)),
                mtu: 1400,
                ipv6: None,
            };
            configure(&config).expect("configured");
            let shown = ip("addr show dev eth0");
            assert!(shown.contains("10.200.0.2/30") && shown.contains("mtu 1400"), "{shown}");
            assert!(!shown.contains("inet6"), "no IPv6, not even a link's own: {shown}");
            assert!(ip("route").contains("default via 10.200.0.1 dev eth0"));

            let gateway = Some("fdae::1".parse().expect("an address"));
            let address = "fdae::2".parse().expect("an address");
            config.ipv6 = Some(Config6 { address, prefix_len: 126, gateway });
            for _ in 0..2 {
                configure(&config).expect("configured, and again");
            }
            let shown = ip("-6 addr show dev eth0");
            assert!(shown.contains("fdae::2/126") && !shown.contains("tentative"), "usable at once: {shown}");
            assert_eq!(ip("-6 route show default").trim(), "default via fdae::1 dev eth0 metric 1024 pref medium");
            assert!(ip("route").contains("default via 10.200.0.1 dev eth0"));

            config.ipv6 = None;
            configure(&config).expect("configured");
            assert_eq!(ip("-6 addr show dev eth0"), "", "off again");
            config.interface = "eth7".into();
            assert_eq!(configure(&config).map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
        };
        std::thread::Builder::new().spawn(work).expect("a thread").join().expect("it holds");
    }

    #[test]
    fn names_are_checked() {
        assert!(named("eth0").is_ok());
        for wrong in ["", "a/b", "seventeen-letters"] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
    }
}

//! The sandbox's one interface: address, route, MTU, neighbours, by ioctl.
//! The address never changes while the sandbox lives, so nothing listens.
#![allow(unsafe_code, reason = "network ioctls; each block has a SAFETY note")]

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
}

/// How long the interface may take to appear.
const APPEARS: Duration = Duration::from_secs(5);

struct Socket(OwnedFd);

impl Socket {
    fn new() -> io::Result<Self> {
        Ok(Self(socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?))
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
    Socket::new()?.flags("lo", libc::IFF_UP | libc::IFF_RUNNING, 0)
}

/// From nothing or from an older configuration: taking the interface down
/// drops its routes and its neighbours.
pub fn configure(config: &Config) -> io::Result<()> {
    let socket = Socket::new()?;
    let name = config.interface.as_str();
    let path = format!("/sys/class/net/{name}");
    crate::boot::wait_for(APPEARS, || std::path::Path::new(&path).exists().then_some(()))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no interface {name}")))?;
    let mask = netmask(config.prefix_len)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "prefix_len is above 32"))?;
    socket.flags(name, 0, libc::IFF_UP)?;
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
    match config.gateway {
        Some(gateway) => default_route(&socket, gateway),
        None => Ok(()),
    }
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
    let socket = Socket::new()?;
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

    #[test]
    fn names_are_checked() {
        assert!(named("eth0").is_ok());
        for wrong in ["", "a/b", "seventeen-letters"] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
    }
}

//! The interface's IPv6: off, or one address and one gateway that the host
//! named. Never what the link offers (router advertisements): the sandbox's
//! address is the host's decision.

use super::{Socket, index};
use nix::libc;
use nix::sys::socket::AddressFamily;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config6 {
    pub address: Ipv6Addr,
    /// At most 128.
    pub prefix_len: u32,
    pub gateway: Option<Ipv6Addr>,
}

/// Metric of a route that names none, as the kernel's own tools set it.
const METRIC: u32 = 1024;

/// How long the kernel may take to use the address.
const USABLE: Duration = Duration::from_secs(2);

/// The kernel's in6_rtmsg, whose fields the libc crate keeps to itself.
#[repr(C)]
struct Route {
    to: libc::in6_addr,
    from: libc::in6_addr,
    gateway: libc::in6_addr,
    kind: u32,
    to_len: u16,
    from_len: u16,
    metric: u32,
    info: libc::c_ulong,
    flags: u32,
    index: libc::c_int,
}

/// While the interface is down, so that the kernel neither makes an address
/// of its own choice nor asks for routers when it comes up.
pub(super) fn prepare(interface: &str, wanted: bool) -> io::Result<()> {
    let folder = format!("/proc/sys/net/ipv6/conf/{interface}");
    if !Path::new(&folder).exists() {
        return if wanted { Err(io::Error::other("this kernel has no IPv6")) } else { Ok(()) };
    }
    let set = |key: &str, value: &str| {
        let told = |error: io::Error| io::Error::new(error.kind(), format!("set {key} of {interface}: {error}"));
        std::fs::write(format!("{folder}/{key}"), value).map_err(told)
    };
    if !wanted {
        return set("disable_ipv6", "1");
    }
    // Duplicates are looked for in vain on a link of two, and for a second
    // the address could not be used.
    for (key, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("accept_redirects", "0"), ("disable_ipv6", "0")] {
        set(key, value)?;
    }
    Ok(())
}

/// Once the interface is up.
pub(super) fn configure(interface: &str, config: &Config6) -> io::Result<()> {
    let socket = Socket::new(AddressFamily::Inet6)?;
    let index = index(&socket, interface)?;
    let request =
        libc::in6_ifreq { ifr6_addr: bytes(config.address), ifr6_prefixlen: config.prefix_len, ifr6_ifindex: index };
    // SAFETY: SIOCSIFADDR of an IPv6 socket takes a pointer to an in6_ifreq.
    let result = unsafe { libc::ioctl(socket.0.as_raw_fd(), libc::SIOCSIFADDR as _, &request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if let Some(gateway) = config.gateway {
        default_route(&socket, index, gateway)?;
    }
    // The kernel takes the address into use on a thread of its own.
    let usable = || std::net::UdpSocket::bind((config.address, 0)).ok();
    if crate::boot::wait_for(USABLE, usable).is_none() {
        crate::boot::say("the IPv6 address is not in use yet: the link is not ready");
    }
    Ok(())
}

fn default_route(socket: &Socket, index: i32, gateway: Ipv6Addr) -> io::Result<()> {
    let any = bytes(Ipv6Addr::UNSPECIFIED);
    let route = Route {
        to: any,
        from: any,
        gateway: bytes(gateway),
        kind: 0,
        to_len: 0,
        from_len: 0,
        metric: METRIC,
        info: 0,
        flags: u32::from(libc::RTF_UP) | u32::from(libc::RTF_GATEWAY),
        index,
    };
    // SAFETY: SIOCADDRT of an IPv6 socket takes a pointer to an in6_rtmsg,
    // whose layout `Route` has.
    let result = unsafe { libc::ioctl(socket.0.as_raw_fd(), libc::SIOCADDRT as _, &route) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn bytes(address: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr { s6_addr: address.octets() }
}

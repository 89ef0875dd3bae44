//! Forgets connections, so that a change of policy also ends what was
//! allowed before. One nfnetlink request each; the kernel does the choosing.

use super::NetworkError;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
};
use std::net::IpAddr;
use std::os::fd::AsRawFd;

// linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
const SUBSYS_CTNETLINK: u16 = 1;
const MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// Only the source address of the original direction is compared.
const FILTER_IP_SRC: u32 = 1;
const NESTED: u16 = 0x8000;
const REQUEST_ACK: u16 = 1 | 4;

/// All connections of the calling thread's namespace.
pub(crate) fn flush_all() -> Result<(), NetworkError> {
    request(libc::AF_UNSPEC, &[])
}

/// Those that `source` began, in the calling thread's namespace.
pub(crate) fn flush_from(source: IpAddr) -> Result<(), NetworkError> {
    let (family, address) = match source {
        IpAddr::V4(a) => (libc::AF_INET, attribute(CTA_IP_V4_SRC, &a.octets())),
        IpAddr::V6(a) => (libc::AF_INET6, attribute(CTA_IP_V6_SRC, &a.octets())),
    };
    let mut body = attribute(CTA_TUPLE_ORIG | NESTED, &attribute(CTA_TUPLE_IP | NESTED, &address));
    let flags = attribute(CTA_FILTER_ORIG_FLAGS, &FILTER_IP_SRC.to_ne_bytes());
    body.extend(attribute(CTA_FILTER | NESTED, &flags));
    request(family, &body)
}

fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + payload.len()).expect("attributes here are tens of bytes");
    let mut out = Vec::with_capacity(payload.len() + 8);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(payload);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn request(family: i32, body: &[u8]) -> Result<(), NetworkError> {
    match exchange(family, body) {
        // ENOENT: no connection matched.
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        Err(e) => Err(NetworkError::io("forget connections")(e.into())),
    }
}

fn exchange(family: i32, body: &[u8]) -> Result<(), nix::Error> {
    let mut message = Vec::with_capacity(20 + body.len());
    message.extend(u32::try_from(20 + body.len()).expect("requests here are tens of bytes").to_ne_bytes());
    message.extend(((SUBSYS_CTNETLINK << 8) | MSG_CT_DELETE).to_ne_bytes());
    message.extend(REQUEST_ACK.to_ne_bytes());
    message.extend(1u32.to_ne_bytes()); // sequence
    message.extend(0u32.to_ne_bytes()); // port: the kernel fills it in
    message.extend([u8::try_from(family).unwrap_or(0), 0, 0, 0]);
    message.extend(body);

    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    sendto(fd.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0u8; 1024];
    let n = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // nlmsghdr (16), then the error code of nlmsgerr; 0 is the acknowledgement.
    match answer.get(16..20).filter(|_| n >= 20) {
        Some(code) => match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
            0 => Ok(()),
            e => Err(nix::Error::from_raw(-e)),
        },
        None => Err(nix::Error::EPROTO),
    }
}

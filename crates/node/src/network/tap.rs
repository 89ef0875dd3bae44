//! The tap inside a slot's namespace. Persistent, so that a slot made in
//! advance has it with its rules bound; a claim only attaches a descriptor.

use super::NetworkError;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};

pub(crate) const TAP: &str = "tap0";

// linux/if_tun.h
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOWNER: libc::c_ulong = 0x4004_54cc;
const IFF_TAP: libc::c_short = 0x0002;
const IFF_NO_PI: libc::c_short = 0x1000;
const IFF_VNET_HDR: libc::c_short = 0x4000;

#[repr(C)]
struct IfReq {
    name: [libc::c_char; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// Makes the tap in the calling thread's namespace.
pub(crate) fn create(owner: u32) -> Result<(), NetworkError> {
    let file = attach_to(TAP).map_err(NetworkError::io("make the tap"))?;
    control(&file, TUNSETOWNER, libc::c_ulong::from(owner)).map_err(NetworkError::io("set the tap's owner"))?;
    control(&file, TUNSETPERSIST, 1).map_err(NetworkError::io("keep the tap"))
}

/// A descriptor on the tap of the calling thread's namespace.
pub(crate) fn attach(slot: u32) -> Result<OwnedFd, NetworkError> {
    match attach_to(TAP) {
        Ok(file) => Ok(file.into()),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Err(NetworkError::TapBusy { slot }),
        Err(e) => Err(NetworkError::io(format!("open the tap of slot {slot}"))(e)),
    }
}

#[allow(unsafe_code, reason = "the tun driver is spoken to by ioctl")]
fn attach_to(name: &str) -> std::io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = IfReq { name: [0; libc::IFNAMSIZ], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    for (to, from) in request.name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    // SAFETY: `request` has the size and layout of struct ifreq and outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(file) }
}

#[allow(unsafe_code, reason = "the tun driver is spoken to by ioctl")]
fn control(file: &File, request: libc::c_ulong, value: libc::c_ulong) -> std::io::Result<()> {
    // SAFETY: these requests take their argument by value and touch no memory of ours.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, value) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

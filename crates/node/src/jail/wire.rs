//! What the daemon and the verb say to each other: one packet down with the
//! plan and the descriptors, one or two packets up. End of file from below
//! means that the program has been executed.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Longer reasons are cut.
const MAX_REASON: usize = 2048;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// With the pidfd beside it.
    Started {
        pid: u32,
    },
    Failed(String),
}

impl Report {
    fn encode(&self) -> Vec<u8> {
        match self {
            Report::Started { pid } => [b"P".as_slice(), &pid.to_le_bytes()].concat(),
            Report::Failed(reason) => {
                let cut = &reason.as_bytes()[..reason.len().min(MAX_REASON)];
                [b"E".as_slice(), cut].concat()
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Report> {
        match bytes.split_first()? {
            (b'P', rest) => Some(Report::Started { pid: u32::from_le_bytes(rest.try_into().ok()?) }),
            (b'E', rest) => Some(Report::Failed(String::from_utf8_lossy(rest).into_owned())),
            _ => None,
        }
    }
}

/// Best effort: the daemon may be gone, and then nobody is there to be told.
pub(super) fn send(socket: BorrowedFd<'_>, report: &Report) {
    let _ = rustix::net::send(socket, &report.encode(), SendFlags::NOSIGNAL);
}

/// As [`send`], with a descriptor.
pub(super) fn send_with(socket: BorrowedFd<'_>, report: &Report, fd: BorrowedFd<'_>) {
    let _ = send_bytes_with(socket, &report.encode(), &[fd]);
}

/// Sends one packet with descriptors.
pub(super) fn send_bytes_with(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(fds.len()))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors for one packet"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], max_fds: usize) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(max_fds))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    Ok((message.bytes, fds))
}

/// The verb's side: the one packet that comes down.
pub(super) fn receive_fds(socket: BorrowedFd<'_>, max_fds: usize) -> io::Result<Vec<OwnedFd>> {
    let mut byte = [0u8; 1];
    Ok(receive(socket, &mut byte, max_fds)?.1)
}

/// The daemon's side; `None` at the end.
pub(super) fn receive_report(socket: BorrowedFd<'_>) -> io::Result<Option<(Report, Option<OwnedFd>)>> {
    let mut buffer = vec![0u8; MAX_REASON + 1];
    let (length, mut fds) = receive(socket, &mut buffer, 1)?;
    if length == 0 {
        return Ok(None);
    }
    match Report::decode(&buffer[..length]) {
        Some(report) => Ok(Some((report, fds.pop()))),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "unknown report")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_wire() {
        for report in [Report::Started { pid: 70_001 }, Report::Failed("no such file".into())] {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
        assert_eq!(Report::decode(b""), None);
        assert_eq!(Report::decode(b"P123"), None);
        assert_eq!(Report::decode(b"X"), None);
    }

    #[test]
    fn a_long_reason_is_cut() {
        assert_eq!(Report::Failed("x".repeat(10_000)).encode().len(), MAX_REASON + 1);
    }
}

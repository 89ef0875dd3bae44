//! Non-blocking I/O on a virtio-serial port (or a socket, in tests).
//!
//! A port whose host side is closed hangs up, and hang-up is sticky: tokio's
//! own registration would spin on it, even after the host is back. So the
//! port sits in a private epoll descriptor, edge-triggered, and tokio waits on
//! that one. The lane that reads is the one that waits; it wakes the writer.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use tokio::io::unix::AsyncFd;

/// Largest single write: what the driver takes into one buffer.
pub const WRITE: usize = 32 * 1024;

pub struct Port {
    file: File,
    edges: AsyncFd<Descriptor>,
    /// The session's writer, waiting for room.
    writer: Mutex<Option<Waker>>,
}

struct Descriptor(Epoll);

impl std::os::fd::AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.0.as_raw_fd()
    }
}

impl crate::sys::OwnsDescriptor for Descriptor {}

impl Port {
    /// Must be called on the runtime that will drive it.
    pub fn new(file: File) -> io::Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
        fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        epoll.add(file.as_fd(), EpollEvent::new(interest, 0))?;
        let edges = crate::sys::watch(Descriptor(epoll), tokio::io::Interest::READABLE)?;
        Ok(Self { file, edges, writer: Mutex::new(None) })
    }

    /// Until something changed on the port: bytes, room, the host's coming or
    /// going. Only the lane's task calls this.
    pub async fn edge(&self) -> io::Result<()> {
        let mut ready = self.edges.readable().await?;
        // In this order: what comes after the drain sets it again.
        ready.clear_ready();
        let mut events = [EpollEvent::empty(); 1];
        let _ = self.edges.get_ref().0.wait(&mut events, EpollTimeout::ZERO);
        if let Some(waker) = crate::lock(&self.writer).take() {
            waker.wake();
        }
        Ok(())
    }

    /// What is there now. 0: the host side is closed, perhaps for a moment.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        retry(|| (&self.file).read(buffer))
    }

    pub fn write_now(&self, data: &[u8]) -> io::Result<usize> {
        retry(|| (&self.file).write(&data[..data.len().min(WRITE)]))
    }

    /// For the session: its waker is called at the next edge.
    pub fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.write_now(data) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                *crate::lock(&self.writer) = Some(cx.waker().clone());
                Poll::Pending
            }
            result => Poll::Ready(result),
        }
    }

    /// For the lane's own answer to a hello.
    pub async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            match self.write_now(data) {
                Ok(count) => data = &data[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.edge().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

//! A connection's bytes: the place it takes for as long as it is open, also
//! as a WebSocket, and its end when the watch says so.

use super::connection::PeerSlot;
use super::watch::{Member, Watch};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::WaitForCancellationFutureOwned;

/// What a connection holds of the server's; given back when dropped.
pub(super) struct Place {
    pub(super) member: Member,
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) _slot: PeerSlot,
}

pub(super) struct Watched<S> {
    io: S,
    place: Place,
    cutting: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The last write could not go on.
    blocked: bool,
}

impl<S> Watched<S> {
    pub(super) fn new(io: S, place: Place) -> Self {
        let cutting = Box::pin(place.member.watch.cutting());
        Self { io, place, cutting, blocked: false }
    }

    pub(super) fn watch(&self) -> Arc<Watch> {
        self.place.member.watch.clone()
    }

    /// Whether it is cut; if not, the task is woken when it is.
    fn over(&mut self, cx: &mut Context<'_>) -> bool {
        self.place.member.watch.is_cut() || self.cutting.as_mut().poll(cx).is_ready()
    }

    fn wrote(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &polled {
            Poll::Ready(Ok(bytes)) if self.blocked => {
                self.blocked = false;
                self.place.member.watch.wrote(*bytes);
            }
            Poll::Ready(_) => {}
            Poll::Pending => {
                if !self.blocked {
                    self.blocked = true;
                    self.place.member.watch.blocked();
                }
                if self.over(cx) {
                    return Poll::Ready(Err(cut()));
                }
            }
        }
        polled
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "cut: too slow, or the place was needed")
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Before the read: who floods never lets it wait.
        if self.place.member.watch.is_cut() {
            return Poll::Ready(Err(cut()));
        }
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_pending() && self.over(cx) {
            return Poll::Ready(Err(cut()));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

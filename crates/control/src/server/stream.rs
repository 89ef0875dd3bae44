//! A connection's bytes: the place it takes for as long as it is open, also
//! as a WebSocket, and its end when the watch says so.

use super::connection::PeerSlot;
use super::watch::{Member, Watch};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// What a connection holds of the server's; given back when dropped.
pub(super) struct Place {
    pub(super) member: Member,
    pub(super) _slot: PeerSlot,
}

pub(super) struct Watched<S> {
    io: S,
    place: Place,
    cutting: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The last write could not go on.
    blocked: bool,
    /// Bytes read since there was nothing to read.
    read: usize,
    /// Bytes written since a write had to wait.
    written: usize,
}

/// Who always has more to say is heard for so many bytes, then everybody else
/// is: one connection's frames would otherwise hold a thread for as long as
/// they come.
pub(crate) const TURN: usize = 16 * 1024;
/// Who takes all that he is given gets so many bytes before others are served:
/// large answers to requests that came together would follow each other.
pub(crate) const TURN_OUT: usize = 64 * 1024;

impl<S> Watched<S> {
    pub(super) fn new(io: S, place: Place) -> Self {
        let cutting = Box::pin(place.member.watch.cutting());
        Self { io, place, cutting, blocked: false, read: 0, written: 0 }
    }

    pub(super) fn watch(&self) -> Arc<Watch> {
        self.place.member.watch.clone()
    }

    /// Whether it is cut; if not, the task is woken when it is.
    fn over(&mut self, cx: &mut Context<'_>) -> bool {
        self.place.member.watch.is_cut() || self.cutting.as_mut().poll(cx).is_ready()
    }

    /// Whether others are to be served before more is written; the task is
    /// woken again by itself.
    fn had_its_turn(&mut self, cx: &mut Context<'_>) -> bool {
        let over = self.written >= TURN_OUT;
        if over {
            self.written = 0;
            cx.waker().wake_by_ref();
        }
        over
    }

    fn wrote(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &polled {
            Poll::Ready(Ok(bytes)) => {
                self.written += bytes;
                if self.blocked {
                    self.blocked = false;
                    self.place.member.watch.wrote(*bytes);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                self.written = 0;
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
        if self.read >= TURN {
            self.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let had = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.read += buf.filled().len() - had;
        if polled.is_pending() {
            self.read = 0;
            if self.over(cx) {
                return Poll::Ready(Err(cut()));
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.had_its_turn(cx) {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.had_its_turn(cx) {
            return Poll::Pending;
        }
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

#[cfg(test)]
mod tests {
    use super::super::connection::{PeerKey, PerPeer};
    use super::super::watch::Crowd;
    use super::*;
    use crate::config::Limits;

    #[tokio::test]
    async fn who_floods_is_heard_in_turns() {
        let limits = Limits::default();
        let slot = PerPeer::default().take(PeerKey::User(1), 1).expect("room");
        let place = Place { member: Crowd::default().join(&limits, None), _slot: slot };
        let mut flood = Watched::new(tokio::io::repeat(7), place);
        let mut turns = 0;
        std::future::poll_fn(|cx| {
            let (mut read, mut bytes) = (0, [0; 4096]);
            loop {
                let mut buf = ReadBuf::new(&mut bytes);
                match Pin::new(&mut flood).poll_read(cx, &mut buf) {
                    Poll::Ready(done) => done.expect("bytes"),
                    Poll::Pending => break,
                }
                read += buf.filled().len();
                assert!(read <= 16 * 1024, "{read} bytes in one turn");
            }
            turns += 1;
            // Woken again by itself.
            if turns == 3 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    #[tokio::test]
    async fn who_takes_all_is_served_in_turns() {
        let limits = Limits::default();
        let slot = PerPeer::default().take(PeerKey::User(1), 1).expect("room");
        let place = Place { member: Crowd::default().join(&limits, None), _slot: slot };
        let watch = place.member.watch.clone();
        let mut taker = Watched::new(tokio::io::sink(), place);
        for turn in 0..4 {
            let mut written = 0;
            std::future::poll_fn(|cx| {
                let bytes = [0; 8192];
                let polled = match turn % 2 {
                    0 => Pin::new(&mut taker).poll_write(cx, &bytes),
                    _ => Pin::new(&mut taker).poll_write_vectored(cx, &[io::IoSlice::new(&bytes)]),
                };
                written += match polled {
                    Poll::Ready(done) => done.expect("written"),
                    // Woken again by itself: it does not wait for the peer.
                    Poll::Pending => return Poll::Ready(()),
                };
                assert!(written <= 64 * 1024, "{written} bytes in one turn");
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            assert_eq!(written, 64 * 1024);
        }
        watch.look(tokio::time::Instant::now() + 2 * limits.untaken_stream);
        assert!(!watch.is_cut(), "the peer keeps nothing waiting");
    }
}

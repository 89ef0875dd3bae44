//! One lane: looks for hellos in all that a port brings, and runs the HTTP/2
//! session that the latest one began.
//!
//! ```text
//! port ──bytes──► scanner ──► inbound queue ──► hyper ──► services
//!                    │hello: old session dropped, answer written, new session
//! ```
//!
//! The scanner must see every byte, so the lane never waits for the session:
//! a session that does not read is dropped when its queue passes what HTTP/2's
//! windows allow. Hang-up ends a session only after [`HUNG_UP`], because it
//! comes late and out of order.

use crate::port::{Port, WRITE};
use crate::{Guest, lock, service};
use aether_proto::channel::{self, Scanner};
use bytes::{Buf, BytesMut};
use hyper_util::rt::TokioIo;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Control,
    Data,
}

/// What ends a lane: a socket's end is final, a port's is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    Port,
    Socket,
}

/// A hang-up shorter than this is none.
const HUNG_UP: Duration = Duration::from_secs(2);
/// More than the connection window and its headers can be in flight.
const QUEUE_LIMIT: usize = channel::CONNECTION_WINDOW as usize + 1024 * 1024;
const STREAMS: u32 = 1024;

/// Serves until the medium ends (a socket) or for ever (a port).
pub async fn serve(guest: Arc<Guest>, port: Port, lane: Lane, medium: Medium) -> io::Result<()> {
    let port = Arc::new(port);
    let mut scanner = Scanner::new(*lock(&guest.token));
    let mut session: Option<Session> = None;
    let mut buffer = vec![0; 64 * 1024];
    let mut hung_since: Option<Instant> = None;
    loop {
        let count = match port.read_now(&mut buffer) {
            Ok(0) if medium == Medium::Socket => return Ok(()),
            Ok(0) => {
                hung_since.get_or_insert_with(Instant::now);
                0
            }
            Ok(count) => {
                hung_since = None;
                count
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                hung_since = None;
                0
            }
            Err(error) if medium == Medium::Socket => return Err(error),
            // A port does not fail for good; do not spin on it.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                0
            }
        };
        if count == 0 {
            match hung_since.filter(|_| session.is_some()) {
                Some(since) => {
                    if tokio::time::timeout_at(since + HUNG_UP, port.edge()).await.is_err() {
                        session = None;
                    }
                }
                None => port.edge().await?,
            }
            continue;
        }
        scanner.set_needle(*lock(&guest.token));
        let chunk = &buffer[..count];
        match scanner.feed(chunk) {
            Some(met) => {
                drop(session.take());
                port.write_all(&channel::answer(&met.nonce)).await?;
                let fresh = Session::start(&guest, &port, lane);
                fresh.feed(&chunk[met.rest..]);
                session = Some(fresh);
            }
            None => {
                if session.as_ref().is_some_and(|session| !session.feed(chunk)) {
                    session = None;
                }
            }
        }
    }
}

/// A running HTTP/2 session with all its tasks; dropping it ends them.
struct Session {
    inbound: Arc<Inbound>,
    tasks: Tasks,
}

impl Session {
    fn start(guest: &Arc<Guest>, port: &Arc<Port>, lane: Lane) -> Self {
        let inbound = Arc::new(Inbound::default());
        let tasks = Tasks::default();
        let io = TokioIo::new(SessionIo { inbound: inbound.clone(), port: port.clone(), gathered: BytesMut::new() });
        let mut builder = hyper::server::conn::http2::Builder::new(tasks.clone());
        builder
            .auto_date_header(false)
            .initial_stream_window_size(channel::STREAM_WINDOW)
            .initial_connection_window_size(channel::CONNECTION_WINDOW)
            .max_frame_size(channel::FRAME_SIZE)
            .max_header_list_size(channel::HEADER_LIST)
            .max_concurrent_streams(STREAMS);
        let connection = builder.serve_connection(io, service::routes(guest, lane));
        tasks.spawn(async move {
            let _ = connection.await;
        });
        Self { inbound, tasks }
    }

    fn feed(&self, bytes: &[u8]) -> bool {
        self.inbound.push(bytes)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        lock(&self.tasks.set).abort_all();
    }
}

/// hyper's executor: every task of a session, so that all of them end with
/// it and no reader of an old session stays attached.
#[derive(Clone, Default)]
struct Tasks {
    set: Arc<Mutex<JoinSet<()>>>,
}

impl Tasks {
    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let mut set = lock(&self.set);
        while set.try_join_next().is_some() {}
        set.spawn(future);
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.spawn(async move {
            future.await;
        });
    }
}

#[derive(Default)]
struct Inbound {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    chunks: VecDeque<bytes::Bytes>,
    length: usize,
    reader: Option<Waker>,
}

impl Inbound {
    /// False when the session has fallen too far behind.
    fn push(&self, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let mut queue = lock(&self.queue);
        if queue.length + bytes.len() > QUEUE_LIMIT {
            return false;
        }
        queue.length += bytes.len();
        queue.chunks.push_back(bytes::Bytes::copy_from_slice(bytes));
        if let Some(reader) = queue.reader.take() {
            reader.wake();
        }
        true
    }
}

struct SessionIo {
    inbound: Arc<Inbound>,
    port: Arc<Port>,
    /// One system call for many small frames.
    gathered: BytesMut,
}

impl AsyncRead for SessionIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut queue = lock(&self.inbound.queue);
        let mut moved = 0;
        while buf.remaining() > 0
            && let Some(chunk) = queue.chunks.front_mut()
        {
            let count = chunk.len().min(buf.remaining());
            buf.put_slice(&chunk[..count]);
            chunk.advance(count);
            moved += count;
            if chunk.is_empty() {
                queue.chunks.pop_front();
            }
        }
        queue.length -= moved;
        if moved == 0 {
            queue.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SessionIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.port.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        // The port takes one buffer per write; a lone one needs no copy.
        if let [only] = bufs {
            return this.port.poll_write(cx, only);
        }
        this.gathered.clear();
        for buf in bufs {
            let room = WRITE - this.gathered.len();
            this.gathered.extend_from_slice(&buf[..buf.len().min(room)]);
            if this.gathered.len() == WRITE {
                break;
            }
        }
        this.port.poll_write(cx, &this.gathered)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

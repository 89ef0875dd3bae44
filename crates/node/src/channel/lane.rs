//! One lane: a Unix socket, the handshake, HTTP/2, and again after a cut.

use super::ChannelError;
use crate::engine::ChannelToken;
use aether_proto::channel::{self, AnswerScanner};
use bytes::{Buf, Bytes};
use connectrpc::client::{BoxFuture, ClientBody, ClientTransport};
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rand::TryRngCore;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// First wait for an answer to a hello, doubled up to [`HELLO_WAIT_MAX`].
const HELLO_WAIT: Duration = Duration::from_millis(500);
const HELLO_WAIT_MAX: Duration = Duration::from_secs(8);
/// A socket that refuses for this long has no VMM behind it any more.
const REFUSED_LIMIT: Duration = Duration::from_secs(1);
/// Attempts without one message in between.
const FRUITLESS_LIMIT: u32 = 30;
const GOOD_LIFE: Duration = Duration::from_secs(10);
/// A guest that does not answer a ping for so long has lost the session.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const KEEP_ALIVE_LIMIT: Duration = Duration::from_secs(45);

/// The token in use, and the one that an identify under way will put in its
/// place: until its answer comes, nobody knows which of them the guest holds.
pub(super) struct Tokens {
    held: Mutex<Held>,
}

struct Held {
    current: ChannelToken,
    next: Option<ChannelToken>,
}

impl Tokens {
    pub(super) fn new(current: ChannelToken) -> Self {
        Self { held: Mutex::new(Held { current, next: None }) }
    }

    pub(super) fn current(&self) -> ChannelToken {
        self.held.lock().current.clone()
    }

    pub(super) fn propose(&self, next: ChannelToken) {
        self.held.lock().next = Some(next);
    }

    /// The guest is known to hold this one.
    pub(super) fn settle(&self, token: &ChannelToken) {
        let mut held = self.held.lock();
        if held.next.as_ref() == Some(token) {
            held.current = token.clone();
            held.next = None;
        }
    }

    fn pick(&self, attempt: u32) -> ChannelToken {
        let held = self.held.lock();
        match &held.next {
            Some(next) if attempt.is_multiple_of(2) => next.clone(),
            _ => held.current.clone(),
        }
    }
}

pub(super) struct Lane {
    name: &'static str,
    socket: PathBuf,
    tokens: Arc<Tokens>,
    closed: CancellationToken,
    /// Held while one caller connects: the others wait for its result.
    connecting: tokio::sync::Mutex<()>,
    live: Mutex<Option<Live>>,
}

struct Live {
    sender: http2::SendRequest<ClientBody>,
    _driver: AbortOnDropHandle<()>,
}

impl Lane {
    pub(super) fn new(
        name: &'static str,
        socket: PathBuf,
        tokens: Arc<Tokens>,
        closed: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self { name, socket, tokens, closed, connecting: tokio::sync::Mutex::new(()), live: Mutex::new(None) })
    }

    /// Drops the connection there is; the next call opens a new one.
    pub(super) fn reset(&self) {
        self.live.lock().take();
    }

    /// A call timed out. Cheap to doubt on the control lane; on the data lane
    /// the keep-alive decides, so that one slow call does not cut transfers.
    pub(super) fn suspect(&self) {
        if self.name == "control" {
            self.reset();
        }
    }

    fn current(&self) -> Option<http2::SendRequest<ClientBody>> {
        let mut live = self.live.lock();
        match live.as_ref() {
            Some(held) if !held.sender.is_closed() => Some(held.sender.clone()),
            Some(_) => {
                live.take();
                None
            }
            None => None,
        }
    }

    /// Connected, or the reason why not by `deadline`.
    pub(super) async fn ready(&self, deadline: Instant) -> Result<(), ChannelError> {
        self.sender(deadline).await.map(drop)
    }

    async fn sender(&self, deadline: Instant) -> Result<http2::SendRequest<ClientBody>, ChannelError> {
        let connect = async {
            if let Some(sender) = self.current() {
                return Ok(sender);
            }
            let _single = self.connecting.lock().await;
            if let Some(sender) = self.current() {
                return Ok(sender);
            }
            self.connect().await
        };
        tokio::select! {
            () = self.closed.cancelled() => Err(ChannelError::Gone),
            result = tokio::time::timeout_at(deadline, connect) => result.unwrap_or(Err(ChannelError::Timeout)),
        }
    }

    async fn connect(&self) -> Result<http2::SendRequest<ClientBody>, ChannelError> {
        let mut refused_since = None;
        let mut pause = Duration::from_millis(10);
        loop {
            match self.session().await {
                Ok(live) => {
                    let sender = live.sender.clone();
                    *self.live.lock() = Some(live);
                    return Ok(sender);
                }
                Err(error) => {
                    tracing::debug!(lane = self.name, %error, "the channel is not open yet");
                    let now = Instant::now();
                    let since = *refused_since.get_or_insert(now);
                    if now.duration_since(since) > REFUSED_LIMIT {
                        return Err(ChannelError::Gone);
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    async fn session(&self) -> std::io::Result<Live> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let rest = self.handshake(&mut stream).await?;
        let io = TokioIo::new(Rewound { rest, stream });
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(channel::STREAM_WINDOW)
            .initial_connection_window_size(channel::CONNECTION_WINDOW)
            .max_frame_size(channel::FRAME_SIZE)
            .max_header_list_size(channel::HEADER_LIST)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_LIMIT)
            .handshake::<_, ClientBody>(io)
            .await
            .map_err(std::io::Error::other)?;
        let name = self.name;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(lane = name, %error, "a channel session ended");
            }
        });
        Ok(Live { sender, _driver: AbortOnDropHandle::new(driver) })
    }

    /// Says hello until the guest answers the latest; answers what came after.
    async fn handshake(&self, stream: &mut UnixStream) -> std::io::Result<Bytes> {
        let mut wait = HELLO_WAIT;
        let mut chunk = vec![0; 64 * 1024];
        let mut scanner = AnswerScanner::new(fresh_nonce()?);
        for attempt in 0.. {
            let token = self.tokens.pick(attempt);
            let nonce = fresh_nonce()?;
            scanner.expect(nonce);
            let until = Instant::now() + wait;
            let hello = channel::hello(&token.0, &nonce);
            // A hello that is written in part only is met by the next.
            if let Ok(written) = tokio::time::timeout_at(until, stream.write_all(&hello)).await {
                written?;
            }
            while let Ok(read) = tokio::time::timeout_at(until, stream.read(&mut chunk)).await {
                let count = read?;
                if count == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                if let Some(rest) = scanner.feed(&chunk[..count]) {
                    self.tokens.settle(&token);
                    return Ok(Bytes::copy_from_slice(&chunk[rest..count]));
                }
            }
            wait = (wait * 2).min(HELLO_WAIT_MAX);
        }
        Err(std::io::ErrorKind::TimedOut.into())
    }
}

fn fresh_nonce() -> std::io::Result<[u8; channel::NONCE_LEN]> {
    let mut nonce = [0; channel::NONCE_LEN];
    rand::rngs::OsRng.try_fill_bytes(&mut nonce).map_err(std::io::Error::other)?;
    Ok(nonce)
}

/// What Connect clients and file requests send through.
#[derive(Clone)]
pub(super) struct Transport(pub(super) Arc<Lane>);

impl ClientTransport for Transport {
    type ResponseBody = GuestBody;
    type Error = ChannelError;

    fn send(&self, request: Request<ClientBody>) -> BoxFuture<'static, Result<Response<GuestBody>, ChannelError>> {
        let lane = self.0.clone();
        Box::pin(async move {
            // Callers bound the whole call; this bounds the connect alone.
            let mut sender = lane.sender(Instant::now() + Duration::from_secs(60)).await?;
            tokio::select! {
                () = lane.closed.cancelled() => Err(ChannelError::Gone),
                answer = sender.send_request(request) => answer.map(|answer| answer.map(GuestBody)).map_err(|error| {
                    tracing::debug!(lane = lane.name, %error, "a request was cut");
                    ChannelError::Gone
                }),
            }
        })
    }
}

/// A guest's answer as it comes. Its only error is a cut.
#[derive(Debug)]
pub struct GuestBody(Incoming);

impl Body for GuestBody {
    type Data = Bytes;
    type Error = CutError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutError>>> {
        Pin::new(&mut self.0).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(|_| CutError)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// The connection was cut under a body. Connect's client keeps only the text
/// of a body's error, so the text is one that no guest can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutError;

impl CutError {
    fn text() -> &'static str {
        static TEXT: LazyLock<String> = LazyLock::new(|| {
            let nonce = fresh_nonce().unwrap_or_default();
            format!("cut {}", data_encoding::HEXLOWER.encode(&nonce))
        });
        &TEXT
    }

    /// Whether a Connect error's message was made from this one.
    pub(super) fn made(message: &str) -> bool {
        message.ends_with(Self::text())
    }
}

impl std::fmt::Display for CutError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Self::text())
    }
}

impl std::error::Error for CutError {}

/// Pauses between attempts to go on with a stream, until it is given up: a
/// guest that cuts every one at once must not keep us busy for ever.
#[derive(Debug, Default)]
pub(super) struct Fruitless {
    count: u32,
    last: Option<Instant>,
}

impl Fruitless {
    pub(super) fn reset(&mut self) {
        self.count = 0;
    }

    pub(super) async fn pause(&mut self) -> Result<(), ChannelError> {
        // A stream that lived a while was a good one, even if it was silent.
        if self.last.is_some_and(|last| last.elapsed() > GOOD_LIFE) {
            self.count = 0;
        }
        if self.count >= FRUITLESS_LIMIT {
            return Err(ChannelError::Gone);
        }
        let pause = Duration::from_millis(20).saturating_mul(1 << self.count.min(6)).min(Duration::from_secs(1));
        self.count += 1;
        tokio::time::sleep(pause).await;
        self.last = Some(Instant::now());
        Ok(())
    }
}

/// The socket, with the bytes that came behind the handshake in front.
struct Rewound {
    rest: Bytes,
    stream: UnixStream,
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.rest.has_remaining() {
            let count = self.rest.len().min(buf.remaining());
            buf.put_slice(&self.rest.split_to(count));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

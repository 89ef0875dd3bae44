//! A guest that is not ours: it says hello as the protocol wants it, answers
//! every call with an empty message, and one of them with a lie.

use aether_node::channel::wire;
use aether_proto::channel::{self, HELLO_LEN, MESSAGE_SIZE, TOKEN_LEN};
use buffa::Message as _;
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// Before each lie: calls that are repeated after a cut do not spin.
const PAUSE: Duration = Duration::from_secs(1);
const PIECE: usize = 16 * 1024;

/// What an answer is instead of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Nothing, for ever.
    Silence,
    /// Its head, then nothing.
    Stall,
    /// A byte now and then, for ever.
    Trickle,
    /// One message, 16 times as large as any may be.
    Giant,
    /// One message that never ends.
    Endless,
    /// Good messages, as fast as they are taken.
    Flood,
    /// Something for a browser.
    WrongType,
    /// What is no message.
    Garbage,
    /// A good message, then what is none.
    GarbageAfter,
    /// Millions of elements of two bytes each.
    Swarm,
    /// A good message that says what cannot be.
    Absurd,
    /// A head larger than any may be.
    GiantHead,
    /// A refusal with a megabyte of reasons that move the reader's cursor.
    Refusal,
    /// An answer that breaks off, each time.
    Reset,
    /// A connection that breaks off, each time.
    Cut,
}

pub(super) const LIES: [Lie; 15] = [
    Lie::Silence,
    Lie::Stall,
    Lie::Trickle,
    Lie::Giant,
    Lie::Endless,
    Lie::Flood,
    Lie::WrongType,
    Lie::Garbage,
    Lie::GarbageAfter,
    Lie::Swarm,
    Lie::Absurd,
    Lie::GiantHead,
    Lie::Refusal,
    Lie::Reset,
    Lie::Cut,
];

/// Which call is lied to, and how.
pub(crate) struct Script {
    /// `Service/Method`.
    pub(crate) target: &'static str,
    pub(crate) lie: Lie,
    /// A good message, and what the next one of a flood is.
    pub(crate) good: fn(u64) -> Vec<u8>,
    pub(crate) absurd: Vec<u8>,
    /// Bytes of lies that the host has taken.
    pub(crate) taken: AtomicU64,
}

/// Serves both lanes until it is dropped.
pub(crate) struct Scripted {
    lanes: Vec<AbortHandle>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.lanes.iter().for_each(AbortHandle::abort);
    }
}

impl Scripted {
    pub(crate) fn start(dir: &Path, script: &Arc<Script>) -> Self {
        let lane = |name: &str| {
            let listener = UnixListener::bind(dir.join(name)).expect("bound");
            let script = script.clone();
            let serve = async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(session(stream, script.clone()));
                }
            };
            tokio::spawn(serve).abort_handle()
        };
        Self { lanes: vec![lane("control"), lane("data")] }
    }
}

/// Any token will do.
pub(super) async fn answer_hello(stream: &mut UnixStream) -> std::io::Result<()> {
    let mut hello = [0; HELLO_LEN];
    stream.read_exact(&mut hello).await?;
    let nonce = hello[TOKEN_LEN..].try_into().expect("its length");
    stream.write_all(&channel::answer(&nonce)).await
}

async fn session(mut stream: UnixStream, script: Arc<Script>) {
    if answer_hello(&mut stream).await.is_err() {
        return;
    }
    let cut = CancellationToken::new();
    let cutter = cut.clone();
    let service = service_fn(move |request| {
        let (script, cutter) = (script.clone(), cutter.clone());
        async move { Ok::<_, Infallible>(answer(request, script, cutter).await) }
    });
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_frame_size(channel::FRAME_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = served => {}
        () = cut.cancelled() => {}
    }
}

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;

async fn answer(request: Request<Incoming>, script: Arc<Script>, cut: CancellationToken) -> Response<Body> {
    let streaming = request.headers().get("content-type").is_some_and(|t| t == "application/connect+proto");
    if !request.uri().path().ends_with(script.target) {
        let well = request.uri().path().ends_with("Guest/Health");
        let health = wire::HealthResponse { healthy: true, identified: true, ..Default::default() };
        let answer = if well { health.encode_to_vec().into() } else { honest(streaming) };
        return reply(streaming, futures::stream::iter([answer]).boxed());
    }
    tokio::time::sleep(PAUSE).await;
    let lie = script.lie;
    match lie {
        Lie::Silence => std::future::pending().await,
        Lie::Cut => {
            cut.cancel();
            std::future::pending().await
        }
        _ => {}
    }
    let pieces = lies(lie, streaming, &script);
    let counted = pieces.inspect(move |piece| {
        script.taken.fetch_add(piece.len() as u64, Ordering::SeqCst);
    });
    let mut response = match lie {
        Lie::Reset => {
            let broken = futures::stream::iter([Err(std::io::ErrorKind::BrokenPipe.into())]);
            framed(streaming, counted.map(Ok).chain(broken).boxed())
        }
        _ => reply(streaming, counted.boxed()),
    };
    match lie {
        Lie::WrongType => {
            let html = http::HeaderValue::from_static("text/html");
            drop(response.headers_mut().insert("content-type", html));
        }
        Lie::GiantHead => {
            let long = http::HeaderValue::from_str(&"x".repeat(100_000)).expect("plain");
            drop(response.headers_mut().insert("x-long", long));
        }
        Lie::Refusal if !streaming => {
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            drop(response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json")));
        }
        _ => {}
    }
    response
}

fn reply(streaming: bool, pieces: BoxStream<'static, Bytes>) -> Response<Body> {
    framed(streaming, pieces.map(Ok).boxed())
}

fn framed(streaming: bool, pieces: BoxStream<'static, Result<Bytes, std::io::Error>>) -> Response<Body> {
    let kind = if streaming { "application/connect+proto" } else { "application/proto" };
    let frames = pieces.map(|piece| piece.map(Frame::data)).boxed();
    Response::builder().header("content-type", kind).body(StreamBody::new(frames)).expect("a response")
}

fn honest(streaming: bool) -> Bytes {
    if streaming { envelope(2, b"{}") } else { Bytes::new() }
}

/// A Connect message in a stream; 2 marks the end.
fn envelope(flags: u8, message: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(flags);
    out.put_u32(u32::try_from(message.len()).expect("short"));
    out.put_slice(message);
    out.freeze()
}

fn lies(lie: Lie, streaming: bool, script: &Script) -> BoxStream<'static, Bytes> {
    let wrap = move |message: &[u8]| if streaming { envelope(0, message) } else { Bytes::copy_from_slice(message) };
    let never = futures::stream::pending();
    let once = |piece: Bytes| futures::stream::iter([piece]);
    let good = script.good;
    // Field 15, of bytes: nobody knows it.
    let claim = |length: u32| {
        let mut head = BytesMut::new();
        if streaming {
            head.put_u8(0);
            head.put_u32(length);
        }
        head.put_slice(&[0x7a, 0xff, 0xff, 0xff, 0x7f]);
        head.freeze()
    };
    let zeros = Bytes::from(vec![0; PIECE]);
    match lie {
        Lie::Silence | Lie::Cut | Lie::Stall => never.boxed(),
        Lie::Trickle => once(claim(1 << 20))
            .chain(futures::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Some((Bytes::from_static(b"\0"), ()))
            }))
            .boxed(),
        Lie::Giant => {
            let length = 16 * MESSAGE_SIZE;
            let pieces = futures::stream::iter(vec![zeros; length / PIECE]);
            once(claim(u32::try_from(length).expect("fits"))).chain(pieces).boxed()
        }
        Lie::Endless => once(claim(u32::MAX)).chain(futures::stream::repeat(zeros)).boxed(),
        // Field 15 again and again, which is one message.
        Lie::Flood if !streaming => futures::stream::repeat(Bytes::from([0x78, 0].repeat(PIECE / 2))).boxed(),
        Lie::Flood => futures::stream::iter(1..).map(move |n| wrap(&good(n))).boxed(),
        Lie::WrongType => once(Bytes::from_static(b"<html>hello</html>")).chain(never).boxed(),
        Lie::Garbage => once(wrap(&[0xff; 64])).boxed(),
        Lie::GarbageAfter if streaming => once(wrap(&good(1))).chain(once(Bytes::from_static(&[0xff; 64]))).boxed(),
        Lie::GarbageAfter => once([good(1).as_slice(), &[0xff; 64]].concat().into()).boxed(),
        // Elements of field 1, each empty.
        Lie::Swarm => once(wrap(&[0x0a, 0x00].repeat(MESSAGE_SIZE / 2 - 8))).boxed(),
        Lie::Absurd if streaming => once(wrap(&script.absurd)).chain(never).boxed(),
        Lie::Absurd => once(wrap(&script.absurd)).boxed(),
        Lie::GiantHead => once(honest(streaming)).boxed(),
        Lie::Refusal => {
            let text = "\\u001b[2J".repeat(110_000);
            if streaming {
                let end = format!("{{\"error\":{{\"code\":\"internal\",\"message\":\"{text}\"}}}}");
                once(envelope(2, end.as_bytes())).boxed()
            } else {
                once(format!("{{\"code\":\"internal\",\"message\":\"{text}\"}}").into()).boxed()
            }
        }
        Lie::Reset => once(claim(1000)).boxed(),
    }
}

//! Accepting, on a thread of its own: what is asked of the others must not
//! hold up who comes, for whom the kernel keeps a short queue and then makes
//! him wait for seconds.

use super::connection::{Conn, PeerKey, PeerSlot, first_step};
use super::stream::Watched;
use super::{ApiListeners, LiveTls};
use crate::auth::{Peer, PeerUser};
use socket2::SockRef;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;

/// Bytes of answers that the kernel takes before the peer has room for them:
/// it would take megabytes for each that reads nothing.
pub(crate) const UNSENT_MOST: u32 = 128 * 1024;
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
const BACKOFF_MOST: Duration = Duration::from_secs(1);

/// Until the drain begins; then the receiver is told.
#[allow(clippy::disallowed_methods, reason = "its own thread is the point")]
pub(super) fn on_a_thread(listeners: ApiListeners, tls: LiveTls, conn: Conn) -> io::Result<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    let server = Handle::current();
    // They were registered with the server's runtime.
    let tcp = listeners.tcp.into_iter().map(TcpListener::into_std).collect::<io::Result<Vec<_>>>()?;
    let unix = listeners.unix.into_iter().map(UnixListener::into_std).collect::<io::Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut loops = tokio::task::JoinSet::new();
    {
        let _here = runtime.enter();
        for listener in tcp {
            loops.spawn(accept_tcp(TcpListener::from_std(listener)?, tls.clone(), conn.clone(), server.clone()));
        }
        for listener in unix {
            loops.spawn(accept_unix(UnixListener::from_std(listener)?, conn.clone(), server.clone()));
        }
    }
    let work = move || {
        runtime.block_on(async { while loops.join_next().await.is_some() {} });
        let _ = ended.send(());
    };
    std::thread::Builder::new().name("accept".to_owned()).spawn(work)?;
    Ok(end)
}

async fn accept_tcp(listener: TcpListener, tls: LiveTls, conn: Conn, server: Handle) {
    let admit = |(stream, address): (TcpStream, std::net::SocketAddr)| {
        let Some(slot) = conn.slot_of(PeerKey::of_address(address.ip())) else {
            tracing::debug!(peer = %address.ip(), "too many connections from one address");
            return None;
        };
        tune(&stream);
        let stream = handed_over(&server, stream.into_std(), TcpStream::from_std)?;
        Some((slot, stream, Peer::Tcp(address)))
    };
    let serve = |conn: Conn, stream: Watched<TcpStream>, peer: Peer| {
        let tls = tls.get();
        let watch = stream.watch();
        async move {
            match tls.as_ref() {
                None => conn.serve(stream, watch, peer).await,
                Some(tls) => match tokio::time::timeout(conn.header_timeout(), tls.accept(stream)).await {
                    Ok(Ok(stream)) => conn.serve(stream, watch, peer).await,
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                    Err(_) => tracing::debug!("TLS handshake took too long"),
                },
            }
        }
    };
    accept_loop(&conn, &server, || listener.accept(), admit, serve).await;
}

/// What fails here costs speed or memory, not correctness.
fn tune(stream: &TcpStream) {
    // Small answers must not wait for more to come.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_MOST);
}

async fn accept_unix(listener: UnixListener, conn: Conn, server: Handle) {
    let admit = |(stream, _): (UnixStream, _)| {
        let peer = match stream.peer_cred() {
            Ok(cred) => PeerUser { uid: cred.uid(), gid: cred.gid() },
            Err(error) => {
                tracing::warn!(%error, "a local connection without peer credentials was refused");
                return None;
            }
        };
        let Some(slot) = conn.slot_of(PeerKey::User(peer.uid)) else {
            tracing::debug!(uid = peer.uid, "too many connections from one local user");
            return None;
        };
        let stream = handed_over(&server, stream.into_std(), UnixStream::from_std)?;
        Some((slot, stream, Peer::Unix(peer)))
    };
    let serve = |conn: Conn, stream: Watched<UnixStream>, peer: Peer| async move {
        let watch = stream.watch();
        conn.serve(stream, watch, peer).await;
    };
    accept_loop(&conn, &server, || listener.accept(), admit, serve).await;
}

/// Its bytes move on the server's threads.
fn handed_over<S, T>(server: &Handle, stream: io::Result<S>, take: impl Fn(S) -> io::Result<T>) -> Option<T> {
    let _there = server.enter();
    stream.and_then(take).inspect_err(|error| tracing::warn!(%error, "a connection could not be taken over")).ok()
}

/// Waits here, on this thread, until few of the same peer's connections are
/// still to take their first step: the server's threads take what they are
/// given in order, whoever it is for.
async fn begin<F>(turns: Arc<Semaphore>, tracker: TaskTracker, serving: Pin<Box<F>>, server: Handle)
where
    F: Future<Output = ()> + Send + 'static,
{
    let turn = turns.acquire_owned().await.ok();
    tracker.spawn_on(first_step(turn, serving), &server);
}

/// Each accepted connection waits for its place; errors (out of descriptors,
/// mostly) back off instead of spinning.
async fn accept_loop<T, S, A, F>(
    conn: &Conn,
    server: &Handle,
    accept: impl Fn() -> A,
    admit: impl Fn(T) -> Option<(PeerSlot, S, Peer)>,
    serve: impl Fn(Conn, Watched<S>, Peer) -> F,
) where
    A: Future<Output = io::Result<T>>,
    F: Future<Output = ()> + Send + 'static,
{
    let mut backoff = BACKOFF_FIRST;
    loop {
        let accepted = tokio::select! {
            () = conn.drain.cancelled() => return,
            accepted = accept() => accepted,
        };
        match accepted {
            Ok(accepted) => {
                backoff = BACKOFF_FIRST;
                let Some((slot, stream, peer)) = admit(accepted) else { continue };
                let permit = tokio::select! {
                    () = conn.drain.cancelled() => return,
                    permit = conn.room() => permit,
                };
                let turns = slot.turns.clone();
                let stream = Watched::new(stream, conn.place(slot, permit));
                conn.tracker.spawn(begin(
                    turns,
                    conn.tracker.clone(),
                    // It is large; each task on its way would have room for it.
                    Box::pin(serve(conn.clone(), stream, peer)),
                    server.clone(),
                ));
            }
            Err(error) => {
                tracing::warn!(%error, backoff_ms = backoff.as_millis() as u64, "accepting a connection failed");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MOST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn the_kernel_takes_little_for_a_peer_that_reads_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("address");
        let socket = tokio::net::TcpSocket::new_v4().expect("socket");
        socket.set_recv_buffer_size(4096).expect("small");
        let _peer = socket.connect(address).await.expect("connects");
        let (mut stream, _) = listener.accept().await.expect("accepted");
        tune(&stream);
        let (mut taken, piece) = (0, [0; 16 * 1024]);
        while let Ok(Ok(bytes)) = tokio::time::timeout(Duration::from_millis(300), stream.write(&piece)).await {
            taken += bytes;
        }
        assert!(taken < 4 * UNSENT_MOST as usize, "{taken} bytes");
    }
}

//! Our own accept loop: header time-out with a timer that really runs, limits
//! on HTTP/2, connections in all and per peer, peers that take no answer,
//! back-off when accepting fails, and a drain at the end. `axum::serve` has
//! none of these.

mod answer;
mod connection;
mod places;
mod stream;
mod tls;
mod watch;

#[cfg(test)]
pub(crate) use connection::REQUESTS_TO_A_CONNECTION;
pub(crate) use places::Places;
pub use tls::TlsError;
pub(crate) use tls::acceptor as tls_acceptor;

use crate::app::App;
use crate::auth::{Peer, PeerUser};
use aether_core::Live;
use axum::Router;
use connection::{Conn, PeerKey, PeerSlot, PerPeer};
use std::future::Future;
use std::io;
use std::time::Duration;
use stream::Watched;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use watch::Crowd;

/// Bound listeners; the CLI binds them, so that a port in use is its error.
#[derive(Debug, Default)]
pub struct ApiListeners {
    pub tcp: Vec<TcpListener>,
    pub unix: Vec<UnixListener>,
}

/// How long an answer may lie untaken: an extension of each answer whose
/// route streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Patience {
    #[default]
    Answer,
    Stream,
}

/// An extension of a request that comes while too many are at work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowded;

/// The certificate in force; none: plain HTTP.
pub(crate) type LiveTls = Live<Option<TlsAcceptor>>;

const BACKOFF_FIRST: Duration = Duration::from_millis(5);
const BACKOFF_MOST: Duration = Duration::from_secs(1);

/// Serves until `shutdown`, then drains.
pub(crate) async fn serve(
    listeners: ApiListeners,
    tls: LiveTls,
    places: Places,
    router: Router,
    app: &App,
    shutdown: CancellationToken,
) {
    let abort = CancellationToken::new();
    let connections = TaskTracker::new();
    let conn = Conn {
        router,
        cfg: app.live_cfg().clone(),
        drain: shutdown.clone(),
        abort: abort.clone(),
        places,
        per_peer: PerPeer::default(),
        requests: PerPeer::default(),
        crowd: Crowd::default(),
        tracker: connections.clone(),
    };
    let looking = tokio::spawn(conn.crowd.clone().look_after());
    let mut loops = tokio::task::JoinSet::new();
    for listener in listeners.tcp {
        loops.spawn(accept_tcp(listener, tls.clone(), conn.clone()));
    }
    for listener in listeners.unix {
        loops.spawn(accept_unix(listener, conn.clone()));
    }
    // Without a listener there is still the scheduler to run.
    shutdown.cancelled().await;
    while loops.join_next().await.is_some() {}
    connections.close();
    app.tasks.close();
    let ended = async {
        connections.wait().await;
        app.tasks.wait().await;
    };
    if tokio::time::timeout(app.cfg().deadlines.drain, ended).await.is_err() {
        tracing::warn!(connections = connections.len(), tasks = app.tasks.len(), "cut off at the end of the drain");
    }
    abort.cancel();
    connections.wait().await;
    looking.abort();
}

async fn accept_tcp(listener: TcpListener, tls: LiveTls, conn: Conn) {
    let admit = |(stream, address): (TcpStream, std::net::SocketAddr)| {
        let Some(slot) = conn.slot_of(PeerKey::of_address(address.ip())) else {
            tracing::debug!(peer = %address.ip(), "too many connections from one address");
            return None;
        };
        // Small answers must not wait for more to come.
        let _ = stream.set_nodelay(true);
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
    accept_loop(&conn, || listener.accept(), admit, serve).await;
}

async fn accept_unix(listener: UnixListener, conn: Conn) {
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
        Some((slot, stream, Peer::Unix(peer)))
    };
    let serve = |conn: Conn, stream: Watched<UnixStream>, peer: Peer| async move {
        let watch = stream.watch();
        conn.serve(stream, watch, peer).await;
    };
    accept_loop(&conn, || listener.accept(), admit, serve).await;
}

/// Each accepted connection waits for its place; errors (out of descriptors,
/// mostly) back off instead of spinning.
async fn accept_loop<T, S, A, F>(
    conn: &Conn,
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
                let stream = Watched::new(stream, conn.place(slot, permit));
                conn.tracker.spawn(serve(conn.clone(), stream, peer));
            }
            Err(error) => {
                tracing::warn!(%error, backoff_ms = backoff.as_millis() as u64, "accepting a connection failed");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MOST);
            }
        }
    }
}

//! Our own accept loop: header time-out with a timer that really runs, limits
//! on HTTP/2, connections in all and per peer, back-off when accepting
//! fails, and a drain at the end. `axum::serve` has none of these.

mod connection;
mod places;
mod tls;

pub(crate) use places::Places;
pub use tls::TlsError;
pub(crate) use tls::acceptor as tls_acceptor;

use crate::app::App;
use crate::auth::{Peer, PeerUser};
use aether_core::Live;
use axum::Router;
use connection::{Conn, PeerKey, PerPeer};
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bound listeners; the CLI binds them, so that a port in use is its error.
#[derive(Debug, Default)]
pub struct ApiListeners {
    pub tcp: Vec<TcpListener>,
    pub unix: Vec<UnixListener>,
}

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
        tracker: connections.clone(),
    };
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
}

async fn accept_tcp(listener: TcpListener, tls: LiveTls, conn: Conn) {
    accept_loop(
        &conn.clone(),
        || listener.accept(),
        |(stream, address)| {
            let Some(slot) = conn.place_of(PeerKey::of_address(address.ip())) else {
                tracing::debug!(peer = %address.ip(), "too many connections from one address");
                return None;
            };
            // Small answers must not wait for more to come.
            let _ = stream.set_nodelay(true);
            let (conn, tls) = (conn.clone(), tls.get());
            Some(async move {
                let _slot = slot;
                match tls.as_ref() {
                    None => conn.serve(stream, Peer::Tcp(address)).await,
                    Some(tls) => match tokio::time::timeout(conn.header_timeout(), tls.accept(stream)).await {
                        Ok(Ok(stream)) => conn.serve(stream, Peer::Tcp(address)).await,
                        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                        Err(_) => tracing::debug!("TLS handshake took too long"),
                    },
                }
            })
        },
    )
    .await;
}

async fn accept_unix(listener: UnixListener, conn: Conn) {
    accept_loop(
        &conn.clone(),
        || listener.accept(),
        |(stream, _)| {
            let peer = match stream.peer_cred() {
                Ok(cred) => PeerUser { uid: cred.uid(), gid: cred.gid() },
                Err(error) => {
                    tracing::warn!(%error, "a local connection without peer credentials was refused");
                    return None;
                }
            };
            let Some(slot) = conn.place_of(PeerKey::User(peer.uid)) else {
                tracing::debug!(uid = peer.uid, "too many connections from one local user");
                return None;
            };
            let conn = conn.clone();
            Some(async move {
                let _slot = slot;
                conn.serve(stream, Peer::Unix(peer)).await;
            })
        },
    )
    .await;
}

/// Accepts while there is a permit; errors (out of descriptors, mostly) back
/// off instead of spinning.
async fn accept_loop<S, A, F>(conn: &Conn, accept: impl Fn() -> A, handle: impl Fn(S) -> Option<F>)
where
    A: Future<Output = io::Result<S>>,
    F: Future<Output = ()> + Send + 'static,
{
    let mut backoff = BACKOFF_FIRST;
    loop {
        let permit = tokio::select! {
            () = conn.drain.cancelled() => return,
            permit = conn.places.take() => permit,
        };
        let accepted = tokio::select! {
            () = conn.drain.cancelled() => return,
            accepted = accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                backoff = BACKOFF_FIRST;
                if let Some(work) = handle(stream) {
                    conn.tracker.spawn(async move {
                        work.await;
                        drop(permit);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, backoff_ms = backoff.as_millis() as u64, "accepting a connection failed");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MOST);
            }
        }
    }
}

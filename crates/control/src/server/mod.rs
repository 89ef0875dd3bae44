//! Our own accept loop: header time-out with a timer that really runs, limits
//! on HTTP/2, connections in all and per peer, peers that take no answer,
//! back-off when accepting fails, and a drain at the end. `axum::serve` has
//! none of these.

mod accept;
mod answer;
mod authority;
mod connection;
mod places;
mod renewal;
mod stream;
mod tls;
mod watch;

#[cfg(test)]
pub(crate) use accept::UNSENT_MOST;
pub(crate) use connection::PeerKey;
#[cfg(test)]
pub(crate) use connection::REQUESTS_TO_A_CONNECTION;
pub(crate) use places::Places;
pub(crate) use renewal::keep as keep_certificate;
#[cfg(test)]
pub(crate) use stream::{TURN, TURN_OUT};
pub use tls::TlsError;
pub(crate) use tls::acceptor as tls_acceptor;

use crate::app::App;
use aether_core::Live;
use axum::Router;
use connection::{Conn, PerPeer};
use std::io;
use tokio::net::{TcpListener, UnixListener};
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

/// Serves until `shutdown`, then drains.
pub(crate) async fn serve(
    listeners: ApiListeners,
    tls: LiveTls,
    places: Places,
    router: Router,
    app: &App,
    shutdown: CancellationToken,
) -> io::Result<()> {
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
    let accepted = accept::on_a_thread(listeners, tls, conn)?;
    // Without a listener there is still the scheduler to run.
    shutdown.cancelled().await;
    // An error: it is gone already.
    let _ = accepted.await;
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
    Ok(())
}

//! One connection: HTTP/1 or HTTP/2, whichever the peer begins.

use super::answer::Followed;
use super::places::Places;
use super::stream::Place;
use super::watch::{Crowd, Watch};
use super::{Crowded, Patience};
use crate::auth::Peer;
use crate::config::{ControlConfig, Limits};
use aether_core::Live;
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZero;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// What each connection needs; cheap to clone.
#[derive(Clone)]
pub(super) struct Conn {
    pub(super) router: Router,
    /// Each connection lives by the settings of its beginning.
    pub(super) cfg: Live<ControlConfig>,
    /// Finish the running requests, take no new ones.
    pub(super) drain: CancellationToken,
    /// End now.
    pub(super) abort: CancellationToken,
    pub(super) places: Places,
    pub(super) per_peer: PerPeer,
    /// HTTP/2 has many to a connection.
    pub(super) requests: PerPeer,
    pub(super) crowd: Crowd,
    pub(super) tracker: TaskTracker,
}

/// HTTP/2: a dead peer is noticed after one interval and one time-out.
const H2_PING: Duration = Duration::from_secs(20);
/// Bytes one upload may have in flight; the default 64 KiB halves throughput
/// of large files over a real network.
const H2_STREAM_WINDOW: u32 = 1 << 20;
const H2_CONNECTION_WINDOW: u32 = 4 << 20;
const H1_MAX_HEADERS: usize = 100;
/// The same number bounds a peer's connections and its requests; in all there
/// may be more requests, since most of them are short.
pub(crate) const REQUESTS_TO_A_CONNECTION: usize = 4;
/// So often another connection at rest is looked for when there is no place.
const ROOM_EVERY: Duration = Duration::from_millis(100);

impl Conn {
    pub(super) fn header_timeout(&self) -> Duration {
        self.cfg.get().limits.header_timeout
    }

    /// `None`: this peer has as many connections as it may.
    pub(super) fn slot_of(&self, peer: PeerKey) -> Option<PeerSlot> {
        self.per_peer.take(peer, self.cfg.get().limits.max_connections_per_peer)
    }

    /// `None`: too many requests are at work, of this peer or in all.
    fn request_of(&self, peer: PeerKey) -> Option<PeerSlot> {
        let cfg = self.cfg.get();
        let in_all = cfg.limits.max_connections.saturating_mul(REQUESTS_TO_A_CONNECTION);
        self.requests.take(peer, cfg.limits.max_connections_per_peer).filter(|_| self.requests.in_all() <= in_all)
    }

    /// Waits for a place. Who comes is served before who begins nothing.
    pub(super) async fn room(&self) -> OwnedSemaphorePermit {
        loop {
            if let Some(permit) = self.places.try_take() {
                return permit;
            }
            self.crowd.make_room();
            if let Ok(permit) = tokio::time::timeout(ROOM_EVERY, self.places.take()).await {
                return permit;
            }
        }
    }

    pub(super) fn place(&self, slot: PeerSlot, permit: OwnedSemaphorePermit) -> Place {
        Place { member: self.crowd.join(&self.cfg.get().limits, Some(permit)), _slot: slot }
    }

    pub(super) async fn serve(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        watch: Arc<Watch>,
        peer: Peer,
    ) {
        watch.restart();
        let (conn, watching) = (self.clone(), watch.clone());
        let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
            let busy = watching.busy();
            let watch = watching.clone();
            let slot = conn.request_of(PeerKey::of(&peer));
            if slot.is_none() {
                request.extensions_mut().insert(Crowded);
            }
            request.extensions_mut().insert(peer.clone());
            // Apart: its room is given back while the answer lies.
            let answer = Box::pin(conn.router.clone().oneshot(request.map(Body::new)));
            let turns = slot.as_ref().map(|slot| slot.turns.clone());
            async move {
                let answer = followed(&watch, in_turn(turns, answer).await?);
                drop((busy, slot));
                Ok::<_, Infallible>(answer)
            }
        });
        let limits = self.cfg.get().limits.clone();
        let builder = builder(&limits);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
        tokio::pin!(connection);
        // hyper's own header time-out begins only once it knows the protocol
        // version; a peer that sends nothing, or half a preface, is cut here.
        let first = tokio::time::sleep(limits.header_timeout);
        tokio::pin!(first);
        let (mut first_over, mut parting) = (false, false);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = first.as_mut(), if !first_over => {
                    first_over = true;
                    if !watch.asked() {
                        tracing::debug!("no request in time");
                        return;
                    }
                }
                () = self.drain.cancelled(), if !parting => {
                    parting = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = watch.retire.cancelled(), if !parting => {
                    parting = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.abort.cancelled() => return,
            }
        }
    }
}

/// Only so many of a peer's connections and requests take their first step at
/// a time: all that one peer may begin at once would stand in line before
/// anybody else's next step.
///
/// `Unpin`, so mostly boxed: each of these functions would make room for it
/// again, and once more to pin it.
async fn in_turn<T>(turns: Option<Arc<Semaphore>>, work: impl Future<Output = T> + Unpin) -> T {
    let turn = match turns {
        Some(turns) => turns.acquire_owned().await.ok(),
        None => None,
    };
    first_step(turn, work).await
}

/// Gives the turn back after the first step.
pub(super) async fn first_step<T>(
    mut turn: Option<OwnedSemaphorePermit>,
    mut work: impl Future<Output = T> + Unpin,
) -> T {
    std::future::poll_fn(|cx| {
        let polled = Pin::new(&mut work).poll(cx);
        drop(turn.take());
        polled
    })
    .await
}

/// The answer, followed until it is taken.
fn followed(watch: &Arc<Watch>, mut answer: http::Response<Body>) -> http::Response<Followed> {
    let patience = answer.extensions_mut().remove::<Patience>().unwrap_or_default();
    if answer.status() == http::StatusCode::SWITCHING_PROTOCOLS {
        watch.upgraded();
    }
    // HTTP/2 would keep a connection whose peer holds its bodies back.
    if answer.status() == http::StatusCode::REQUEST_TIMEOUT {
        watch.part();
    }
    let ticket = watch.answer(patience);
    answer.map(|body| Followed::new(body, ticket))
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(H1_MAX_HEADERS)
        .max_buf_size(limits.header_bytes as usize)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams)
        .max_pending_accept_reset_streams(limits.h2_pending_resets)
        .max_header_list_size(limits.header_bytes)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PING);
    builder
}

/// Who a connection is counted for. An IPv6 peer has its whole /64; on the
/// local socket the user counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PeerKey {
    Address(IpAddr),
    User(u32),
}

impl PeerKey {
    pub(crate) fn of(peer: &Peer) -> Self {
        match peer {
            Peer::Tcp(address) => Self::of_address(address.ip()),
            Peer::Unix(user) => Self::User(user.uid),
        }
    }

    pub(super) fn of_address(address: IpAddr) -> Self {
        match address {
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => Self::Address(v4.into()),
                None => Self::Address(Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64)).into()),
            },
            v4 => Self::Address(v4),
        }
    }
}

/// Connections, or requests, by peer, so that one stranger cannot take all.
#[derive(Clone, Default)]
pub(super) struct PerPeer {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    of: BTreeMap<PeerKey, OnePeer>,
    in_all: usize,
}

struct OnePeer {
    count: usize,
    turns: Arc<Semaphore>,
}

impl Default for OnePeer {
    fn default() -> Self {
        Self { count: 0, turns: Arc::new(Semaphore::new(*TURNS)) }
    }
}

/// As many as there are threads to take them, and as many behind those.
static TURNS: LazyLock<usize> = LazyLock::new(|| 2 * std::thread::available_parallelism().map_or(2, NonZero::get));

/// Gives its place back when dropped.
pub(super) struct PeerSlot {
    peer: PeerKey,
    pub(super) turns: Arc<Semaphore>,
    counts: Arc<Mutex<Counts>>,
}

impl PerPeer {
    pub(super) fn take(&self, peer: PeerKey, most: usize) -> Option<PeerSlot> {
        let mut counts = self.counts.lock();
        let one = counts.of.entry(peer).or_default();
        if one.count >= most {
            return None;
        }
        one.count += 1;
        let turns = one.turns.clone();
        counts.in_all += 1;
        Some(PeerSlot { peer, turns, counts: self.counts.clone() })
    }

    fn in_all(&self) -> usize {
        self.counts.lock().in_all
    }
}

impl Drop for PeerSlot {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        counts.in_all -= 1;
        if let Some(one) = counts.of.get_mut(&self.peer) {
            one.count -= 1;
            if one.count == 0 {
                counts.of.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> PeerKey {
        PeerKey::of_address(text.parse().expect("an address"))
    }

    #[test]
    fn places_per_peer_are_given_back() {
        let (a, b) = (peer("127.0.0.1"), peer("127.0.0.2"));
        let places = PerPeer::default();
        let first = places.take(a, 2).expect("room");
        let _second = places.take(a, 2).expect("room");
        assert!(places.take(a, 2).is_none() && places.take(b, 2).is_some());
        assert!(places.take(a, 1).is_none() && places.take(a, 3).is_some(), "the limit may change");
        drop(first);
        assert!(places.take(a, 2).is_some());
        assert_eq!(places.counts.lock().of.len(), 1, "peers without connections are forgotten");
        assert_eq!(places.in_all(), 1);
    }

    #[tokio::test]
    async fn a_peers_first_steps_are_taken_in_turn_and_later_ones_are_not() {
        let turns = Arc::new(Semaphore::new(1));
        let begun = std::cell::Cell::new(0);
        // Begins, and then waits for ever.
        let work = || {
            let work = async {
                begun.set(begun.get() + 1);
                std::future::pending::<()>().await;
            };
            in_turn(Some(turns.clone()), Box::pin(work))
        };
        let (mut first, mut second) = (std::pin::pin!(work()), std::pin::pin!(work()));
        let taken = turns.clone().acquire_owned().await.expect("open");
        assert!(futures::poll!(first.as_mut()).is_pending() && futures::poll!(second.as_mut()).is_pending());
        assert_eq!(begun.get(), 0, "somebody else has the turn");
        drop(taken);
        assert!(futures::poll!(first.as_mut()).is_pending() && futures::poll!(second.as_mut()).is_pending());
        assert_eq!((begun.get(), turns.available_permits()), (2, 1), "who waits holds no turn");
    }

    #[test]
    fn a_peer_is_an_address_a_network_or_a_user() {
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:2"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
        assert_ne!(PeerKey::User(0), PeerKey::User(1000));
    }
}

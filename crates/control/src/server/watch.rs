//! What a connection does with the time that it has. A peer that lets an
//! answer lie, or begins nothing, is cut; when all places are taken, who has
//! been at rest longest gives his to who comes.
//!
//! Not here: the time of a request's head on HTTP/1 (hyper's), of its body
//! (`api::extract`) and of its handler (`api::guard`).

use super::Patience;
use crate::config::Limits;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A peer that takes at least so many bytes in a second is merely slow.
const SLOWEST: u64 = 1024;
/// After the farewell of a connection at rest: HTTP/2 peers answer it.
const FAREWELL: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// So many are looked at, and perhaps cut, before others have their turn:
/// thousands that came together would end together.
const LOOKS: usize = 64;
/// That many may be cut and not yet ended while their places are given on.
const ENDING: usize = 64;

/// How much longer a peer may keep something waiting. What it takes gives
/// time back, so that neither a stall nor a trickle holds it for good.
#[derive(Debug)]
struct Credit {
    most: Duration,
    left: Duration,
    since: Option<Instant>,
}

impl Credit {
    fn new(most: Duration) -> Self {
        Self { most, left: most, since: None }
    }

    fn waits(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    fn took(&mut self, now: Instant, bytes: usize) {
        let Some(since) = self.since.take() else { return };
        let back = Duration::from_millis((bytes as u64).saturating_mul(1000) / SLOWEST);
        let left = self.left.saturating_sub(now.saturating_duration_since(since));
        self.left = left.saturating_add(back).min(self.most);
    }

    fn spent(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= self.left)
    }
}

/// An answer whose body is not wholly taken.
struct Answer {
    credit: Credit,
    /// Bytes given to the connection that the peer has not taken.
    lying: usize,
    patience: Patience,
}

struct State {
    /// Requests that a handler has.
    busy: usize,
    /// It became a WebSocket, which has its own pings.
    upgraded: bool,
    writes: Credit,
    answers: BTreeMap<u64, Answer>,
    next: u64,
    /// No handler is at work since.
    rest: Option<Instant>,
    /// And no answer is under way since.
    idle: Option<Instant>,
    /// The farewell was said.
    parting: Option<Instant>,
}

impl State {
    fn settle(&mut self, now: Instant) {
        let rest = self.busy == 0 && !self.upgraded;
        self.rest = rest.then(|| self.rest.unwrap_or(now));
        let idle = rest && self.answers.is_empty();
        self.idle = idle.then(|| self.idle.unwrap_or(now));
    }

    /// Since when it could be closed without breaking honest work.
    fn at_rest(&self) -> Option<Instant> {
        let streams = self.answers.values().any(|a| a.patience == Patience::Stream);
        self.rest.filter(|_| !streams)
    }
}

/// One connection; shared by its stream, its answers and the crowd.
pub(super) struct Watch {
    cut: AtomicBool,
    cutting: CancellationToken,
    /// It has been idle for long enough: say farewell.
    pub(super) retire: CancellationToken,
    idle_most: Duration,
    untaken: Duration,
    untaken_stream: Duration,
    asked: AtomicBool,
    /// Its place among the connections.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    state: Mutex<State>,
}

impl Watch {
    fn new(limits: &Limits, permit: Option<OwnedSemaphorePermit>) -> Self {
        let now = Instant::now();
        Self {
            cut: AtomicBool::new(false),
            cutting: CancellationToken::new(),
            retire: CancellationToken::new(),
            idle_most: limits.header_timeout,
            untaken: limits.untaken,
            untaken_stream: limits.untaken_stream,
            asked: AtomicBool::new(false),
            permit: Mutex::new(permit),
            state: Mutex::new(State {
                busy: 0,
                upgraded: false,
                writes: Credit::new(limits.untaken),
                answers: BTreeMap::new(),
                next: 0,
                rest: Some(now),
                idle: Some(now),
                parting: None,
            }),
        }
    }

    /// Its time begins anew: TLS had a time-out of its own.
    pub(super) fn restart(&self) {
        let now = Instant::now();
        let mut state = self.state.lock();
        (state.rest, state.idle) = (Some(now), Some(now));
    }

    /// A request has come, whole but for its body; the guard is its end.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.asked.store(true, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.busy += 1;
        state.settle(Instant::now());
        Busy(self.clone())
    }

    pub(super) fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// From here on it is a WebSocket's.
    pub(super) fn upgraded(&self) {
        let mut state = self.state.lock();
        state.upgraded = true;
        state.settle(Instant::now());
    }

    pub(super) fn answer(self: &Arc<Self>, patience: Patience) -> Ticket {
        let most = match patience {
            Patience::Answer => self.untaken,
            Patience::Stream => self.untaken_stream,
        };
        let mut state = self.state.lock();
        if patience == Patience::Stream {
            // The bytes of all answers go one way.
            state.writes.most = most;
            state.writes.left = most;
        }
        let id = state.next;
        state.next += 1;
        state.answers.insert(id, Answer { credit: Credit::new(most), lying: 0, patience });
        state.settle(Instant::now());
        Ticket { id, watch: self.clone() }
    }

    /// The peer takes nothing at the moment.
    pub(super) fn blocked(&self) {
        self.state.lock().writes.waits(Instant::now());
    }

    pub(super) fn wrote(&self, bytes: usize) {
        self.state.lock().writes.took(Instant::now(), bytes);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    pub(super) fn cutting(&self) -> WaitForCancellationFutureOwned {
        self.cutting.clone().cancelled_owned()
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
        self.cutting.cancel();
    }

    fn give_back(&self) {
        drop(self.permit.lock().take());
    }

    /// Say farewell, and do not wait long for an answer.
    pub(super) fn part(&self) {
        self.state.lock().parting.get_or_insert_with(Instant::now);
        self.retire.cancel();
    }

    pub(super) fn look(&self, now: Instant) {
        if self.is_cut() {
            return;
        }
        let state = self.state.lock();
        let since = |then: Instant| now.saturating_duration_since(then);
        let idle = state.idle.map(since);
        let over = state.parting.is_some_and(|parting| idle.is_some_and(|idle| since(parting).min(idle) >= FAREWELL));
        let untaken = state.writes.spent(now) || state.answers.values().any(|a| a.credit.spent(now));
        drop(state);
        if untaken || over {
            tracing::debug!(untaken, "a connection was cut");
            self.cut();
        } else if idle.is_some_and(|idle| idle >= self.idle_most) {
            self.part();
        }
    }
}

/// A request that a handler has.
pub(super) struct Busy(Arc<Watch>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.busy -= 1;
        state.settle(Instant::now());
    }
}

/// An answer under way; over when its body and all pieces of it are dropped.
pub(super) struct Ticket {
    id: u64,
    watch: Arc<Watch>,
}

impl Ticket {
    fn with(&self, change: impl FnOnce(&mut Answer, Instant)) {
        if let Some(answer) = self.watch.state.lock().answers.get_mut(&self.id) {
            change(answer, Instant::now());
        }
    }

    pub(super) fn gave(&self, bytes: usize) {
        self.with(|answer, now| {
            answer.lying += bytes;
            answer.credit.waits(now);
        });
    }

    pub(super) fn took(&self, bytes: usize) {
        self.with(|answer, now| {
            answer.lying = answer.lying.saturating_sub(bytes);
            answer.credit.took(now, bytes);
            if answer.lying > 0 {
                answer.credit.waits(now);
            }
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.watch.state.lock();
        state.answers.remove(&self.id);
        state.settle(Instant::now());
    }
}

/// All connections; clones share them.
#[derive(Clone, Default)]
pub(super) struct Crowd(Arc<Together>);

#[derive(Default)]
struct Together {
    members: Mutex<Members>,
    /// Somebody came where nobody was.
    joined: Notify,
}

#[derive(Default)]
struct Members {
    next: u64,
    all: BTreeMap<u64, Arc<Watch>>,
}

/// Leaves the crowd when dropped.
pub(super) struct Member {
    id: u64,
    pub(super) watch: Arc<Watch>,
    crowd: Crowd,
}

impl Crowd {
    pub(super) fn join(&self, limits: &Limits, permit: Option<OwnedSemaphorePermit>) -> Member {
        let watch = Arc::new(Watch::new(limits, permit));
        let mut members = self.0.members.lock();
        let id = members.next;
        members.next += 1;
        members.all.insert(id, watch.clone());
        if members.all.len() == 1 {
            self.0.joined.notify_one();
        }
        drop(members);
        Member { id, watch, crowd: self.clone() }
    }

    /// Cuts those that have been at rest longest, a few at a time so that a
    /// flood does not have all of them looked at for each that comes. Their
    /// places are free at once, unless many that were cut have yet to end.
    pub(super) fn make_room(&self) {
        let members = self.0.members.lock();
        let ending = members.all.values().filter(|w| w.is_cut()).count();
        if ending > ENDING.max(members.all.len() / 8) {
            return;
        }
        let mut resting: Vec<(Instant, &Arc<Watch>)> = Vec::new();
        for watch in members.all.values().filter(|w| !w.is_cut()) {
            if let Some(since) = watch.state.lock().at_rest() {
                resting.push((since, watch));
            }
        }
        resting.sort_by_key(|(since, _)| *since);
        for (_, watch) in resting.iter().take(1 + members.all.len() / 64) {
            watch.cut();
            watch.give_back();
        }
    }

    /// Never ends.
    pub(super) async fn look_after(self) {
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // A server without connections does not wake for them.
            if self.0.members.lock().all.is_empty() {
                self.0.joined.notified().await;
            }
            every.tick().await;
            let mut from = Some(0);
            while let Some(first) = from {
                let some = self.some(first);
                let now = Instant::now();
                some.iter().for_each(|(_, watch)| watch.look(now));
                from = some.last().map(|(id, _)| id + 1);
                tokio::task::yield_now().await;
            }
        }
    }

    /// A few, from this one on.
    fn some(&self, first: u64) -> Vec<(u64, Arc<Watch>)> {
        let members = self.0.members.lock();
        members.all.range(first..).take(LOOKS).map(|(id, watch)| (*id, watch.clone())).collect()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.crowd.0.members.lock().all.remove(&self.id);
        self.watch.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_stall_and_a_trickle_spend_the_credit_and_a_slow_reader_does_not() {
        let start = Instant::now();
        let mut stalled = Credit::new(8 * S);
        stalled.waits(start);
        assert!(!stalled.spent(start + 7 * S) && stalled.spent(start + 8 * S));
        for (bytes, kept) in [(100, false), (2048, true)] {
            let mut credit = Credit::new(8 * S);
            let alive = (0..60u32).all(|n| {
                let now = start + n * S;
                credit.took(now, bytes);
                credit.waits(now);
                !credit.spent(now + S)
            });
            assert_eq!(alive, kept, "{bytes} a second");
        }
    }

    #[test]
    fn who_rests_longest_goes_and_who_works_stays() {
        let crowd = Crowd::default();
        let limits = Limits::default();
        let (working, streaming, first, second) = (
            crowd.join(&limits, None),
            crowd.join(&limits, None),
            crowd.join(&limits, None),
            crowd.join(&limits, None),
        );
        let _busy = working.watch.busy();
        let _stream = streaming.watch.answer(Patience::Stream);
        drop(first.watch.busy());
        let cut = |m: &Member| m.watch.is_cut();
        crowd.make_room();
        assert!(cut(&second) && !cut(&first), "the first has asked since");
        crowd.make_room();
        crowd.make_room();
        assert!(cut(&first) && !cut(&working) && !cut(&streaming));
        drop(first);
        assert_eq!(crowd.0.members.lock().all.len(), 3);
    }

    #[test]
    fn what_is_left_lying_and_what_begins_nothing_is_cut() {
        let crowd = Crowd::default();
        let limits = Limits::default();
        let (idle, lying, taken, streamed, socket) = (
            crowd.join(&limits, None),
            crowd.join(&limits, None),
            crowd.join(&limits, None),
            crowd.join(&limits, None),
            crowd.join(&limits, None),
        );
        let ticket = |m: &Member, patience| (m.watch.answer(patience), m.watch.busy());
        let (left, _a) = ticket(&lying, Patience::Answer);
        left.gave(10);
        left.took(9);
        let (done, _b) = ticket(&taken, Patience::Answer);
        done.gave(10);
        done.took(10);
        let (stream, _c) = ticket(&streamed, Patience::Stream);
        stream.gave(10);
        socket.watch.upgraded();
        let begun = Instant::now();
        let cut_after = |passed: Duration| {
            [&idle, &lying, &taken, &streamed, &socket].map(|m| {
                m.watch.look(begun + passed);
                m.watch.is_cut()
            })
        };
        assert_eq!(cut_after(limits.header_timeout - S), [false; 5]);
        assert!(!idle.watch.retire.is_cancelled());
        assert_eq!(cut_after(limits.header_timeout), [false, true, false, false, false]);
        assert!(idle.watch.retire.is_cancelled(), "a farewell first");
        idle.watch.state.lock().parting = Some(begun + limits.header_timeout);
        assert_eq!(cut_after(limits.header_timeout + 2 * S), [true, true, false, false, false]);
        assert_eq!(cut_after(limits.untaken_stream + S), [true, true, false, true, false]);
    }
}

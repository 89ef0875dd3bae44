//! How many sandboxes boot at once, and what fits at all.
//!
//! Boots are limited because many at once are all slow and then all time out;
//! the rest wait in a queue, first come first served, whose positions are
//! reported. Memory is counted by the agents' sizes. Stops and deletes pass
//! through neither.

use aether_core::AgentId;
/// Of the filesystem that holds the disks.
pub(crate) use aether_reserve::Space as DiskSpace;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

/// The queue of boots. Cheap to clone.
#[derive(Clone)]
pub(crate) struct BootQueue {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<QueueState>,
    /// Raised with each movement: who waits looks up its position.
    moved: watch::Sender<u64>,
}

struct QueueState {
    limit: usize,
    running: usize,
    next_ticket: u64,
    waiting: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// What heartbeats say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueNumbers {
    pub queued: usize,
    pub running: usize,
}

impl BootQueue {
    pub(crate) fn new(limit: usize) -> Self {
        let state = QueueState { limit: limit.max(1), running: 0, next_ticket: 0, waiting: VecDeque::new() };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), moved: watch::Sender::new(0) }) }
    }

    /// Takes a place. The boot may begin when [`Place::turn`] returns, and
    /// counts as running until the place is dropped.
    pub(crate) fn enter(&self) -> Place {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.shared.state.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back((ticket, sender));
        state.admit();
        drop(state);
        self.shared.note();
        Place {
            queue: self.clone(),
            ticket,
            turn: receiver,
            moved: self.shared.moved.subscribe(),
            began: false,
            last: 0,
        }
    }

    pub(crate) fn numbers(&self) -> QueueNumbers {
        let state = self.shared.state.lock();
        QueueNumbers { queued: state.waiting.len(), running: state.running }
    }
}

impl Shared {
    fn note(&self) {
        self.moved.send_modify(|n| *n = n.wrapping_add(1));
    }
}

impl QueueState {
    fn admit(&mut self) {
        while self.running < self.limit {
            let Some((_, sender)) = self.waiting.pop_front() else { return };
            // Counted before it is told; who has gone away meanwhile is not.
            if sender.send(()).is_ok() {
                self.running += 1;
            }
        }
    }
}

/// A place in the queue, then among the boots that run.
pub(crate) struct Place {
    queue: BootQueue,
    ticket: u64,
    turn: oneshot::Receiver<()>,
    moved: watch::Receiver<u64>,
    began: bool,
    /// The position told last; 0: none.
    last: u32,
}

impl Place {
    /// Waits: for the turn (`None`), or for another position in the queue,
    /// from 1. Safe to drop and call again.
    pub(crate) async fn turn_or_move(&mut self) -> Option<u32> {
        loop {
            if self.began {
                return None;
            }
            let position = self.position();
            if position != 0 && position != self.last {
                self.last = position;
                return Some(position);
            }
            tokio::select! {
                biased;
                // The sender is dropped only after it was used.
                _ = &mut self.turn => self.began = true,
                // We hold the sender through the queue.
                _ = self.moved.changed() => {}
            }
        }
    }

    fn position(&self) -> u32 {
        let state = self.queue.shared.state.lock();
        let found = state.waiting.iter().position(|(ticket, _)| *ticket == self.ticket);
        found.map_or(0, |index| u32::try_from(index + 1).unwrap_or(u32::MAX))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.queue.shared.state.lock();
        let before = state.waiting.len();
        state.waiting.retain(|(ticket, _)| *ticket != self.ticket);
        if state.waiting.len() == before {
            // It was told, whether or not it looked.
            state.running = state.running.saturating_sub(1);
        }
        state.admit();
        drop(state);
        self.queue.shared.note();
    }
}

/// Memory promised to sandboxes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledger {
    capacity_mb: u64,
    promised: Arc<Mutex<BTreeMap<AgentId, u64>>>,
}

impl Ledger {
    pub(crate) fn new(capacity_mb: u64) -> Self {
        Self { capacity_mb, promised: Arc::default() }
    }

    /// Promises memory; false when it is not there. Safe to repeat.
    pub(crate) fn promise(&self, agent: &AgentId, memory_mb: u64) -> bool {
        let mut promised = self.promised.lock();
        let others: u64 = promised.iter().filter(|(id, _)| *id != agent).map(|(_, mb)| *mb).sum();
        if others.saturating_add(memory_mb) > self.capacity_mb {
            return false;
        }
        promised.insert(agent.clone(), memory_mb);
        true
    }

    /// As `promise`, for what already runs: it is counted even beyond the
    /// capacity, which may have shrunk since.
    pub(crate) fn count(&self, agent: &AgentId, memory_mb: u64) {
        self.promised.lock().insert(agent.clone(), memory_mb);
    }

    pub(crate) fn release(&self, agent: &AgentId) {
        self.promised.lock().remove(agent);
    }

    pub(crate) fn free_mb(&self) -> u64 {
        self.capacity_mb.saturating_sub(self.promised.lock().values().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::source::OsRng;
    use proptest::prelude::*;

    #[tokio::test]
    async fn first_come_first_served_and_never_more_than_the_limit() {
        let queue = BootQueue::new(2);
        let mut places: Vec<Place> = (0..5).map(|_| queue.enter()).collect();
        assert_eq!(queue.numbers(), QueueNumbers { queued: 3, running: 2 });
        assert_eq!(places[0].turn_or_move().await, None);
        assert_eq!(places[4].turn_or_move().await, Some(3));
        // One in the middle gives up, one that runs ends: the rest move on.
        drop(places.remove(3));
        drop(places.remove(0));
        assert_eq!(queue.numbers(), QueueNumbers { queued: 1, running: 2 });
        assert_eq!(places[1].turn_or_move().await, None);
        drop(places);
        assert_eq!(queue.numbers(), QueueNumbers { queued: 0, running: 0 });
    }

    #[tokio::test]
    async fn who_waits_is_told_each_position() {
        let queue = BootQueue::new(1);
        let (first, second, mut third) = (queue.enter(), queue.enter(), queue.enter());
        let waiter = tokio::spawn(async move {
            let mut told = Vec::new();
            while let Some(position) = third.turn_or_move().await {
                told.push(position);
            }
            told
        });
        tokio::task::yield_now().await;
        drop(first);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        drop(second);
        assert_eq!(waiter.await.expect("ends"), [2, 1]);
    }

    #[test]
    fn memory_is_promised_once_and_up_to_the_capacity() {
        let ledger = Ledger::new(1000);
        let (a, b) = (AgentId::generate("c0", &OsRng), AgentId::generate("c0", &OsRng));
        assert!(ledger.promise(&a, 600) && ledger.promise(&a, 600));
        assert!(!ledger.promise(&b, 500));
        assert_eq!(ledger.free_mb(), 400);
        ledger.count(&b, 500);
        assert_eq!(ledger.free_mb(), 0);
        ledger.release(&a);
        assert_eq!(ledger.free_mb(), 500);
    }

    proptest! {
        #[test]
        fn the_queue_never_loses_a_turn(ops in proptest::collection::vec(0usize..6, 0..60), limit in 1usize..4) {
            let queue = BootQueue::new(limit);
            let mut places = VecDeque::new();
            for op in ops {
                if op < 3 {
                    places.push_back(queue.enter());
                } else if !places.is_empty() {
                    drop(places.remove(op % places.len()));
                }
                let n = queue.numbers();
                prop_assert_eq!(n.queued + n.running, places.len());
                prop_assert_eq!(n.running, places.len().min(limit));
            }
        }
    }
}

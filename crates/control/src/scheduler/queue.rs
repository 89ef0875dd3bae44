//! Who is to be looked at in the next pass: what began to wait since the last
//! one, and everybody, page by page, when a node has more to offer than it
//! had. Whoever did not fit cannot fit until then, so that a long queue of
//! agents that fit nowhere costs nothing and holds nobody up behind it.

use aether_core::api::NodeAmounts;
use aether_core::{AgentId, NodeId, Timestamp};
use aether_placement::Node;
use aether_store::{AgentRow, EventCursor, Store, StoreError};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Waiting agents of one page.
const PAGE: u32 = 500;
/// Events read in one pass.
const EVENTS: u32 = 1000;
/// Everybody is looked at this often in any case.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// No agent is smaller: a node with less has room for none.
const LEAST_MEMORY_MB: u64 = *aether_core::spec::MEMORY_MB.start();

/// What counts of a node for whether something fits that did not.
#[derive(Clone, Debug, PartialEq)]
struct Offer {
    free: NodeAmounts,
    isolation: String,
    labels: BTreeMap<String, String>,
}

pub(super) struct Queue {
    /// Up to where events were read; `None`: not yet.
    cursor: Option<EventCursor>,
    /// Of the nodes that were ready.
    offers: BTreeMap<NodeId, Offer>,
    /// Where the pages of a sweep go on; `None`: none is under way.
    sweep: Option<Page>,
    swept_at: Instant,
    /// What may have been missed: a placement was refused, a pass failed.
    anew: bool,
    /// Somebody was left waiting since the last sweep began.
    left: bool,
}

/// After whom.
type Page = Option<(Timestamp, AgentId)>;

/// Agents to decide of, oldest first, and whether there are more at once.
pub(super) struct Turn {
    pub(super) waiting: Vec<AgentRow>,
    pub(super) more: bool,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { cursor: None, offers: BTreeMap::new(), sweep: None, swept_at: Instant::now(), anew: true, left: false }
    }

    /// Not everything came about: the next pass begins anew.
    pub(super) fn begin_anew(&mut self) {
        self.anew = true;
    }

    /// Somebody did not fit.
    pub(super) fn left_waiting(&mut self) {
        self.left = true;
    }

    /// Nobody waits, as far as is known, so that nodes need no look.
    pub(super) fn idle(&self) -> bool {
        !self.left && !self.anew && self.sweep.is_none() && self.swept_at.elapsed() < SWEEP_EVERY
    }

    /// Before the nodes are read.
    pub(super) async fn news(&mut self, store: &Store) -> Result<Turn, StoreError> {
        let cursor = match self.cursor {
            Some(cursor) => cursor,
            // Before the sweep reads: nothing falls between the two.
            None => store.events_end().await?,
        };
        let read = match store.began_to_wait(cursor, EVENTS).await {
            Err(StoreError::CursorExpired) => {
                self.anew = true;
                (Vec::new(), store.events_end().await?)
            }
            read => read?,
        };
        self.cursor = Some(read.1);
        Ok(Turn { waiting: read.0, more: read.1 != cursor })
    }

    /// With the nodes as they are: begins a sweep where there is a reason to,
    /// and gives its next page.
    pub(super) async fn page(&mut self, store: &Store, nodes: &[Node]) -> Result<Turn, StoreError> {
        let offers = offers(nodes);
        let grown = offers.iter().any(|(id, offer)| self.offers.get(id).is_none_or(|had| grown(had, offer)));
        self.offers = offers;
        if grown || std::mem::take(&mut self.anew) || self.swept_at.elapsed() >= SWEEP_EVERY {
            self.sweep = Some(None);
            self.swept_at = Instant::now();
            self.left = false;
        }
        let Some(after) = self.sweep.take() else { return Ok(Turn { waiting: Vec::new(), more: false }) };
        let first = after.is_none();
        let waiting = store.pending_agents(after, PAGE).await?;
        // The first page is always looked at, for the reasons that it is told.
        let full = !self.offers.values().any(|offer| offer.free.memory_mb >= LEAST_MEMORY_MB);
        if waiting.len() == PAGE as usize && (first || !full) {
            self.sweep = Some(waiting.last().map(|row| (row.created_at, row.id.clone())));
        }
        Ok(Turn { waiting, more: self.sweep.is_some() })
    }
}

fn offers(nodes: &[Node]) -> BTreeMap<NodeId, Offer> {
    let offer = |n: &Node| Offer { free: n.free(), isolation: n.isolation.clone(), labels: n.labels.clone() };
    nodes.iter().filter(|n| n.ready).map(|n| (n.id.clone(), offer(n))).collect()
}

/// Whether something may fit now that did not.
fn grown(had: &Offer, has: &Offer) -> bool {
    let more = |of: fn(&NodeAmounts) -> u64| of(&has.free) > of(&had.free);
    more(|a| a.cpu_millicores)
        || more(|a| a.memory_mb)
        || more(|a| a.disk_mb)
        || had.isolation != has.isolation
        || had.labels != has.labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(cpu_millicores: u64, memory_mb: u64) -> Offer {
        let free = NodeAmounts { cpu_millicores, memory_mb, disk_mb: 10 };
        Offer { free, isolation: "firecracker".into(), labels: BTreeMap::new() }
    }

    #[test]
    fn only_what_lets_more_fit_has_grown() {
        let had = offer(1000, 512);
        assert!(!grown(&had, &had));
        assert!(!grown(&had, &offer(500, 512)) && !grown(&had, &offer(1000, 0)));
        assert!(grown(&had, &offer(1001, 0)), "more of one thing, less of another");
        assert!(grown(&had, &offer(0, 513)));
        assert!(grown(&had, &Offer { labels: BTreeMap::from([("a".into(), "b".into())]), ..had.clone() }));
        assert!(grown(&had, &Offer { isolation: "qemu".into(), ..had.clone() }));
    }
}

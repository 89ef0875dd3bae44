//! What a node should have, told by comparison: the full set first, then a
//! delta whenever an event touches an agent that is on the node. An agent
//! that was moved away makes it full again, because a delta cannot take back.

use super::{Outbox, convert, send, to_status};
use aether_core::{AgentId, Desired, NodeId, Timestamp};
use aether_proto::node::DesiredSet;
use aether_proto::node::server_message::Message as ToNode;
use aether_store::{Assignment, EventCursor, Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// After a store that failed; else the store says how often to look.
const RETRY: Duration = Duration::from_secs(1);
const EVENTS: u32 = 1000;
/// From one look to the next, or twice as long as the look took: most changes
/// are of agents that are not on the node, and cost it a read each. A change
/// after a pause is looked at at once.
const COALESCE: Duration = Duration::from_millis(2);

/// What decides whether the node must hear of an agent again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    generation: u64,
    desired: Desired,
    expires_at: Option<Timestamp>,
    /// Counts where there is no deadline yet.
    ttl_s: Option<u64>,
    force: bool,
    stop_timeout_ms: Option<u32>,
}

impl Told {
    fn of(a: &Assignment) -> Self {
        Self {
            generation: a.agent.generation,
            desired: a.desired,
            expires_at: a.agent.expires_at,
            ttl_s: a.agent.spec.ttl_s,
            force: a.agent.force,
            stop_timeout_ms: a.agent.stop_timeout_ms,
        }
    }
}

struct Pusher<'a> {
    store: &'a Store,
    node: &'a NodeId,
    outbox: &'a Outbox,
    told: BTreeMap<AgentId, Told>,
    cursor: EventCursor,
    revision: u64,
}

/// Keeps the node told until the stream ends.
pub(super) async fn run(store: &Store, node: &NodeId, outbox: &Outbox) -> Result<(), Status> {
    let mut changes = store.changes();
    let cursor = store.events_end().await.map_err(to_status)?;
    let mut pusher = Pusher { store, node, outbox, told: BTreeMap::new(), cursor, revision: 0 };
    pusher.full().await?;
    loop {
        let began = Instant::now();
        changes.mark_unchanged();
        let mut look = store.poll_interval();
        match pusher.delta().await {
            Ok(()) => {}
            Err(Failure::Stream(status)) => return Err(status),
            Err(Failure::Store(error)) if error.retryable() => {
                tracing::warn!(%node, %error, "assignments cannot be read; trying again");
                look = RETRY;
            }
            Err(Failure::Store(error)) => return Err(to_status(error)),
        }
        let next = began + COALESCE.max(2 * began.elapsed());
        match tokio::time::timeout(look, changes.changed()).await {
            Ok(Ok(())) => tokio::time::sleep_until(next).await,
            Ok(Err(_closed)) => return Err(Status::unavailable("the store was closed")),
            Err(_nothing_new) => {}
        }
    }
}

enum Failure {
    Store(StoreError),
    Stream(Status),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::Store(error)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Stream(status)
    }
}

impl Pusher<'_> {
    async fn full(&mut self) -> Result<(), Status> {
        let all = self.store.assignments(self.node).await.map_err(to_status)?;
        self.told = all.iter().map(|a| (a.agent.id.clone(), Told::of(a))).collect();
        self.send(true, all).await
    }

    async fn delta(&mut self) -> Result<(), Failure> {
        loop {
            let (events, cursor) = self.store.events_after(self.cursor, EVENTS).await?;
            let more = events.len() >= EVENTS as usize;
            let touched: BTreeSet<AgentId> = events.into_iter().filter_map(|e| e.agent_id).collect();
            if !touched.is_empty() {
                self.tell(touched).await?;
            }
            // Only now: a failure above reads the same events again.
            self.cursor = cursor;
            if !more {
                return Ok(());
            }
        }
    }

    async fn tell(&mut self, touched: BTreeSet<AgentId>) -> Result<(), Failure> {
        let asked: Vec<AgentId> = touched.iter().cloned().collect();
        let here = self.store.assignments_among(self.node, asked).await?;
        let still: BTreeSet<AgentId> = here.iter().map(|a| a.agent.id.clone()).collect();
        let mut moved_away = false;
        for id in touched.iter().filter(|id| !still.contains(id)) {
            // Confirmed gone is the end of it; anything else went elsewhere.
            moved_away |= self.told.remove(id).is_some_and(|t| t.desired != Desired::Gone);
        }
        if moved_away {
            return Ok(self.full().await?);
        }
        let news: Vec<Assignment> =
            here.into_iter().filter(|a| self.told.get(&a.agent.id) != Some(&Told::of(a))).collect();
        if news.is_empty() {
            return Ok(());
        }
        let told: Vec<_> = news.iter().map(|a| (a.agent.id.clone(), Told::of(a))).collect();
        self.send(false, news).await?;
        self.told.extend(told);
        Ok(())
    }

    async fn send(&mut self, full: bool, assignments: Vec<Assignment>) -> Result<(), Status> {
        self.revision += 1;
        let agents = assignments
            .into_iter()
            .map(convert::assignment)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Status::internal("a spec does not serialise"))?;
        send(self.outbox, ToNode::Desired(DesiredSet { revision: self.revision, full, agents })).await
    }
}

//! The scheduling loop: whoever leads places what waits, explains what does
//! not fit, and declares nodes lost whose lease is over.
//!
//! ```text
//! standby ──(no live leader)──► leading ──(fenced by a newer epoch)──► standby
//! ```
//!
//! Beside it the audit log's keeper works under the same epoch.
//!
//! Policy is `aether-placement`'s; the epoch in each write makes a stale
//! leader harmless. Changes in the store wake it, the interval is a fallback.

mod erase;
mod pace;
mod queue;

use crate::audit::Keeper;
use crate::config::ControlConfig;
use crate::secrets::Secrets;
use crate::telemetry;
use aether_core::api::NodeAmounts;
use aether_core::{Clock, Live, Timestamp};
use aether_placement::{Decision, Node, Policy, Request};
use aether_store::{AgentRow, Epoch, NodeRow, NodeStatus, PlaceRequest, Store, StoreError};
use pace::Pace;
use queue::Queue;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// design.md §4: the leader's lease, and how often it is renewed.
const LEADER_LEASE: Duration = Duration::from_secs(5);
const LEADER_RENEW: Duration = Duration::from_millis(1500);
/// Changed reasons written in one pass, beside those of agents that have none.
const REASONS_CHANGED: usize = 200;
/// A burst of changes is one pass: the first change after a pause is taken at
/// once, those that follow it this closely wait, or as long as the pass took,
/// which leaves half of the time to whoever makes them.
const COALESCE: Duration = Duration::from_millis(5);
/// Idempotency keys hold for a day; events and tombstones are kept as long.
const KEEP: Duration = Duration::from_secs(24 * 3600);
const PRUNE_EVERY: Duration = Duration::from_secs(600);
const RETRY: Duration = Duration::from_millis(500);

pub(crate) struct Scheduler {
    store: Store,
    clock: Arc<dyn Clock>,
    server_id: String,
    /// For the interval and the strategy, which a reload may change.
    cfg: Live<ControlConfig>,
    lease: Duration,
    /// Works for the audit log while this server leads.
    keeper: Keeper,
    /// For the erasure of tenants.
    secrets: Secrets,
}

impl Scheduler {
    pub(crate) fn new(
        live: &Live<ControlConfig>,
        store: Store,
        clock: Arc<dyn Clock>,
        keeper: Keeper,
        secrets: Secrets,
    ) -> Self {
        let cfg = live.get();
        Self {
            store,
            clock,
            server_id: cfg.server_id.clone(),
            cfg: live.clone(),
            lease: cfg.node.lease,
            keeper,
            secrets,
        }
    }

    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let work = async {
            loop {
                match self.campaign().await {
                    Ok(Some(epoch)) => {
                        tracing::info!(epoch = epoch.value(), "leading");
                        let ended = tokio::select! {
                            ended = self.lead(&epoch) => ended,
                            ended = self.keeper.run(&epoch) => ended,
                            ended = erase::run(&self.store, &self.secrets, &epoch) => ended,
                        };
                        tracing::info!(epoch = epoch.value(), reason = %ended, "leading no more");
                    }
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "the leadership row cannot be read"),
                }
                tokio::time::sleep(LEADER_RENEW).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
    }

    /// Takes over where nobody else's lease is alive.
    async fn campaign(&self) -> Result<Option<Epoch>, StoreError> {
        let row = self.store.leadership().await?;
        let other = row.server_id.as_ref().is_some_and(|id| *id != self.server_id);
        if other && self.clock.now().since(row.renewed_at) < LEADER_LEASE {
            return Ok(None);
        }
        self.store.take_leadership(&self.server_id).await.map(Some)
    }

    /// Works until somebody else leads; returns the error that said so.
    async fn lead(&self, epoch: &Epoch) -> StoreError {
        let mut changes = self.store.changes();
        let mut tend_at = Instant::now();
        // After a start of ours every lease looks old, and after a leap of the
        // wall clock or writes that failed: nodes get one lease of time to be
        // heard before any is declared lost.
        let mut expire_from = Instant::now() + self.lease;
        let mut pace = Pace::of(&*self.clock);
        let mut prune_at = Instant::now() + PRUNE_EVERY;
        let mut queue = Queue::new();
        let mut heard = None;
        let mut passed_at = Instant::now();
        loop {
            let began = Instant::now();
            let news = Some(*changes.borrow_and_update());
            // Nothing was written and nobody waits: there is nothing to find.
            let quiet = news == heard && queue.idle() && passed_at.elapsed() < self.store.poll_interval();
            heard = news;
            let mut result = Ok(());
            let mut more = false;
            if pace.leapt(&*self.clock) {
                tracing::warn!("the wall clock leapt: leases count from now on");
                expire_from = Instant::now() + self.lease;
            }
            if Instant::now() >= tend_at {
                tend_at = Instant::now() + LEADER_RENEW;
                result = self.tend(epoch, (Instant::now() >= expire_from).then_some(pace.wall())).await;
            }
            if result.is_ok() && !quiet {
                passed_at = began;
                result = self.pass(epoch, &mut queue).await.map(|left| more = left);
            }
            if Instant::now() >= prune_at {
                prune_at = Instant::now() + PRUNE_EVERY;
                match self.store.prune(KEEP).await {
                    Ok(rows) => tracing::debug!(rows, "pruned"),
                    Err(error) => tracing::warn!(%error, "old rows were not pruned"),
                }
            }
            match result {
                Ok(()) => {}
                Err(fenced @ StoreError::Fenced { .. }) => return fenced,
                Err(error) => {
                    tracing::warn!(%error, "a scheduling pass failed");
                    queue.begin_anew();
                    expire_from = Instant::now() + self.lease;
                    tokio::time::sleep(RETRY).await;
                }
            }
            let next = began + COALESCE.max(2 * began.elapsed());
            if more {
                heard = None;
                tokio::time::sleep_until(next).await;
                continue;
            }
            let nap = self.cfg.get().schedule_interval.min(tend_at.saturating_duration_since(Instant::now()));
            match tokio::time::timeout(nap, changes.changed()).await {
                Ok(Ok(())) => tokio::time::sleep_until(next).await,
                Ok(Err(_closed)) => tokio::time::sleep(RETRY).await,
                Err(_nothing_new) => {}
            }
        }
    }

    /// What a leader does at its renewals, whatever changes. At once, so that
    /// the embedded store makes one commit of it.
    async fn tend(&self, epoch: &Epoch, may_expire: Option<Timestamp>) -> Result<(), StoreError> {
        let expire = async {
            match may_expire {
                Some(seen) => self.store.expire_nodes(epoch, self.lease, seen).await,
                None => Ok(Vec::new()),
            }
        };
        let (renewed, recovered, lost) =
            tokio::join!(self.store.renew_leadership(epoch), self.store.recover_agents(epoch), expire);
        renewed?;
        for agent in recovered? {
            tracing::info!(%agent, "its sandbox died: it is started again");
        }
        for agent in lost? {
            tracing::warn!(%agent, "lost: its node's lease is over");
        }
        Ok(())
    }

    /// One turn of the queue; whether there is another at once.
    async fn pass(&self, epoch: &Epoch, queue: &mut Queue) -> Result<bool, StoreError> {
        let news = queue.news(&self.store).await?;
        if news.waiting.is_empty() && queue.idle() {
            return Ok(news.more);
        }
        let nodes: Vec<Node> = self.store.nodes().await?.into_iter().map(|n| self.facts(n)).collect();
        let page = queue.page(&self.store, &nodes).await?;
        let more = news.more || page.more;
        // Those of the page are older, mostly; one that is in both is judged once.
        let mut waiting = page.waiting;
        let known: BTreeSet<_> = waiting.iter().map(|row| row.id.clone()).collect();
        waiting.extend(news.waiting.into_iter().filter(|row| !known.contains(&row.id)));
        if waiting.is_empty() {
            return Ok(more);
        }
        let started = self.clock.monotonic();
        let requests: Vec<Request> = waiting.iter().map(request_of).collect();
        let policy = Policy { strategy: self.cfg.get().strategy, ..Policy::default() };
        let decisions = aether_placement::place_all(policy, &requests, &nodes);
        if decisions.iter().any(|d| matches!(d, Decision::Wait { .. })) {
            queue.left_waiting();
        }
        if self.write(epoch, &waiting, decisions).await? == Written::NotAll {
            queue.begin_anew();
        }
        let took = self.clock.monotonic().saturating_sub(started);
        metrics::histogram!(telemetry::SCHEDULING_SECONDS, "strategy" => policy.strategy.as_str())
            .record(took.as_secs_f64());
        Ok(more)
    }

    async fn write(
        &self,
        epoch: &Epoch,
        waiting: &[AgentRow],
        decisions: Vec<Decision>,
    ) -> Result<Written, StoreError> {
        let (mut places, mut reasons, mut changed) = (Vec::new(), Vec::new(), 0);
        for (agent, decision) in waiting.iter().zip(decisions) {
            match decision {
                Decision::Place { node, reason } => places.push(PlaceRequest {
                    agent_id: agent.id.clone(),
                    expected_version: agent.version,
                    node_id: node,
                    reason,
                }),
                Decision::Wait { reason } => {
                    if agent.placement_reason.as_deref() == Some(&reason) {
                        continue;
                    }
                    // With each agent that ends another number changes in
                    // every reason of a long queue.
                    changed += usize::from(agent.placement_reason.is_some());
                    if agent.placement_reason.is_none() || changed <= REASONS_CHANGED {
                        metrics::counter!(telemetry::SCHEDULING_ERRORS, "reason" => "no_fit").increment(1);
                        reasons.push((agent.id.clone(), reason));
                    }
                }
            }
        }
        if !reasons.is_empty() {
            self.store.explain_pending(epoch, reasons).await?;
        }
        if places.is_empty() {
            return Ok(Written::All);
        }
        let mut written = Written::All;
        for result in self.store.place_batch(epoch, places).await? {
            match result {
                Ok(agent) => tracing::info!(agent = %agent.id, node = ?agent.node_id, "placed"),
                Err(fenced @ StoreError::Fenced { .. }) => return Err(fenced),
                // Changed or filled up meanwhile: the next pass sees it.
                Err(error) => {
                    metrics::counter!(telemetry::SCHEDULING_ERRORS, "reason" => "raced").increment(1);
                    tracing::debug!(%error, "a placement was refused");
                    written = Written::NotAll;
                }
            }
        }
        Ok(written)
    }

    fn facts(&self, row: NodeRow) -> Node {
        node_facts(row, self.clock.now(), self.lease)
    }
}

/// Whether every placement came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    All,
    NotAll,
}

fn node_facts(row: NodeRow, now: Timestamp, lease: Duration) -> Node {
    Node {
        ready: row.status == NodeStatus::Ready && now.since(row.lease_renewed_at) < lease,
        id: row.id,
        isolation: row.isolation,
        labels: row.labels,
        capacity: row.capacity,
        reserved: row.reserved,
    }
}

fn request_of(agent: &AgentRow) -> Request {
    Request {
        agent: agent.id.clone(),
        amounts: amounts_of(agent.spec.resources),
        pinned: agent.node_id.clone(),
        selector: BTreeMap::new(),
        isolation: BTreeSet::new(),
    }
}

fn amounts_of(resources: aether_core::spec::Resources) -> NodeAmounts {
    let r = resources.with_defaults();
    NodeAmounts { cpu_millicores: r.cpu_millicores(), memory_mb: r.memory_mb, disk_mb: r.disk_mb }
}

/// Whether a node there is could ever hold this, were it empty. `None` where
/// there is no node yet: one may come.
pub(crate) fn could_ever_fit(nodes: &[NodeRow], resources: aether_core::spec::Resources) -> Option<bool> {
    let need = amounts_of(resources);
    let fits = |n: &NodeRow| {
        need.cpu_millicores <= n.capacity.cpu_millicores
            && need.memory_mb <= n.capacity.memory_mb
            && need.disk_mb <= n.capacity.disk_mb
    };
    (!nodes.is_empty()).then(|| nodes.iter().any(fits))
}

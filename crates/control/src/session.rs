//! The control plane's side of a node's stream.
//!
//! ```text
//! node ── hello ──► register, apply its reports
//!      ◄─ welcome, full desired set
//!      ◄─ deltas whenever an assignment changes (level-triggered)
//!      ── ack, reports, heartbeats ──►
//! ```
//!
//! One session per node: a newer one ends the older. When reports cannot be
//! written for long the session ends, and the node's next hello repeats all.

mod convert;
mod push;

use crate::config::{ControlConfig, NodeTimings};
use crate::dialer::ChannelCache;
use crate::secrets::{NotGiven, Secrets};
use crate::telemetry;
use aether_core::{AgentId, NodeId, Observed};
use aether_proto::node::node_control_server::{NodeControl, NodeControlServer};
use aether_proto::node::node_message::Message as FromNode;
use aether_proto::node::server_message::Message as ToNode;
use aether_proto::node::{
    AgentReport, NodeMessage, SecretValue, SecretsRequest, SecretsResponse, ServerMessage, ServerWelcome,
};
use aether_store::{HeartbeatRow, ReportResult, ReportRow, Store, StoreError};
use futures::FutureExt;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

pub type NodeControlService = NodeControlServer<NodeSessions>;

const PROTOCOL: u32 = 1;
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// Messages to a node before the pusher waits for the wire: a set is one
/// message, so few are ever under way.
const TO_NODE: usize = 8;
/// Messages of reports merged into one write.
const MERGE: usize = 64;
const MAX_MESSAGE_BYTES: usize = 64 << 20;
const WRITE_TRIES: u32 = 8;
const WRITE_RETRY: Duration = Duration::from_millis(50);

/// All nodes' sessions of this server; cheap to clone.
#[derive(Clone)]
pub struct NodeSessions(Arc<Shared>);

struct Shared {
    store: Store,
    server_id: String,
    timings: NodeTimings,
    channels: ChannelCache,
    secrets: Secrets,
    live: Mutex<BTreeMap<NodeId, CancellationToken>>,
    closed: CancellationToken,
}

impl NodeSessions {
    pub(crate) fn new(cfg: &ControlConfig, store: Store, channels: ChannelCache, secrets: Secrets) -> Self {
        Self(Arc::new(Shared {
            store,
            server_id: cfg.server_id.clone(),
            timings: cfg.node.clone(),
            channels,
            secrets,
            live: Mutex::default(),
            closed: CancellationToken::new(),
        }))
    }

    pub(crate) fn service(&self) -> NodeControlService {
        NodeControlServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Ends every session; nodes keep their sandboxes and dial again.
    pub(crate) fn close(&self) {
        self.0.closed.cancel();
    }
}

type Outbox = mpsc::Sender<Result<ServerMessage, Status>>;

#[tonic::async_trait]
impl NodeControl for NodeSessions {
    type SessionStream = ReceiverStream<Result<ServerMessage, Status>>;

    async fn session(&self, request: Request<Streaming<NodeMessage>>) -> Result<Response<Self::SessionStream>, Status> {
        let inbound = request.into_inner();
        let (outbox, answers) = mpsc::channel(TO_NODE);
        let shared = self.0.clone();
        // The answer's head goes out at once: a node may wait for it before
        // it says hello.
        tokio::spawn(async move {
            if let Err(status) = shared.session(inbound, &outbox).await {
                tracing::warn!(code = ?status.code(), reason = status.message(), "node session ended");
                let _ = outbox.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn secrets(&self, request: Request<SecretsRequest>) -> Result<Response<SecretsResponse>, Status> {
        let asked = request.into_inner();
        let node: NodeId = asked.node_id.parse().map_err(|_| Status::invalid_argument("node_id has no valid form"))?;
        let agent: AgentId =
            asked.agent_id.parse().map_err(|_| Status::invalid_argument("agent_id has no valid form"))?;
        let given = self.0.secrets.give((&node, asked.node_epoch), (&agent, asked.generation)).await;
        let answer = match given {
            Ok(given) => {
                let value = |(name, value): (String, zeroize::Zeroizing<Vec<u8>>)| SecretValue {
                    name,
                    value: value.to_vec().into(),
                };
                SecretsResponse { secrets: given.into_iter().map(value).collect(), refusal: String::new() }
            }
            Err(NotGiven::Refused(refusal)) => SecretsResponse { secrets: Vec::new(), refusal },
            Err(NotGiven::Later(reason)) => return Err(Status::unavailable(reason)),
        };
        Ok(Response::new(answer))
    }
}

/// Removes the session from the table unless a newer one took its place.
struct Registered<'a> {
    shared: &'a Shared,
    node: NodeId,
    replaced: CancellationToken,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if !self.replaced.is_cancelled() {
            self.shared.live.lock().remove(&self.node);
        }
    }
}

impl Shared {
    async fn session(&self, mut inbound: Streaming<NodeMessage>, outbox: &Outbox) -> Result<(), Status> {
        let first = tokio::time::timeout(HELLO_LIMIT, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello"))??;
        let Some(NodeMessage { message: Some(FromNode::Hello(hello)) }) = first else {
            return Err(Status::invalid_argument("the first message must be hello"));
        };
        if hello.protocol != PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "this server speaks protocol {PROTOCOL}, the node {}: update the older one",
                hello.protocol
            )));
        }
        let agents = hello.agents.clone();
        let row = convert::hello(hello).map_err(Status::invalid_argument)?;
        let (node, node_epoch) = (row.node_id.clone(), row.node_epoch);
        self.store.register_node(row).await.map_err(to_status)?;
        let registered = self.register(&node);
        tracing::info!(%node, node_epoch, agents = agents.len(), "node session began");
        self.apply(&node, node_epoch, agents).await?;
        let welcome = ServerWelcome {
            server_id: self.server_id.clone(),
            lease_ms: millis(self.timings.lease),
            heartbeat_ms: millis(self.timings.heartbeat),
        };
        send(outbox, ToNode::Welcome(welcome)).await?;
        tokio::select! {
            ended = push::run(&self.store, &node, outbox) => ended,
            ended = self.listen(&node, node_epoch, &mut inbound) => ended,
            () = registered.replaced.cancelled() => Err(Status::aborted("a newer session of this node began")),
            () = self.closed.cancelled() => Err(Status::unavailable("the server is shutting down")),
        }
    }

    fn register(&self, node: &NodeId) -> Registered<'_> {
        let replaced = CancellationToken::new();
        if let Some(older) = self.live.lock().insert(node.clone(), replaced.clone()) {
            older.cancel();
        }
        self.channels.lock().remove(node);
        Registered { shared: self, node: node.clone(), replaced }
    }

    /// Reads the node's side; reports that wait together are written together.
    async fn listen(&self, node: &NodeId, node_epoch: u64, inbound: &mut Streaming<NodeMessage>) -> Result<(), Status> {
        let silence = self.timings.lease * 3;
        loop {
            let next = tokio::time::timeout(silence, inbound.message())
                .await
                .map_err(|_| Status::deadline_exceeded("the node fell silent"))?;
            let Some(message) = next? else { return Ok(()) };
            let mut reports = Vec::new();
            self.take(node, node_epoch, message, &mut reports).await?;
            for _ in 0..MERGE {
                match inbound.message().now_or_never() {
                    Some(Ok(Some(message))) => self.take(node, node_epoch, message, &mut reports).await?,
                    Some(Err(status)) => return Err(status),
                    Some(Ok(None)) | None => break,
                }
            }
            self.apply(node, node_epoch, reports).await?;
        }
    }

    async fn take(
        &self,
        node: &NodeId,
        node_epoch: u64,
        message: NodeMessage,
        reports: &mut Vec<AgentReport>,
    ) -> Result<(), Status> {
        match message.message {
            Some(FromNode::Report(report)) => reports.extend(report.agents),
            Some(FromNode::Heartbeat(beat)) => {
                let row = HeartbeatRow {
                    boots_queued: beat.boots_queued,
                    boots_running: beat.boots_running,
                    sandboxes: beat.sandboxes,
                    memory_free_mb: beat.memory_free_mb,
                    disk_free_mb: beat.disk_free_mb,
                };
                match self.store.renew_node(node, node_epoch, row).await {
                    Ok(false) => {}
                    // Its agents were written off meanwhile, and it tells only of changes: its next hello tells all.
                    Ok(true) => return Err(Status::aborted("the lease had ended: say everything anew")),
                    Err(error) if error.retryable() => tracing::warn!(%node, %error, "a heartbeat was not written"),
                    Err(error) => return Err(to_status(error)),
                }
            }
            Some(FromNode::Ack(ack)) => tracing::trace!(%node, revision = ack.revision, "journaled"),
            Some(FromNode::Hello(_)) => return Err(Status::invalid_argument("hello comes once")),
            None => return Err(Status::invalid_argument("an empty message")),
        }
        Ok(())
    }

    async fn apply(&self, node: &NodeId, node_epoch: u64, reports: Vec<AgentReport>) -> Result<(), Status> {
        let rows: Vec<ReportRow> = reports
            .into_iter()
            .filter_map(|report| {
                let id = report.agent_id.clone();
                convert::report(report)
                    .map_err(|reason| tracing::warn!(%node, agent = %id, reason, "a report was not understood"))
                    .ok()
            })
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        let mut wait = WRITE_RETRY;
        for left in (0..WRITE_TRIES).rev() {
            match self.store.apply_reports(node, node_epoch, rows.clone()).await {
                Ok(outcomes) => {
                    self.note(node, &rows, outcomes).await;
                    return Ok(());
                }
                Err(error) if error.retryable() && left > 0 => {
                    tracing::warn!(%node, %error, "reports were not written; trying again");
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                Err(error) => return Err(to_status(error)),
            }
        }
        Ok(())
    }

    /// Logs and counts what the reports changed.
    async fn note(&self, node: &NodeId, rows: &[ReportRow], outcomes: Vec<aether_store::ReportOutcome>) {
        for outcome in outcomes {
            let id = outcome.agent_id;
            match outcome.result {
                ReportResult::Applied { from, to } if from != to => {
                    tracing::info!(%node, agent = %id, %from, %to, "observed");
                    self.count(rows, &id, to).await;
                }
                ReportResult::Refused { from, to } => {
                    tracing::warn!(%node, agent = %id, %from, %to, "a report was refused");
                }
                ReportResult::NotHere => tracing::debug!(%node, agent = %id, "the node should not have this agent"),
                ReportResult::Applied { .. } | ReportResult::Unchanged | ReportResult::Stale => {}
            }
        }
    }

    async fn count(&self, rows: &[ReportRow], id: &aether_core::AgentId, to: Observed) {
        if !matches!(to, Observed::Running | Observed::Failed) {
            return;
        }
        let Ok(Some(agent)) = self.store.agent_by_id(id).await else { return };
        let tenant = agent.tenant.to_string();
        if to == Observed::Failed {
            let report = rows.iter().find(|r| r.agent_id == *id);
            let reason = report.and_then(|r| r.error.as_ref()).map_or("UNKNOWN", |e| e.code.as_str());
            // Only documented reasons become labels.
            let reason = convert::known_failure(reason);
            metrics::counter!(telemetry::AGENT_ERRORS, "reason" => reason, "tenant_id" => tenant).increment(1);
        } else if agent.restarts == 0
            && let Some(started) = agent.started_at
        {
            let took = started.since(agent.created_at);
            metrics::histogram!(telemetry::STARTUP_SECONDS, "tenant_id" => tenant).record(took.as_secs_f64());
        }
    }
}

pub(crate) async fn send(outbox: &Outbox, message: ToNode) -> Result<(), Status> {
    outbox
        .send(Ok(ServerMessage { message: Some(message) }))
        .await
        .map_err(|_| Status::cancelled("the node closed the stream"))
}

fn millis(d: Duration) -> u32 {
    u32::try_from(d.as_millis()).unwrap_or(u32::MAX)
}

/// Store errors as a node sees them: no internals.
pub(crate) fn to_status(error: StoreError) -> Status {
    tracing::warn!(%error, "the store refused a node's message");
    match error {
        StoreError::Fenced { .. } => Status::failed_precondition("a newer run of this node has spoken"),
        error if error.retryable() => Status::unavailable("the store does not answer"),
        _ => Status::internal("the store refused"),
    }
}

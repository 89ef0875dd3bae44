//! The control stream: the node dials a server, says what it is and has, takes
//! in what is wanted, tells what is. One session at a time; between two there
//! is a back-off, and the node goes on by its journal.
//!
//! ```text
//! dial ─► hello ─► welcome ─► { DesiredSet ─► journal ─► ack
//!   ▲                         { Reports ─────► report
//!   └── back-off ◄── error ── { tick ────────► heartbeat
//! ```

mod capacity;

pub(crate) use capacity::{Capacity, cores};

use crate::node::ControlDialer;
use crate::runtime::{Host, Supervisor};
use aether_core::NodeId;
use aether_proto::node::node_control_client::NodeControlClient;
use aether_proto::node::node_message::Message as Up;
use aether_proto::node::server_message::Message as Down;
use aether_proto::node::{NodeAck, NodeHeartbeat, NodeHello, NodeMessage, NodeReport, ServerMessage};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// The newest version of the node protocol that this node speaks.
const PROTOCOL: u32 = 1;
/// What this node can do beyond the protocol's first version.
const FEATURES: &[&str] = &["exec-attach", "kept-logs"];
/// Messages between us and the stream; a server that does not read stops us.
const OUTGOING: usize = 64;
/// Reports in one message: far below gRPC's 4 MiB.
const REPORT_BATCH: usize = 500;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(5);
/// For the welcome; a server that takes longer is left.
const WELCOME_LIMIT: Duration = Duration::from_secs(10);
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(2);
/// A full set of a thousand agents with their specs and envs.
const MAX_MESSAGE: usize = 256 << 20;

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("cannot reach the control plane: {0}")]
    Dial(#[from] tonic::transport::Error),
    #[error("the control plane ended the session: {}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    #[error("the control plane {0}")]
    Protocol(&'static str),
    #[error("the session ended")]
    Ended,
    #[error(transparent)]
    Journal(#[from] crate::journal::JournalError),
}

/// Keeps a session open until the shutdown.
pub(crate) struct Session {
    pub host: Arc<Host>,
    pub supervisor: Arc<Supervisor>,
    pub node_id: NodeId,
    pub epoch: u64,
    pub capacity: Capacity,
    pub dialer: ControlDialer,
}

impl Session {
    pub(crate) async fn run(self) {
        let mut pause = BACKOFF_FIRST;
        while !self.host.shutdown.is_cancelled() {
            let mut welcomed = false;
            let ended = tokio::select! {
                ended = self.one(&mut welcomed) => ended,
                () = self.host.shutdown.cancelled() => break,
            };
            self.host.reports.end_session();
            self.host.control.close();
            if welcomed {
                pause = BACKOFF_FIRST;
            }
            if let Err(e) = ended {
                tracing::warn!(error = %e, retry_ms = pause.as_millis(), "no session with the control plane");
            }
            tokio::select! {
                () = tokio::time::sleep(self.jittered(pause)) => {}
                () = self.host.shutdown.cancelled() => break,
            }
            pause = (pause * 2).min(BACKOFF_LAST);
        }
        self.host.reports.end_session();
    }

    /// Half to all of it, so that many nodes do not come back together.
    fn jittered(&self, pause: Duration) -> Duration {
        let mut byte = [0u8; 1];
        self.host.rng.fill(&mut byte);
        pause.mul_f64(0.5 + f64::from(byte[0]) / 510.0)
    }

    async fn one(&self, welcomed: &mut bool) -> Result<(), SessionError> {
        let channel = self.dialer.dial().await?;
        let (sender, outgoing) = mpsc::channel(OUTGOING);
        send(&sender, Up::Hello(self.hello())).await?;
        let mut client = NodeControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let open = client.session(ReceiverStream::new(outgoing));
        let mut incoming = tokio::time::timeout(WELCOME_LIMIT, open)
            .await
            .map_err(|_| SessionError::Protocol("did not answer"))??
            .into_inner();
        let first = tokio::time::timeout(WELCOME_LIMIT, incoming.message())
            .await
            .map_err(|_| SessionError::Protocol("sent no welcome"))??;
        let Some(ServerMessage { message: Some(Down::Welcome(welcome)) }) = first else {
            return Err(SessionError::Protocol("did not begin with a welcome"));
        };
        *welcomed = true;
        self.host.control.open(client.clone(), &self.node_id, self.epoch);
        tracing::info!(server = %welcome.server_id, epoch = self.epoch, "session with the control plane");
        let every = match welcome.heartbeat_ms {
            0 => HEARTBEAT_DEFAULT,
            ms => Duration::from_millis(u64::from(ms.clamp(100, 60_000))),
        };
        let mut beat = tokio::time::interval(every);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = incoming.message() => match message? {
                    Some(message) => self.take(message, &sender).await?,
                    None => return Err(SessionError::Ended),
                },
                reports = self.host.reports.next() => {
                    for batch in reports.chunks(REPORT_BATCH) {
                        send(&sender, Up::Report(NodeReport { agents: batch.to_vec() })).await?;
                    }
                }
                _ = beat.tick() => send(&sender, Up::Heartbeat(self.heartbeat())).await?,
            }
        }
    }

    async fn take(&self, message: ServerMessage, sender: &mpsc::Sender<NodeMessage>) -> Result<(), SessionError> {
        match message.message {
            Some(Down::Desired(set)) => {
                let revision = self.supervisor.take(set).await?;
                send(sender, Up::Ack(NodeAck { revision })).await
            }
            // A repeated welcome, or what a newer server may say beside.
            Some(Down::Welcome(_)) | None => Ok(()),
        }
    }

    fn hello(&self) -> NodeHello {
        let agents = self.host.reports.begin_session();
        NodeHello {
            node_id: self.node_id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            features: FEATURES.iter().map(|f| (*f).to_owned()).collect(),
            node_epoch: self.epoch,
            capacity: Some(self.capacity.message()),
            labels: self.host.config.labels.clone().into_iter().collect(),
            engine: self.host.engine.kind().to_owned(),
            isolation: self.host.engine.isolation().as_str().to_owned(),
            data_address: self.host.config.data_address.clone(),
            agents,
        }
    }

    fn heartbeat(&self) -> NodeHeartbeat {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let numbers = self.host.queue.numbers();
        NodeHeartbeat {
            boots_queued: count(numbers.queued),
            boots_running: count(numbers.running),
            sandboxes: count(self.supervisor.living()),
            memory_free_mb: self.host.ledger.free_mb(),
            disk_free_mb: capacity::disk_free_mb(&self.host.config),
        }
    }
}

async fn send(sender: &mpsc::Sender<NodeMessage>, message: Up) -> Result<(), SessionError> {
    sender.send(NodeMessage { message: Some(message) }).await.map_err(|_| SessionError::Ended)
}

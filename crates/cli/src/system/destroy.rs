//! `aether server --destroy-on-exit`: asks our own API, so that the end of an
//! agent at shutdown is the same as any other.

use crate::client::{Client, Endpoint, encode};
use crate::config::Config;
use crate::error::CliError;
use aether_core::api::{AgentInfo, NodeInfo, Page};
use std::time::Duration;
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn everything(config: &Config) {
    let client = Client::new(Endpoint::Unix(config.socket()), None);
    match tokio::time::timeout(LIMIT, destroy(&client)).await {
        Ok(Ok(count)) => tracing::info!("{count} agents were destroyed"),
        Ok(Err(e)) => tracing::warn!("not every agent was destroyed: {e}"),
        Err(_) => tracing::warn!("not every agent was destroyed within {} s", LIMIT.as_secs()),
    }
}

async fn destroy(client: &Client) -> Result<usize, CliError> {
    let mut count = 0;
    loop {
        let page: Page<AgentInfo> = client.get("/v1/agents?per_page=100").await?;
        if page.data.is_empty() {
            break;
        }
        for agent in &page.data {
            client.delete(&format!("/v1/agents/{}", encode(agent.id.as_str()))).await?;
            count += 1;
        }
    }
    // Gone from the list at once; from the node a moment later.
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        let nodes: Page<NodeInfo> = client.get("/v1/scheduler/nodes").await?;
        if nodes.data.iter().all(|n| n.sandboxes == 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(count)
}

//! Health and figures of one agent.

use super::{DataService, Up, error};
use aether_proto::node as wire;
use tonic::Status as Refusal;

impl DataService {
    /// A guest that does not answer is an answer, not an error.
    pub(super) async fn agent_health(&self, agent: &str) -> Result<wire::HealthResponse, Refusal> {
        let up = self.up(agent)?;
        let (healthy, message) = match up.client.health().await {
            Ok(health) => (health.healthy, health.message),
            Err(e) => (false, e.to_string()),
        };
        Ok(wire::HealthResponse { healthy, message, checked_at_ms: self.host.clock.now().unix_ms() })
    }

    pub(super) async fn agent_stats(&self, agent: &str) -> Result<wire::StatsResponse, Refusal> {
        let Up { client, status, agent } = self.up(agent)?;
        let stats = client.stats().await.map_err(error::channel)?;
        let (vmm, slot) = {
            let now = status.borrow();
            (now.vmm.clone(), now.slot)
        };
        // The host's own figures are worth having, not worth failing for.
        let host_memory_bytes = match vmm {
            Some(vmm) => match self.host.engine.stats(&vmm).await {
                Ok(stats) => stats.memory_bytes,
                Err(e) => {
                    tracing::debug!(%agent, error = %e, "no figures of the VMM");
                    0
                }
            },
            None => 0,
        };
        let counters = match slot {
            Some(slot) => self.host.network.counters(slot).await.ok(),
            None => None,
        };
        Ok(wire::StatsResponse {
            cpu_usage_us: stats.cpu_usage_us,
            cpu_usage_percent: stats.cpu_usage_percent,
            memory_usage_bytes: stats.memory_usage_bytes,
            memory_total_bytes: stats.memory_total_bytes,
            disk_usage_bytes: stats.disk_usage_bytes,
            disk_total_bytes: stats.disk_total_bytes,
            network_rx_bytes: counters.map_or(stats.network_rx_bytes, |c| c.rx_bytes),
            network_tx_bytes: counters.map_or(stats.network_tx_bytes, |c| c.tx_bytes),
            processes: stats.processes,
            uptime_ms: stats.uptime_ms,
            host_memory_bytes,
        })
    }
}

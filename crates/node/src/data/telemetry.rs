//! Health and figures of one agent.

use super::{DataService, Up, error};
use crate::engine::VmmStats;
use aether_proto::node as wire;
use std::os::unix::fs::MetadataExt;
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
        let machine = match vmm {
            Some(vmm) => self.host.engine.stats(&vmm).await.unwrap_or_else(|e| {
                tracing::debug!(%agent, error = %e, "no figures of the VMM");
                VmmStats::default()
            }),
            None => VmmStats::default(),
        };
        let disk = self.host.config.disks_dir().join(format!("{agent}.disk"));
        let host_disk_bytes = tokio::fs::metadata(disk).await.map_or(0, |m| m.blocks() * 512);
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
            host_memory_bytes: machine.memory_bytes,
            host_cpu_usage_us: machine.cpu_usage_us,
            host_disk_bytes,
            cpu_count: stats.cpu_count,
            sampled_at_ms: self.host.clock.now().unix_ms(),
        })
    }
}

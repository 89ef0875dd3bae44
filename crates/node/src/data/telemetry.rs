//! Health and figures of one agent.

use super::{DataService, Up, check, error};
use crate::engine::VmmStats;
use aether_core::AgentId;
use aether_proto::node as wire;
use std::os::unix::fs::MetadataExt;
use tonic::Status as Refusal;

impl DataService {
    /// A guest that does not answer is an answer, not an error.
    pub(super) async fn agent_health(&self, agent: &str) -> Result<wire::HealthResponse, Refusal> {
        let up = self.up(agent)?;
        let checked_at_ms = self.host.clock.now().unix_ms();
        let h = match up.client.health().await {
            Ok(health) => health,
            Err(e) => {
                return Ok(wire::HealthResponse { message: e.to_string(), checked_at_ms, ..Default::default() });
            }
        };
        let probed = h.probe_checked_at_ms > 0;
        let message = match h.probe.as_str() {
            "" => h.message,
            "starting" if !probed => "the first probe is still to come".to_owned(),
            _ if h.probe_message.is_empty() => "the probe succeeds".to_owned(),
            _ => format!("the probe fails: {}", h.probe_message),
        };
        // That it answers this does not make up for what it does otherwise.
        let breach = up.client.breach();
        Ok(wire::HealthResponse {
            healthy: h.healthy && h.probe != "unhealthy" && breach.is_none(),
            message: breach.unwrap_or(message),
            checked_at_ms: if probed { h.probe_checked_at_ms } else { checked_at_ms },
            probe: h.probe,
            probe_failures: h.probe_failures,
        })
    }

    /// What each of the tenant's agents has written, as the disk's blocks.
    pub(super) async fn tenant_disks(&self, tenant: &str) -> Result<wire::DiskUsageResponse, Refusal> {
        let tenant = check::tenant(tenant)?;
        let mut disks = Vec::new();
        for agent in self.supervisor.of_tenant(&tenant) {
            if let Some(bytes) = self.disk_bytes(&agent).await {
                disks.push(wire::AgentDisk { agent_id: agent.to_string(), bytes });
            }
        }
        Ok(wire::DiskUsageResponse { disks })
    }

    /// None: the agent has no disk (yet, or any more).
    async fn disk_bytes(&self, agent: &AgentId) -> Option<u64> {
        let disk = self.host.config.disks_dir().join(format!("{agent}.disk"));
        tokio::fs::metadata(disk).await.ok().map(|m| m.blocks() * 512)
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
        let host_disk_bytes = self.disk_bytes(&agent).await.unwrap_or(0);
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

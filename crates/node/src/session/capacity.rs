//! What the machine has, and what of it is counted.

use crate::admission::DiskSpace;
use crate::config::NodeConfig;
use crate::memory::HostMemory;
use aether_proto::node::NodeCapacity;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub cpu_millicores: u64,
    pub memory_mb: u64,
    pub disk_mb: u64,
}

impl Capacity {
    /// Measured, multiplied by the overcommits, overridden where configured.
    pub(crate) fn measure(config: &NodeConfig) -> std::io::Result<Self> {
        let cores = u64::try_from(cores()).unwrap_or(1);
        let memory_mb = match config.capacity.memory_mb {
            Some(mb) => mb,
            None => {
                let memory = HostMemory::read(None)?;
                overcommitted(memory.total_mb.saturating_sub(memory.reserve_mb()), config.memory_overcommit)
            }
        };
        let disk_mb = match config.capacity.disk_mb {
            Some(mb) => mb,
            None => {
                let space = DiskSpace::of(&config.state_dir)?;
                let usable = space.total_mb.saturating_sub(space.reserve_mb(config.disk_reserve));
                overcommitted(usable, config.disk_overcommit)
            }
        };
        let cpu = cores.saturating_mul(1000).saturating_mul(u64::from(config.cpu_overcommit.max(1)));
        Ok(Self { cpu_millicores: config.capacity.cpu_millicores.unwrap_or(cpu), memory_mb, disk_mb })
    }

    pub(crate) fn message(self) -> NodeCapacity {
        NodeCapacity { cpu_millicores: self.cpu_millicores, memory_mb: self.memory_mb, disk_mb: self.disk_mb }
    }
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub(crate) fn disk_free_mb(config: &NodeConfig) -> u64 {
    let Ok(space) = DiskSpace::of(&config.state_dir) else { return 0 };
    space.free_mb.saturating_sub(space.reserve_mb(config.disk_reserve))
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "megabytes times a small factor"
)]
fn overcommitted(memory_mb: u64, factor: f64) -> u64 {
    let factor = if factor.is_finite() { factor.clamp(0.1, 1000.0) } else { 1.0 };
    (memory_mb as f64 * factor) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CapacityOverrides;

    #[test]
    fn the_reported_capacity_is_the_hosts() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut config = NodeConfig::new(dir.path().to_owned());
        let measured = Capacity::measure(&config).expect("measures");
        let memory = HostMemory::read(None).expect("reads");
        let total = memory.total_mb - memory.reserve_mb();
        assert_eq!(measured.memory_mb, total);
        assert_eq!(measured.cpu_millicores, u64::try_from(cores()).unwrap_or(1) * 64_000);
        assert!(measured.disk_mb > 0);
        config.disk_overcommit = 1.0;
        let plain = Capacity::measure(&config).expect("measures").disk_mb;
        assert!(measured.disk_mb >= plain * 10 - 10, "{} of {plain}", measured.disk_mb);
        config.disk_overcommit = 1000.0;
        let most = Capacity::measure(&config).expect("measures").disk_mb;
        assert!(most >= plain * 1000 - 1000, "{most} of {plain}: the configuration allows as much");
        config.memory_overcommit = 2.0;
        assert_eq!(Capacity::measure(&config).expect("measures").memory_mb, total * 2);
        config.capacity = CapacityOverrides { cpu_millicores: Some(1), memory_mb: Some(2), disk_mb: Some(3) };
        let forced = Capacity { cpu_millicores: 1, memory_mb: 2, disk_mb: 3 };
        assert_eq!(Capacity::measure(&config).expect("measures"), forced);
    }
}

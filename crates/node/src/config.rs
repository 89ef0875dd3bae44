//! What an operator can set on a node. Every default is here.

use aether_core::NodeId;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Options of a node. Parsed and checked by the binary.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Absent: the one in the journal, made up at the first start.
    pub node_id: Option<NodeId>,
    /// Part of ids that are made here.
    pub cell: String,
    /// The journal, its key, and the writable disks: `/var/lib/aether/node`.
    pub state_dir: PathBuf,
    /// Told to the control plane, for placement.
    pub labels: BTreeMap<String, String>,
    /// host:port of the mTLS listener; empty in process.
    pub data_address: String,
    /// Sandboxes at once; also the slot numbers 0 up to this.
    pub slots: u32,
    /// Boots at once; absent: the number of cores, at least 2.
    pub max_boots: Option<usize>,
    /// From the VMM's start to the guest's answer, before the factor of an
    /// emulated engine; time in the queue does not count.
    pub boot_timeout: Duration,
    /// Between signal and kill of a stop that names no time.
    pub stop_timeout: Duration,
    /// Between signal and kill of a destroy.
    pub destroy_grace: Duration,
    /// How long SIGKILL may take before it is tried again.
    pub kill_limit: Duration,
    /// Between two questions to a guest whether it lives.
    pub health_interval: Duration,
    /// How often the sweep for what has no owner runs: what is left anywhere
    /// is gone within a minute.
    pub sweep_interval: Duration,
    /// How often images that nobody needs are collected.
    pub image_gc_interval: Duration,
    /// CPU is a weight: millicores counted = cores × 1000 × this.
    pub cpu_overcommit: u32,
    /// Memory counted = what the machine has × this.
    pub memory_overcommit: f64,
    /// Disk counted = what the machine has × this: writable disks are sparse.
    pub disk_overcommit: f64,
    /// What to report instead of what was measured.
    pub capacity: CapacityOverrides,
    pub disk_reserve: DiskReserve,
    /// Run tenants other than `default` on an engine that is no boundary.
    pub allow_emulation: bool,
}

/// The part of it that may change while the node runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BootPolicy {
    pub boot_timeout: Duration,
    pub allow_emulation: bool,
}

/// Measured where absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapacityOverrides {
    pub cpu_millicores: Option<u64>,
    pub memory_mb: Option<u64>,
    pub disk_mb: Option<u64>,
}

/// Kept free for delete and journal: admission stops below it.
pub use aether_reserve::Reserve as DiskReserve;

impl NodeConfig {
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            node_id: None,
            cell: aether_core::id::DEFAULT_CELL.to_owned(),
            state_dir,
            labels: BTreeMap::new(),
            data_address: String::new(),
            slots: 256,
            max_boots: None,
            boot_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(30),
            destroy_grace: Duration::from_secs(1),
            kill_limit: Duration::from_secs(5),
            health_interval: Duration::from_secs(10),
            sweep_interval: Duration::from_secs(20),
            image_gc_interval: Duration::from_secs(600),
            cpu_overcommit: 64,
            memory_overcommit: 1.0,
            disk_overcommit: 10.0,
            capacity: CapacityOverrides::default(),
            disk_reserve: DiskReserve::default(),
            allow_emulation: false,
        }
    }

    pub(crate) fn boot_policy(&self) -> BootPolicy {
        BootPolicy { boot_timeout: self.boot_timeout, allow_emulation: self.allow_emulation }
    }

    pub(crate) fn journal_path(&self) -> PathBuf {
        self.state_dir.join("journal.db")
    }

    pub(crate) fn key_path(&self) -> PathBuf {
        self.state_dir.join("node.key")
    }

    /// The writable disks, named by agent id.
    pub(crate) fn disks_dir(&self) -> PathBuf {
        self.state_dir.join("disks")
    }

    /// Disks made in advance, which nobody owns yet.
    pub(crate) fn spares_dir(&self) -> PathBuf {
        self.state_dir.join("spares")
    }

    /// The last lines of agents that ended.
    pub(crate) fn logs_dir(&self) -> PathBuf {
        self.state_dir.join("logs")
    }
}

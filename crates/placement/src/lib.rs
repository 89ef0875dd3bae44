//! Pure scheduling: which node an agent goes to, and why.
//!
//! [`place`] takes facts and returns a decision with its reasons: filters
//! first, each naming how many nodes it removed, then a score, then fixed tie
//! breaks. The same fleet and request give the same answer in whatever order
//! the nodes come. Nothing is reserved here: the store disposes.
//!
//! Not here: I/O, a clock, the queue of what waits.

mod decide;
mod explain;

pub use decide::{place, place_all};
pub use explain::Filter;

use aether_core::api::NodeAmounts;
use aether_core::{AgentId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// How fitting nodes are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The fullest node first.
    #[default]
    BinPacking,
    /// The emptiest node first.
    Spread,
    /// The node with the least left over.
    BestFit,
}

impl Strategy {
    /// As it is configured, and as the label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BinPacking => "bin-packing",
            Self::Spread => "spread",
            Self::BestFit => "best-fit",
        }
    }
}

/// How much each resource counts in a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Weights {
    pub cpu: u32,
    pub memory: u32,
    pub disk: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { cpu: 1, memory: 1, disk: 1 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub strategy: Strategy,
    pub weights: Weights,
}

/// What one agent needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub agent: AgentId,
    pub amounts: NodeAmounts,
    /// The node that holds its disk: that one or none. Its disk is reserved
    /// there already, so only CPU and memory must fit.
    pub pinned: Option<NodeId>,
    /// Labels that the node must have, exactly.
    pub selector: BTreeMap<String, String>,
    /// Isolations that will do; empty: any.
    pub isolation: BTreeSet<String>,
}

/// One node as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    pub ready: bool,
    pub isolation: String,
    pub labels: BTreeMap<String, String>,
    pub capacity: NodeAmounts,
    pub reserved: NodeAmounts,
}

impl Node {
    /// Capacity less reservations, never below zero.
    pub fn free(&self) -> NodeAmounts {
        NodeAmounts {
            cpu_millicores: self.capacity.cpu_millicores.saturating_sub(self.reserved.cpu_millicores),
            memory_mb: self.capacity.memory_mb.saturating_sub(self.reserved.memory_mb),
            disk_mb: self.capacity.disk_mb.saturating_sub(self.reserved.disk_mb),
        }
    }
}

/// Where to, and why; or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Place { node: NodeId, reason: String },
    Wait { reason: String },
}

impl Decision {
    pub fn node(&self) -> Option<&NodeId> {
        match self {
            Decision::Place { node, .. } => Some(node),
            Decision::Wait { .. } => None,
        }
    }

    pub fn reason(&self) -> &str {
        match self {
            Decision::Place { reason, .. } | Decision::Wait { reason } => reason,
        }
    }
}

//! The filters, in their order, and the sentence that says what they removed.

use crate::{Node, Request};
use std::fmt;

/// One reason to leave a node out. A node counts for the first that hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filter {
    Pinned,
    NotReady,
    Isolation,
    Selector,
    Cpu,
    Memory,
    Disk,
}

impl Filter {
    pub const ALL: [Filter; 7] = [
        Filter::Pinned,
        Filter::NotReady,
        Filter::Isolation,
        Filter::Selector,
        Filter::Cpu,
        Filter::Memory,
        Filter::Disk,
    ];

    fn text(self) -> &'static str {
        match self {
            Filter::Pinned => "not the node that holds its disk",
            Filter::NotReady => "not ready",
            Filter::Isolation => "isolation not allowed",
            Filter::Selector => "labels do not match",
            Filter::Cpu => "not enough CPU",
            Filter::Memory => "not enough memory",
            Filter::Disk => "not enough disk",
        }
    }

    fn removes(self, request: &Request, node: &Node) -> bool {
        let (free, need) = (node.free(), request.amounts);
        match self {
            Filter::Pinned => request.pinned.as_ref().is_some_and(|pinned| *pinned != node.id),
            Filter::NotReady => !node.ready,
            Filter::Isolation => !request.isolation.is_empty() && !request.isolation.contains(&node.isolation),
            Filter::Selector => request.selector.iter().any(|(k, v)| node.labels.get(k) != Some(v)),
            Filter::Cpu => need.cpu_millicores > free.cpu_millicores,
            Filter::Memory => need.memory_mb > free.memory_mb,
            Filter::Disk => request.pinned.is_none() && need.disk_mb > free.disk_mb,
        }
    }
}

/// The first filter that removes the node; none: it fits.
pub(crate) fn removed_by(request: &Request, node: &Node) -> Option<Filter> {
    Filter::ALL.into_iter().find(|filter| filter.removes(request, node))
}

/// How many nodes each filter removed.
#[derive(Default)]
pub(crate) struct Tally([usize; Filter::ALL.len()]);

impl Tally {
    pub(crate) fn count(&mut self, filter: Filter) {
        self.0[filter as usize] += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for filter in Filter::ALL {
            let count = self.0[filter as usize];
            if count > 0 {
                write!(f, "{}{count} {}", if first { "" } else { ", " }, filter.text())?;
                first = false;
            }
        }
        Ok(())
    }
}

//! How much memory the host has for something new: what its kernel counts as
//! available, and what the limits of control groups leave of that.
//!
//! Not here: what agents were promised; that is `admission`'s.

use crate::cgroup::{self, MemoryBound};
use std::io;

/// Kept for what runs already, of all there is.
const RESERVE_PERCENT: u64 = 5;
/// At most this, however large the host is.
const RESERVE_MOST_MB: u64 = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    pub total_mb: u64,
    /// Without swapping, as the kernel estimates it.
    pub available_mb: u64,
}

impl HostMemory {
    /// Of the host, or of the container that this is; with a group, of what
    /// that one may still use.
    pub fn read(group: Option<&str>) -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/meminfo")?;
        let host =
            Self::parse(&text).ok_or_else(|| io::Error::other("neither MemTotal nor MemAvailable in /proc/meminfo"))?;
        let bounds = [Some(""), group].into_iter().flatten().filter_map(cgroup::memory_bound);
        Ok(bounds.fold(host, Self::within))
    }

    fn parse(meminfo: &str) -> Option<Self> {
        let mb = |key: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb / 1024)
        };
        Some(Self { total_mb: mb("MemTotal")?, available_mb: mb("MemAvailable")? })
    }

    fn within(self, bound: MemoryBound) -> Self {
        Self {
            total_mb: self.total_mb.min(bound.limit_bytes >> 20),
            available_mb: self.available_mb.min(bound.left_bytes >> 20),
        }
    }

    /// What nothing new may touch.
    pub fn reserve_mb(self) -> u64 {
        (self.total_mb.saturating_mul(RESERVE_PERCENT) / 100).min(RESERVE_MOST_MB)
    }

    /// Whether so much more leaves the reserve as it is.
    pub fn has_room_for(self, mb: u64) -> bool {
        self.available_mb >= self.reserve_mb().saturating_add(mb)
    }
}

impl std::fmt::Display for HostMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} MB are available, and {} MB are kept for what runs", self.available_mb, self.reserve_mb())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        let text = "MemTotal:       24684092 kB\nMemFree:  1 kB\nMemAvailable:   23072380 kB\n";
        assert_eq!(HostMemory::parse(text), Some(HostMemory { total_mb: 24_105, available_mb: 22_531 }));
        for bad in ["", "MemTotal: 5 kB\n", "MemTotal: x kB\nMemAvailable: 5 kB\n", "MemTotal: 5\nMemAvailable: 5\n"] {
            assert_eq!(HostMemory::parse(bad), None, "{bad:?}");
        }
        let here = HostMemory::read(None).expect("reads");
        assert!(here.total_mb > 0 && here.available_mb <= here.total_mb, "{here:?}");
    }

    #[test]
    fn the_reserve_is_touched_by_nothing_new() {
        let memory = HostMemory { total_mb: 4000, available_mb: 712 };
        assert_eq!(memory.reserve_mb(), 200);
        assert!(memory.has_room_for(512) && !memory.has_room_for(513) && !memory.has_room_for(u64::MAX));
        assert_eq!(HostMemory { total_mb: 1 << 20, available_mb: 0 }.reserve_mb(), RESERVE_MOST_MB);
        assert!(!HostMemory { total_mb: 4000, available_mb: 199 }.has_room_for(0));
        assert_eq!(memory.to_string(), "712 MB are available, and 200 MB are kept for what runs");
    }

    #[test]
    fn the_tighter_bound_counts() {
        let host = HostMemory { total_mb: 4000, available_mb: 1000 };
        let bound = |limit: u64, left: u64| MemoryBound { limit_bytes: limit << 20, left_bytes: left << 20 };
        assert_eq!(host.within(bound(500, 30)), HostMemory { total_mb: 500, available_mb: 30 });
        assert_eq!(host.within(MemoryBound { limit_bytes: u64::MAX, left_bytes: u64::MAX }), host);
    }
}

//! What lies on the host, to show that nothing is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// One reading of `scripts/host-state.sh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostState(BTreeSet<String>);

impl HostState {
    /// Reads the host's traces of `prefix`, and the files below `dirs`.
    pub fn read(prefix: &str, dirs: &[&Path]) -> Self {
        let output = Command::new(crate::repo().join("scripts/host-state.sh"))
            .args(["--prefix", prefix])
            .args(dirs)
            .output()
            .expect("the script runs");
        Self(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }

    /// What is here and was not in `before`, without lines that name none of
    /// `ours` (other tests run on the same host).
    pub fn added_since(&self, before: &HostState, ours: &[&str]) -> Vec<String> {
        let named = |line: &&String| ours.iter().any(|o| line.contains(o));
        self.0.difference(&before.0).filter(named).cloned().collect()
    }

    /// Everything that is here and was not in `before`.
    pub fn all_added_since(&self, before: &HostState) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }

    /// What `ours` has more of than `before`, by kind and without its numbers:
    /// a spare network slot may have another number than the one it replaces.
    pub fn grown_since(&self, before: &HostState, ours: &[&str]) -> Vec<String> {
        let counts = |state: &HostState| {
            let mut counts = BTreeMap::<String, usize>::new();
            for line in state.0.iter().filter(|l| ours.iter().any(|o| l.contains(o))) {
                let plain: String = line.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
                *counts.entry(plain.replace("00", "0").replace("00", "0")).or_default() += 1;
            }
            counts
        };
        let earlier = counts(before);
        let more = |(line, count): &(String, usize)| *count > earlier.get(line).copied().unwrap_or(0);
        counts(self).into_iter().filter(more).map(|(line, count)| format!("{count} × {line}")).collect()
    }

    /// How many lines of one kind (`process`, `link`, `cgroup`, …) there are.
    pub fn count(&self, kind: &str) -> usize {
        self.0.iter().filter(|l| l.split(' ').next() == Some(kind)).count()
    }
}

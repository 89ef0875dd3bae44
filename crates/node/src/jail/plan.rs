//! What the verb is told. Travels in a memfd, so that neither arguments nor
//! environment show in `ps`.

use super::JailError;
use serde::{Deserialize, Serialize};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Limits of one jailed process; zero means no limit of that kind, except
/// where a field says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailLimits {
    /// The cgroup's memory limit; swap is off where the host can do that.
    pub memory_mb: u64,
    /// Tasks in the cgroup.
    pub pids: u32,
    /// Quota in hundredths of a core.
    pub cpu_percent: u32,
    /// RLIMIT_FSIZE: the largest file it can write. Zero means it can write
    /// no file at all (memory-backed sinks are sealed instead).
    pub fsize_bytes: u64,
    /// RLIMIT_NOFILE; never zero.
    pub nofile: u64,
    /// Raised by so much, so that the kernel ends a sandbox before the daemon:
    /// above the daemon's own, where that is raised too.
    pub oom_score_adj: i32,
}

impl Default for JailLimits {
    fn default() -> Self {
        Self { memory_mb: 512, pids: 64, cpu_percent: 100, fsize_bytes: 0, nofile: 256, oom_score_adj: 500 }
    }
}

/// A host path shown inside the jail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    pub source: PathBuf,
    /// Absolute, without `..`.
    pub target: PathBuf,
    pub writable: bool,
    /// Programs and libraries need it; data does not.
    pub exec: bool,
}

/// A small file that exists in the private root alone, in memory: how a
/// secret reaches the program without showing in argv or on the host.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InlineFile {
    pub target: PathBuf,
    pub content: Vec<u8>,
}

impl std::fmt::Debug for InlineFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InlineFile({}, ***)", self.target.display())
    }
}

/// All that the verb does, in one document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailPlan {
    /// Absolute, inside the jail.
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub uid: u32,
    pub gid: u32,
    /// A folder of the host, made by the verb, on which the private root is
    /// mounted. It must not exist before.
    pub dir: PathBuf,
    pub binds: Vec<Bind>,
    /// Readable by the slot's user alone.
    pub files: Vec<InlineFile>,
    /// Show /dev/kvm.
    pub kvm: bool,
    /// Size of the private /tmp; zero: none.
    pub tmp_mb: u64,
    /// Descriptor numbers of the passed descriptors, in the order in which
    /// they are passed. 0, 1 and 2 not named are /dev/null.
    pub fds: Vec<i32>,
    /// Path below each controller's root, e.g. `aether-700000/slot-3`.
    pub cgroup: Option<String>,
    pub limits: JailLimits,
}

/// Files of the private root's own memory.
const MAX_INLINE: usize = 64 << 10;

/// More than any engine needs; a bound on what one message can carry.
pub(super) const MAX_FDS: usize = 64;

impl JailPlan {
    /// Everything that can be judged without touching the host.
    pub fn check(&self) -> Result<(), JailError> {
        let bad = |what: &str| Err(JailError::Plan(what.to_string()));
        if self.uid == 0 || self.gid == 0 {
            return bad("a jailed process is never root");
        }
        if !is_plain_absolute(&self.program) || !is_plain_absolute(&self.dir) {
            return bad("program and dir must be absolute paths without `..`");
        }
        if self.limits.nofile == 0 {
            return bad("limits.nofile must not be zero");
        }
        if self.fds.len() > MAX_FDS {
            return bad("too many descriptors");
        }
        let mut sorted = self.fds.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != self.fds.len() || sorted.iter().any(|n| !(0..200).contains(n)) {
            return bad("descriptor numbers must be distinct and below 200");
        }
        for bind in &self.binds {
            if !is_plain_absolute(&bind.source) || !is_plain_absolute(&bind.target) || bind.target == Path::new("/") {
                return bad("bind paths must be absolute, without `..`, and not the root");
            }
        }
        if self.files.iter().any(|f| !is_plain_absolute(&f.target) || f.target == Path::new("/"))
            || self.files.iter().map(|f| f.content.len()).sum::<usize>() > MAX_INLINE
        {
            return bad("inline files must have absolute paths without `..`, and be small");
        }
        if let Some(name) = &self.cgroup {
            let path = Path::new(name);
            let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
            if name.is_empty() || !plain || name.len() > 128 {
                return bad("the cgroup's name must be a relative path without `..`");
            }
        }
        Ok(())
    }
}

fn is_plain_absolute(path: &Path) -> bool {
    path.is_absolute()
        && !path.as_os_str().as_bytes().contains(&0)
        && path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
}

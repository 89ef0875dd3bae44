//! Writable disks made in advance: one per size that was asked for last, so
//! that a boot renames a file instead of making a file system and encrypting
//! it. A spare belongs to nobody and its key is in memory alone: what a
//! process left is removed by the next.
//!
//! Not here: who owns a disk (the journal), and what is in it (the engine).

use crate::admission::DiskSpace;
use crate::config::DiskReserve;
use crate::engine::{DiskFormat, Engine};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::task::TaskTracker;

/// Sizes with a spare at one time; tenants choose sizes freely.
const MAX_SIZES: usize = 4;

pub(crate) struct Spares {
    dir: PathBuf,
    engine: Arc<dyn Engine>,
    /// Below so much free space none is made.
    reserve: DiskReserve,
    state: Mutex<State>,
    making: TaskTracker,
}

#[derive(Default)]
struct State {
    /// By size in MiB.
    ready: BTreeMap<u64, DiskFormat>,
    making: BTreeSet<u64>,
}

impl Spares {
    /// Empties the folder: the keys of what lies in it are lost.
    pub(crate) fn open(dir: PathBuf, engine: Arc<dyn Engine>, reserve: DiskReserve) -> io::Result<Arc<Self>> {
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Arc::new(Self { dir, engine, reserve, state: Mutex::default(), making: TaskTracker::new() }))
    }

    /// Moves a spare of that size to `to`, where there is one.
    pub(crate) fn take(&self, disk_mb: u64, to: &Path) -> Option<DiskFormat> {
        let format = self.state.lock().ready.remove(&disk_mb)?;
        match std::fs::rename(self.path(disk_mb), to) {
            Ok(()) => Some(format),
            Err(e) => {
                tracing::warn!(error = %e, "a spare disk is of no use");
                None
            }
        }
    }

    /// Makes one of that size for the next, if there is none. Returns at once.
    pub(crate) fn refill(self: &Arc<Self>, disk_mb: u64) {
        {
            let mut state = self.state.lock();
            if state.ready.contains_key(&disk_mb) || !state.making.insert(disk_mb) {
                return;
            }
        }
        let this = self.clone();
        self.making.spawn(async move {
            let made = this.make(disk_mb).await;
            let mut state = this.state.lock();
            state.making.remove(&disk_mb);
            if let Some(format) = made {
                state.ready.insert(disk_mb, format);
                this.drop_others(&mut state, disk_mb);
            }
        });
    }

    async fn make(&self, disk_mb: u64) -> Option<DiskFormat> {
        if !DiskSpace::of(&self.dir).is_ok_and(|space| space.above_low_water(self.reserve)) {
            return None;
        }
        let path = self.path(disk_mb);
        let _ = std::fs::remove_file(&path);
        match self.engine.make_disk(&path, disk_mb).await {
            Ok(format) => Some(format),
            Err(e) => {
                // The boot that needs one will say so to its user.
                tracing::debug!(error = %e, disk_mb, "no spare disk was made");
                None
            }
        }
    }

    fn drop_others(&self, state: &mut State, keep: u64) {
        while state.ready.len() > MAX_SIZES {
            let Some(other) = state.ready.keys().copied().find(|mb| *mb != keep) else { return };
            state.ready.remove(&other);
            let _ = std::fs::remove_file(self.path(other));
        }
    }

    /// Waits for those being made, and removes all.
    pub(crate) async fn close(&self) {
        self.making.close();
        self.making.wait().await;
        self.state.lock().ready.clear();
        let _ = std::fs::remove_dir_all(&self.dir);
    }

    fn path(&self, disk_mb: u64) -> PathBuf {
        self.dir.join(format!("{disk_mb}.disk"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{BootRequest, EngineError, Isolation, Vmm, VmmExit, VmmIdentity, VmmStats};
    use async_trait::async_trait;
    use std::time::Duration;

    /// Makes disks and nothing else.
    struct Maker;

    #[async_trait]
    impl Engine for Maker {
        fn kind(&self) -> &'static str {
            "maker"
        }
        fn isolation(&self) -> Isolation {
            Isolation::VmEmulated
        }
        async fn make_disk(&self, path: &Path, disk_mb: u64) -> Result<DiskFormat, EngineError> {
            std::fs::write(path, disk_mb.to_string()).map_err(EngineError::io("write"))?;
            Ok(DiskFormat::Raw)
        }
        async fn boot(&self, _: BootRequest) -> Result<Vmm, EngineError> {
            Err(EngineError::Jail("only disks".into()))
        }
        async fn adopt(&self, _: &VmmIdentity) -> Result<Option<Vmm>, EngineError> {
            Ok(None)
        }
        async fn wait(&self, _: &Vmm) -> VmmExit {
            VmmExit::default()
        }
        async fn kill(&self, _: &Vmm, _: Duration) -> Result<VmmExit, EngineError> {
            Ok(VmmExit::default())
        }
        async fn reap(&self, _: u32) -> Result<(), EngineError> {
            Ok(())
        }
        async fn traces(&self) -> Result<Vec<u32>, EngineError> {
            Ok(Vec::new())
        }
        async fn clean(&self, _: u32) -> Result<(), EngineError> {
            Ok(())
        }
        async fn stats(&self, _: &Vmm) -> Result<VmmStats, EngineError> {
            Ok(VmmStats::default())
        }
    }

    const NO_RESERVE: DiskReserve = DiskReserve { percent: 0, max_mb: 0 };

    #[tokio::test]
    async fn a_spare_is_taken_once_and_few_sizes_are_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("spares");
        let spares = Spares::open(folder.clone(), Arc::new(Maker), NO_RESERVE).expect("opens");
        let to = dir.path().join("mine.disk");
        assert!(spares.take(64, &to).is_none(), "none was made");
        for mb in [64, 64, 65, 66, 67, 68] {
            spares.refill(mb);
        }
        spares.making.close();
        spares.making.wait().await;
        assert_eq!(std::fs::read_dir(&folder).expect("reads").count(), MAX_SIZES);
        let kept = *spares.state.lock().ready.keys().next().expect("one");
        assert!(spares.take(kept, &to).is_some());
        assert_eq!(std::fs::read_to_string(&to).expect("moved"), kept.to_string());
        assert!(spares.take(kept, &to).is_none(), "only once");
        let again = Spares::open(folder.clone(), Arc::new(Maker), NO_RESERVE).expect("opens again");
        assert_eq!(std::fs::read_dir(&folder).expect("reads").count(), 0, "what a process left is removed");
        again.close().await;
        assert!(!folder.exists());
    }
}

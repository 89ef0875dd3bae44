//! What bears our prefix and belongs to nobody: namespaces, links, mounts,
//! tables of rules. Truth is the kernel; the pool only knows what this
//! process did.

use super::host;
use super::link;
use super::pool::{Inner, NetworkPool, Slot};
use super::{NetworkError, netns};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

type Result<T> = std::result::Result<T, NetworkError>;

impl NetworkPool {
    /// Removes every trace with our prefix that is neither claimed, spare
    /// nor in `live`, and puts the host's rules right; returns what was
    /// removed.
    pub async fn sweep(&self, live: &BTreeSet<u32>) -> Result<Vec<String>> {
        let mut removed = self.inner.right_the_rules().await?;
        let traces = self.inner.traces().await?;
        for slot in traces.slots {
            if live.contains(&slot) {
                continue;
            }
            let found = self.change_any(slot, move |inner, state| async move {
                match *state {
                    Slot::Absent => inner.floor.remove(slot).await,
                    _ => Ok(Vec::new()),
                }
            });
            match found.await {
                Ok(names) => removed.extend(names),
                Err(e) => tracing::warn!(slot, error = %e, "a slot without an owner could not be removed"),
            }
        }
        for name in traces.files {
            let path = self.inner.floor.cfg.netns_dir().join(&name);
            match super::slot::blocking(move || netns::remove(&path)).await {
                Ok(found) => removed.extend(found.iter().map(|what| format!("{what} {}", name.display()))),
                Err(e) => {
                    tracing::warn!(name = %name.display(), error = %e, "it has no owner and could not be removed")
                }
            }
        }
        self.inner.wanted.notify_one();
        Ok(removed)
    }
}

/// What exists on the host under our prefix.
#[derive(Debug)]
pub(super) struct Traces {
    pub(super) slots: BTreeSet<u32>,
    /// In our own folder and of no slot, since we do not write names so.
    files: Vec<OsString>,
}

impl Inner {
    pub(super) async fn traces(&self) -> Result<Traces> {
        let cfg = &self.floor.cfg;
        // An interface is ours by its whole name alone: others name theirs as they like.
        let links = link::names(&self.floor.host).await?;
        let mut traces = Traces { slots: links.iter().filter_map(|n| cfg.slot_of(n)).collect(), files: Vec::new() };
        let ours = format!("{}-", cfg.prefix);
        let dir = cfg.netns_dir();
        let entries = match std::fs::read_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(traces),
            entries => entries.map_err(NetworkError::io(format!("read {}", dir.display())))?,
        };
        for name in entries.filter_map(std::result::Result::ok).map(|e| e.file_name()) {
            match name.to_str().and_then(|name| cfg.slot_of(name)) {
                Some(slot) => drop(traces.slots.insert(slot)),
                None if name.as_bytes().starts_with(ours.as_bytes()) => traces.files.push(name),
                None => {}
            }
        }
        Ok(traces)
    }

    /// The host's table as it was loaded, and no other that begins as it does.
    async fn right_the_rules(&self) -> Result<Vec<String>> {
        let cfg = &self.floor.cfg;
        let mut removed = host::drop_strays(cfg).await?;
        let now = host::table(cfg).await?;
        let loaded = self.loaded.lock().clone();
        if now.is_some() && now == loaded {
            return Ok(removed);
        }
        match now {
            Some(_) => removed.push(format!("what was put into table {}", cfg.table())),
            None => tracing::warn!("the host's rules were gone and are loaded again"),
        }
        host::prepare(cfg, &self.lists).await?;
        let loaded = host::table(cfg).await?;
        *self.loaded.lock() = loaded;
        Ok(removed)
    }
}

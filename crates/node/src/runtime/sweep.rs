//! Removes what has no owner in the journal: traces of sandboxes, network
//! objects, disks, logs and image holds that a crash left. What is not ours
//! by uid or prefix is not looked at.

use super::Host;
use std::collections::BTreeSet;
use std::path::Path;

impl Host {
    /// `agents` are all with a row in the journal. Files are swept only at
    /// the start, when nobody makes any.
    pub(crate) async fn sweep_at_start(&self, agents: &BTreeSet<aether_core::AgentId>) -> Vec<String> {
        let mut swept = self.sweep().await;
        let named: BTreeSet<&str> = agents.iter().map(aether_core::AgentId::as_str).collect();
        let mut removed = Vec::new();
        for (dir, kind) in [(self.config.disks_dir(), "disk"), (self.config.logs_dir(), "log")] {
            sweep_folder(&dir, kind, &named, &mut removed);
        }
        note(&removed);
        swept.extend(removed);
        match self.images.retain_holds(agents).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(count, "dropped image holds without an owner"),
            Err(e) => tracing::error!(error = %e, "image holds cannot be swept"),
        }
        swept
    }

    /// What has no owner among slots; answers what it removed.
    pub(crate) async fn sweep(&self) -> Vec<String> {
        let mut swept = Vec::new();
        match self.engine.traces().await {
            Ok(traces) => {
                for slot in traces {
                    self.sweep_slot(slot, &mut swept).await;
                }
            }
            Err(e) => tracing::error!(error = %e, "traces of sandboxes cannot be listed"),
        }
        match self.network.sweep(&self.slots.taken()).await {
            Ok(removed) => swept.extend(removed),
            Err(e) => tracing::error!(error = %e, "the network cannot be swept"),
        }
        note(&swept);
        swept
    }

    /// Frees the space of images that nobody needs any more.
    pub(crate) async fn collect_images(&self) {
        match self.images.gc().await {
            Ok(report) => tracing::debug!(?report, "collected images"),
            Err(e) => tracing::error!(error = %e, "images cannot be collected"),
        }
    }

    /// The slot is taken while it is reaped, so that no boot meets it.
    async fn sweep_slot(&self, slot: u32, swept: &mut Vec<String>) {
        if !self.slots.take_exact(slot) {
            return;
        }
        match self.engine.reap(slot).await {
            Ok(()) => swept.push(format!("traces of a sandbox in slot {slot}")),
            Err(e) => tracing::error!(slot, error = %e, "traces of a sandbox cannot be removed"),
        }
        self.slots.free(slot);
    }
}

fn note(removed: &[String]) {
    for what in removed {
        tracing::warn!(%what, "removed: it had no owner");
    }
}

fn sweep_folder(dir: &Path, kind: &str, agents: &BTreeSet<&str>, swept: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(stem) = name.to_str().and_then(|n| n.split('.').next()) else { continue };
        if agents.contains(stem) {
            continue;
        }
        match std::fs::remove_file(entry.path()) {
            Ok(()) => swept.push(format!("{kind} of {stem}")),
            Err(e) => tracing::error!(path = %entry.path().display(), error = %e, "cannot be removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_without_an_owner_go() {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["agta.disk", "agtb.disk", "agtb.disk.new"] {
            std::fs::write(dir.path().join(name), b"x").expect("writes");
        }
        let mut swept = Vec::new();
        sweep_folder(dir.path(), "disk", &BTreeSet::from(["agta"]), &mut swept);
        assert_eq!(swept, ["disk of agtb", "disk of agtb"]);
        assert!(dir.path().join("agta.disk").exists());
    }
}

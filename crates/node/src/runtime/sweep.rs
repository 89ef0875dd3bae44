//! Removes what has no owner in the journal: traces of sandboxes, network
//! objects, loop devices, disks, logs and image holds that a crash left. What
//! is not ours by uid, prefix or folder is not looked at.

use super::Host;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

impl Host {
    /// `agents` are all with a row in the journal.
    pub(crate) async fn sweep_at_start(&self, agents: &BTreeSet<aether_core::AgentId>) -> Vec<String> {
        let swept = self.sweep().await;
        match self.images.retain_holds(agents).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(count, "dropped image holds without an owner"),
            Err(e) => tracing::error!(error = %e, "image holds cannot be swept"),
        }
        swept
    }

    /// What has no owner; answers what it removed.
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
        taken(self.engine.sweep_strays().await, "what is no slot's cannot be removed", &mut swept);
        taken(self.network.sweep(&self.slots.taken()).await, "the network cannot be swept", &mut swept);
        taken(self.images.sweep().await, "the converter's leftovers cannot be removed", &mut swept);
        self.sweep_loops(&mut swept).await;
        self.sweep_files(&mut swept).await;
        for what in &swept {
            tracing::warn!(%what, "removed: it had no owner");
        }
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

    async fn sweep_loops(&self, swept: &mut Vec<String>) {
        let mut folders = self.engine.folders();
        folders.push(self.config.state_dir.clone());
        folders.push(self.images.folder());
        let work = tokio::task::spawn_blocking(move || crate::loops::sweep(&folders));
        let found = work.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        taken(found, "loop devices cannot be swept", swept);
    }

    /// The folders are read before the journal: a file that was there then,
    /// and whose agent has no row now, is of nobody who could still come,
    /// since rows are written before files.
    async fn sweep_files(&self, swept: &mut Vec<String>) {
        let folders = [(self.config.disks_dir(), "disk"), (self.config.logs_dir(), "log")];
        let listed = tokio::task::spawn_blocking(move || folders.map(|(dir, kind)| (list(&dir), dir, kind)));
        let listed = match listed.await {
            Ok(listed) => listed,
            Err(e) => return tracing::error!(error = %e, "files cannot be swept"),
        };
        if listed.iter().all(|(files, ..)| files.is_empty()) {
            return;
        }
        let agents = match self.journal.agents().await {
            Ok(agents) => agents,
            Err(e) => return tracing::error!(error = %e, "files cannot be swept"),
        };
        let work = tokio::task::spawn_blocking(move || {
            let mut removed = Vec::new();
            for (files, dir, kind) in listed {
                sweep_folder(&dir, files, kind, &agents, &mut removed);
            }
            removed
        });
        swept.extend(work.await.unwrap_or_default());
    }
}

fn taken<E: std::fmt::Display>(found: Result<Vec<String>, E>, failed: &str, swept: &mut Vec<String>) {
    match found {
        Ok(removed) => swept.extend(removed),
        Err(e) => tracing::error!(error = %e, "{failed}"),
    }
}

/// A file as it was seen: by number too, since another may take its name.
struct Seen {
    name: OsString,
    inode: u64,
}

fn list(dir: &Path) -> Vec<Seen> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let seen = |e: std::fs::DirEntry| Some(Seen { name: e.file_name(), inode: e.metadata().ok()?.ino() });
    entries.flatten().filter_map(seen).collect()
}

fn sweep_folder(dir: &Path, files: Vec<Seen>, kind: &str, agents: &BTreeSet<String>, swept: &mut Vec<String>) {
    for Seen { name, inode } in files {
        let stem = name.to_str().and_then(|n| n.split('.').next()).unwrap_or_default();
        let path: PathBuf = dir.join(&name);
        // A disk is being made from a file without an agent's name.
        let making = stem.is_empty() && name.to_str().is_some_and(|n| n.starts_with(TEMPORARY)) && is_young(&path);
        if agents.contains(stem) || making {
            continue;
        }
        if !path.symlink_metadata().is_ok_and(|m| m.ino() == inode) {
            continue;
        }
        match crate::jail::remove_dir(&path) {
            Ok(()) => swept.push(format!("{kind} of {}", name.display())),
            Err(e) => tracing::error!(path = %path.display(), error = %e, "cannot be removed"),
        }
    }
}

/// As `tempfile` begins its names.
const TEMPORARY: &str = ".tmp";

/// Whether it was made within the last minutes, by the file system's clock.
fn is_young(path: &Path) -> bool {
    let made = path.symlink_metadata().and_then(|m| m.modified());
    made.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < std::time::Duration::from_secs(300)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(dir: &Path, agents: &[&str]) -> Vec<String> {
        let agents = agents.iter().map(|a| (*a).to_owned()).collect();
        let mut swept = Vec::new();
        sweep_folder(dir, list(dir), "disk", &agents, &mut swept);
        swept.sort();
        swept
    }

    #[test]
    fn only_files_without_an_owner_go() {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["agta.disk", "agtb.disk", "agtb.disk.new"] {
            std::fs::write(dir.path().join(name), b"x").expect("writes");
        }
        assert_eq!(sweep(dir.path(), &["agta"]), ["disk of agtb.disk", "disk of agtb.disk.new"]);
        assert!(dir.path().join("agta.disk").exists());
    }

    #[test]
    fn odd_names_folders_and_links_go_and_what_they_point_to_stays() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().expect("a folder");
        let precious = tempfile::tempdir().expect("another folder");
        std::fs::write(precious.path().join("kept"), b"x").expect("writes");
        for name in [&b"\xff\xfe.disk"[..], b"-rf", b"new\nline", b".disk"] {
            std::fs::write(dir.path().join(std::ffi::OsStr::from_bytes(name)), b"x").expect("writes");
        }
        std::fs::create_dir_all(dir.path().join("agtc.disk/deep/er")).expect("folders");
        std::os::unix::fs::symlink(precious.path(), dir.path().join("agtd.disk")).expect("a link");
        std::fs::write(dir.path().join(".tmpAbCdEf"), b"being made").expect("writes");
        assert_eq!(sweep(dir.path(), &["agta"]).len(), 6);
        assert_eq!(std::fs::read_dir(dir.path()).expect("reads").count(), 1, "the one being made stays");
        assert!(precious.path().join("kept").exists());
    }

    #[test]
    fn a_file_that_took_the_name_meanwhile_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("agta.disk");
        std::fs::write(&path, b"old").expect("writes");
        let seen = list(dir.path());
        std::fs::write(dir.path().join("new"), b"new").expect("writes");
        std::fs::rename(dir.path().join("new"), &path).expect("takes its place");
        sweep_folder(dir.path(), seen, "disk", &BTreeSet::new(), &mut Vec::new());
        assert_eq!(std::fs::read(&path).expect("is there"), b"new");
    }
}

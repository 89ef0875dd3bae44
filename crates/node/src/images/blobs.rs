//! Content-addressed files. A blob gets its name only after its bytes were
//! hashed and synced, so a name can be trusted after any crash. Pins say what
//! running work relies on, so that a collection spares it.

use super::ImageError;
use crate::admission::DiskSpace;
use crate::config::DiskReserve;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::NamedTempFile;

/// So often, in bytes, is the disk's room looked at while something is written.
const LOOK_EACH: u64 = 4 << 20;

/// Where everything lies.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    pub root: PathBuf,
    pub blobs: PathBuf,
    pub devices: PathBuf,
    /// Unfinished files; emptied at start.
    pub tmp: PathBuf,
    /// Mount points of the converter's jails.
    pub jail: PathBuf,
    reserve: DiskReserve,
}

impl Folders {
    pub(super) fn create(root: &Path, reserve: DiskReserve) -> Result<Self, ImageError> {
        let folders = Self {
            root: root.to_owned(),
            blobs: root.join("blobs/sha256"),
            devices: root.join("devices"),
            tmp: root.join("tmp"),
            jail: root.join("jail"),
            reserve,
        };
        for dir in [&folders.root, &folders.blobs, &folders.devices, &folders.tmp, &folders.jail] {
            fs::create_dir_all(dir).map_err(ImageError::io_at("create", dir))?;
        }
        let only_ours = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&folders.root, only_ours).map_err(ImageError::io_at("protect", root))?;
        Ok(folders)
    }

    /// Refuses what takes room while the disk is nearly full.
    pub(super) fn check_room(&self) -> Result<(), ImageError> {
        let space = DiskSpace::of(&self.root).map_err(ImageError::io_at("ask for the space of", &self.root))?;
        if space.above_low_water(self.reserve) {
            return Ok(());
        }
        Err(ImageError::DiskNearlyFull { free_mb: space.free_mb, kept_mb: space.reserve_mb(self.reserve) })
    }

    /// Removes what an earlier process left unfinished.
    pub(super) fn clean_tmp(&self) -> Result<u32, ImageError> {
        let mut removed = 0;
        let entries = fs::read_dir(&self.tmp).map_err(ImageError::io_at("read", &self.tmp))?;
        for entry in entries {
            let path = entry.map_err(ImageError::io_at("read", &self.tmp))?.path();
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.map_err(ImageError::io_at("remove", &path))?;
            removed += 1;
        }
        Ok(removed)
    }

    pub(super) fn blob(&self, digest: &str) -> PathBuf {
        self.blobs.join(digest.strip_prefix("sha256:").unwrap_or(digest))
    }

    /// Whether the blob is here, whole.
    pub(super) fn has_blob(&self, digest: &str, size: u64) -> bool {
        fs::metadata(self.blob(digest)).is_ok_and(|m| m.is_file() && m.len() == size)
    }
}

/// Makes a rename last.
pub(super) fn sync_dir(dir: &Path) -> Result<(), ImageError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(ImageError::io_at("sync", dir))
}

/// A file without its name yet. When it is dropped its room comes back at
/// once: a process that is just being started may hold its descriptor for some
/// time after its removal.
struct Unnamed(Option<NamedTempFile>);

impl Unnamed {
    fn file(&self) -> std::io::Result<&File> {
        self.0.as_ref().map(NamedTempFile::as_file).ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }

    fn persist(mut self, path: &Path) -> std::io::Result<()> {
        let file = self.0.take().ok_or(std::io::ErrorKind::NotFound)?;
        file.persist(path).map(drop).map_err(|e| {
            let error = e.error;
            drop(Self(Some(e.file)));
            error
        })
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Ok(file) = self.file() {
            let _ = file.set_len(0);
        }
    }
}

/// A blob that is being written. Dropping it removes the partial file.
pub(super) struct BlobWriter {
    file: Unnamed,
    hash: Sha256,
    written: u64,
    limit: u64,
    folders: Folders,
    next_look: u64,
}

/// A finished, not yet named blob.
pub(super) struct Written {
    pub digest: String,
    pub size: u64,
    file: Unnamed,
}

impl BlobWriter {
    /// Takes at most `limit` bytes.
    pub(super) fn create(folders: &Folders, limit: u64) -> Result<Self, ImageError> {
        let file = tempfile::Builder::new().prefix("blob-").tempfile_in(&folders.tmp);
        let file = file.map_err(ImageError::io_at("create a file in", &folders.tmp))?;
        let file = Unnamed(Some(file));
        Ok(Self { file, hash: Sha256::new(), written: 0, limit, folders: folders.clone(), next_look: LOOK_EACH })
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), ImageError> {
        self.written += data.len() as u64;
        if self.written > self.limit {
            return Err(ImageError::TooLarge { what: "the image".into(), limit: self.limit });
        }
        if self.written >= self.next_look {
            self.next_look = self.written + LOOK_EACH;
            self.folders.check_room()?;
        }
        self.hash.update(data);
        self.file.file().and_then(|mut file| file.write_all(data)).map_err(ImageError::io("store a layer"))
    }

    pub(super) fn finish(self) -> Written {
        let digest = format!("sha256:{}", hex::encode(self.hash.finalize()));
        Written { digest, size: self.written, file: self.file }
    }
}

impl Written {
    /// Syncs it and gives it its name.
    pub(super) fn keep(self, folders: &Folders) -> Result<(), ImageError> {
        let path = folders.blob(&self.digest);
        let mode = fs::Permissions::from_mode(0o444);
        let synced = self.file.file().and_then(|f| f.set_permissions(mode).and_then(|()| f.sync_all()));
        synced.map_err(ImageError::io("sync a layer"))?;
        self.file.persist(&path).map_err(ImageError::io_at("name", &path))?;
        sync_dir(&folders.blobs)
    }
}

/// Digests and device keys that running work relies on.
#[derive(Clone, Default)]
pub(super) struct Pins(Arc<Mutex<BTreeMap<String, u32>>>);

impl Pins {
    pub(super) fn pin(&self, name: &str) -> Pin {
        *self.0.lock().entry(name.to_owned()).or_insert(0) += 1;
        Pin { pins: self.clone(), name: name.to_owned() }
    }

    /// Runs `remove` while nobody can pin; not at all when it is pinned.
    pub(super) fn unless_pinned<T>(&self, name: &str, remove: impl FnOnce() -> T) -> Option<T> {
        let pins = self.0.lock();
        (!pins.contains_key(name)).then(remove)
    }
}

/// Spares one blob or device until dropped.
pub(super) struct Pin {
    pins: Pins,
    name: String,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.0.lock();
        if let Some(n) = pins.get_mut(&self.name) {
            *n -= 1;
            if *n == 0 {
                pins.remove(&self.name);
            }
        }
    }
}

//! Garbage collection: rows first, then the files that no row needs. A crash
//! in between leaves files that the next collection removes.

use super::ImageError;
use super::blobs::{Folders, Pins};
use super::catalogue::Catalogue;
use super::record::GcReport;
use aether_core::Timestamp;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Blocks. What running work has pinned is spared, and cannot be pinned
/// between the question whether it is needed and its removal.
pub(super) fn collect(
    folders: &Folders,
    catalogue: &Catalogue,
    pins: &Pins,
    now: Timestamp,
    grace: Duration,
) -> Result<GcReport, ImageError> {
    let mut report = GcReport { images: catalogue.forget_unused(now, grace)?, ..GcReport::default() };
    for key in catalogue.spare_devices()? {
        pins.unless_pinned(&key, || catalogue.forget_device(&key)).transpose()?;
    }
    for name in names(&folders.devices)? {
        let remove = || remove_unless(catalogue.has_device(&name)?, &folders.devices.join(&name));
        if let Some(bytes) = pins.unless_pinned(&name, remove).transpose()?.flatten() {
            report.devices += 1;
            report.freed_bytes += bytes;
        }
    }
    for name in names(&folders.blobs)? {
        let digest = format!("sha256:{name}");
        let remove = || remove_unless(catalogue.needs_blob(&digest)?, &folders.blobs.join(&name));
        if let Some(bytes) = pins.unless_pinned(&digest, remove).transpose()?.flatten() {
            report.blobs += 1;
            report.freed_bytes += bytes;
        }
    }
    Ok(report)
}

fn names(dir: &Path) -> Result<Vec<String>, ImageError> {
    let entries = fs::read_dir(dir).map_err(ImageError::io_at("read", dir))?;
    Ok(entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
}

/// The size of what was removed.
fn remove_unless(needed: bool, path: &Path) -> Result<Option<u64>, ImageError> {
    if needed {
        return Ok(None);
    }
    let size = fs::metadata(path).map_or(0, |m| m.len());
    match fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        done => done.map(|()| Some(size)).map_err(ImageError::io_at("remove", path)),
    }
}

//! The tiny image as files that the CLI imports.

use std::path::{Path, PathBuf};

/// Writes an archive whose /etc/os-release says `id`: each id is an image of
/// its own.
pub fn tiny_image(dir: &Path, id: &str) -> PathBuf {
    let path = dir.join(format!("{id}.tar"));
    std::fs::write(&path, aether_tiny::archive(id)).expect("writes the archive");
    path
}

//! Builds the initramfs and copies the kernel, once per combination of what
//! goes in, under a name that is the digest of it.

use super::modules::{self, Module};
use super::{GuestBinary, KernelError, KernelFacts, cpio, find};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Raised when the layout of the archive changes.
const LAYOUT: &str = "aether-initramfs-1";
/// The guest is to stay small (under 4 MB); a debug build is not.
const MAX_GUEST: u64 = 256 << 20;

/// Ready to boot. The files are copies of ours: a host upgrade does not change
/// them under a running sandbox.
#[derive(Clone, Debug)]
pub struct Artifacts {
    pub facts: KernelFacts,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
}

/// Builds what is not there yet in `dir`. Blocks (reads some ten megabytes).
pub fn prepare(
    dir: &Path,
    kernel: Option<&Path>,
    modules: Option<&Path>,
    guest: &GuestBinary,
) -> Result<Artifacts, KernelError> {
    let found = find::find(kernel, modules, Path::new("/boot"), Path::new("/lib/modules"))?;
    let guest = read_guest(guest)?;
    let set = modules::resolve(&found.modules, &found.release)?;
    let image = std::fs::read(&found.path).map_err(KernelError::io(format!("read {}", found.path.display())))?;
    std::fs::create_dir_all(dir).map_err(KernelError::io(format!("make {}", dir.display())))?;
    let kernel_file = dir.join(format!("vmlinuz-{}", digest(&[&image])));
    store(&kernel_file, || image)?;
    let initramfs = dir.join(format!("initramfs-{}", archive_digest(&guest, &set)));
    store(&initramfs, || archive(&guest, &set))?;
    let facts = KernelFacts {
        path: found.path,
        release: found.release,
        modules: found.modules,
        module_order: set.iter().map(Module::file_name).collect(),
    };
    Ok(Artifacts { facts, kernel: kernel_file, initramfs })
}

fn read_guest(guest: &GuestBinary) -> Result<Vec<u8>, KernelError> {
    let (path, data) = match guest {
        GuestBinary::Embedded(data) => (PathBuf::from("(built in)"), data.to_vec()),
        GuestBinary::Path(path) => {
            let bad = |reason: String| KernelError::BadGuest { path: path.clone(), reason };
            let meta = std::fs::metadata(path).map_err(|e| bad(e.to_string()))?;
            if meta.len() > MAX_GUEST {
                return Err(bad(format!("{} bytes are too many", meta.len())));
            }
            (path.clone(), std::fs::read(path).map_err(|e| bad(e.to_string()))?)
        }
    };
    if !data.starts_with(b"\x7fELF") {
        return Err(KernelError::BadGuest { path, reason: "it is not an executable".into() });
    }
    Ok(data)
}

fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex::encode(&hash.finalize()[..16])
}

fn archive_digest(guest: &[u8], set: &[Module]) -> String {
    let mut parts: Vec<&[u8]> = vec![LAYOUT.as_bytes(), guest];
    for module in set {
        parts.push(module.name.as_bytes());
        parts.push(&module.data);
    }
    digest(&parts)
}

fn archive(guest: &[u8], set: &[Module]) -> Vec<u8> {
    let mut out = cpio::Writer::default();
    for name in ["dev", "proc", "sys", "run", "mnt", "modules"] {
        out.directory(name);
    }
    // The kernel opens it for the first process before anything is mounted.
    out.character_device("dev/console", 0o600, 5, 1);
    let mut order = String::new();
    for module in set {
        out.file(&format!("modules/{}", module.file_name()), 0o644, &module.data);
        order.push_str(&module.file_name());
        order.push('\n');
    }
    out.file("modules/order", 0o644, order.as_bytes());
    out.file("init", 0o755, guest);
    out.finish()
}

/// Written beside, synced, renamed: a crash leaves the whole file or none.
fn store(path: &Path, content: impl FnOnce() -> Vec<u8>) -> Result<(), KernelError> {
    if path.exists() {
        return Ok(());
    }
    let doing = || format!("write {}", path.display());
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir).map_err(KernelError::io(doing()))?;
    file.write_all(&content()).map_err(KernelError::io(doing()))?;
    // Every slot's uid reads it; nobody writes it.
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o444)).map_err(KernelError::io(doing()))?;
    file.as_file().sync_all().map_err(KernelError::io(doing()))?;
    file.persist(path).map_err(|e| KernelError::io(doing())(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_covers_guest_and_modules() {
        let module = |data: &[u8]| vec![Module { name: "a".into(), data: data.to_vec() }];
        let one = archive_digest(b"guest", &module(b"x"));
        assert_eq!(one, archive_digest(b"guest", &module(b"x")));
        assert_ne!(one, archive_digest(b"other", &module(b"x")));
        assert_ne!(one, archive_digest(b"guest", &module(b"y")));
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
    }

    #[test]
    fn a_guest_must_be_an_executable() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("guest");
        std::fs::write(&path, b"#!/bin/sh\n").expect("write");
        assert!(matches!(read_guest(&GuestBinary::Path(path)), Err(KernelError::BadGuest { .. })));
        let absent = GuestBinary::Path(dir.path().join("absent"));
        assert!(matches!(read_guest(&absent), Err(KernelError::BadGuest { .. })));
    }

    #[test]
    fn a_file_is_stored_once_and_read_only() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("kernel");
        store(&path, || b"first".to_vec()).expect("stored");
        store(&path, || b"second".to_vec()).expect("kept");
        assert_eq!(std::fs::read(&path).expect("read"), b"first");
        let mode = std::fs::metadata(&path).expect("meta").permissions().mode();
        assert_eq!(mode & 0o777, 0o444);
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1, "no temporary file stays");
    }
}

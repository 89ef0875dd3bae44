//! The writable disk of an agent.

use super::super::{DiskFormat, EngineError};
use super::{luks, qcow2};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use zeroize::Zeroizing;

const MIB: u64 = 1 << 20;
const KEY_BYTES: usize = 32;
/// ext4 with a journal needs some; more than a day's host has is a mistake.
const SIZES_MB: std::ops::RangeInclusive<u64> = 16..=4 * 1024 * 1024;
/// Set by root, in a namespace that the VMM's uid cannot write: what the
/// size is, whatever the file's own header says later.
const SIZE_ATTRIBUTE: &str = "trusted.aether.disk_bytes";
/// qcow2 tables, LUKS header, and metadata that grows.
const FORMAT_SLACK: u64 = 64 * MIB;

/// A fresh disk with an ext4 in it, sparse. Nothing is left when it fails, and
/// an existing file is never touched.
pub(super) async fn make(path: &Path, disk_mb: u64, encrypt: bool) -> Result<DiskFormat, EngineError> {
    if !SIZES_MB.contains(&disk_mb) {
        return Err(EngineError::Jail(format!(
            "a disk has {} to {} MB, not {disk_mb}",
            SIZES_MB.start(),
            SIZES_MB.end()
        )));
    }
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(EngineError::io(format!("make the disk {}", path.display())))?;
    // Not every file system has this namespace: then the file's own length counts.
    let _ = xattr::set(path, SIZE_ATTRIBUTE, (disk_mb * MIB).to_string().as_bytes());
    let result =
        if encrypt { fill_encrypted(file, path, disk_mb * MIB).await } else { fill(file, disk_mb * MIB).await };
    if result.is_err() {
        let _ = std::fs::remove_file(path);
    }
    result
}

async fn fill(file: File, bytes: u64) -> Result<DiskFormat, EngineError> {
    format_ext4(&file, bytes).await?;
    Ok(DiskFormat::Raw)
}

/// The file system is made in a file without a name, and copied encrypted.
async fn fill_encrypted(out: File, path: &Path, bytes: u64) -> Result<DiskFormat, EngineError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let template = tempfile::tempfile_in(folder).map_err(EngineError::io("make the disk's template"))?;
    format_ext4(&template, bytes).await?;
    super::blocking("encrypt the disk", move || {
        let mut key = Zeroizing::new(vec![0; KEY_BYTES]);
        luks::random(&mut key)?;
        qcow2::write(&out, &template, bytes, passphrase(&key).as_bytes())?;
        Ok(DiskFormat::Qcow2Luks { key })
    })
    .await
}

/// The format wants text.
pub(super) fn passphrase(key: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(hex::encode(key))
}

async fn format_ext4(file: &File, bytes: u64) -> Result<(), EngineError> {
    let doing = || "make the disk's file system".to_string();
    file.set_len(bytes).map_err(EngineError::io(doing()))?;
    let stdin = file.try_clone().map_err(EngineError::io(doing()))?;
    let output = tokio::process::Command::new("mke2fs")
        // Lazy: the guest's kernel writes the tables when it has time. No reserved blocks: there is
        // no system to save from its users.
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"])
        // The file may have no name.
        .arg("/proc/self/fd/0")
        .env_clear()
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::from(stdin))
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                EngineError::Missing { what: "mke2fs".into(), remedy: "install it: `apt-get install e2fsprogs`".into() }
            }
            _ => EngineError::io("run mke2fs")(e),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let why: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(400).collect();
    if why.contains("No space left") {
        return Err(EngineError::NoSpace(doing()));
    }
    Err(EngineError::io(doing())(std::io::Error::other(why)))
}

/// The largest file that the VMM of this disk may write.
pub(super) fn write_limit(path: &Path, format: &DiskFormat) -> Result<u64, EngineError> {
    let length = std::fs::metadata(path).map_err(EngineError::io(format!("look at {}", path.display())))?.len();
    let said = xattr::get(path, SIZE_ATTRIBUTE).ok().flatten();
    let size = said.and_then(|v| String::from_utf8(v).ok()?.parse().ok()).unwrap_or(length);
    Ok(match format {
        DiskFormat::Raw => size,
        DiskFormat::Qcow2Luks { .. } => size + size / 20 + FORMAT_SLACK,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_is_sparse_private_and_ext4() {
        use std::os::unix::fs::{FileExt, MetadataExt};
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("disk");
        assert!(matches!(make(&path, 4096, false).await.expect("made"), DiskFormat::Raw));
        let meta = std::fs::metadata(&path).expect("meta");
        assert_eq!((meta.len(), meta.mode() & 0o777), (4 << 30, 0o600));
        assert!(meta.blocks() * 512 < 8 << 20, "{} bytes allocated", meta.blocks() * 512);
        let mut magic = [0; 2];
        std::fs::File::open(&path).expect("open").read_exact_at(&mut magic, 1024 + 0x38).expect("read");
        assert_eq!(magic, [0x53, 0xef]);
        assert_eq!(write_limit(&path, &DiskFormat::Raw).expect("limit"), 4 << 30);
    }

    #[tokio::test]
    async fn failures_leave_no_file_and_never_overwrite() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("disk");
        for bad in [0, 15, u64::MAX / MIB] {
            assert!(make(&path, bad, false).await.is_err());
            assert!(!path.exists());
        }
        let absent = dir.path().join("absent/disk");
        assert!(make(&absent, 64, true).await.is_err());
        std::fs::write(&path, b"precious").expect("write");
        assert!(make(&path, 64, true).await.is_err());
        assert_eq!(std::fs::read(&path).expect("read"), b"precious");
    }
}

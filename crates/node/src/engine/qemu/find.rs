//! Which QEMU, and the private root made of it.

use super::super::EngineError;
use super::args::FIRMWARE;
use crate::jail::Bundle;
use std::path::{Path, PathBuf};

/// Older ones cannot map a template's memory read-only, nor do they have
/// `mapped-ram`.
const OLDEST: u32 = 9;
const REMEDY: &str = "install QEMU 9 or newer: on Debian 12 `apt-get install -t bookworm-backports qemu-system-x86`, elsewhere `apt-get install qemu-system-x86`";
const PLACES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec"];
const FIRMWARE_PLACES: [&str; 5] =
    ["/usr/share/qemu", "/usr/share/seabios", "/usr/share/qemu-kvm", "/usr/local/share/qemu", "/usr/lib/ipxe/qemu"];
/// What `-M microvm -kernel` opens.
const FIRMWARE_FILES: [&str; 2] = ["bios-microvm.bin", "linuxboot_dma.bin"];

#[derive(Clone, Debug)]
pub(super) struct Qemu {
    pub(super) path: PathBuf,
    pub(super) version: (u32, u32, u32),
}

fn missing(what: impl Into<String>) -> EngineError {
    EngineError::Missing { what: what.into(), remedy: REMEDY.into() }
}

/// The configured one, or the first that is there.
pub(super) fn qemu(configured: Option<&Path>) -> Result<Qemu, EngineError> {
    let path = match configured {
        Some(path) if path.is_file() => path.to_path_buf(),
        Some(path) => return Err(missing(format!("QEMU at {}", path.display()))),
        None => PLACES
            .iter()
            .map(|dir| Path::new(dir).join("qemu-system-x86_64"))
            .find(|path| path.is_file())
            .ok_or_else(|| missing("qemu-system-x86_64"))?,
    };
    let path = path.canonicalize().map_err(EngineError::io(format!("resolve {}", path.display())))?;
    let output = std::process::Command::new(&path)
        .arg("--version")
        .env_clear()
        .output()
        .map_err(EngineError::io(format!("run {}", path.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version =
        parse_version(&text).ok_or_else(|| missing(format!("a QEMU that tells its version ({})", path.display())))?;
    if version.0 < OLDEST {
        return Err(missing(format!("QEMU {OLDEST} or newer (found {}.{}.{})", version.0, version.1, version.2)));
    }
    Ok(Qemu { path, version })
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let word = text.split("version ").nth(1)?.split_whitespace().next()?;
    let mut parts = word.split('.').map(|p| p.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}

/// QEMU, its libraries and its firmware, copied once. Blocks.
pub(super) fn bundle(cache: &Path, qemu: &Qemu) -> Result<Bundle, EngineError> {
    let mut data = Vec::new();
    for name in FIRMWARE_FILES {
        let found = FIRMWARE_PLACES.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file());
        data.push((found.ok_or_else(|| missing(format!("QEMU's firmware {name}")))?, Path::new(FIRMWARE).join(name)));
    }
    Bundle::make(cache, std::slice::from_ref(&qemu.path), &data).map_err(|e| EngineError::Jail(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        assert_eq!(parse_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds)\n"), Some((10, 0, 2)));
        assert_eq!(parse_version("QEMU emulator version 9.1.92\n"), Some((9, 1, 92)));
        assert_eq!(parse_version("QEMU emulator version 8.2\n"), Some((8, 2, 0)));
        assert_eq!(parse_version("something else"), None);
    }

    /// A program that says it is an old QEMU.
    #[test]
    fn an_old_qemu_is_refused_with_the_remedy() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("qemu-system-x86_64");
        std::fs::write(&path, "#!/bin/sh\necho QEMU emulator version 7.2.17\n").expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode");
        let error = qemu(Some(&path)).expect_err("too old").to_string();
        assert!(error.contains("found 7.2.17") && error.contains("bookworm-backports"), "{error}");
        let error = qemu(Some(Path::new("/nowhere/qemu"))).expect_err("absent").to_string();
        assert!(error.contains("/nowhere/qemu is missing"), "{error}");
    }
}

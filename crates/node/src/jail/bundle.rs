//! A copy of a program with the libraries it loads: what a jail shows instead
//! of the host's own folders. Copies have inodes of their own, so a host
//! upgrade changes nothing under a running process, and a hash of what went
//! in names the folder, so it is made once.

use super::{Command, JailError};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Raised when the layout changes.
const LAYOUT: &str = "aether-bundle-1";
/// More than any program here loads; a bound on what `ld.so` may answer.
const MAX_FILES: usize = 512;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    dir: PathBuf,
}

impl Bundle {
    /// Finds or makes the bundle in `cache`, a folder of root's. Programs and
    /// their libraries keep their paths; `data` maps a host file to its path
    /// inside. Blocks.
    pub fn make(cache: &Path, programs: &[PathBuf], data: &[(PathBuf, PathBuf)]) -> Result<Bundle, JailError> {
        let mut files: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        for program in programs {
            files.insert(program.clone(), program.clone());
            for library in libraries(program)? {
                files.insert(library.clone(), library);
            }
        }
        for (source, target) in data {
            files.insert(target.clone(), source.clone());
        }
        if files.len() > MAX_FILES {
            return Err(JailError::Plan("too many files for one bundle".into()));
        }
        std::fs::create_dir_all(cache).map_err(JailError::io(format!("make {}", cache.display())))?;
        let dir = cache.join(format!("bundle-{}", digest(&files)?));
        if !dir.is_dir() {
            build(cache, &dir, &files)?;
        }
        Ok(Bundle { dir })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Shows the bundle's folders in the jail, under the paths they have on
    /// the host.
    pub fn show(&self, mut command: Command) -> Result<Command, JailError> {
        let entries = std::fs::read_dir(&self.dir).map_err(JailError::io(format!("read {}", self.dir.display())))?;
        for entry in entries.flatten() {
            command = command.exec_bind(entry.path(), Path::new("/").join(entry.file_name()));
        }
        Ok(command)
    }
}

/// What the dynamic loader would load, by the loader itself. A static
/// program has none.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, JailError> {
    let head = read_head(program)?;
    let Some(interpreter) = interpreter(&head) else { return Ok(Vec::new()) };
    let output = std::process::Command::new(&interpreter)
        .arg("--list")
        .arg(program)
        .env_clear()
        .output()
        .map_err(JailError::io(format!("run {}", interpreter.display())))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).chars().take(300).collect::<String>();
        return Err(JailError::Refused(format!("{} cannot be loaded: {why}", program.display())));
    }
    let mut found = vec![interpreter];
    found.extend(parse_list(&String::from_utf8_lossy(&output.stdout)));
    Ok(found)
}

fn read_head(path: &Path) -> Result<Vec<u8>, JailError> {
    use std::io::Read;
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(JailError::io(format!("open {}", path.display())))?;
    file.take(64 << 10).read_to_end(&mut head).map_err(JailError::io(format!("read {}", path.display())))?;
    Ok(head)
}

/// PT_INTERP of a 64-bit little-endian ELF file.
fn interpreter(elf: &[u8]) -> Option<PathBuf> {
    let word = |at: usize, size: usize| -> Option<usize> {
        let bytes = elf.get(at..at.checked_add(size)?)?;
        usize::try_from(bytes.iter().rev().fold(0u64, |sum, b| (sum << 8) | u64::from(*b))).ok()
    };
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (word(0x20, 8)?, word(0x36, 2)?, word(0x38, 2)?);
    const PT_INTERP: usize = 3;
    let header = (0..count)
        .filter_map(|i| table.checked_add(i.checked_mul(size)?))
        .find(|at| word(*at, 4) == Some(PT_INTERP))?;
    let (offset, length) = (word(header.checked_add(8)?, 8)?, word(header.checked_add(0x20)?, 8)?);
    let text = elf.get(offset..offset.checked_add(length)?)?.strip_suffix(b"\0")?;
    Some(PathBuf::from(std::str::from_utf8(text).ok()?))
}

/// Lines are `name => /path (0x…)` or `/path (0x…)`.
fn parse_list(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| {
            let tail = line.rsplit("=>").next()?.trim();
            let path = tail.split(" (0x").next()?.trim();
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

/// By identity and not by content: reading 60 MB on each start would cost
/// more than it tells.
fn digest(files: &BTreeMap<PathBuf, PathBuf>) -> Result<String, JailError> {
    let mut hash = Sha256::new();
    hash.update(LAYOUT);
    for (target, source) in files {
        let meta = std::fs::metadata(source).map_err(JailError::io(format!("look at {}", source.display())))?;
        let line = format!(
            "{}\0{}\0{}\0{}\0{}\0{}\n",
            target.display(),
            source.display(),
            meta.len(),
            meta.ino(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        hash.update(line);
    }
    Ok(hex::encode(&hash.finalize()[..16]))
}

fn build(cache: &Path, dir: &Path, files: &BTreeMap<PathBuf, PathBuf>) -> Result<(), JailError> {
    let fresh = tempfile::Builder::new()
        .prefix(".new-bundle-")
        .tempdir_in(cache)
        .map_err(JailError::io(format!("make a folder in {}", cache.display())))?;
    for (target, source) in files {
        let inside = fresh.path().join(target.strip_prefix("/").unwrap_or(target));
        let doing = || format!("copy {}", source.display());
        std::fs::create_dir_all(inside.parent().unwrap_or(fresh.path())).map_err(JailError::io(doing()))?;
        std::fs::copy(source, &inside).map_err(JailError::io(doing()))?;
        let mode = std::fs::metadata(source).map_err(JailError::io(doing()))?.mode();
        // Never setuid, never writable.
        let mode = if mode & 0o111 == 0 { 0o444 } else { 0o555 };
        std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(mode)).map_err(JailError::io(doing()))?;
    }
    open_folders(fresh.path())?;
    // A crash before the rename leaves a folder that no name refers to; one after it leaves the
    // whole bundle, once the data is on the disk.
    rustix::fs::syncfs(std::fs::File::open(cache).map_err(JailError::io("open the cache"))?)
        .map_err(|e| JailError::io("sync the bundle")(e.into()))?;
    let fresh = fresh.keep();
    match std::fs::rename(&fresh, dir) {
        Ok(()) => Ok(()),
        Err(_) if dir.is_dir() => super::remove_dir(&fresh),
        Err(e) => Err(JailError::io(format!("name {}", dir.display()))(e)),
    }
}

/// Every slot's uid walks through them, whatever the daemon's umask is.
fn open_folders(dir: &Path) -> Result<(), JailError> {
    let doing = || format!("open {} to readers", dir.display());
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).map_err(JailError::io(doing()))?;
    for entry in std::fs::read_dir(dir).map_err(JailError::io(doing()))?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_loader_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_list(text), expected);
    }

    #[test]
    fn finds_the_loader_of_a_real_program() {
        let head = read_head(Path::new("/bin/sh")).expect("read");
        assert!(interpreter(&head).expect("dynamic").is_file());
        assert_eq!(interpreter(b"\x7fELF\x02\x01 and too short"), None);
        assert_eq!(interpreter(b"#!/bin/sh"), None);
    }

    #[test]
    fn is_made_once_and_follows_a_change() {
        let dir = tempfile::tempdir().expect("temp dir");
        let data = dir.path().join("data");
        std::fs::write(&data, b"one").expect("write");
        let cache = dir.path().join("cache");
        let make = || Bundle::make(&cache, &[PathBuf::from("/bin/sh")], &[(data.clone(), "/share/data".into())]);
        let first = make().expect("made");
        assert_eq!(first, make().expect("found"));
        assert_eq!(std::fs::read(first.dir().join("share/data")).expect("read"), b"one");
        let copied = std::fs::metadata(first.dir().join("bin/sh")).expect("meta");
        assert_eq!((copied.nlink(), copied.mode() & 0o7777), (1, 0o555));
        std::fs::write(&data, b"other").expect("write");
        assert_ne!(first, make().expect("made anew"));
    }
}

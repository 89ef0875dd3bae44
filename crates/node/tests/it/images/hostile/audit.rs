//! What was there before and after: the folders around the store, the places
//! that hostile names point to, and what the store itself may hold.

use crate::images::archives::sha256;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// In every name that would be written outside if it were believed.
pub(super) const MARK: &str = "hostile-escape";

/// What hostile names aim at on the machine itself, and that holds still.
const AIMED: [&str; 9] = [
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/ld.so.preload",
    "/etc/cron.d",
    "/etc/profile.d",
    "/root/.ssh",
    "/root/.bashrc",
    "/boot",
];
/// Those that others write to meanwhile: only the mark is looked for.
const MARKED: [&str; 12] = [
    "/",
    "/tmp",
    "/var/tmp",
    "/run",
    "/dev",
    "/dev/shm",
    "/root",
    "/home",
    "/usr",
    "/usr/bin",
    "/var",
    "/var/spool/cron",
];

/// Type, mode, owner, links, size, time and contents of each path.
pub(super) type Listing = BTreeMap<PathBuf, String>;

fn describe(path: &Path, contents: bool) -> Option<(String, bool)> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    let what = match meta.file_type() {
        t if t.is_symlink() => format!("-> {:?}", std::fs::read_link(path).ok()?),
        t if t.is_file() && contents => sha256(&std::fs::read(path).ok()?),
        _ => String::new(),
    };
    let line = format!(
        "{:o} {}:{} {} {} {}.{:09} {what}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.nlink(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    Some((line, meta.is_dir()))
}

fn walk(dir: &Path, contents: bool, skip: &[PathBuf], out: &mut Listing) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        if skip.contains(&path) {
            continue;
        }
        let Some((line, is_dir)) = describe(&path, contents) else { continue };
        out.insert(path.clone(), line);
        if is_dir {
            walk(&path, contents, skip, out);
        }
    }
}

/// Everything below `outer` but the stores, with contents.
pub(super) fn around(outer: &Path, stores: &[PathBuf]) -> Listing {
    let mut out = Listing::new();
    walk(outer, true, stores, &mut out);
    out
}

/// The machine's own folders.
pub(super) fn machine() -> Listing {
    let mut out = Listing::new();
    for path in AIMED.map(Path::new) {
        out.extend(describe(path, true).map(|(line, _)| (path.to_owned(), line)));
        walk(path, false, &[], &mut out);
    }
    for dir in MARKED {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        for path in entries.map(|e| e.path()).filter(|p| p.to_string_lossy().contains(MARK)) {
            out.insert(path, "marked".into());
        }
    }
    out
}

/// How two listings differ, for a message.
pub(super) fn difference(before: &Listing, after: &Listing) -> Vec<String> {
    let gone = before.iter().filter(|(p, _)| !after.contains_key(*p)).map(|(p, _)| format!("gone: {}", p.display()));
    let other = after.iter().filter_map(|(p, now)| match before.get(p) {
        None => Some(format!("new: {} {now}", p.display())),
        Some(was) if was != now => Some(format!("changed: {} {was} => {now}", p.display())),
        _ => None,
    });
    gone.chain(other).collect()
}

fn hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// What a store at rest holds that it should not: half-written files, names
/// that came from outside, files that are writable, linked or not plain.
pub(super) fn odd_in_store(store: &Path) -> Vec<String> {
    let mut all = Listing::new();
    walk(store, false, &[], &mut all);
    let mut odd = Vec::new();
    for path in all.keys() {
        let name = path.strip_prefix(store).expect("below").to_string_lossy().into_owned();
        let meta = std::fs::symlink_metadata(path).expect("there");
        let plain = meta.is_file() && meta.nlink() == 1 && (meta.uid(), meta.gid()) == (0, 0);
        let kept = plain && meta.mode() & 0o7777 == 0o444;
        let fine = match name.as_str() {
            "blobs" | "blobs/sha256" | "devices" | "tmp" | "jail" => meta.is_dir(),
            "catalogue.db" | "catalogue.db-wal" | "catalogue.db-shm" => plain,
            _ => match (name.strip_prefix("blobs/sha256/"), name.strip_prefix("devices/")) {
                (Some(digest), _) => {
                    let whole = || std::fs::read(path).is_ok_and(|data| sha256(&data) == format!("sha256:{digest}"));
                    kept && hex(digest) && whole()
                }
                (_, Some(device)) => kept && device.strip_suffix(".sqfs").is_some_and(hex),
                _ => false,
            },
        };
        if !fine {
            odd.push(format!("{name}: mode {:o}, owner {}:{}", meta.mode(), meta.uid(), meta.gid()));
        }
    }
    odd
}

/// Blobs, devices and unfinished work that a collection has spared.
pub(super) fn left_in_store(store: &Path) -> Vec<String> {
    let dirs = ["blobs/sha256", "devices", "tmp", "jail"].map(|dir| std::fs::read_dir(store.join(dir)).expect("list"));
    dirs.into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

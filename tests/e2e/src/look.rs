//! Looking into files and processes for what must not be there.

use aether_canaries::Search;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

/// All files below these folders, but those; as raw as they are on the disk.
pub fn files(folders: &[PathBuf], but: &[PathBuf]) -> Vec<PathBuf> {
    let (mut left, mut found) = (folders.to_vec(), Vec::new());
    while let Some(path) = left.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            left.extend(std::fs::read_dir(&path).expect("a folder").flatten().map(|e| e.path()));
        } else if meta.is_file() && !but.contains(&path) {
            found.push(path);
        }
    }
    found
}

/// In pieces that overlap: disks are sparse and large.
pub fn hits_in(search: &Search, path: &Path) -> Vec<String> {
    const PIECE: usize = 8 << 20;
    let Ok(mut file) = std::fs::File::open(path) else { return Vec::new() };
    let (mut piece, mut at, mut hits) = (vec![0u8; PIECE], 0u64, Vec::new());
    loop {
        // To where data begins again.
        let next = nix::unistd::lseek(&file, i64::try_from(at).expect("an offset"), nix::unistd::Whence::SeekData);
        let Ok(next) = next else { return hits };
        at = u64::try_from(next).expect("an offset");
        file.seek(std::io::SeekFrom::Start(at)).expect("seeks");
        let read = file.read(&mut piece).unwrap_or_default();
        if read == 0 {
            return hits;
        }
        hits.extend(search.hits(&piece[..read]).into_iter().map(|hit| format!("{}: {hit}", path.display())));
        at += read.saturating_sub(if read == PIECE { 256 } else { 0 }) as u64;
    }
}

/// What a process holds, guest memory and all.
pub fn memory(pid: i32) -> Vec<u8> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let mut file = std::fs::File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let mut all = Vec::new();
    for line in maps.lines().filter(|l| l.split(' ').nth(1).is_some_and(|p| p.starts_with("rw"))) {
        let range = line.split(' ').next().and_then(|r| r.split_once('-')).expect("a range");
        let parse = |text: &str| u64::from_str_radix(text, 16).expect("an address");
        let (from, to) = (parse(range.0), parse(range.1));
        if file.seek(std::io::SeekFrom::Start(from)).is_ok() {
            let _ = (&mut file).take(to - from).read_to_end(&mut all);
        }
    }
    all
}

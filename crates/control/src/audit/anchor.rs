//! The anchor file: digests as JSON lines, only ever appended to, each batch
//! synced before it counts. It is worth as much as its place: on another disk,
//! append-only, or copied away.

use aether_core::audit::{AnchorLine, Digest, DigestKind, Signature};
use aether_store::KeptDigest;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where the last digest is looked for first.
const END: u64 = 1 << 20;

pub(crate) struct Anchor {
    path: PathBuf,
    /// The store's number of the last digest in it; none: not looked yet.
    last: Mutex<Option<u64>>,
}

impl Anchor {
    /// The file is made at once: that its place cannot be written to is better
    /// said at the start than with the first digest.
    pub(crate) fn new(path: PathBuf) -> Self {
        if let Err(error) = open(&path) {
            tracing::error!(%error, path = %path.display(), "the audit's anchor file cannot be written");
        }
        Self { path, last: Mutex::new(None) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The store's number of the last digest in the file, 0 for none. Blocks.
    pub(crate) fn last(&self) -> std::io::Result<u64> {
        let mut last = self.last.lock();
        if let Some(last) = *last {
            return Ok(last);
        }
        let found = last_id(&self.path)?;
        *last = Some(found);
        Ok(found)
    }

    /// Appends what is newer than the last one. Blocks.
    pub(crate) fn append(&self, digests: &[KeptDigest]) -> std::io::Result<()> {
        let known = self.last()?;
        let new: Vec<AnchorLine> = digests
            .iter()
            .filter(|d| d.id > known)
            .map(|d| AnchorLine { id: Some(d.id), digest: d.digest.clone() })
            .collect();
        let mut last = self.last.lock();
        if let Err(error) = write(&self.path, &new) {
            // Some of it may be there: the next look tells.
            *last = None;
            return Err(error);
        }
        *last = new.last().and_then(|line| line.id).max(*last);
        Ok(())
    }

    /// The last digest of each chain in the file, exports apart. Blocks.
    pub(crate) fn ends(&self) -> std::io::Result<Vec<Digest>> {
        let mut ends: BTreeMap<Option<String>, Digest> = BTreeMap::new();
        whole_lines(BufReader::new(File::open(&self.path)?), |AnchorLine { digest, .. }| {
            let newer = ends.get(&digest.tenant).is_none_or(|end| end.number < digest.number);
            if newer && digest.kind != DigestKind::Export {
                ends.insert(digest.tenant.clone(), digest);
            }
        })?;
        Ok(ends.into_values().collect())
    }

    /// Which of these are in the file, by their signatures. Blocks.
    pub(crate) fn held(&self, wanted: BTreeSet<Signature>) -> std::io::Result<BTreeSet<Signature>> {
        let mut held = BTreeSet::new();
        whole_lines(BufReader::new(File::open(&self.path)?), |line| {
            held.extend(wanted.get(&line.digest.signature));
        })?;
        Ok(held)
    }

    /// A digest of an export, which is not the store's. Blocks.
    pub(crate) fn append_export(&self, digest: &Digest) -> std::io::Result<()> {
        let _last = self.last.lock();
        write(&self.path, &[AnchorLine { id: None, digest: digest.clone() }])
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).mode(0o644).open(path)
}

fn write(path: &Path, lines: &[AnchorLine]) -> std::io::Result<()> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&serde_json::to_string(line)?);
        text.push('\n');
    }
    if text.is_empty() {
        return Ok(());
    }
    let mut file = open(path)?;
    // A line that a crash cut off is ended, so that the next one is whole.
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut end = [0];
        file.read_exact(&mut end)?;
        if end != *b"\n" {
            text.insert(0, '\n');
        }
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn last_id(path: &Path) -> std::io::Result<u64> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    let length = file.metadata()?.len();
    if length > END {
        file.seek(SeekFrom::Start(length - END))?;
        let found = highest(BufReader::new(&file))?;
        if found > 0 {
            return Ok(found);
        }
        file.rewind()?;
    }
    highest(BufReader::new(file))
}

fn highest(reader: impl BufRead) -> std::io::Result<u64> {
    let mut found = 0;
    whole_lines(reader, |line| found = found.max(line.id.unwrap_or(0)))?;
    Ok(found)
}

/// The first line read may be cut, and so may the last.
fn whole_lines(mut reader: impl BufRead, mut each: impl FnMut(AnchorLine)) -> std::io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if let Some(parsed) = line.ends_with(b"\n").then(|| serde_json::from_slice(&line).ok()).flatten() {
            each(parsed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::Timestamp;
    use aether_core::audit::{Head, Signer, genesis};

    fn kept(id: u64) -> KeptDigest {
        let signer = Signer::from_seed(&[3; 32]).expect("a seed");
        let head = Head {
            kind: DigestKind::Interval,
            number: id,
            tenant: None,
            from: id,
            to: id,
            unsealed: 0,
            head: genesis(None),
            tail: None,
            previous: None,
            time: Timestamp::from_unix_ms(id),
        };
        KeptDigest { id, digest: signer.sign(head) }
    }

    fn ids(path: &Path) -> Vec<Option<u64>> {
        let text = std::fs::read_to_string(path).expect("the file");
        text.lines().filter_map(|l| serde_json::from_str::<AnchorLine>(l).ok()).map(|l| l.id).collect()
    }

    #[test]
    fn what_is_there_is_not_appended_again() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("anchor.jsonl");
        let anchor = Anchor::new(path.clone());
        anchor.append(&[kept(1), kept(2)]).expect("appends");
        anchor.append(&[kept(1), kept(2), kept(3)]).expect("appends");
        anchor.append_export(&kept(9).digest).expect("appends");
        assert_eq!(ids(&path), [Some(1), Some(2), Some(3), None]);
        // A crash in the middle of a line, and another server of this file.
        let mut text = std::fs::read_to_string(&path).expect("the file");
        text.push_str("{\"id\":4,\"dig");
        std::fs::write(&path, text).expect("written");
        let next = Anchor::new(path.clone());
        assert_eq!(next.last().expect("reads"), 3);
        next.append(&[kept(3), kept(4)]).expect("appends");
        assert_eq!(ids(&path), [Some(1), Some(2), Some(3), None, Some(4)]);
    }

    #[test]
    fn the_last_digest_of_a_long_file_is_found() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("anchor.jsonl");
        let anchor = Anchor::new(path.clone());
        anchor.append(&(1..=2500).map(kept).collect::<Vec<_>>()).expect("appends");
        assert!(std::fs::metadata(&path).expect("file").len() > END);
        assert_eq!(Anchor::new(path.clone()).last().expect("reads"), 2500);
        // The end holds nothing but exports: the whole file is read.
        let export = kept(7).digest;
        let line = serde_json::to_string(&AnchorLine { id: None, digest: export }).expect("JSON") + "\n";
        let mut text = std::fs::read_to_string(&path).expect("the file");
        text.push_str(&line.repeat(3000));
        std::fs::write(&path, text).expect("written");
        assert_eq!(Anchor::new(path).last().expect("reads"), 2500);
    }
}

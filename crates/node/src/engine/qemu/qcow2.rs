//! Writes a qcow2 file whose clusters are encrypted: the first state of an
//! agent's disk. QEMU does everything after that.
//!
//! ```text
//! cluster 0 header │ 1 refcount table │ 2 refcount block │ LUKS header… │ L1 … │ L2 tables │ data
//! ```

use super::super::EngineError;
use super::luks::{self, SECTOR};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of eight bytes in a table of one cluster.
const ENTRIES: u64 = CLUSTER / 8;
/// The cluster has one reference: it may be written in place.
const COPIED: u64 = 1 << 63;
/// What one refcount block of 16-bit counts covers: 2 GiB, far more than an
/// empty file system fills.
const COVERED: u64 = CLUSTER / 2;
const LUKS_EXTENSION: u32 = 0x0537_be77;

/// Copies what `template` (sparse, of `size` bytes) holds into `out`.
pub(super) fn write(out: &File, template: &File, size: u64, passphrase: &[u8]) -> Result<(), EngineError> {
    let doing = || EngineError::io("write the encrypted disk");
    let (header, cipher) = luks::format(passphrase)?;
    let data = used_clusters(template, size)?;
    let layout = Layout::of(size, &data, header.len() as u64);
    if layout.end > COVERED || layout.l1_entries > ENTRIES {
        return Err(EngineError::Jail("the disk's template is too large".into()));
    }
    out.write_all_at(&layout.header(size), 0).map_err(doing())?;
    out.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER).map_err(doing())?;
    let counts: Vec<u8> = (0..layout.end).flat_map(|_| 1u16.to_be_bytes()).collect();
    out.write_all_at(&counts, 2 * CLUSTER).map_err(doing())?;
    out.write_all_at(&header, layout.luks * CLUSTER).map_err(doing())?;
    for (l1_index, l2) in &layout.l2 {
        let entry = ((l2 * CLUSTER) | COPIED).to_be_bytes();
        out.write_all_at(&entry, layout.l1 * CLUSTER + l1_index * 8).map_err(doing())?;
    }
    let mut buffer = vec![0; CLUSTER as usize];
    for (host, guest) in (layout.data..).zip(&data) {
        let entry = ((host * CLUSTER) | COPIED).to_be_bytes();
        let l2 = layout.l2[&(guest / ENTRIES)];
        out.write_all_at(&entry, l2 * CLUSTER + guest % ENTRIES * 8).map_err(doing())?;
        buffer.fill(0);
        let length = usize::try_from((size - guest * CLUSTER).min(CLUSTER)).unwrap_or(buffer.len());
        template.read_exact_at(&mut buffer[..length], guest * CLUSTER).map_err(doing())?;
        cipher.encrypt(&mut buffer, host * CLUSTER / SECTOR as u64);
        out.write_all_at(&buffer, host * CLUSTER).map_err(doing())?;
    }
    out.set_len(layout.end * CLUSTER).map_err(doing())
}

/// Where things lie, in clusters.
struct Layout {
    luks: u64,
    luks_bytes: u64,
    l1: u64,
    l1_entries: u64,
    /// L1 index → its L2 table.
    l2: BTreeMap<u64, u64>,
    data: u64,
    end: u64,
}

impl Layout {
    fn of(size: u64, data: &BTreeSet<u64>, luks_bytes: u64) -> Self {
        let luks = 3;
        let l1 = luks + luks_bytes.div_ceil(CLUSTER);
        let l1_entries = size.div_ceil(CLUSTER * ENTRIES);
        let tables: BTreeSet<u64> = data.iter().map(|guest| guest / ENTRIES).collect();
        let l2: BTreeMap<u64, u64> = tables.into_iter().zip(l1 + 1..).collect();
        let first = l1 + 1 + l2.len() as u64;
        Self { luks, luks_bytes, l1, l1_entries, l2, data: first, end: first + data.len() as u64 }
    }

    fn header(&self, size: u64) -> Vec<u8> {
        const LENGTH: u32 = 104;
        let mut out = Vec::new();
        let mut word = |value: u32| out.extend_from_slice(&value.to_be_bytes());
        let long = |value: u64| [(value >> 32) as u32, value as u32];
        let mut words = vec![0x5146_49fb, 3, 0, 0, 0, CLUSTER_BITS];
        words.extend(long(size));
        // Encryption: LUKS.
        words.extend([2, u32::try_from(self.l1_entries).unwrap_or(u32::MAX)]);
        words.extend(long(self.l1 * CLUSTER));
        words.extend(long(CLUSTER));
        // One cluster of refcount table, no snapshots, no feature bits, counts of 2^4 bits.
        words.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, LENGTH]);
        words.extend([LUKS_EXTENSION, 16]);
        words.extend(long(self.luks * CLUSTER));
        words.extend(long(self.luks_bytes));
        words.extend([0, 0]);
        words.into_iter().for_each(&mut word);
        out
    }
}

/// Clusters of which the sparse file holds some part.
fn used_clusters(file: &File, size: u64) -> Result<BTreeSet<u64>, EngineError> {
    use rustix::fs::SeekFrom;
    let mut used = BTreeSet::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No data up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(EngineError::io("read the disk's template")(e.into())),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))
            .map_err(|e| EngineError::io("read the disk's template")(e.into()))?;
        used.extend(start / CLUSTER..end.min(size).div_ceil(CLUSTER));
        at = end;
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// QEMU's own tools are the judges.
    #[test]
    fn qemu_reads_what_is_written() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = |name: &str| dir.path().join(name);
        let size = 3 << 30;
        let template = File::options().read(true).write(true).create_new(true).open(path("raw")).expect("raw");
        template.set_len(size).expect("length");
        for (offset, byte) in [(0, 1u8), (5000, 2), (CLUSTER * ENTRIES + 77, 3), (size - 512, 4)] {
            template.write_all_at(&[byte; 512], offset).expect("write");
        }
        let out = File::create_new(path("disk")).expect("disk");
        write(&out, &template, size, b"0123abcd").expect("written");
        std::fs::write(path("key"), b"0123abcd").expect("key");

        let secret = format!("secret,id=k,file={},format=raw", path("key").display());
        let disk = format!("driver=qcow2,file.filename={},encrypt.key-secret=k", path("disk").display());
        let check = Command::new("qemu-img").args(["check", "--object", &secret, "--image-opts", &disk]).output();
        let check = check.expect("qemu-img is among the test prerequisites");
        assert!(String::from_utf8_lossy(&check.stdout).contains("No errors were found"), "{check:?}");
        let same = Command::new("qemu-img")
            .args(["compare", "--object", &secret, "--image-opts", &disk])
            .arg(format!("driver=raw,file.filename={}", path("raw").display()))
            .output()
            .expect("qemu-img");
        assert!(String::from_utf8_lossy(&same.stdout).contains("identical"), "{same:?}");
        let bytes = std::fs::read(path("disk")).expect("read");
        assert!(!bytes.windows(64).any(|w| w == [2; 64]), "the data is not there in the clear");
        assert!(bytes.len() < 8 << 20);
    }
}

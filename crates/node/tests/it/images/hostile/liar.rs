//! A tar writer that can lie: every field of a header can be anything.

use std::ops::Range;

const BLOCK: usize = 512;
pub(super) const NAME: Range<usize> = 0..100;
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const UID: Range<usize> = 108..116;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const KIND: usize = 156;
pub(super) const LINK: Range<usize> = 157..257;
pub(super) const MAGIC: Range<usize> = 257..265;
pub(super) const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
pub(super) const PREFIX: Range<usize> = 345..500;

/// One member with what goes before it.
#[derive(Clone)]
pub(super) struct Entry {
    before: Vec<u8>,
    header: [u8; BLOCK],
    body: Vec<u8>,
    checksum: bool,
    padded: bool,
}

fn put(header: &mut [u8; BLOCK], at: Range<usize>, value: &[u8]) {
    header[at.clone()].fill(0);
    let n = value.len().min(at.len());
    header[at.start..at.start + n].copy_from_slice(&value[..n]);
}

fn octal(value: u64, width: usize) -> Vec<u8> {
    format!("{value:0width$o}").into_bytes()
}

/// As GNU writes what no octal field holds; negative ones too.
pub(super) fn base256(value: i128, width: usize) -> Vec<u8> {
    let mut out = value.to_be_bytes()[16 - width..].to_vec();
    out[0] |= 0x80;
    out
}

/// One PAX record, honest about its length.
pub(super) fn record(key: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    let (key, value) = (key.as_bytes(), value.as_ref());
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len.to_string().len() + rest != len {
        len = len.to_string().len() + rest;
    }
    [len.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

impl Entry {
    pub(super) fn new(kind: u8, name: impl AsRef<[u8]>) -> Self {
        let mut header = [0u8; BLOCK];
        put(&mut header, NAME, name.as_ref());
        put(&mut header, MODE, &octal(if kind == b'5' { 0o755 } else { 0o644 }, 7));
        put(&mut header, UID, &octal(0, 7));
        put(&mut header, 116..124, &octal(0, 7));
        put(&mut header, SIZE, &octal(0, 11));
        put(&mut header, MTIME, &octal(1_700_000_000, 11));
        header[KIND] = kind;
        put(&mut header, MAGIC, b"ustar\x0000");
        put(&mut header, MAJOR, &octal(0, 7));
        put(&mut header, MINOR, &octal(0, 7));
        Self { before: Vec::new(), header, body: Vec::new(), checksum: true, padded: true }
    }

    pub(super) fn field(mut self, at: Range<usize>, value: impl AsRef<[u8]>) -> Self {
        put(&mut self.header, at, value.as_ref());
        self
    }

    pub(super) fn mode(self, mode: u32) -> Self {
        self.field(MODE, octal(mode.into(), 7))
    }

    pub(super) fn uid(self, uid: u64) -> Self {
        self.field(UID, octal(uid, 7))
    }

    /// What the header claims; the body stays as it is.
    pub(super) fn size(self, size: u64) -> Self {
        self.field(SIZE, octal(size, 11))
    }

    /// A body without a word in the header.
    pub(super) fn body(mut self, data: impl AsRef<[u8]>) -> Self {
        self.body = data.as_ref().to_vec();
        self
    }

    pub(super) fn unpadded(mut self) -> Self {
        self.padded = false;
        self
    }

    pub(super) fn device(self, major: u64, minor: u64) -> Self {
        self.field(MAJOR, octal(major, 7)).field(MINOR, octal(minor, 7))
    }

    pub(super) fn wrong_checksum(mut self) -> Self {
        self.checksum = false;
        self
    }

    /// Something in front: extension headers, as a rule.
    pub(super) fn after(mut self, before: impl AsRef<[u8]>) -> Self {
        self.before.extend_from_slice(before.as_ref());
        self
    }

    /// With PAX records in front.
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let body: Vec<u8> = records.iter().flat_map(|(k, v)| record(k, v)).collect();
        self.after(extension(b'x', body))
    }

    /// With a GNU long name in front, NUL at its end.
    pub(super) fn gnu_name(self, name: impl AsRef<[u8]>) -> Self {
        self.after(extension(b'L', [name.as_ref(), b"\0"].concat()))
    }

    pub(super) fn gnu_link(self, target: impl AsRef<[u8]>) -> Self {
        self.after(extension(b'K', [target.as_ref(), b"\0"].concat()))
    }

    /// By its name field.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.header[NAME].split(|b| *b == 0).next() == Some(name.as_bytes())
    }

    pub(super) fn bytes(mut self) -> Vec<u8> {
        self.header[CHECKSUM].fill(b' ');
        let sum = self.header.iter().map(|b| u64::from(*b)).sum::<u64>() + u64::from(!self.checksum);
        let text = format!("{sum:06o}\0 ");
        self.header[CHECKSUM].copy_from_slice(text.as_bytes());
        let padding = if self.padded { self.body.len().wrapping_neg() % BLOCK } else { 0 };
        [self.before.as_slice(), &self.header, &self.body, &vec![0; padding]].concat()
    }
}

/// An extension header with its body, as a member of its own.
pub(super) fn extension(kind: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    Entry::new(kind, "././@LongLink").size(body.len() as u64).body(body).bytes()
}

pub(super) fn file(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Entry {
    let data = data.as_ref();
    Entry::new(b'0', name).size(data.len() as u64).body(data)
}

pub(super) fn dir(name: impl AsRef<[u8]>) -> Entry {
    Entry::new(b'5', name)
}

pub(super) fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry::new(b'2', name).field(LINK, target).mode(0o777)
}

pub(super) fn hard(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry::new(b'1', name).field(LINK, target)
}

/// Members and the two empty blocks at the end.
pub(super) fn tar(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let mut out = open_tar(entries);
    out.extend_from_slice(&[0; 2 * BLOCK]);
    out
}

/// Without an end.
pub(super) fn open_tar(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    entries.into_iter().flat_map(Entry::bytes).collect()
}

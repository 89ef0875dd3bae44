//! A layer's file, decompressed, hashed and bounded.

use super::ConvertLimits;
use super::error::ConvertError;
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;

/// A layer may not grow by more than this once it is past `RATIO_FROM`.
const MAX_RATIO: u64 = 200;
const RATIO_FROM: u64 = 1 << 30;
/// What a zstd frame may ask for as its window: 128 MiB, as `zstd -d` allows.
const ZSTD_WINDOW_LOG: u32 = 27;

pub(crate) struct Layer {
    input: Box<dyn Read>,
    hash: Option<Sha256>,
    budget: Rc<Cell<u64>>,
    read: u64,
    allowed: u64,
    tripped: bool,
}

impl Layer {
    /// The kind of compression is told by the first bytes, not by what the
    /// manifest says. `budget` is shared by all layers of a pass.
    pub(crate) fn open(path: &Path, hash: bool, budget: &Rc<Cell<u64>>) -> Result<Self, ConvertError> {
        let mut file = File::open(path)?;
        let compressed = file.metadata()?.len();
        let mut magic = [0u8; 4];
        let have = read_up_to(&mut file, &mut magic)?;
        file.seek(SeekFrom::Start(0))?;
        let file = BufReader::with_capacity(256 << 10, file);
        Ok(Self {
            input: decoder(file, &magic[..have])?,
            hash: hash.then(Sha256::new),
            budget: budget.clone(),
            read: 0,
            allowed: compressed.saturating_mul(MAX_RATIO).max(RATIO_FROM),
            tripped: false,
        })
    }

    /// Reads to the end and gives the digest of all that was read.
    pub(crate) fn finish(mut self, limits: &ConvertLimits) -> Result<String, ConvertError> {
        if let Err(e) = io::copy(&mut self, &mut io::sink()) {
            return Err(self.explain(e, limits));
        }
        Ok(self.hash.map(|h| format!("sha256:{}", hex::encode(h.finalize()))).unwrap_or_default())
    }

    pub(crate) fn explain(&self, e: io::Error, limits: &ConvertLimits) -> ConvertError {
        if self.tripped {
            return too_large(limits);
        }
        explain(e)
    }
}

pub(crate) fn too_large(limits: &ConvertLimits) -> ConvertError {
    ConvertError::TooLarge {
        what: "the uncompressed size (or its ratio to the compressed one)".into(),
        limit: limits.bytes,
    }
}

/// Errors that a decoder makes are the image's fault; others are the disk's.
pub(crate) fn explain(e: io::Error) -> ConvertError {
    if e.raw_os_error().is_some() {
        return ConvertError::Io(e);
    }
    ConvertError::invalid(format!("a layer cannot be decompressed or is truncated: {e}"))
}

fn decoder(file: BufReader<File>, magic: &[u8]) -> Result<Box<dyn Read>, ConvertError> {
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(128 << 10, flate2::bufread::MultiGzDecoder::new(file))),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => zstd_decoder(file)?,
        [b'B', b'Z', b'h', ..] => return Err(ConvertError::invalid("layers compressed with bzip2 are not supported")),
        [0xfd, b'7', b'z', ..] => return Err(ConvertError::invalid("layers compressed with xz are not supported")),
        _ => Box::new(file),
    })
}

fn zstd_decoder(file: impl BufRead + 'static) -> Result<Box<dyn Read>, ConvertError> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(file)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(Box::new(BufReader::with_capacity(128 << 10, decoder)))
}

fn read_up_to(input: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buf.len() {
        match input.read(&mut buf[have..])? {
            0 => break,
            n => have += n,
        }
    }
    Ok(have)
}

impl Read for Layer {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.read += n as u64;
        let left = self.budget.get().checked_sub(n as u64);
        match left {
            Some(left) if self.read <= self.allowed => self.budget.set(left),
            _ => {
                self.tripped = true;
                return Err(io::Error::other("the layer is too large"));
            }
        }
        if let Some(hash) = &mut self.hash {
            hash.update(&buf[..n]);
        }
        Ok(n)
    }
}

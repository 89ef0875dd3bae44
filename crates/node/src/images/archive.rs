//! The bytes of an archive that somebody sends: unpacked, and bounded in all
//! that they unpack to, also in what nobody needs.

use super::{ImageError, text};
use std::io::{self, BufRead, BufReader, Read};

/// Headers, and files beside the images, come on top of the images.
const OVERHEAD: u64 = 64 << 20;
/// What a zstd frame may ask for as its window: 128 MiB, as `zstd -d` allows.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Plain, gzip or zstd, as its first bytes say. Ends with an error after
/// `max_bytes` and what archives have beside their images.
pub(super) fn decompressed(input: impl Read + Send + 'static, max_bytes: u64) -> io::Result<Box<dyn Read>> {
    let mut input = BufReader::with_capacity(256 << 10, input);
    let magic = input.fill_buf()?;
    let plain: Box<dyn Read> = match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        _ => Box::new(input),
    };
    Ok(Box::new(BufReader::new(Bounded { input: plain, left: max_bytes.saturating_add(OVERHEAD), limit: max_bytes })))
}

struct Bounded {
    input: Box<dyn Read>,
    left: u64,
    limit: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("the archive is too large")]
struct TooMuch(u64);

impl Read for Bounded {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| io::Error::other(TooMuch(self.limit)))?;
        Ok(n)
    }
}

/// Why the archive could not be read on.
pub(super) fn read_error(e: io::Error) -> ImageError {
    match e.get_ref().and_then(|e| e.downcast_ref::<TooMuch>()) {
        Some(TooMuch(limit)) => ImageError::TooLarge { what: "the archive, uncompressed,".into(), limit: *limit },
        None => ImageError::invalid(format!("the archive cannot be read: {}", text::clip(&e.to_string(), 200))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_needs_is_bounded_too() {
        let read = |n: u64| {
            let mut input = decompressed(io::repeat(0).take(n), 1 << 20).expect("opens");
            io::copy(&mut input, &mut io::sink())
        };
        assert_eq!(read(65 << 20).expect("fits"), 65 << 20);
        let error = read_error(read((65 << 20) + 1).expect_err("too much"));
        assert!(matches!(error, ImageError::TooLarge { limit: 1_048_576, .. }), "{error}");
    }
}

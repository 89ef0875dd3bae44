//! The newest output of one process: a ring over the combined sequence of
//! its streams. Pure; who waits for what is in `exec`.

use std::collections::VecDeque;

/// Bytes kept per process, at least; up to a piece more.
pub const CAPACITY: usize = 1024 * 1024;
/// Largest piece, stored and delivered: with all that is put around it, two
/// writes to the port (`port::WRITE`) and not a third for a few bytes.
pub const CHUNK: usize = 64 * 1024 - 512;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// 1 standard output or terminal, 2 standard error.
    pub stream: u32,
    /// Of its first byte, counted over all streams.
    pub offset: u64,
    pub data: Vec<u8>,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

#[derive(Debug)]
pub struct Ring {
    chunks: VecDeque<Chunk>,
    end: u64,
    capacity: usize,
}

impl Ring {
    pub fn new(capacity: usize) -> Self {
        Self { chunks: VecDeque::new(), end: 0, capacity }
    }

    /// Oldest offset that is still held.
    pub fn start(&self) -> u64 {
        self.chunks.front().map_or(self.end, |chunk| chunk.offset)
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether a chunk more would push out bytes that the slowest attached
    /// reader has not had.
    pub fn has_room(&self, slowest: Option<u64>) -> bool {
        slowest.is_none_or(|offset| (self.end + CHUNK as u64).saturating_sub(offset) <= self.capacity as u64)
    }

    pub fn push(&mut self, stream: u32, mut data: &[u8]) {
        while !data.is_empty() {
            // Many tiny writes must not become as many chunks.
            let open = self.chunks.back_mut().filter(|last| last.stream == stream && last.data.len() < CHUNK);
            let taken = match open {
                Some(last) => {
                    let count = data.len().min(CHUNK - last.data.len());
                    last.data.extend_from_slice(&data[..count]);
                    count
                }
                None => {
                    let count = data.len().min(CHUNK);
                    self.chunks.push_back(Chunk { stream, offset: self.end, data: data[..count].to_vec() });
                    count
                }
            };
            self.end += taken as u64;
            data = &data[taken..];
        }
        // A piece goes whole, and a reader may be in the middle of it: only
        // once nothing of it is within the capacity.
        while self.chunks.front().is_some_and(|oldest| self.end - oldest.end() >= self.capacity as u64) {
            self.chunks.pop_front();
        }
    }

    /// The piece at `offset`, at most `max` bytes; `None` at the end. An
    /// offset before the start answers the oldest piece.
    pub fn piece(&self, offset: u64, max: usize) -> Option<Chunk> {
        let index = self.chunks.partition_point(|chunk| chunk.end() <= offset);
        let chunk = self.chunks.get(index)?;
        let skip = usize::try_from(offset.saturating_sub(chunk.offset)).unwrap_or(usize::MAX);
        let data = chunk.data.get(skip..)?;
        let data = data[..data.len().min(max)].to_vec();
        Some(Chunk { stream: chunk.stream, offset: chunk.offset + skip as u64, data })
    }

    /// Forgets the bytes, keeps the count.
    pub fn clear(&mut self) {
        self.chunks.clear();
        self.chunks.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_slowest_reader_holds_the_writer() {
        let mut ring = Ring::new(2 * CHUNK);
        assert!(ring.has_room(Some(0)));
        ring.push(1, &[0; CHUNK]);
        assert!(ring.has_room(Some(0)));
        ring.push(1, &[0; 1]);
        assert!(!ring.has_room(Some(0)));
        assert!(ring.has_room(Some(1)));
        assert!(ring.has_room(None));
    }

    proptest! {
        #[test]
        fn an_attached_reader_loses_nothing(
            turns in proptest::collection::vec((1usize..=CHUNK, 1usize..=CHUNK), 1..60),
        ) {
            let mut ring = Ring::new(3 * CHUNK);
            let (mut at, mut written) = (0, 0);
            for (write, read) in turns {
                while !ring.has_room(Some(at)) {
                    let piece = ring.piece(at, read).expect("a full ring has something to read");
                    prop_assert_eq!(piece.offset, at, "bytes were pushed out before they were read");
                    at += piece.data.len() as u64;
                }
                ring.push(1, &vec![0; write]);
                written += write as u64;
                if let Some(piece) = ring.piece(at, read) {
                    prop_assert_eq!(piece.offset, at, "bytes were pushed out before they were read");
                    at += piece.data.len() as u64;
                }
            }
            prop_assert!(ring.start() <= at && ring.end() == written);
        }

        #[test]
        fn reads_what_was_written(
            writes in proptest::collection::vec((1u32..=2, proptest::collection::vec(any::<u8>(), 0..5000)), 0..60),
            from in 0u64..60_000,
            step in 1usize..9000,
        ) {
            let mut ring = Ring::new(3 * CHUNK);
            let mut all = Vec::new();
            for (stream, data) in &writes {
                ring.push(*stream, data);
                all.extend(data.iter().map(|byte| (*stream, *byte)));
            }
            prop_assert_eq!(ring.end(), all.len() as u64);
            prop_assert!(ring.end() - ring.start() <= 4 * CHUNK as u64);
            let mut at = from.max(ring.start());
            while let Some(piece) = ring.piece(at, step) {
                prop_assert_eq!(piece.offset, at);
                prop_assert!(!piece.data.is_empty());
                for (index, byte) in piece.data.iter().enumerate() {
                    prop_assert_eq!(all[at as usize + index], (piece.stream, *byte));
                }
                at += piece.data.len() as u64;
            }
            prop_assert!(at >= ring.end());
        }
    }
}

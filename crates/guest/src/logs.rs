//! The main process's lines, with times, in a bounded ring.
//!
//! Bytes come in chunks per stream; a line ends at `\n` or at 16 KiB. A line
//! without an end is kept back until more comes or the process ends.

use crate::{lock, sys};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Bytes of lines kept.
pub const CAPACITY: usize = 4 * 1024 * 1024;
/// Longest line; longer ones are split.
const LINE: usize = 16 * 1024;
/// What a line costs beside its bytes.
const OVERHEAD: usize = 48;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub sequence: u64,
    pub time_ms: u64,
    /// 1 standard output, 2 standard error.
    pub stream: u32,
    pub bytes: Arc<[u8]>,
}

pub struct LogRing {
    inner: Mutex<Inner>,
    capacity: usize,
    /// Sequence of the newest line; followers wake on it.
    newest: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    lines: VecDeque<Line>,
    bytes: usize,
    partial: [Vec<u8>; 2],
}

impl LogRing {
    pub fn new(capacity: usize) -> Self {
        Self { inner: Mutex::default(), capacity, newest: watch::Sender::new(0) }
    }

    pub fn push(&self, stream: u32, mut chunk: &[u8]) {
        let mut inner = lock(&self.inner);
        let slot = usize::from(stream == 2);
        while !chunk.is_empty() {
            let held = inner.partial[slot].len();
            let room = LINE.saturating_sub(held);
            let window = &chunk[..chunk.len().min(room)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    inner.partial[slot].extend_from_slice(&chunk[..end]);
                    chunk = &chunk[end + 1..];
                    self.finish(&mut inner, slot);
                }
                None => {
                    inner.partial[slot].extend_from_slice(window);
                    chunk = &chunk[window.len()..];
                    // Exactly full and the newline next: still one line.
                    if inner.partial[slot].len() == LINE {
                        if chunk.first() == Some(&b'\n') {
                            chunk = &chunk[1..];
                        }
                        self.finish(&mut inner, slot);
                    }
                }
            }
        }
    }

    /// The process ended: what has no newline is a line too.
    pub fn flush(&self) {
        let mut inner = lock(&self.inner);
        for slot in 0..2 {
            if !inner.partial[slot].is_empty() {
                self.finish(&mut inner, slot);
            }
        }
    }

    fn finish(&self, inner: &mut Inner, slot: usize) {
        let bytes: Arc<[u8]> = std::mem::take(&mut inner.partial[slot]).into();
        let sequence = *self.newest.borrow() + 1;
        inner.bytes += bytes.len() + OVERHEAD;
        let stream = if slot == 1 { 2 } else { 1 };
        inner.lines.push_back(Line { sequence, time_ms: sys::unix_ms(), stream, bytes });
        while inner.bytes > self.capacity {
            let Some(old) = inner.lines.pop_front() else { break };
            inner.bytes -= old.bytes.len() + OVERHEAD;
        }
        self.newest.send_replace(sequence);
    }

    /// At most `limit` lines after a sequence number.
    pub fn after(&self, sequence: u64, limit: usize) -> Vec<Line> {
        let inner = lock(&self.inner);
        let from = inner.lines.partition_point(|line| line.sequence <= sequence);
        inner.lines.iter().skip(from).take(limit).cloned().collect()
    }

    /// The sequence after which a reader starts that wants lines since a time
    /// and of those the last `tail` (0: all).
    pub fn start(&self, tail: u32, since_ms: u64) -> u64 {
        let inner = lock(&self.inner);
        let matching: Vec<u64> =
            inner.lines.iter().filter(|line| line.time_ms >= since_ms).map(|line| line.sequence).collect();
        let skip = if tail == 0 { 0 } else { matching.len().saturating_sub(tail as usize) };
        match matching.get(skip) {
            Some(first) => first - 1,
            None => *self.newest.borrow(),
        }
    }

    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(ring: &LogRing) -> Vec<(u32, String)> {
        ring.after(0, 1000)
            .iter()
            .map(|line| (line.stream, String::from_utf8_lossy(&line.bytes).into_owned()))
            .collect()
    }

    #[test]
    fn lines_of_two_streams_over_chunks() {
        let ring = LogRing::new(CAPACITY);
        ring.push(1, b"he");
        ring.push(2, b"oops\nha");
        ring.push(1, b"llo\n\nx");
        assert_eq!(texts(&ring), [(2, "oops".into()), (1, "hello".into()), (1, String::new())]);
        ring.flush();
        assert_eq!(texts(&ring)[3..], [(1, "x".into()), (2, "ha".into())]);
    }

    #[test]
    fn long_lines_are_split() {
        let ring = LogRing::new(CAPACITY);
        ring.push(1, &[b'a'; LINE]);
        ring.push(1, b"tail\n");
        ring.push(1, &[&[b'b'; LINE][..], b"\n"].concat());
        let lengths: Vec<usize> = ring.after(0, 10).iter().map(|line| line.bytes.len()).collect();
        assert_eq!(lengths, [LINE, 4, LINE]);
    }

    #[test]
    fn old_lines_go_first_and_tail_counts_from_the_end() {
        let ring = LogRing::new(10 * (OVERHEAD + 1));
        for _ in 0..30 {
            ring.push(1, b"x\n");
        }
        assert_eq!(ring.after(0, 100).len(), 10);
        assert_eq!(ring.after(ring.start(3, 0), 100).len(), 3);
        assert_eq!(ring.after(ring.start(0, u64::MAX), 100).len(), 0);
        assert_eq!(ring.after(ring.start(100, 0), 100).len(), 10);
    }
}

//! Standard input, read by a thread: a blocking read cannot be cancelled, and
//! a terminal or pipe must not be made non-blocking for those who share it.

use bytes::Bytes;
use std::io::Read;
use tokio::sync::mpsc;

const CHUNK: usize = 32 * 1024;
/// So much typing or piping may wait while the stream is busy.
const QUEUE: usize = 4;
const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key {
    Bytes(Bytes),
    End,
    Detach,
}

pub(super) struct Input {
    channel: Option<mpsc::Receiver<Bytes>>,
    filter: Option<DetachFilter>,
}

impl Input {
    pub(super) fn new(interactive: bool, tty: bool) -> Self {
        let channel = interactive.then(read_stdin);
        Self { channel, filter: tty.then(DetachFilter::default) }
    }

    /// Can be cancelled: nothing is lost. Pends for ever after the end.
    pub(super) async fn next(&mut self) -> Key {
        loop {
            let Some(channel) = &mut self.channel else {
                super::never().await;
                continue;
            };
            let Some(bytes) = channel.recv().await else {
                self.channel = None;
                return Key::End;
            };
            match &mut self.filter {
                None => return Key::Bytes(bytes),
                Some(filter) => match filter.pass(&bytes) {
                    None => return Key::Detach,
                    Some(bytes) if bytes.is_empty() => {}
                    Some(bytes) => return Key::Bytes(bytes),
                },
            }
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the thread blocks in read(2) and dies with the process")]
fn read_stdin() -> mpsc::Receiver<Bytes> {
    let (tx, rx) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; CHUNK];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    if tx.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                        break;
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    });
    rx
}

/// Finds ctrl-P ctrl-Q. A ctrl-P alone is held back until the next byte.
#[derive(Debug, Default)]
struct DetachFilter {
    held: bool,
}

impl DetachFilter {
    /// What to pass on; none when the keys were pressed.
    fn pass(&mut self, bytes: &[u8]) -> Option<Bytes> {
        let mut out = Vec::with_capacity(bytes.len() + 1);
        for byte in bytes {
            match (self.held, *byte) {
                (true, CTRL_Q) => return None,
                (true, CTRL_P) => out.push(CTRL_P),
                (true, other) => {
                    self.held = false;
                    out.extend([CTRL_P, other]);
                }
                (false, CTRL_P) => self.held = true,
                (false, other) => out.push(other),
            }
        }
        Some(Bytes::from(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(chunks: &[&[u8]]) -> Option<Vec<u8>> {
        let mut filter = DetachFilter::default();
        chunks.iter().try_fold(Vec::new(), |mut all, chunk| {
            all.extend_from_slice(&filter.pass(chunk)?);
            Some(all)
        })
    }

    #[test]
    fn detach_keys() {
        assert_eq!(feed(&[b"ls\x10\x11"]), None);
        assert_eq!(feed(&[b"\x10", b"\x11"]), None);
        assert_eq!(feed(&[b"\x10\x10\x11"]), None);
        assert_eq!(feed(&[b"\x10", b"x"]), Some(b"\x10x".to_vec()));
        assert_eq!(feed(&[b"\x11\x10a"]), Some(b"\x11\x10a".to_vec()));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_however_it_is_cut(bytes in proptest::collection::vec(0u8..0x20, 0..40), cut in 0usize..40) {
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(feed(&[a, b]), feed(&[&bytes[..]]));
            if let Some(out) = feed(&[&bytes[..]]) {
                let held = bytes.last() == Some(&CTRL_P);
                prop_assert_eq!(out.len() + usize::from(held), bytes.len());
            }
        }
    }
}

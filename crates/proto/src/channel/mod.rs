//! The handshake below HTTP/2 on a sandbox channel, shared by both ends.
//!
//! A virtio-serial port is one endless byte stream: when the host's socket is
//! cut and opened again, bytes of the old session still arrive on both sides.
//! So each session begins with a hello that cannot be mistaken:
//!
//! ```text
//! host  → guest   token(16, secret of this sandbox)  nonce(16, new each time)
//! guest → host    MAGIC(16)                           the same nonce
//! ```
//!
//! - The host throws away every byte before the answer to its *latest* hello,
//!   and says hello again with a new nonce when none comes in time.
//! - The guest looks for the token in *all* that it receives, in mid-stream
//!   too; a match ends the session there was and begins a new one.
//!
//! Both are the same search for a fixed needle over arbitrary chunks. Pure:
//! no I/O, no time, no randomness.

/// Bytes of the secret that names a sandbox on its channel.
pub const TOKEN_LEN: usize = 16;
/// Bytes of the number that a hello and its answer share.
pub const NONCE_LEN: usize = 16;
/// Bytes of a hello, and of its answer.
pub const HELLO_LEN: usize = TOKEN_LEN + NONCE_LEN;
/// What the guest's answer begins with.
pub const MAGIC: [u8; TOKEN_LEN] = *b"\xaeaether-guest\r\n\x01";

/// Stream window of HTTP/2 on the channel.
pub const STREAM_WINDOW: u32 = 128 * 1024;
/// Connection window: large, so that small answers do not queue behind bulk.
pub const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Largest frame: 16 KiB would cost a quarter of the throughput.
pub const FRAME_SIZE: u32 = 64 * 1024;
/// Header list of one message, both ways.
pub const HEADER_LIST: u32 = 32 * 1024;
/// Largest single Connect message, both ways.
pub const MESSAGE_SIZE: usize = 4 * 1024 * 1024;

/// What the host writes.
pub fn hello(token: &[u8; TOKEN_LEN], nonce: &[u8; NONCE_LEN]) -> [u8; HELLO_LEN] {
    joined(token, nonce)
}

/// What the guest writes back.
pub fn answer(nonce: &[u8; NONCE_LEN]) -> [u8; HELLO_LEN] {
    joined(&MAGIC, nonce)
}

/// How a token travels inside a message. The guest looks for its token in all
/// that it receives: an identify that is repeated, because its answer was
/// lost, would be taken for a hello if it carried the token as it is.
pub fn veiled(token: &[u8; TOKEN_LEN]) -> [u8; TOKEN_LEN] {
    token.map(|byte| !byte)
}

/// The token in [`veiled`] bytes; none when the length is wrong.
pub fn unveiled(bytes: &[u8]) -> Option<[u8; TOKEN_LEN]> {
    let token: [u8; TOKEN_LEN] = bytes.try_into().ok()?;
    Some(veiled(&token))
}

fn joined(a: &[u8; 16], b: &[u8; 16]) -> [u8; HELLO_LEN] {
    let mut out = [0; HELLO_LEN];
    out[..16].copy_from_slice(a);
    out[16..].copy_from_slice(b);
    out
}

/// A hello (or an answer) met in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met {
    pub nonce: [u8; NONCE_LEN],
    /// Where, in the chunk just fed, the bytes after it begin.
    pub rest: usize,
}

/// Finds `needle` followed by a nonce in a stream fed in chunks of any size.
/// It keeps the last 31 bytes and holds nothing back from the caller.
#[derive(Clone)]
pub struct Scanner {
    needle: [u8; TOKEN_LEN],
    tail: Vec<u8>,
}

impl std::fmt::Debug for Scanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scanner(***)")
    }
}

impl Scanner {
    pub fn new(needle: [u8; TOKEN_LEN]) -> Self {
        Self { needle, tail: Vec::with_capacity(2 * HELLO_LEN) }
    }

    /// From now on look for another needle. What of the new one has already
    /// come is not lost: the last bytes are kept.
    pub fn set_needle(&mut self, needle: [u8; TOKEN_LEN]) {
        self.needle = needle;
    }

    /// The *last* complete hello that ends within this chunk: an earlier one
    /// in the same chunk has been given up by its sender.
    pub fn feed(&mut self, chunk: &[u8]) -> Option<Met> {
        let mut last = None;
        self.each(chunk, |met| {
            last = Some(met);
            true
        });
        last
    }

    /// Calls `visit` for each match in stream order until it answers false.
    /// Matches may overlap: a truncated hello can swallow the beginning of
    /// the whole one behind it, and both are seen.
    fn each(&mut self, chunk: &[u8], mut visit: impl FnMut(Met) -> bool) {
        let kept = self.tail.len();
        // A match begins either in the kept tail (then it ends in the seam) or
        // in the chunk, which is searched in place.
        let mut seam = std::mem::take(&mut self.tail);
        seam.extend_from_slice(&chunk[..chunk.len().min(HELLO_LEN - 1)]);
        if self.search(&seam, |at, nonce| visit(Met { nonce, rest: at + HELLO_LEN - kept })) {
            self.search(chunk, |at, nonce| visit(Met { nonce, rest: at + HELLO_LEN }));
        }
        if chunk.len() >= HELLO_LEN - 1 {
            seam.clear();
            seam.extend_from_slice(&chunk[chunk.len() - (HELLO_LEN - 1)..]);
        } else {
            let surplus = seam.len().saturating_sub(HELLO_LEN - 1);
            seam.drain(..surplus);
        }
        self.tail = seam;
    }

    /// False when `visit` ended it.
    fn search(&self, bytes: &[u8], mut visit: impl FnMut(usize, [u8; NONCE_LEN]) -> bool) -> bool {
        let Some(last_start) = bytes.len().checked_sub(HELLO_LEN) else { return true };
        let mut from = 0;
        while from <= last_start {
            // The first byte rules out nearly every position cheaply.
            let Some(step) = bytes[from..=last_start].iter().position(|byte| *byte == self.needle[0]) else { break };
            let at = from + step;
            if bytes[at..at + TOKEN_LEN] == self.needle {
                let mut nonce = [0; NONCE_LEN];
                nonce.copy_from_slice(&bytes[at + TOKEN_LEN..at + HELLO_LEN]);
                if !visit(at, nonce) {
                    return false;
                }
            }
            from = at + 1;
        }
        true
    }
}

/// The host's side: the answer to the latest hello, and nothing else.
#[derive(Clone, Debug)]
pub struct AnswerScanner {
    inner: Scanner,
    nonce: [u8; NONCE_LEN],
}

impl AnswerScanner {
    pub fn new(nonce: [u8; NONCE_LEN]) -> Self {
        Self { inner: Scanner::new(MAGIC), nonce }
    }

    /// A new hello was sent: answers to older ones no longer count.
    pub fn expect(&mut self, nonce: [u8; NONCE_LEN]) {
        self.nonce = nonce;
    }

    /// Where in the chunk the session begins, once the answer is complete.
    pub fn feed(&mut self, chunk: &[u8]) -> Option<usize> {
        let wanted = self.nonce;
        let mut rest = None;
        self.inner.each(chunk, |met| {
            if met.nonce == wanted {
                rest = Some(met.rest);
            }
            rest.is_none()
        });
        rest
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

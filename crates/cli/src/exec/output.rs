//! Standard output and error, written by a thread, so that a reader of ours
//! that has stopped (a pager) never stops signals and keys.

use bytes::Bytes;
use std::io::Write;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Frames that wait for the terminal; at most 64 KiB each.
const QUEUE: usize = 16;

#[derive(Debug)]
pub(super) enum Chunk {
    Stdout(Bytes),
    Stderr(Bytes),
    /// Our own words, not the command's.
    Note(String),
}

impl Chunk {
    pub(super) fn note(text: String) -> Self {
        Self::Note(text)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Stdout(bytes) | Self::Stderr(bytes) => bytes,
            Self::Note(_) => &[],
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.bytes().len() as u64
    }
}

pub(super) struct Writer {
    channel: Option<mpsc::Sender<Chunk>>,
    task: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start() -> Self {
        let (tx, rx) = mpsc::channel(QUEUE);
        Self { channel: Some(tx), task: Some(tokio::task::spawn_blocking(move || write_all(rx))) }
    }

    /// Waits for room; none when nobody reads our output any more.
    pub(super) async fn has_room(&self) -> Option<()> {
        self.channel.as_ref()?.reserve().await.ok().map(drop)
    }

    pub(super) async fn write(&self, chunk: Chunk) {
        if let Some(channel) = &self.channel {
            let _ = channel.send(chunk).await;
        }
    }

    /// Waits until all is written.
    pub(super) async fn finish(&mut self) {
        self.channel = None;
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

/// Ends when the channel does, or when standard output breaks.
fn write_all(mut chunks: mpsc::Receiver<Chunk>) {
    let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
    while let Some(chunk) = chunks.blocking_recv() {
        match chunk {
            Chunk::Stdout(bytes) => {
                if stdout.write_all(&bytes).and_then(|()| stdout.flush()).is_err() {
                    return;
                }
            }
            Chunk::Stderr(bytes) => drop(stderr.write_all(&bytes)),
            Chunk::Note(text) => drop(stderr.write_all(text.as_bytes())),
        }
    }
}

//! How a guest behaves: whether what it says is of the protocol and comes in
//! time. A breach is remembered for a while, so that whoever looks at the
//! agent learns why its calls fail.
//!
//! Not here: whether it answers when it is asked for its health, and whether
//! its probe is well (`runtime::run`).

use super::ChannelError;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A guest that keeps to the protocol for so long is well again.
const REMEMBERED: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Conduct {
    last: Mutex<Option<(Instant, ChannelError)>>,
    news: Notify,
}

impl Conduct {
    /// Notes what is the guest's own fault. A refusal is an answer, and a cut
    /// may be ours.
    pub(super) fn note(&self, error: &ChannelError) {
        if matches!(error, ChannelError::Protocol(_) | ChannelError::Timeout) {
            *self.last.lock() = Some((Instant::now(), error.clone()));
            self.news.notify_one();
        }
    }

    /// The guest cuts whatever is begun, again and again.
    pub(super) fn note_cuts(&self) {
        self.note(&ChannelError::protocol("it cuts every connection"));
    }

    pub(super) fn breach(&self) -> Option<String> {
        let last = self.last.lock();
        last.as_ref().filter(|(at, _)| at.elapsed() < REMEMBERED).map(|(_, error)| error.to_string())
    }

    pub(super) async fn noted(&self) {
        self.news.notified().await;
    }
}

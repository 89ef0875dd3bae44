//! The host's end of the channel to one sandbox's guest.
//!
//! A [`GuestClient`] holds two lanes (control and data), each one Unix socket
//! that the engine offers, the handshake of `aether_proto::channel` on it,
//! and HTTP/2 above. It connects when first used and again after each cut;
//! calls that may be repeated are, within their deadline; streams go on from
//! where they were.
//!
//! Everything a guest sends is hostile: message sizes, header lists, streams
//! and texts are bounded here, and no error repeats unbounded guest text.
//!
//! Not here: what a call means for an agent, and where the token is kept.

mod bounds;
mod conduct;
mod control;
mod error;
mod exec;
mod files;
#[cfg(test)]
mod fuzz;
mod lane;
mod port;

pub use aether_proto::guest::aether::guest::v1 as wire;
pub use aether_proto::guest::{filesystem, process};
pub use connectrpc::ErrorCode;
pub use error::ChannelError;
pub use files::{ByteStream, FileHead, WrittenFile};
pub use lane::{CutError, GuestBody};

use crate::engine::ChannelToken;
use conduct::Conduct;
use connectrpc::client::ClientConfig;
use lane::{Lane, Tokens, Transport};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::{ExecClient, GuestClient as ControlClient};

/// The oneof of an [`wire::Event`].
pub use wire::__buffa::oneof::event::Event as EventKind;
/// The oneof of an [`wire::OutputEvent`].
pub use wire::__buffa::oneof::output_event::Event as OutputKind;

/// What most calls may take: an emulated guest under load is slow.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// Speaks to the guest of one sandbox. Cheap to clone; the last clone dropped,
/// or [`GuestClient::close`], ends its connections.
#[derive(Clone)]
pub struct GuestClient {
    inner: Arc<Inner>,
}

struct Inner {
    control: Arc<Lane>,
    data: Arc<Lane>,
    tokens: Arc<Tokens>,
    closed: CancellationToken,
    conduct: Conduct,
    guest: ControlClient<Transport>,
    exec: ExecClient<Transport>,
    filesystem: filesystem::FilesystemClient<Transport>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl std::fmt::Debug for GuestClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestClient").finish_non_exhaustive()
    }
}

impl GuestClient {
    /// Connects nothing yet.
    pub fn open(control_socket: PathBuf, data_socket: PathBuf, token: ChannelToken) -> Self {
        let closed = CancellationToken::new();
        let tokens = Arc::new(Tokens::new(token));
        let control = Lane::new("control", control_socket, tokens.clone(), closed.clone());
        let data = Lane::new("data", data_socket, tokens.clone(), closed.clone());
        let config = || {
            ClientConfig::new(http::Uri::from_static("http://guest"))
                .with_default_max_message_size(aether_proto::channel::MESSAGE_SIZE)
                .with_default_element_memory_limit(8 * aether_proto::channel::MESSAGE_SIZE)
        };
        let inner = Inner {
            guest: ControlClient::new(Transport(control.clone()), config()),
            exec: ExecClient::new(Transport(data.clone()), config()),
            filesystem: filesystem::FilesystemClient::new(Transport(data.clone()), config()),
            control,
            data,
            tokens,
            closed,
            conduct: Conduct::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Returns when the first hello is answered on both lanes and the guest
    /// says that it is healthy. A channel whose socket is gone fails at once.
    pub async fn wait_ready(&self, limit: Duration) -> Result<(), ChannelError> {
        let deadline = Instant::now() + limit;
        let (control, data) = tokio::join!(self.inner.control.ready(deadline), self.inner.data.ready(deadline));
        control.and(data)?;
        self.health_within(deadline.saturating_duration_since(Instant::now())).await.map(drop)
    }

    /// The token that the next hello carries. After [`GuestClient::identify`]
    /// it is the new one.
    pub fn token(&self) -> ChannelToken {
        self.inner.tokens.current()
    }

    /// Ends all connections; every call and stream answers [`ChannelError::Gone`].
    pub fn close(&self) {
        self.inner.closed.cancel();
        self.inner.control.reset();
        self.inner.data.reset();
    }

    /// Why the guest is not to be trusted at the moment: it broke the protocol
    /// or left a call without an answer, not long ago.
    pub fn breach(&self) -> Option<String> {
        self.inner.conduct.breach()
    }

    /// Returns when there is one more breach than when it last returned.
    pub async fn breached(&self) {
        self.inner.conduct.noted().await;
    }

    /// Remembers an error that is the guest's fault.
    fn noted<T>(&self, went: Result<T, ChannelError>) -> Result<T, ChannelError> {
        if let Err(error) = &went {
            self.inner.conduct.note(error);
        }
        went
    }

    /// As [`GuestClient::attempt`], for calls that a well-behaved guest
    /// answers within their limits.
    async fn within<R, F, Fut>(
        &self,
        lane: &Arc<Lane>,
        limit: Duration,
        repeat: Repeat,
        call: F,
    ) -> Result<R, ChannelError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<R, connectrpc::ConnectError>>,
    {
        self.noted(self.attempt(lane, limit, repeat, call).await)
    }

    /// Runs `call` within `limit`. With `repeat`, a cut in mid-call is met by
    /// calling again; without, the caller cannot know whether it was done.
    async fn attempt<R, F, Fut>(
        &self,
        lane: &Arc<Lane>,
        limit: Duration,
        repeat: Repeat,
        call: F,
    ) -> Result<R, ChannelError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<R, connectrpc::ConnectError>>,
    {
        let deadline = Instant::now() + limit;
        loop {
            lane.ready(deadline).await?;
            let error = match tokio::time::timeout_at(deadline, call()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => ChannelError::from(error),
                Err(_) => {
                    lane.suspect();
                    return Err(ChannelError::Timeout);
                }
            };
            let again = matches!(error, ChannelError::Gone) && matches!(repeat, Repeat::Yes);
            if !again || self.inner.closed.is_cancelled() {
                return Err(error);
            }
            if Instant::now() >= deadline {
                self.inner.conduct.note_cuts();
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Whether a call may be made again after a cut.
#[derive(Clone, Copy, Debug)]
enum Repeat {
    Yes,
    No,
}

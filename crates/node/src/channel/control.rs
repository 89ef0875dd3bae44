//! Calls on the control lane.

use super::lane::Fruitless;
use super::{CALL_LIMIT, ChannelError, GuestClient, Repeat, bounds, wire};
use crate::engine::ChannelToken;
use futures::Stream;
use std::time::Duration;

/// Identify starts the main process and may meet a cold disk.
const IDENTIFY_LIMIT: Duration = Duration::from_secs(60);

impl GuestClient {
    /// Gives the guest its identity; from the next hello on the token is the
    /// one in the request. Safe to repeat with the same request: a main
    /// process is started once. The token is veiled on its way.
    pub async fn identify(&self, mut request: wire::IdentifyRequest) -> Result<wire::IdentifyResponse, ChannelError> {
        let token: [u8; 16] = request
            .channel_token
            .as_slice()
            .try_into()
            .map_err(|_| ChannelError::protocol("channel_token must be 16 bytes"))?;
        request.channel_token = aether_proto::channel::veiled(&token).to_vec();
        let token = ChannelToken(token);
        self.inner.tokens.propose(token.clone());
        let guest = &self.inner.guest;
        let answer = self
            .within(&self.inner.control, IDENTIFY_LIMIT, Repeat::Yes, || guest.identify(request.clone()))
            .await?
            .into_owned();
        self.inner.tokens.settle(&token);
        Ok(bounds::identify(answer))
    }

    /// New entropy and the time; also after each restore.
    pub async fn reseed(&self, entropy: Vec<u8>, unix_ns: u64) -> Result<(), ChannelError> {
        let guest = &self.inner.guest;
        let request = wire::ReseedRequest { entropy, unix_ns, ..Default::default() };
        let call = || guest.reseed(request.clone());
        self.within(&self.inner.control, CALL_LIMIT, Repeat::Yes, call).await.map(drop)
    }

    pub async fn health(&self) -> Result<wire::HealthResponse, ChannelError> {
        self.health_within(CALL_LIMIT).await
    }

    /// For probes with a deadline of their own.
    pub async fn health_within(&self, limit: Duration) -> Result<wire::HealthResponse, ChannelError> {
        let guest = &self.inner.guest;
        let call = || guest.health(wire::HealthRequest::default());
        // Who asks judges what a lost answer means.
        let answer = match self.attempt(&self.inner.control, limit, Repeat::Yes, call).await {
            Err(ChannelError::Timeout) => return Err(ChannelError::Timeout),
            answer => self.noted(answer)?,
        };
        Ok(bounds::health(answer.into_owned()))
    }

    pub async fn stats(&self) -> Result<wire::StatsResponse, ChannelError> {
        let guest = &self.inner.guest;
        let call = || guest.stats(wire::StatsRequest::default());
        let answer = self.within(&self.inner.control, CALL_LIMIT, Repeat::Yes, call).await?;
        Ok(bounds::stats(answer.into_owned()))
    }

    /// Syncs and freezes the writable disk; it thaws by itself after `max`.
    pub async fn quiesce(&self, max: Duration) -> Result<(), ChannelError> {
        let guest = &self.inner.guest;
        let max_ms = u32::try_from(max.as_millis()).unwrap_or(u32::MAX);
        let request = wire::QuiesceRequest { max_ms, ..Default::default() };
        let call = || guest.quiesce(request.clone());
        self.within(&self.inner.control, CALL_LIMIT, Repeat::Yes, call).await.map(drop)
    }

    pub async fn thaw(&self) -> Result<(), ChannelError> {
        let guest = &self.inner.guest;
        let call = || guest.thaw(wire::ThawRequest::default());
        self.within(&self.inner.control, CALL_LIMIT, Repeat::Yes, call).await.map(drop)
    }

    /// Asks everything in the guest to end, then powers off. The answer may
    /// be lost to the power going: the caller waits for the VMM anyway.
    pub async fn shutdown(&self, grace: Duration) -> Result<wire::ShutdownResponse, ChannelError> {
        let guest = &self.inner.guest;
        let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        let request = wire::ShutdownRequest { grace_ms, ..Default::default() };
        let call = || guest.shutdown(request.clone());
        let limit = grace.saturating_add(CALL_LIMIT);
        let answer = self.within(&self.inner.control, limit, Repeat::No, call).await?;
        Ok(bounds::shutdown(answer.into_owned()))
    }

    /// Events with a sequence above `after`, then live ones. Goes on over
    /// reconnects; ends with an error when the guest cannot be reached.
    pub fn events(&self, after: u64) -> impl Stream<Item = Result<wire::Event, ChannelError>> + Send + use<> {
        let (client, reader) = (self.clone(), self.clone());
        let open = move |after: u64| {
            let client = client.clone();
            async move {
                let guest = &client.inner.guest;
                let request = wire::EventsRequest { after, ..Default::default() };
                client.within(&client.inner.control, CALL_LIMIT, Repeat::Yes, || guest.events(request.clone())).await
            }
        };
        futures::stream::unfold(Some((after, None, Fruitless::default())), move |state| {
            let (open, reader) = (open.clone(), reader.clone());
            async move {
                let (mut after, mut stream, mut fruitless) = state?;
                loop {
                    let mut live = match stream.take() {
                        Some(live) => live,
                        None => match open(after).await {
                            Ok(live) => live,
                            Err(error) => return Some((Err(error), None)),
                        },
                    };
                    let message = match live.message().await {
                        Ok(Some(message)) => message.to_owned_message(),
                        // The guest never ends this stream by itself.
                        Ok(None) => {
                            let ended = reader.noted(Err(ChannelError::protocol("the events ended")));
                            return Some((ended, None));
                        }
                        Err(error) => match ChannelError::from(error) {
                            ChannelError::Gone => {
                                if let Err(error) = fruitless.pause().await {
                                    reader.inner.conduct.note_cuts();
                                    return Some((Err(error), None));
                                }
                                continue;
                            }
                            other => return Some((reader.noted(Err(other)), None)),
                        },
                    };
                    // A sequence that does not rise would make us spin or repeat.
                    if message.sequence <= after {
                        let went_back = Err(ChannelError::protocol("event sequence went back"));
                        return Some((reader.noted(went_back), None));
                    }
                    after = message.sequence;
                    fruitless.reset();
                    return Some((Ok(bounds::event(message)), Some((after, Some(live), fruitless))));
                }
            }
        })
    }
}

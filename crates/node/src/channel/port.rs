//! A TCP connection into the sandbox, as two bodies of one exchange on the
//! data lane.

use super::files::{ByteStream, outgoing, refusal, small_body};
use super::{ChannelError, GuestClient};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use http::Request;
use http_body_util::BodyExt;
use std::time::Duration;

/// The guest gives a port ten seconds to take the connection.
const OPEN_LIMIT: Duration = Duration::from_secs(20);

impl GuestClient {
    /// Connects to the port inside. `inward` is what goes there; the stream
    /// is what comes back and ends with that direction. Neither has a time
    /// limit: an idle connection is a connection.
    pub async fn port<S, E>(&self, port: u16, inward: S) -> Result<ByteStream, ChannelError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Sync + 'static,
        E: std::fmt::Display + 'static,
    {
        let request = Request::post(format!("http://guest/port?port={port}")).body(outgoing(inward));
        let request = request.map_err(|_| ChannelError::protocol("a port makes no request"))?;
        let answer =
            tokio::time::timeout(OPEN_LIMIT, self.forward(request)).await.map_err(|_| ChannelError::Timeout)??;
        if !answer.status().is_success() {
            let status = answer.status();
            let text = small_body(answer.into_body()).await.unwrap_or_default();
            return Err(refusal(status, &text));
        }
        let client = self.clone();
        let frames = answer.into_body().into_data_stream().map_err(|_| ChannelError::Gone);
        // The last clone closes the lanes: it must outlive the stream.
        Ok(Box::pin(frames.inspect(move |_| {
            let _alive = &client;
        })))
    }
}

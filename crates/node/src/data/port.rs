//! Forwarded ports: bytes between a caller's stream and a port inside.

use super::{Answers, DataService, error};
use crate::channel::{ChannelError, ErrorCode};
use aether_proto::node as wire;
use aether_proto::node::port_request::Message as Ask;
use bytes::Bytes;

use futures::StreamExt;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status as Refusal, Streaming};

const FIRST: Duration = Duration::from_secs(10);
/// Pieces under way to the sandbox; a port that does not read stops the
/// caller.
const PIECES: usize = 4;

impl DataService {
    pub(super) async fn port_stream(
        &self,
        mut requests: Streaming<wire::PortRequest>,
    ) -> Result<Answers<wire::PortPiece>, Refusal> {
        let first = tokio::time::timeout(FIRST, requests.message())
            .await
            .map_err(|_| Refusal::deadline_exceeded("no first message came"))??;
        let Some(Ask::Open(open)) = first.and_then(|m| m.message) else {
            return Err(Refusal::invalid_argument("the first message must be open"));
        };
        let port = u16::try_from(open.port).ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| Refusal::invalid_argument("port must be 1 to 65535"))?;
        let up = self.up(&open.agent_id)?;
        let (sender, inward) = mpsc::channel::<Result<Bytes, String>>(PIECES);
        // Ends with the caller or the guest, not with the other direction.
        tokio::spawn(feed(requests, sender));
        let outward = up.client.port(port, ReceiverStream::new(inward)).await.map_err(refused)?;
        // An empty piece says that the connection stands.
        let stands = futures::stream::iter([Ok(wire::PortPiece::default())]);
        let shutdown = self.host.shutdown.clone();
        let pieces = outward.map(|piece| piece.map(|data| wire::PortPiece { data }).map_err(error::channel));
        let pieces = pieces.take_until(async move { shutdown.cancelled().await });
        Ok(Box::pin(stands.chain(pieces)))
    }
}

/// An orderly end of the requests is the end of that direction; a broken one
/// is an error, so that the port does not take it for an end.
async fn feed(mut requests: Streaming<wire::PortRequest>, sender: mpsc::Sender<Result<Bytes, String>>) {
    loop {
        let message = tokio::select! {
            message = requests.message() => message,
            () = sender.closed() => return,
        };
        let piece = match message {
            Ok(None) => return,
            Ok(Some(wire::PortRequest { message: Some(Ask::Data(data)) })) => Ok(data),
            Ok(Some(_)) => Err("after open only data may come".to_owned()),
            Err(status) => Err(status.message().to_owned()),
        };
        let over = piece.is_err();
        if sender.send(piece).await.is_err() || over {
            return;
        }
    }
}

fn refused(error: ChannelError) -> Refusal {
    match error {
        // The guest's word for a port that nobody listens on.
        ChannelError::Remote { code: ErrorCode::AlreadyExists, message } => Refusal::failed_precondition(message),
        other => error::channel(other),
    }
}

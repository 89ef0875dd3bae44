//! An in-memory pipe for gRPC: what `aether server` puts between control
//! plane and node when both live in one process. The same services, messages
//! and flow control as over TCP, without a socket or TLS.
//!
//! ```text
//! Connector (cheap to clone) ──duplex──► Incoming (one server)
//! ```
//!
//! Not for anything that crosses a process: nothing here authenticates.

use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Bytes in flight each way before the writer waits. One HTTP/2 frame of the
/// default size and its header, four times over.
const BUFFER_BYTES: usize = 4 * (16 * 1024 + 9);

/// Connections made and not yet accepted; more than a few means that the
/// server has stopped accepting.
const BACKLOG: usize = 16;

/// A pipe: whoever holds the connector can open connections to the server
/// that is fed from the incoming side.
pub fn pipe() -> (Connector, Incoming) {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    (Connector { sender }, Incoming { receiver })
}

/// The dialling side.
#[derive(Clone, Debug)]
pub struct Connector {
    sender: mpsc::Sender<DuplexStream>,
}

impl Connector {
    /// A new connection; refused when the serving side is gone.
    pub async fn connect(&self) -> io::Result<DuplexStream> {
        let (here, there) = tokio::io::duplex(BUFFER_BYTES);
        self.sender.send(there).await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(here)
    }

    /// A gRPC channel over this pipe: connects at the first call, and again
    /// after a connection was lost.
    pub fn channel(&self) -> Channel {
        self.endpoint().connect_with_connector_lazy(self.clone())
    }

    /// As [`Connector::channel`], but connected before it returns.
    pub async fn connected_channel(&self) -> Result<Channel, tonic::transport::Error> {
        self.endpoint().connect_with_connector(self.clone()).await
    }

    fn endpoint(&self) -> Endpoint {
        // The authority is never resolved: the connector ignores it.
        Endpoint::from_static("http://pipe.invalid")
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await.map(TokioIo::new) })
    }
}

/// The serving side: give it to `Server::serve_with_incoming`.
#[derive(Debug)]
pub struct Incoming {
    receiver: mpsc::Receiver<DuplexStream>,
}

impl Stream for Incoming {
    type Item = io::Result<DuplexStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx).map(|stream| stream.map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn bytes_cross_both_ways() {
        let (connector, mut incoming) = pipe();
        let mut client = connector.connect().await.expect("connects");
        let mut server = incoming.next().await.expect("one").expect("no error");
        client.write_all(b"ping").await.expect("writes");
        let mut buf = [0u8; 4];
        server.read_exact(&mut buf).await.expect("reads");
        server.write_all(&buf).await.expect("writes back");
        client.read_exact(&mut buf).await.expect("reads back");
        assert_eq!(&buf, b"ping");
    }

    #[tokio::test]
    async fn refused_when_nobody_serves() {
        let (connector, incoming) = pipe();
        drop(incoming);
        assert_eq!(connector.connect().await.err().map(|e| e.kind()), Some(io::ErrorKind::ConnectionRefused));
    }
}

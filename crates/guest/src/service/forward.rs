//! `POST /port?port=N` on the data lane: one TCP connection to a port inside
//! the sandbox, the request's body towards it, the answer's body from it. The
//! end of either body is the end of that direction alone.

use super::Body;
use super::http::{Refused, empty, streamed};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

/// Connections at once: each holds a buffer and a few pieces under way.
static OPEN: Semaphore = Semaphore::const_new(256);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const BUFFER: usize = 32 * 1024;

pub(super) async fn open(request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let port = port_of(request.uri().query().unwrap_or_default())
        .ok_or_else(|| Refused::new(StatusCode::BAD_REQUEST, "port must be 1 to 65535"))?;
    let permit = OPEN
        .try_acquire()
        .map_err(|_| Refused::new(StatusCode::SERVICE_UNAVAILABLE, "too many forwarded connections are open"))?;
    let stream = connect(port).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            Refused::new(StatusCode::CONFLICT, format!("nothing listens on port {port}"))
        }
        _ => Refused::new(StatusCode::SERVICE_UNAVAILABLE, format!("port {port}: {error}")),
    })?;
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let (sender, body) = streamed();
    tokio::spawn(carry(request.into_body(), writer, reader, sender, permit));
    Ok(empty(StatusCode::OK).map(|_| body))
}

fn port_of(query: &str) -> Option<u16> {
    query.strip_prefix("port=")?.parse().ok().filter(|port| *port > 0)
}

/// What listens on all addresses, or on the loopback's of either family.
async fn connect(port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::ConnectionRefused);
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))] {
        match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => last = error,
            // No IPv6 here: what the other family said counts.
            Ok(Err(_)) => {}
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
    Err(last)
}

async fn carry(
    body: Incoming,
    writer: OwnedWriteHalf,
    reader: OwnedReadHalf,
    sender: mpsc::Sender<io::Result<Bytes>>,
    _permit: SemaphorePermit<'static>,
) {
    let mut inward = std::pin::pin!(inward(body, writer));
    let mut outward = std::pin::pin!(outward(reader, sender));
    let (mut inward_over, mut outward_over) = (false, false);
    while !(inward_over && outward_over) {
        tokio::select! {
            // Cut, or the port takes no more: what it still says counts.
            _ = &mut inward, if !inward_over => inward_over = true,
            done = &mut outward, if !outward_over => match done {
                Ok(()) => outward_over = true,
                // The caller has gone, or the connection broke.
                Err(()) => return,
            },
        }
    }
}

/// A body that is cut ends this direction all the same: TCP has no word for it.
async fn inward(mut body: Incoming, mut writer: OwnedWriteHalf) -> io::Result<()> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| io::Error::new(io::ErrorKind::UnexpectedEof, error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            writer.write_all(&data).await?;
        }
    }
    writer.shutdown().await
}

/// An error: nobody reads the answer any more, or there is no more of it.
async fn outward(mut reader: OwnedReadHalf, sender: mpsc::Sender<io::Result<Bytes>>) -> Result<(), ()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = tokio::select! {
            read = reader.read(&mut buffer) => read,
            () = sender.closed() => return Err(()),
        };
        let piece = match read {
            Ok(0) => return Ok(()),
            Ok(count) => Ok(Bytes::copy_from_slice(&buffer[..count])),
            Err(error) => Err(error),
        };
        let over = piece.is_err();
        if sender.send(piece).await.is_err() || over {
            return Err(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        assert_eq!(port_of("port=8080"), Some(8080));
        for wrong in ["", "port=", "port=0", "port=65536", "port=-1", "port=80&x=1", "x=80"] {
            assert_eq!(port_of(wrong), None, "{wrong}");
        }
    }
}

//! One HTTP/1.1 request by hand: headers that a client library would not send.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(20);

/// Status, header lines and body of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) status: u16,
    pub(super) head: Vec<String>,
    pub(super) body: String,
}

/// `headers` are whole lines without their ends.
pub(super) async fn get(address: SocketAddr, target: &str, headers: &[Vec<u8>]) -> Result<Raw, String> {
    let mut request = format!("GET {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n").into_bytes();
    for line in headers {
        request.extend_from_slice(line);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        // The server may have refused before all was sent.
        let _ = stream.write_all(&request).await;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match stream.read(&mut piece).await {
                Ok(0) => break,
                Ok(n) => answer.extend_from_slice(&piece[..n]),
                // Cut after the answer: too much of the request was unread.
                Err(_) if !answer.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| "no answer in time".to_owned())?;
    let answer = String::from_utf8_lossy(&answer.map_err(|error| error.to_string())?).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no answer: {answer:?}"))?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| format!("no status: {answer:?}"))?;
    // What differs from answer to answer.
    let mut head: Vec<String> =
        lines.filter(|l| !l.starts_with("date:") && !l.starts_with("x-request-id:")).map(str::to_owned).collect();
    head.sort();
    Ok(Raw { status, head, body: body.to_owned() })
}

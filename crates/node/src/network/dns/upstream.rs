//! The servers that are asked: the operator's, else those of resolv.conf.
//! From the host's namespace, a fresh socket (so a fresh port) and a random
//! id per question.

use super::answer;
use hickory_proto::op::Message;
use parking_lot::Mutex;
use rand::TryRngCore;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const MAX_RESOLV_CONF: usize = 64 * 1024;
/// As libc does.
const MAX_SERVERS: usize = 3;
/// resolv.conf changes when a laptop moves; it need not be read per question.
const FRESH: Duration = Duration::from_secs(10);
/// Guests ask again after 5 s: answer before.
const PER_SERVER: Duration = Duration::from_secs(2);
const IN_ALL: Duration = Duration::from_millis(4500);
const PORT: u16 = 53;

#[derive(Debug)]
pub(super) struct Upstreams {
    fixed: Vec<SocketAddr>,
    /// Of resolv.conf, and when it was read.
    seen: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

impl Upstreams {
    pub(super) fn new(fixed: &[SocketAddr]) -> Self {
        Self { fixed: fixed.to_vec(), seen: Mutex::new(None) }
    }

    /// The first usable answer; none when no server gave one in time.
    pub(super) async fn ask(&self, query: &Message) -> Option<Message> {
        let end = Instant::now() + IN_ALL;
        for server in self.servers().await {
            let at = end.min(Instant::now() + PER_SERVER);
            match timeout_at(at, ask_one(server, query)).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(e)) => tracing::debug!(%server, error = %e, "a name server failed"),
                Err(_) => tracing::debug!(%server, "a name server did not answer"),
            }
            if Instant::now() >= end {
                break;
            }
        }
        None
    }

    async fn servers(&self) -> Vec<SocketAddr> {
        if !self.fixed.is_empty() {
            return self.fixed.clone();
        }
        if let Some((at, servers)) = &*self.seen.lock()
            && at.elapsed() < FRESH
        {
            return servers.clone();
        }
        let text = tokio::fs::read(RESOLV_CONF).await.unwrap_or_default();
        let servers = parse(&String::from_utf8_lossy(&text[..text.len().min(MAX_RESOLV_CONF)]));
        *self.seen.lock() = Some((Instant::now(), servers.clone()));
        servers
    }
}

/// The `nameserver` lines. Scoped addresses (`fe80::1%eth0`) are left out.
fn parse(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then(|| words.next()?.parse::<IpAddr>().ok())?
        })
        .map(|ip| SocketAddr::new(ip, PORT))
        .take(MAX_SERVERS)
        .collect()
}

async fn ask_one(server: SocketAddr, query: &Message) -> std::io::Result<Message> {
    let id = random_id()?;
    let packet = answer::question(query, id).ok_or(std::io::ErrorKind::InvalidInput)?;
    let local: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((local, 0)).await?;
    // Connected: the kernel drops packets from elsewhere and reports a refusal at once.
    socket.connect(server).await?;
    socket.send(&packet).await?;
    let mut buffer = vec![0; 4096];
    let found = loop {
        let n = socket.recv(&mut buffer).await?;
        if let Some(found) = answer::accept(query, id, &buffer[..n]) {
            break found;
        }
    };
    if !found.truncated() {
        return Ok(found);
    }
    // Too long for a packet; what fits is better than nothing.
    match timeout(PER_SERVER / 2, ask_tcp(server, query, id, &packet)).await {
        Ok(Ok(whole)) => Ok(whole),
        _ => Ok(found),
    }
}

async fn ask_tcp(server: SocketAddr, query: &Message, id: u16, packet: &[u8]) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(packet.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(packet).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut buffer = vec![0; length];
    stream.read_exact(&mut buffer).await?;
    answer::accept(query, id, &buffer).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

fn random_id() -> std::io::Result<u16> {
    let n = rand::rngs::OsRng.try_next_u32().map_err(std::io::Error::other)?;
    Ok((n & 0xffff) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_libc_reads_it() {
        let text = "# nameserver 9.9.9.9\nsearch a.example\nnameserver 203.0.113.1\n nameserver\t2001:db8::1 trailing\n\
                    nameserver fe80::1%eth0\nnameserver not-an-address\nnameservers 203.0.113.9\nnameserver 203.0.113.2\n\
                    nameserver 203.0.113.3\n";
        let servers: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["203.0.113.1:53", "[2001:db8::1]:53", "203.0.113.2:53"]);
        assert!(parse("").is_empty());
    }
}

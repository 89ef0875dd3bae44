//! The only resolver that a sandbox has: bound to the gateway's address in
//! each slot's namespace, served here, asking upstream from the host. A guest
//! chooses neither the upstream nor anything of the packet sent to it but
//! the question.
//!
//! Everything a guest can make grow has a bound: queries and connections at
//! a time, their size, their time. Beyond it queries are dropped; the guest
//! asks again.
//!
//! Not here: caching, and policies by name.

mod answer;
mod upstream;

use super::NetworkError;
use super::deny::Lists;
use super::slot::DnsSockets;
use answer::Verdict;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use upstream::Upstreams;

/// Questions are short: a name of 255 bytes, a header, an OPT record.
const MAX_QUERY: usize = 1024;
const MAX_SLOT_TASKS: usize = 64;
const MAX_SLOT_CONNECTIONS: usize = 8;
const MAX_NODE_QUERIES: usize = 1024;
const CONNECTION_IDLE: Duration = Duration::from_secs(10);
const CONNECTION_LIFE: Duration = Duration::from_secs(120);

/// Shared by all slots.
#[derive(Debug)]
pub(crate) struct Resolver {
    upstreams: Upstreams,
    lists: Arc<Lists>,
    /// Upstream questions of the whole node at a time.
    permits: Semaphore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

impl Resolver {
    pub(crate) fn new(upstreams: &[SocketAddr], lists: Arc<Lists>) -> Self {
        Self { upstreams: Upstreams::new(upstreams), lists, permits: Semaphore::new(MAX_NODE_QUERIES) }
    }

    /// The answer to a guest's packet; none when it deserves none.
    async fn answer(&self, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let query = match answer::judge(packet) {
            Verdict::Ask(query) => query,
            Verdict::Answer(bytes) => return Some(bytes),
            Verdict::Ignore => return None,
        };
        let Ok(_permit) = self.permits.try_acquire() else { return answer::failure(&query) };
        match self.upstreams.ask(&query).await {
            Some(found) => answer::reply(&query, found, &self.lists, transport == Transport::Udp),
            None => answer::failure(&query),
        }
    }
}

/// The resolver in one slot. Dropping it ends it soon, `stop` at once.
#[derive(Debug)]
pub(crate) struct DnsServer {
    cancel: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl DnsServer {
    pub(crate) fn start(sockets: DnsSockets, resolver: Arc<Resolver>) -> Result<Self, NetworkError> {
        let udp = UdpSocket::from_std(sockets.udp).map_err(NetworkError::io("serve the resolver's socket"))?;
        let tcp = TcpListener::from_std(sockets.tcp).map_err(NetworkError::io("serve the resolver's socket"))?;
        let cancel = CancellationToken::new();
        let task = tokio::spawn(serve(Arc::new(udp), tcp, resolver, cancel.clone()));
        Ok(Self { cancel, task: Some(task) })
    }

    /// Returns when the sockets are closed.
    pub(crate) async fn stop(mut self) {
        self.cancel.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn serve(udp: Arc<UdpSocket>, tcp: TcpListener, resolver: Arc<Resolver>, cancel: CancellationToken) {
    let mut tasks = JoinSet::new();
    let connections = Arc::new(Semaphore::new(MAX_SLOT_CONNECTIONS));
    let mut buffer = [0_u8; MAX_QUERY];
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = tasks.join_next() => {}
            received = udp.recv_from(&mut buffer) => {
                // An error here is an ICMP answer to an earlier reply: the guest's business.
                let Ok((n, from)) = received else { continue };
                if tasks.len() >= MAX_SLOT_TASKS {
                    continue;
                }
                let (packet, udp, resolver) = (buffer[..n].to_vec(), udp.clone(), resolver.clone());
                tasks.spawn(async move {
                    if let Some(bytes) = resolver.answer(&packet, Transport::Udp).await {
                        let _ = udp.send_to(&bytes, from).await;
                    }
                });
            }
            accepted = tcp.accept() => {
                let Ok((stream, _)) = accepted else {
                    // Out of descriptors: let others finish.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                if tasks.len() >= MAX_SLOT_TASKS {
                    continue;
                }
                let Ok(permit) = connections.clone().try_acquire_owned() else { continue };
                let resolver = resolver.clone();
                tasks.spawn(async move {
                    let _permit = permit;
                    let _ = tokio::time::timeout(CONNECTION_LIFE, converse(stream, &resolver)).await;
                });
            }
        }
    }
    tasks.shutdown().await;
}

/// One TCP connection: a question after the other until it is idle.
async fn converse(mut stream: TcpStream, resolver: &Resolver) -> std::io::Result<()> {
    loop {
        let read = async {
            let length = usize::from(stream.read_u16().await?);
            if length > MAX_QUERY {
                return Err(std::io::Error::from(std::io::ErrorKind::InvalidData));
            }
            let mut packet = vec![0; length];
            stream.read_exact(&mut packet).await?;
            Ok(packet)
        };
        let packet = tokio::time::timeout(CONNECTION_IDLE, read).await??;
        let Some(bytes) = resolver.answer(&packet, Transport::Tcp).await else { return Ok(()) };
        let Ok(length) = u16::try_from(bytes.len()) else { return Ok(()) };
        let write = async {
            stream.write_all(&length.to_be_bytes()).await?;
            stream.write_all(&bytes).await
        };
        tokio::time::timeout(CONNECTION_IDLE, write).await??;
    }
}

//! The server under attack, in a process of its own, and what is seen of it;
//! and a bare one, which takes whatever comes and answers nothing.

use crate::harness::start;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};
use tokio::time::{Instant, timeout};

const CHILD: &str = "AETHER_ABUSE_SERVER";
const LONG: Duration = Duration::from_secs(60);
/// After so long without a byte an answer is taken for whole.
const SILENCE: Duration = Duration::from_millis(300);
const WRITE_MOST: Duration = Duration::from_secs(10);
const ANSWER_MOST: usize = 4 << 20;

/// What an exchange waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    Silence,
    Answer,
    End,
}

pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// Thousands of sockets at either end.
pub(super) fn more_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).expect("raised");
}

/// What the bare server waits for more of a connection, and keeps one at all.
const BARE: [(&str, Duration, Duration); 2] = [
    ("requests", Duration::from_millis(100), Duration::from_secs(2)),
    ("connections", Duration::from_secs(8), Duration::from_secs(8)),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the server of the test of abuse, started by it"]
async fn served() {
    let Ok(what) = std::env::var(CHILD) else { return };
    more_descriptors();
    let parent = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    if let Some((_, pause, most)) = BARE.iter().find(|(name, ..)| *name == what) {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("bare.sock");
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let told = json!({ "address": tcp.local_addr().expect("address"), "socket": socket, "admin": "", "agent": "" });
        tokio::spawn(bare(tcp, UnixListener::bind(&socket).expect("binds"), *pause, *most));
        println!("\nserved: {told}");
        let _ = tokio::task::spawn_blocking(parent).await;
        return;
    }
    let server = start().await;
    let agent = server.agent("abused").await;
    let told = json!({
        "address": server.address.to_string(), "socket": server.socket, "admin": server.admin, "agent": agent,
    });
    println!("\nserved: {told}");
    let _ = tokio::task::spawn_blocking(parent).await;
}

async fn bare(tcp: TcpListener, unix: UnixListener, pause: Duration, most: Duration) {
    async fn drain(mut wire: impl Wire, pause: Duration, most: Duration) {
        let mut buffer = vec![0; 16 * 1024];
        let drained = async { while matches!(timeout(pause, wire.read(&mut buffer)).await, Ok(Ok(1..))) {} };
        let _ = timeout(most, drained).await;
    }
    loop {
        tokio::select! {
            Ok((stream, _)) = tcp.accept() => drop(tokio::spawn(drain(stream, pause, most))),
            Ok((stream, _)) = unix.accept() => drop(tokio::spawn(drain(stream, pause, most))),
            else => tokio::time::sleep(pause).await,
        }
    }
}

/// Where attackers go, and what they know.
#[derive(Clone)]
pub(super) struct Victim {
    pub(super) address: SocketAddr,
    pub(super) admin: String,
    pub(super) agent: String,
    socket: PathBuf,
}

pub(super) struct Target {
    pub(super) victim: Arc<Victim>,
    pub(super) pid: u32,
    child: tokio::process::Child,
    errors: tempfile::NamedTempFile,
    client: reqwest::Client,
}

impl std::ops::Deref for Target {
    type Target = Victim;
    fn deref(&self) -> &Victim {
        &self.victim
    }
}

impl Target {
    pub(super) async fn start() -> Self {
        Self::of("real", None).await
    }

    /// A bare server whose attackers take it for this one.
    pub(super) async fn elsewhere(&self, kind: &str) -> Self {
        Self::of(kind, Some(self)).await
    }

    async fn of(kind: &str, taken_for: Option<&Victim>) -> Self {
        let errors = tempfile::NamedTempFile::new().expect("file");
        let mut child = tokio::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["abuse::target::served", "--exact", "--ignored", "--nocapture"])
            .env(CHILD, kind)
            // As `aether server` sets for itself.
            .envs([("MALLOC_ARENA_MAX", "2"), ("MALLOC_TRIM_THRESHOLD_", "262144")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.reopen().expect("opens"))
            .kill_on_drop(true)
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let told: Value = loop {
            let line = timeout(LONG, lines.next_line()).await.expect("in time").expect("read").expect("it serves");
            if let Some(told) = line.strip_prefix("served: ") {
                break serde_json::from_str(told).expect("JSON");
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let text = |name: &str| told[name].as_str().expect("text").to_owned();
        let victim = Victim {
            address: text("address").parse().expect("an address"),
            admin: taken_for.map_or_else(|| text("admin"), |other| other.admin.clone()),
            agent: taken_for.map_or_else(|| text("agent"), |other| other.agent.clone()),
            socket: text("socket").into(),
        };
        Self {
            victim: Arc::new(victim),
            pid: child.id().expect("it runs"),
            child,
            errors,
            client: reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("client"),
        }
    }
}

impl Victim {
    /// Over the local socket (0), or from an address of the loopback net,
    /// with a small receive buffer if asked for.
    pub(super) async fn dial(&self, way: u8, buffer: Option<u32>) -> std::io::Result<Box<dyn Wire>> {
        if way == 0 {
            return Ok(Box::new(UnixStream::connect(&self.socket).await?));
        }
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.bind(SocketAddr::from(([127, 0, 0, way], 0)))?;
        Ok(Box::new(socket.connect(self.address).await?))
    }

    /// Sends all of it, however the other end takes it; what came back, and
    /// whether the connection ended. With patience for that end, or at least
    /// for an answer.
    pub(super) async fn exchange(&self, way: u8, bytes: &[u8], until: Until) -> (Vec<u8>, bool) {
        let Ok(wire) = self.dial(way, None).await else { return (Vec::new(), true) };
        let (mut read, mut write) = tokio::io::split(wire);
        let sent = AtomicBool::new(false);
        let sending = async {
            let _ = timeout(WRITE_MOST, write.write_all(bytes)).await;
            sent.store(true, Ordering::Relaxed);
            std::future::pending::<()>().await;
        };
        let reading = async {
            let (mut answer, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
            loop {
                let patient = until == Until::End || (until == Until::Answer && answer.is_empty());
                match timeout(if patient { LONG } else { SILENCE }, read.read(&mut buffer)).await {
                    Ok(Ok(0) | Err(_)) => return (answer, true),
                    Ok(Ok(n)) => answer.extend_from_slice(&buffer[..n]),
                    Err(_) if sent.load(Ordering::Relaxed) => return (answer, false),
                    Err(_) => {}
                }
                if answer.len() > ANSWER_MOST {
                    return (answer, false);
                }
            }
        };
        tokio::select! {
            done = reading => done,
            () = sending => unreachable!("it waits"),
        }
    }
}

impl Target {
    pub(super) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid)).map_or(usize::MAX, Iterator::count)
    }

    /// How long it takes until there are no more than so many.
    pub(super) async fn until_descriptors(&self, most: usize, limit: Duration) -> Option<Duration> {
        let began = Instant::now();
        while began.elapsed() < limit {
            if self.descriptors() <= most {
                return Some(began.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        None
    }

    /// What hidden requests have made.
    pub(super) async fn smuggled(&self) -> Vec<String> {
        let answer =
            self.client.get(format!("http://{}/v1/agents?per_page=100", self.address)).bearer_auth(&self.admin);
        let body: Value = answer.send().await.expect("answered").json().await.expect("JSON");
        let agents = body["data"].as_array().unwrap_or_else(|| panic!("{body}"));
        assert!(agents.iter().any(|a| a["id"] == self.agent.as_str()), "{body}");
        agents.iter().filter(|a| a["id"] != self.agent.as_str()).map(|a| a["name"].to_string()).collect()
    }

    /// It ends when told to, as it should, and has not panicked.
    pub(super) async fn end(mut self) -> Result<(), String> {
        drop(self.child.stdin.take());
        let ended = timeout(LONG, self.child.wait()).await.map_err(|_| "the server does not end".to_owned())?;
        let errors = std::fs::read_to_string(self.errors.path()).expect("read");
        match ended {
            Ok(status) if status.success() && !errors.contains("panicked") => Ok(()),
            ended => Err(format!("the server ended with {ended:?}: {errors}")),
        }
    }
}

/// The largest growth of a process's memory.
pub(super) struct Memory {
    first: u64,
    most: Arc<AtomicU64>,
    watching: tokio::task::JoinHandle<()>,
}

fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Memory {
    pub(super) fn start(pid: u32) -> Self {
        let most = Arc::new(AtomicU64::new(0));
        let seen = most.clone();
        let watching = tokio::spawn(async move {
            loop {
                seen.fetch_max(resident(pid), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { first: resident(pid), most, watching }
    }

    pub(super) fn grown(&self) -> u64 {
        self.most.load(Ordering::Relaxed).saturating_sub(self.first)
    }
}

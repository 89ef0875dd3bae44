//! The VMM's own control socket. Its greeting says that QEMU has taken its
//! whole command line; after that one client listens for the one thing that
//! QEMU does by itself and never takes back: holding a guest whose write found
//! the host's disk full.
//!
//! Holding it is what we want (`werror=enospc`): a guest that is told of the
//! error makes its filesystem read-only, for good. But somebody has to let it
//! go on, and does so here, every [`AGAIN`] until there is room. A held guest
//! can be killed as any other.

use super::Ended;
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::Instant;

/// A greeting has some 200 bytes, an event some 300; the VMM counts as
/// hostile.
const MAX_LINE: u64 = 4096;
/// How often a held guest is let go on, to be held again where there is still
/// no room.
const AGAIN: Duration = Duration::from_secs(2);
/// After an answer that was none, or a cut.
const RECONNECT: Duration = Duration::from_secs(10);
/// Before each further line: a hostile VMM must not keep us busy.
const PACE: Duration = Duration::from_millis(20);

pub(super) async fn greeting(socket: &Path) -> io::Result<()> {
    Monitor::connect(socket).await.map(drop)
}

/// Until the VMM ends.
pub(super) async fn keep_going(socket: PathBuf, mut ended: Ended, slot: u32) {
    loop {
        let followed = tokio::select! {
            _ = ended.wait_for(Option::is_some) => return,
            followed = follow(&socket, slot) => followed,
        };
        if let Err(error) = followed {
            tracing::debug!(slot, %error, "the VMM's control socket");
        }
        tokio::select! {
            _ = ended.wait_for(Option::is_some) => return,
            () = tokio::time::sleep(RECONNECT) => {}
        }
    }
}

/// Returns when the connection breaks, always with an error.
async fn follow(socket: &Path, slot: u32) -> io::Result<()> {
    let mut monitor = Monitor::connect(socket).await?;
    monitor.say("qmp_capabilities").await?;
    // It may be held since before we came.
    monitor.say("query-status").await?;
    let mut guest = Guest::default();
    loop {
        let line = match guest.next_try {
            None => monitor.line().await?,
            Some(when) => match tokio::time::timeout_at(when, monitor.line()).await {
                Ok(line) => line?,
                Err(_) => {
                    if guest.held {
                        guest.next_try = Some(Instant::now() + AGAIN);
                        monitor.say("cont").await?;
                    } else {
                        guest = Guest::default();
                        tracing::info!(slot, "a held guest goes on: there is room again");
                    }
                    continue;
                }
            },
        };
        if guest.hears(&line) {
            tracing::warn!(slot, "the host's disk is full: a guest that wrote is held until there is room");
        }
        tokio::time::sleep(PACE).await;
    }
}

/// What is known of the guest behind the socket.
#[derive(Debug, Default)]
struct Guest {
    held: bool,
    /// When it is let go on, or, where it is not held, counted as well again.
    next_try: Option<Instant>,
}

impl Guest {
    /// True: it is held, and was not before.
    fn hears(&mut self, line: &[u8]) -> bool {
        let Ok(message) = serde_json::from_slice::<Value>(line) else { return false };
        let stopped = message["event"] == "BLOCK_IO_ERROR" && message["data"]["action"] == "stop";
        if stopped || message["return"]["status"] == "io-error" {
            self.held = true;
            let new = self.next_try.is_none();
            self.next_try.get_or_insert_with(|| Instant::now() + AGAIN);
            return new;
        }
        if message["event"] == "RESUME" && self.held {
            self.held = false;
            self.next_try = Some(Instant::now() + AGAIN);
        }
        false
    }
}

struct Monitor {
    stream: BufReader<UnixStream>,
    /// Of the line under way: a wait for it may be cut off in the middle.
    line: Vec<u8>,
}

impl Monitor {
    async fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let mut monitor = Self { stream: BufReader::new(stream), line: Vec::new() };
        if monitor.line().await?.starts_with(b"{\"QMP\"") {
            return Ok(monitor);
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the VMM's control socket answered something else"))
    }

    /// Safe to cut off: what was read stays for the next call.
    async fn line(&mut self) -> io::Result<Vec<u8>> {
        let room = MAX_LINE.saturating_sub(self.line.len() as u64);
        (&mut self.stream).take(room).read_until(b'\n', &mut self.line).await?;
        match self.line.last() {
            Some(b'\n') => Ok(std::mem::take(&mut self.line)),
            _ if self.line.len() as u64 >= MAX_LINE => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a line too long"))
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    async fn say(&mut self, command: &str) -> io::Result<()> {
        self.stream.write_all(format!("{{\"execute\":\"{command}\"}}\n").as_bytes()).await
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;
    use tokio::sync::watch;

    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\n";
    const FULL: &str = "{\"event\": \"BLOCK_IO_ERROR\", \"data\": {\"action\": \"stop\", \"nospace\": true}}\n";

    struct Vmm(BufReader<UnixStream>);

    impl Vmm {
        async fn tell(&mut self, text: &str) {
            self.0.write_all(text.as_bytes()).await.expect("writes");
        }

        async fn asked(&mut self) -> String {
            let mut line = String::new();
            self.0.read_line(&mut line).await.expect("reads");
            serde_json::from_str::<Value>(&line).expect("JSON")["execute"].as_str().expect("a command").to_owned()
        }
    }

    async fn accept(listener: &UnixListener) -> Vmm {
        let mut vmm = Vmm(BufReader::new(listener.accept().await.expect("a client").0));
        vmm.tell(GREETING).await;
        assert_eq!(vmm.asked().await, "qmp_capabilities");
        assert_eq!(vmm.asked().await, "query-status");
        vmm
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_guest_is_let_go_on_until_it_goes() {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("qmp");
        let listener = UnixListener::bind(&socket).expect("listens");
        let (ends, ended) = watch::channel(None);
        let keeper = tokio::spawn(keep_going(socket, ended, 7));
        let mut vmm = accept(&listener).await;
        vmm.tell("{\"return\": {}}\n{\"return\": {\"status\": \"running\", \"running\": true}}\n").await;
        // Held, let go on, held again at once, let go on for good.
        vmm.tell(FULL).await;
        vmm.tell("{\"event\": \"STOP\"}\n").await;
        assert_eq!(vmm.asked().await, "cont");
        vmm.tell(&format!("{{\"event\": \"RESUME\"}}\n{FULL}")).await;
        assert_eq!(vmm.asked().await, "cont");
        vmm.tell("{\"event\": \"RESUME\"}\n").await;
        let silence = tokio::time::timeout(Duration::from_secs(60), vmm.asked()).await;
        assert!(silence.is_err(), "{silence:?}");
        // After a cut, and a guest that was held meanwhile.
        drop(vmm);
        let mut vmm = accept(&listener).await;
        vmm.tell("{\"return\": {\"status\": \"io-error\", \"running\": false}}\n").await;
        assert_eq!(vmm.asked().await, "cont");
        ends.send(Some(Default::default())).expect("is heard");
        keeper.await.expect("ends with the VMM");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_hostile_vmm_says_does_no_harm() {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("qmp");
        let listener = UnixListener::bind(&socket).expect("listens");
        let (_ends, ended) = watch::channel(None);
        let _keeper = tokio::spawn(keep_going(socket.clone(), ended, 7));
        for nonsense in ["\0\n", "[]\n", "{\"event\": 7}\n", "{\"return\": {\"status\": [\"io-error\"]}}\n"] {
            let mut vmm = accept(&listener).await;
            vmm.tell(nonsense).await;
            vmm.tell(FULL).await;
            assert_eq!(vmm.asked().await, "cont", "{nonsense:?}");
        }
        // A line without an end: the connection is given up, and tried again later.
        let mut vmm = accept(&listener).await;
        vmm.tell(&"x".repeat(5000)).await;
        let mut vmm = accept(&listener).await;
        vmm.tell(FULL).await;
        assert_eq!(vmm.asked().await, "cont");
        let other = dir.path().join("other");
        let listener = UnixListener::bind(&other).expect("listens");
        let greeted = tokio::spawn(async move { greeting(&other).await });
        let (mut stream, _) = listener.accept().await.expect("a client");
        stream.write_all(b"HTTP/1.1 200 OK\n").await.expect("writes");
        assert!(greeted.await.expect("runs").is_err());
    }
}

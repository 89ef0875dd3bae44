//! A guest in this process, behind two relays.

use aether_guest::Role;
use aether_guest::lane::Medium;
use aether_guest::reaper::{Reaper, Scope};
use aether_node::channel::{ChannelError, GuestClient, OutputKind, wire};
use aether_node::engine::ChannelToken;
use futures::StreamExt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Generous: the machine may be busy.
pub(super) const LIMIT: Duration = Duration::from_secs(120);
pub(super) const BOOT_TOKEN: [u8; 16] = [1; 16];
pub(super) const TOKEN: [u8; 16] = [2; 16];

pub(super) struct Sandbox {
    pub(super) dir: tempfile::TempDir,
    pub(super) client: GuestClient,
    cut_control: Arc<Notify>,
    cut_data: Arc<Notify>,
    relays: Vec<JoinHandle<()>>,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for relay in &self.relays {
            relay.abort();
        }
    }
}

/// One client at a time; what the guest wrote to the old one waits for the
/// next, what was read from the old one and not yet written is lost.
async fn relay(listener: UnixListener, mut guest: UnixStream, cut: Arc<Notify>) {
    let mut pending = Vec::new();
    loop {
        let Ok((mut client, _)) = listener.accept().await else { return };
        let (mut from_client, mut to_client) = client.split();
        let (mut from_guest, mut to_guest) = guest.split();
        let (mut up, mut down) = (vec![0; 4096], vec![0; 32 * 1024]);
        loop {
            tokio::select! {
                () = cut.notified() => break,
                read = from_client.read(&mut up) => match read {
                    Ok(count) if count > 0 => if to_guest.write_all(&up[..count]).await.is_err() { return },
                    _ => break,
                },
                read = from_guest.read(&mut down), if pending.is_empty() => match read {
                    Ok(count) if count > 0 => pending.extend_from_slice(&down[..count]),
                    _ => return,
                },
                written = to_client.write(&pending), if !pending.is_empty() => match written {
                    Ok(count) => drop(pending.drain(..count)),
                    Err(_) => break,
                },
            }
        }
    }
}

impl Sandbox {
    /// A guest that waits for its identity.
    pub(super) fn boot() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut relays = Vec::new();
        let mut lane = |name: &str, cut: &Arc<Notify>| {
            let listener = UnixListener::bind(dir.path().join(name)).expect("bound");
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
            ours.set_nonblocking(true).expect("non-blocking");
            let ours = UnixStream::from_std(ours).expect("registered");
            relays.push(tokio::spawn(relay(listener, ours, cut.clone())));
            File::from(OwnedFd::from(theirs))
        };
        let (cut_control, cut_data) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let control = lane("control", &cut_control);
        let data = lane("data", &cut_data);
        std::thread::Builder::new()
            .name("guest".into())
            .spawn(move || {
                let reaper = Reaper::start(Scope::Registered).expect("a reaper");
                aether_guest::server::serve(Role::Ordinary, BOOT_TOKEN, reaper, control, data, Medium::Socket)
            })
            .expect("a thread");
        let client = open(dir.path(), BOOT_TOKEN);
        Self { dir, client, cut_control, cut_data, relays }
    }

    /// A guest that is identified, without a main process.
    pub(super) async fn start() -> Self {
        Self::start_with(request()).await
    }

    pub(super) async fn start_with(request: wire::IdentifyRequest) -> Self {
        let sandbox = Self::boot();
        sandbox.client.wait_ready(LIMIT).await.expect("ready");
        sandbox.client.identify(request).await.expect("identified");
        sandbox
    }

    pub(super) fn cut(&self) {
        self.cut_control.notify_one();
        self.cut_data.notify_one();
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    pub(super) async fn run(&self, id: &str, script: &str) -> Outcome {
        self.client.exec_start(shell(id, script)).await.expect("started");
        self.outcome(id, 0).await.expect("an outcome")
    }

    /// All output from an offset, to the end.
    pub(super) async fn outcome(&self, id: &str, offset: u64) -> Result<Outcome, ChannelError> {
        let collect = async {
            let mut events = pin!(self.client.exec_output(id, offset));
            let mut outcome = Outcome::default();
            while let Some(event) = events.next().await {
                match event?.event {
                    Some(OutputKind::Output(output)) if output.stream == 2 => outcome.err.extend(output.data),
                    Some(OutputKind::Output(output)) => outcome.out.extend(output.data),
                    Some(OutputKind::Gap(gap)) => outcome.gaps.push((gap.from, gap.to)),
                    Some(OutputKind::Exited(state)) => outcome.state = *state,
                    None => unreachable!("refused by the client"),
                }
            }
            Ok(outcome)
        };
        tokio::time::timeout(LIMIT, collect).await.expect("it ends in time")
    }
}

#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) out: Vec<u8>,
    pub(super) err: Vec<u8>,
    pub(super) gaps: Vec<(u64, u64)>,
    pub(super) state: wire::ExecState,
}

impl Outcome {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    pub(super) fn exit(&self) -> &wire::Exit {
        self.state.exit.as_option().expect("an exit")
    }
}

pub(super) fn open(dir: &Path, token: [u8; 16]) -> GuestClient {
    let socket = |name: &str| -> PathBuf { dir.join(name) };
    GuestClient::open(socket("control"), socket("data"), ChannelToken(token))
}

pub(super) fn request() -> wire::IdentifyRequest {
    wire::IdentifyRequest {
        agent_id: "agent".into(),
        entropy: vec![5; 64],
        channel_token: TOKEN.to_vec(),
        env: [("FROM_AGENT".to_owned(), "yes".to_owned())].into_iter().collect(),
        ..Default::default()
    }
}

pub(super) fn shell(id: &str, script: &str) -> wire::StartRequest {
    wire::StartRequest {
        exec_id: id.to_owned(),
        argv: vec!["/bin/sh".into(), "-c".into(), script.to_owned()],
        ..Default::default()
    }
}

//! A node in a process of its own, in a network namespace of its own, with
//! the real engine, network and images; and a scripted control plane here.
//! The two speak through the in-memory pipe, whose far ends are bridged to
//! Unix sockets, so that the node can be killed.

use super::server::{Data, LONG, Server};
use crate::jail::{Scratch, verb};
use aether_core::source::{OsRng, SystemClock};
use aether_core::{Clock, Timestamp};
use aether_node::engine::Engine;
use aether_node::engine::qemu::{Accel, QemuConfig, QemuEngine};
use aether_node::images::{Images, ImagesConfig};
use aether_node::kernel::GuestBinary;
use aether_node::network::{NetworkConfig, NetworkPool};
use aether_node::{ControlDialer, DataListener, Node, NodeConfig, NodeParts, pipe};
use aether_proto::node as wire;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

/// How the node of a test differs from others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    pub base: PathBuf,
    pub uid_base: u32,
    pub prefix: String,
    pub guest: PathBuf,
    pub max_boots: usize,
    pub boot_timeout_ms: u64,
    pub sweep_s: u64,
    pub slots: u32,
}

impl Setup {
    fn new(scratch: &Scratch) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            base: scratch.0.clone(),
            // Apart from the engine's own tests, from other processes', and by
            // more than all the slots an engine looks at when it sweeps.
            uid_base: 1_000_000_000 + (std::process::id() % 1000) * 1_000_000 + number * 70_000 + 1,
            prefix: format!("itrun{number}"),
            guest: guest_binary(),
            max_boots: 2,
            boot_timeout_ms: 30_000,
            sweep_s: 60,
            slots: 16,
        }
    }

    fn qemu(&self) -> QemuConfig {
        let guest = GuestBinary::Path(self.guest.clone());
        let mut config = QemuConfig::new(self.base.join("state/engine"), self.base.join("run"), verb(), guest);
        config.uid_base = self.uid_base;
        config.accel = Accel::Tcg;
        config
    }
}

impl Setup {
    pub(super) fn cgroup_parent(&self) -> String {
        self.qemu().cgroup_parent()
    }

    /// Processes under a uid of this world.
    pub(super) fn processes(&self) -> Vec<nix::unistd::Pid> {
        use std::os::unix::fs::MetadataExt;
        let mine = self.uid_base..self.uid_base + 10_000;
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter(|e| e.metadata().is_ok_and(|m| mine.contains(&m.uid())))
            .filter_map(|e| e.file_name().to_str()?.parse().ok())
            // Ended, and only waiting for a first process that does not reap.
            .filter(|pid: &i32| !std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") Z ")))
            .map(nix::unistd::Pid::from_raw)
            .collect()
    }
}

/// The static guest, as `make guest` builds it.
fn guest_binary() -> PathBuf {
    let path = std::env::var_os("AETHER_GUEST_BIN").map(PathBuf::from);
    path.filter(|p| p.exists())
        .expect("AETHER_GUEST_BIN names the static guest: run through make, or `make guest` first")
}

pub(super) struct World {
    pub setup: Setup,
    pub server: Server,
    node: Option<Child>,
    serving: CancellationToken,
    pub netns: String,
    scratch: Scratch,
}

impl World {
    pub(super) async fn new(name: &str) -> Self {
        Self::with(name, |_| ()).await
    }

    pub(super) async fn with(name: &str, change: impl FnOnce(&mut Setup)) -> Self {
        let scratch = Scratch::new(name);
        let mut setup = Setup::new(&scratch);
        change(&mut setup);
        let netns = new_netns();
        let server = Server::default();
        let mut world = Self { setup, server, node: None, serving: CancellationToken::new(), netns, scratch };
        world.serve();
        world.start(None);
        world
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }

    /// The control plane is there (again).
    pub(super) fn serve(&mut self) {
        self.serving = CancellationToken::new();
        let path = self.socket("control.sock");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("binds");
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let router = tonic::transport::Server::builder().add_service(self.server.service());
        let stop = self.serving.clone();
        tokio::spawn(async move {
            tokio::select! {
                served = router.serve_with_incoming(incoming) => served.expect("serves"),
                () = stop.cancelled() => {}
            }
        });
    }

    /// The control plane is away: no new connection, and the old one cut.
    pub(super) fn silence(&mut self) {
        self.serving.cancel();
        let _ = std::fs::remove_file(self.socket("control.sock"));
    }

    pub(super) fn start(&mut self, failpoint: Option<&str>) {
        let exe = std::env::current_exe().expect("own path");
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.netns))
            .arg(exe)
            .args(["--exact", "runtime::node_process", "--nocapture", "--test-threads=1"])
            .env("AETHER_TEST_NODE", serde_json::to_string(&self.setup).expect("serialises"))
            .stdin(std::process::Stdio::null());
        if let Some(point) = failpoint {
            command.env("AETHER_FAILPOINT", point);
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.socket("node.log")).expect("log");
        command.stdout(log.try_clone().expect("dup")).stderr(log);
        self.node = Some(command.spawn().expect("nsenter"));
    }

    /// Sets the node's wall clock so far off the right time.
    pub(super) fn jump(&self, ms: i64) {
        let (new, clock) = (self.socket("clock.new"), self.socket("clock"));
        std::fs::write(&new, ms.to_string()).expect("writes");
        std::fs::rename(new, clock).expect("renames");
    }

    /// As `kill -9`.
    pub(super) fn kill(&mut self) {
        let mut node = self.node.take().expect("runs");
        node.kill().expect("kills");
        node.wait().expect("waits");
    }

    /// Waits until the node has ended by itself.
    pub(super) async fn dies(&mut self) {
        let mut node = self.node.take().expect("runs");
        for _ in 0..LONG.as_millis() / 50 {
            if node.try_wait().expect("waits").is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the node lives: {}", self.log());
    }

    /// Whether the node has ended by itself.
    pub(super) fn is_dead(&mut self) -> bool {
        let ended = self.node.as_mut().is_none_or(|node| node.try_wait().expect("waits").is_some());
        if ended {
            self.node = None;
        }
        ended
    }

    /// How many sandboxes have processes.
    pub(super) fn sandboxes_alive(&self) -> usize {
        use std::os::unix::fs::MetadataExt;
        let owner = |pid: &nix::unistd::Pid| std::fs::metadata(format!("/proc/{pid}")).ok().map(|m| m.uid());
        let uids: std::collections::BTreeSet<u32> = self.setup.processes().iter().filter_map(owner).collect();
        uids.len()
    }

    /// To the node itself.
    pub(super) fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = self.node.as_ref().expect("runs").id();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id.cast_signed()), signal).expect("signals");
    }

    /// Tells the node to end, as a service manager does.
    pub(super) async fn end(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.dies().await;
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.socket("node.log")).unwrap_or_default()
    }

    pub(super) async fn data(&self) -> Data {
        let path = self.socket("data.sock");
        let endpoint = tonic::transport::Endpoint::from_static("http://node.invalid");
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        for _ in 0..LONG.as_millis() / 50 {
            if let Ok(channel) = endpoint.connect_with_connector(connect.clone()).await {
                return Data::new(channel);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the node does not serve: {}", self.log());
    }

    /// Kills every VMM of this world, as a host out of memory would.
    pub(super) fn kill_vmm(&self) {
        for pid in self.setup.processes() {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }

    pub(super) async fn import(&self, name: &str, id: &str) -> wire::Image {
        import(&mut self.data().await, name, id).await
    }

    /// What the engine and the network have left on the host, when no node runs.
    pub(super) async fn assert_nothing_left(&mut self) {
        if self.node.is_some() {
            self.end().await;
        }
        let engine = QemuEngine::open(self.setup.qemu()).await.expect("engine");
        assert_eq!(engine.traces().await.expect("traces"), [] as [u32; 0], "{}", self.log());
        let spaces = std::fs::read_dir(self.setup.base.join("run/netns")).map(|d| d.count()).unwrap_or(0);
        assert_eq!(spaces, 0, "namespaces: {}", self.log());
        let disks = std::fs::read_dir(self.setup.base.join("state/disks")).expect("disks").count();
        assert_eq!(disks, 0, "disks");
        let parent = self.setup.qemu().cgroup_parent();
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|e| e.path());
        let groups: Vec<PathBuf> = hierarchies
            .chain([PathBuf::from("/sys/fs/cgroup")])
            .map(|root| root.join(&parent))
            .filter(|group| group.exists())
            .collect();
        assert_eq!(groups, [] as [PathBuf; 0], "cgroups");
        assert_eq!(self.setup.processes(), [], "processes");
        let images = open_images(&self.setup).await;
        assert_eq!(images.retain_holds(&Default::default()).await.expect("holds"), 0, "image holds");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- node\n{}", self.log());
        }
        self.serving.cancel();
        if let Some(mut node) = self.node.take() {
            let _ = (node.kill(), node.wait());
        }
        // Whatever a failed test left.
        self.kill_vmm();
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).status();
        for entry in std::fs::read_dir(self.setup.base.join("run/netns")).into_iter().flatten().flatten() {
            let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = aether_node::jail::remove_dir(&self.setup.base);
    }
}

/// Imports the tiny image under `name`.
pub(super) async fn import(data: &mut Data, name: &str, id: &str) -> wire::Image {
    try_import(data, name, id).await.expect("imports").expect("the last step has it")
}

pub(super) async fn try_import(data: &mut Data, name: &str, id: &str) -> Result<Option<wire::Image>, tonic::Status> {
    use wire::image_import_request::Message;
    let begin = wire::ImageImportBegin { tenant_id: "default".into(), name: name.into() };
    let mut messages = vec![Message::Begin(begin)];
    messages.extend(aether_tiny::archive(id).chunks(100_000).map(|c| Message::Chunk(c.to_vec().into())));
    let stream = tokio_stream::iter(messages.into_iter().map(|m| wire::ImageImportRequest { message: Some(m) }));
    let mut progress = data.image_import(stream).await?.into_inner();
    let mut image = None;
    while let Some(step) = progress.message().await? {
        image = step.image.or(image);
    }
    Ok(image)
}

/// Listens inside of a namespace; the listener may be used from anywhere.
pub(super) fn listen_in(netns: &str) -> std::net::TcpListener {
    let namespace = std::fs::File::open(format!("/run/netns/{netns}")).expect("the namespace");
    #[allow(clippy::disallowed_methods, reason = "a thread that changes its namespace serves nothing else")]
    let thread = std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        listener.set_nonblocking(true).expect("for tokio");
        listener
    });
    thread.join().expect("no panic")
}

/// A namespace that stands for a host, with nothing in it but loopback.
pub(super) fn new_netns() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("aether-it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    run("ip", &["netns", "add", &name]);
    run("ip", &["-n", &name, "link", "set", "lo", "up"]);
    name
}

/// A node in this process; the caller sees to the namespace.
pub(super) struct Here {
    _scratch: Scratch,
    network: NetworkPool,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), aether_node::NodeError>>,
}

impl Here {
    pub(super) async fn start(name: &str, control: ControlDialer, data: DataListener) -> Self {
        let scratch = Scratch::new(name);
        let (node, network) = open_node(&Setup::new(&scratch)).await;
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(node.run(control, data, shutdown.clone()));
        Self { _scratch: scratch, network, shutdown, running }
    }

    pub(super) async fn end(self) {
        self.shutdown.cancel();
        self.running.await.expect("ends").expect("well");
        self.network.close().await.expect("closes");
    }
}

/// A wall clock that the test sets.
struct JumpyClock {
    right: SystemClock,
    off: PathBuf,
}

impl Clock for JumpyClock {
    fn now(&self) -> Timestamp {
        let off: i64 = std::fs::read_to_string(&self.off).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        Timestamp::from_unix_ms(self.right.now().unix_ms().saturating_add_signed(off))
    }
    fn monotonic(&self) -> Duration {
        self.right.monotonic()
    }
    fn since_boot(&self) -> Duration {
        self.right.since_boot()
    }
}

fn run(program: &str, args: &[&str]) {
    assert!(Command::new(program).args(args).status().expect(program).success(), "{program} {args:?}");
}

async fn open_images(setup: &Setup) -> Images {
    let mut images = ImagesConfig::new(setup.base.join("state/images"), verb());
    images.converter_uid = setup.uid_base - 1;
    Images::open(images, Arc::new(SystemClock::default()), Arc::new(OsRng)).await.expect("images")
}

async fn open_node(setup: &Setup) -> (Node, NetworkPool) {
    let base = setup.base.clone();
    let clock = Arc::new(JumpyClock { right: SystemClock::default(), off: base.join("clock") });
    let engine = QemuEngine::open(setup.qemu()).await.expect("engine");
    let mut network = NetworkConfig::new(base.join("run"), &setup.prefix);
    (network.slots, network.spare, network.uid_base) = (setup.slots, 2, setup.uid_base);
    network.upstream_dns = vec!["127.0.0.1:9".parse().expect("an address")];
    let network = NetworkPool::open(network).await.expect("network");
    let images = open_images(setup).await;
    let mut config = NodeConfig::new(base.join("state"));
    config.slots = setup.slots;
    config.max_boots = Some(setup.max_boots);
    config.boot_timeout = Duration::from_millis(setup.boot_timeout_ms);
    config.sweep_interval = Duration::from_secs(setup.sweep_s);
    config.health_interval = Duration::from_secs(2);
    config.disk_reserve = aether_node::config::DiskReserve { percent: 1, max_mb: 16 };
    let parts = NodeParts { engine: Arc::new(engine), network: network.clone(), images, clock, rng: Arc::new(OsRng) };
    (Node::open(config, parts).await.expect("node"), network)
}

/// Runs in a process of its own: a whole node, until SIGTERM.
pub(super) async fn node_process(setup: Setup) {
    tracing_subscriber::fmt().with_ansi(false).with_env_filter("info,aether_node=debug").init();
    let (node, network) = open_node(&setup).await;
    let base = setup.base;
    let control = bridge_out(base.join("control.sock"));
    let data = bridge_in(&base.join("data.sock"));
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let mut term =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signal handler");
        term.recv().await;
        stop.cancel();
    });
    node.run(control, data, shutdown).await.expect("runs");
    network.close().await.expect("closes");
}

/// A pipe whose serving side is a Unix socket elsewhere.
fn bridge_out(path: PathBuf) -> ControlDialer {
    let (connector, mut incoming) = pipe();
    tokio::spawn(async move {
        while let Some(Ok(mut stream)) = incoming.next().await {
            let path = path.clone();
            tokio::spawn(async move {
                if let Ok(mut socket) = UnixStream::connect(path).await {
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut socket).await;
                }
            });
        }
    });
    ControlDialer::Pipe(connector)
}

/// A pipe whose dialling side is a Unix socket elsewhere.
fn bridge_in(path: &Path) -> DataListener {
    let (connector, incoming) = pipe();
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).expect("binds");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let connector = connector.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = connector.connect().await {
                    let _ = tokio::io::copy_bidirectional(&mut socket, &mut stream).await;
                }
            });
        }
    });
    DataListener::Pipe(incoming)
}

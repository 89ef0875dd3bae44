//! `aether server`: the whole system in one process.
//!
//! ```text
//!  socket, port ─► control ◄── pipe (NodeControl) ◄── node ─► engine, network,
//!                     │                                 ▲     images
//!                     └─── calls (NodeData) ────────────┘
//!                     ▼
//!                   store
//! ```
//!
//! Sandboxes outlive it: the next start adopts them.

use super::logging::LogFilter;
use super::reload::{Hangups, Reloads};
use super::{destroy, folders, listen, logging, notify, parts};
use crate::args::{Global, ServerArgs};
use crate::config::{Config, EngineKind, Loaded, Sources, load};
use crate::error::CliError;
use aether_control::{Control, DataDialer, DialError, first_admin_key};
use aether_core::source::{OsRng, SystemClock};
use aether_core::{Clock, NodeId, Rng};
use aether_node::engine::Engine;
use aether_node::engine::qemu::QemuEngine;
use aether_node::images::Images;
use aether_node::network::NetworkPool;
use aether_node::{ControlDialer, DataListener, Node, NodeParts};
use aether_proto::pipe::{Incoming, pipe};
use aether_proto::transport::{Local, NodeTransport, local};
use aether_store::{SealKeys, Store};
use async_trait::async_trait;
use futures::TryFutureExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// More do not make a small server faster, and each costs memory. One on one
/// core: two would take it from each other for milliseconds at a time.
const MAX_WORKERS: usize = 8;
const DESCRIPTORS: u64 = 65_536;
/// How often the store's room for a full disk is looked at.
const ROOM_EACH: Duration = Duration::from_secs(60);
/// After the drain, before we leave whoever hangs.
const STOP_LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn server(global: &Global, args: ServerArgs) -> Result<u8, CliError> {
    let address = args.address.clone().map(|a| ("server.address".to_owned(), a, "--address".to_owned()));
    let tls = args.tls.then(|| ("server.tls_own_ca".to_owned(), "true".to_owned(), "--tls".to_owned()));
    let sources = Sources::of_process(global, &args.set, address.into_iter().chain(tls).collect())?;
    let loaded = load(&sources)?;
    few_arenas();
    let (log, _written) = logging::start(&loaded.config);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if !rustix::process::geteuid().is_root() {
        return Err(CliError::with_remedy(
            "the server needs root: it makes namespaces, network devices, control groups and users of their own",
            "Run it with sudo or as a systemd service. The commands need no root: join the group `aether`.",
        ));
    }
    many_descriptors();
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().min(MAX_WORKERS));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("aether")
        .enable_all()
        .build()
        .map_err(|e| CliError::failed(format!("cannot start: {e}")))?;
    let result = runtime.block_on(serve(Start { sources, loaded, log }, &args));
    runtime.shutdown_timeout(Duration::from_secs(2));
    result.map(|()| 0)
}

/// Each thread that allocates would get a heap of its own, of up to 64 MiB,
/// most of which is never given back.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "mallopt has no safe wrapper")]
fn few_arenas() {
    // SAFETY: called before any other thread exists; takes two integers.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 2);
        nix::libc::mallopt(nix::libc::M_TRIM_THRESHOLD, 256 * 1024);
    }
}

#[cfg(not(target_env = "gnu"))]
fn few_arenas() {}

/// A shell's 1024 are fewer than the connections that may be open.
fn many_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    if limit.current.is_some_and(|now| now < wanted) {
        limit.current = Some(wanted);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files stays low");
        }
    }
}

/// What the configuration was read from, what came of it, and the log.
struct Start {
    sources: Sources,
    loaded: Loaded,
    log: LogFilter,
}

/// Where time and chance come from.
struct Floors {
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
}

async fn serve(start: Start, args: &ServerArgs) -> Result<(), CliError> {
    let config = &start.loaded.config.clone();
    let hangups = Hangups::listen()?;
    let exe = parts::own_executable()?;
    // What else can be wrong with it is said before anything is made.
    parts::network(config)?;
    folders::make(config)?;
    let _lock = folders::lock(config)?;
    let floors = Floors { clock: Arc::new(SystemClock::default()), rng: Arc::new(OsRng) };
    let (listeners, _socket) = listen::bind(config).await?;
    let addresses = listen::addresses(&listeners);
    let shutdown = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signal(shutdown.clone())?);

    let store = open_store(config, args.auto_migrate, &floors).await?;
    let control = Control::start(parts::control(config)?, store.clone(), floors.clock.clone(), floors.rng.clone());
    let control = control.await.map_err(|e| CliError::failed(format!("the control plane cannot start: {e}")))?;
    admin_key(config, &store, &floors).await?;
    let opened = CancellationToken::new();
    let control = control.before_its_node(opened.clone());
    let (drain, service) = (control.reloader(), control.node_control_service());
    // What is in the store can be read while the node is opened.
    let (to_node, seat) = local();
    let dialer = Arc::new(LocalDialer(to_node));
    let api_stop = shutdown.child_token();
    let run = control.run(listeners, dialer, api_stop.clone());
    let mut api = tokio::spawn(run.map_err(|e| CliError::failed(format!("the API failed: {e}"))));
    let (network, node) = match open_node(config, &floors).await {
        Ok(made) => made,
        Err(e) => {
            api_stop.cancel();
            let _ = bounded("the API", drain.drain_limit() + STOP_LIMIT, async { flat(api.await) }).await;
            store.close().await;
            return Err(e);
        }
    };
    opened.cancel();
    let Start { sources, loaded, log } = start;
    tokio::spawn(logging::watch(log.lost()));
    let reloads = Reloads { sources, running: loaded, log, exe, control: drain.clone(), node: node.reloader() };

    // Nodes and control end after the API has drained, not with it.
    let node_stop = CancellationToken::new();
    let (to_control, from_node) = pipe();
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_nodes(service, from_node, node_stop.clone()));
    tasks.spawn({
        let stop = node_stop.clone();
        async move {
            let run = node.run(ControlDialer::Pipe(to_control), DataListener::Local(seat), stop);
            run.await.map_err(|e| CliError::failed(format!("the node failed: {e}")))
        }
    });
    announce(config, &addresses);
    let reloads = tokio::spawn(reloads.run(hangups, shutdown.clone()));
    let room = tokio::spawn(keep_room(store.clone()));

    let mut failure = None;
    tokio::select! {
        // In this order: an API that has already drained when this is polled
        // ended because it was told to.
        biased;
        () = shutdown.cancelled() => {}
        ended = &mut api => failure = Some(ended_early("API", flat(ended))),
        Some(ended) = tasks.join_next() => failure = Some(ended_early("node", flat(ended))),
    }
    notify::notify("STOPPING=1");
    if args.destroy_on_exit && failure.is_none() {
        destroy::everything(config).await;
    }
    tracing::info!("stopping; sandboxes that run are left to the next start");
    shutdown.cancel();
    api_stop.cancel();
    if !api.is_finished()
        && let Err(e) = bounded("the API", drain.drain_limit() + STOP_LIMIT, async { flat((&mut api).await) }).await
    {
        failure.get_or_insert(e);
    }
    node_stop.cancel();
    let rest = async {
        while let Some(ended) = tasks.join_next().await {
            flat(ended)?;
        }
        Ok(())
    };
    if let Err(e) = bounded("the node", STOP_LIMIT, rest).await {
        failure.get_or_insert(e);
    }
    if let Err(e) = network.close().await {
        tracing::warn!("the network was not taken down whole: {e}");
    }
    room.abort();
    store.close().await;
    reloads.abort();
    signals.abort();
    failure.map_or(Ok(()), Err)
}

/// Room of the embedded store's own, for when its disk is full.
async fn keep_room(store: Store) {
    loop {
        if let Err(error) = store.keep_reserve().await {
            tracing::warn!(%error, "the store has no room of its own for a full disk");
        }
        tokio::time::sleep(ROOM_EACH).await;
    }
}

fn flat(ended: Result<Result<(), CliError>, tokio::task::JoinError>) -> Result<(), CliError> {
    ended.unwrap_or_else(|e| Err(CliError::failed(format!("a part of the server died: {e}"))))
}

fn ended_early(part: &str, result: Result<(), CliError>) -> CliError {
    result.err().unwrap_or_else(|| CliError::failed(format!("the {part} ended by itself")))
}

async fn bounded(
    what: &str,
    limit: Duration,
    work: impl Future<Output = Result<(), CliError>>,
) -> Result<(), CliError> {
    let ended = tokio::time::timeout(limit, work).await;
    ended.unwrap_or_else(|_| Err(CliError::failed(format!("{what} did not end within {} s", limit.as_secs()))))
}

/// SIGTERM or SIGINT begins the shutdown; a second one ends it at once.
fn stop_on_signal(shutdown: CancellationToken) -> Result<impl Future<Output = ()>, CliError> {
    let on = |kind| signal(kind).map_err(|e| CliError::failed(format!("cannot listen for signals: {e}")));
    let (mut term, mut int) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    Ok(async move {
        for again in [false, true] {
            let name = tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
            };
            if again {
                tracing::warn!("{name} again: leaving at once");
                std::process::exit(1);
            }
            tracing::info!("{name}: shutting down");
            shutdown.cancel();
        }
    })
}

/// The embedded database is always brought up to date; a shared one only by
/// who says so.
pub(super) async fn connect_store(
    config: &Config,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
) -> Result<Store, CliError> {
    let seal = SealKeys::load_or_create(&config.server.state_dir.join("seal.key"), rng.as_ref());
    let seal = seal.map_err(|e| CliError::failed(e.to_string()))?;
    let connected = Store::connect(parts::store(config), seal, clock, rng).await;
    connected.map_err(|e| {
        CliError::with_remedy(
            format!("the database cannot be opened: {e}"),
            if parts::is_embedded(config) {
                "Look at the file aether.db in server.state_dir: owner, mode, free space."
            } else {
                "Check DATABASE_URL, and that PostgreSQL runs and lets this user in."
            },
        )
    })
}

async fn open_store(config: &Config, auto_migrate: bool, sources: &Floors) -> Result<Store, CliError> {
    let store = connect_store(config, sources.clock.clone(), sources.rng.clone()).await?;
    if auto_migrate || parts::is_embedded(config) {
        let applied = store.migrate_up().await;
        let applied = applied.map_err(|e| CliError::failed(format!("the database cannot be migrated: {e}")))?;
        if !applied.is_empty() {
            tracing::info!(steps = ?applied, "the database was migrated");
        }
    }
    match store.check_schema().await {
        Ok(()) => Ok(store),
        Err(e) => Err(CliError::with_remedy(
            format!("the database does not fit this program: {e}"),
            "Run `aether migrate up` with the same configuration, or start the server with --auto-migrate.",
        )),
    }
}

/// At the first start there is no key yet: one is made and put where root
/// alone can read it.
async fn admin_key(config: &Config, store: &Store, sources: &Floors) -> Result<(), CliError> {
    let made = first_admin_key(store, &parts::pepper_path(config), sources.rng.as_ref()).await;
    let made = made.map_err(|e| CliError::failed(format!("the first API key cannot be made: {e}")))?;
    if let Some(key) = made {
        let path = config.server.state_dir.join("admin.key");
        folders::write_secret(&path, key.expose())
            .map_err(|e| CliError::failed(format!("cannot write {}: {e}", path.display())))?;
        tracing::info!("the first API key, of an admin, is in {}", path.display());
    }
    Ok(())
}

async fn open_node(config: &Config, sources: &Floors) -> Result<(NetworkPool, Node), CliError> {
    let remedy = "`aether doctor` says what is missing on this machine and what to do.";
    let failed = |what: &str, e: &dyn std::fmt::Display| CliError::with_remedy(format!("{what}: {e}"), remedy);
    let engine = match config.engine.kind {
        EngineKind::Qemu => QemuEngine::open(parts::engine(config)?).await,
    };
    let engine = engine.map_err(|e| failed("the engine cannot start", &e))?;
    let facts = engine.capabilities();
    tracing::info!(
        isolation = engine.isolation().as_str(),
        reason = facts.reason,
        kernel = facts.kernel.release,
        disk_encryption = facts.disk_encryption,
        "the engine {} is ready",
        engine.kind()
    );
    let network = NetworkPool::open(parts::network(config)?).await;
    let network = network.map_err(|e| failed("the network cannot be set up", &e))?;
    let opened = async {
        let images = Images::open(parts::images(config)?, sources.clock.clone(), sources.rng.clone()).await;
        let images = images.map_err(|e| failed("the images cannot be opened", &e))?;
        let node_parts = NodeParts {
            engine: Arc::new(engine),
            network: network.clone(),
            images,
            clock: sources.clock.clone(),
            rng: sources.rng.clone(),
        };
        Node::open(parts::node(config), node_parts).await.map_err(|e| failed("the node cannot start", &e))
    };
    match opened.await {
        Ok(node) => Ok((network, node)),
        Err(e) => {
            // A start that fails leaves no namespaces behind.
            if let Err(left) = network.close().await {
                tracing::warn!("the network was not taken down whole: {left}");
            }
            Err(e)
        }
    }
}

async fn serve_nodes(
    service: aether_control::NodeControlService,
    incoming: Incoming,
    stop: CancellationToken,
) -> Result<(), CliError> {
    let served = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await;
    served.map_err(|e| CliError::failed(format!("the node's control stream failed: {e}")))
}

/// There is one node, and it is here.
struct LocalDialer(Local);

#[async_trait]
impl DataDialer for LocalDialer {
    async fn dial(&self, _node: &NodeId, _address: Option<&str>) -> Result<NodeTransport, DialError> {
        Ok(NodeTransport::Local(self.0.clone()))
    }
}

fn announce(config: &Config, addresses: &[std::net::SocketAddr]) {
    tracing::info!("listening on unix://{}", config.socket().display());
    let scheme = if config.server.tls_cert.is_some() { "https" } else { "http" };
    for address in addresses {
        tracing::info!("listening on {scheme}://{address}");
    }
    notify::notify("READY=1");
}

//! A whole control plane on loopback and a Unix socket, with a real SQLite
//! store and a scripted node.

use crate::node::FakeNode;
use aether_control::auth::{ApiKey, Pepper};
use aether_control::{ApiListeners, Control, ControlConfig, DataDialer, DialError, Reloader};
use aether_core::principal::Credential;
use aether_core::source::{OsRng, SystemClock};
use aether_core::tenant::Tier;
use aether_core::{AgentId, Clock, KeyId, NodeId, Permission, Principal, Role, TenantId, TenantScope, Timestamp};
use aether_proto::pipe::{Connector, pipe};
use aether_proto::transport::NodeTransport;
use aether_store::{NewKey, NewTenant, SealKeys, Store, StoreConfig, StoreError};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

struct Pipe(Connector);

#[async_trait::async_trait]
impl DataDialer for Pipe {
    async fn dial(&self, _: &NodeId, _: Option<&str>) -> Result<NodeTransport, DialError> {
        Ok(self.0.channel().into())
    }
}

/// The system's clock, set ahead by a test.
#[derive(Default)]
pub(crate) struct Ahead {
    system: SystemClock,
    by_ms: AtomicU64,
}

impl Ahead {
    pub(crate) fn pass(&self, time: Duration) {
        self.by_ms.fetch_add(u64::try_from(time.as_millis()).expect("a time"), Ordering::SeqCst);
    }
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.system.now().unix_ms() + self.by_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic()
    }
}

pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) database: PathBuf,
    pub(crate) node: FakeNode,
    pub(crate) store: Store,
    pub(crate) clock: Arc<Ahead>,
    pub(crate) client: reqwest::Client,
    pub(crate) admin: String,
    pub(crate) stop: CancellationToken,
    pub(crate) stop_node: CancellationToken,
    pub(crate) control: Connector,
    pub(crate) done: tokio::task::JoinHandle<()>,
    pub(crate) reloader: Reloader,
    /// The settings of the start, with files in the server's own folder.
    pub(crate) cfg: ControlConfig,
    data: Connector,
    pepper: PathBuf,
    _dir: tempfile::TempDir,
}

pub(crate) async fn start() -> Server {
    start_with(|_| {}).await
}

pub(crate) async fn start_with(change: impl FnOnce(&mut ControlConfig)) -> Server {
    let dir = tempfile::tempdir().expect("dir");
    let database = dir.path().join("store.db");
    let clock = Arc::new(Ahead::default());
    let cfg = StoreConfig::Sqlite { path: database.clone() };
    let seal = SealKeys::load_or_create(&dir.path().join("seal.key"), &OsRng).expect("a seal key");
    let store = Store::connect(cfg, seal, clock.clone(), Arc::new(OsRng)).await.expect("store");
    store.migrate_up().await.expect("migrates");
    let pepper = dir.path().join("pepper");
    let mut cfg = ControlConfig::new("test-server", &pepper);
    change(&mut cfg);
    let started = cfg.clone();
    let first = aether_control::first_admin_key(&store, &pepper, &OsRng).await.expect("key").expect("the first");
    let control = Control::start(cfg, store.clone(), clock.clone(), Arc::new(OsRng)).await.expect("starts");
    let reloader = control.reloader();
    let (to_control, incoming) = pipe();
    let service = control.node_control_service();
    let stop = CancellationToken::new();
    let served = stop.clone();
    tokio::spawn(async move {
        let server = tonic::transport::Server::builder().add_service(service);
        let _ = server.serve_with_incoming_shutdown(incoming, served.cancelled_owned()).await;
    });
    let node = FakeNode::default();
    let stop_node = stop.child_token();
    let data = node.serve(stop.clone());
    tokio::spawn(node.clone().session(to_control.clone(), 1, stop_node.clone()));
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let socket = dir.path().join("aether.sock");
    let unix = tokio::net::UnixListener::bind(&socket).expect("binds");
    let address = tcp.local_addr().expect("address");
    let listeners = ApiListeners { tcp: vec![tcp], unix: vec![unix] };
    let run = control.run(listeners, Arc::new(Pipe(data.clone())), stop.clone());
    let done = tokio::spawn(async move { run.await.expect("runs") });
    let server = Server {
        url: format!("http://{address}"),
        address,
        socket,
        database,
        node,
        store,
        clock,
        // Well before the server closes an idle connection: a request must not meet that.
        client: reqwest::Client::builder()
            .no_proxy()
            .pool_idle_timeout(Duration::from_secs(2))
            .build()
            .expect("client"),
        admin: first.expose().to_owned(),
        stop,
        stop_node,
        control: to_control,
        done,
        reloader,
        cfg: started,
        data,
        pepper,
        _dir: dir,
    };
    server.until(|s| async move { !s.store.nodes().await.expect("nodes").is_empty() }).await;
    server
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Server {
    /// Another API server on the same store: its URL.
    pub(crate) async fn second(&self) -> String {
        self.second_as(|control| control).await
    }

    pub(crate) async fn second_as(&self, change: impl FnOnce(Control) -> Control) -> String {
        self.another(|_| {}, change).await
    }

    pub(crate) async fn second_with(&self, configure: impl FnOnce(&mut ControlConfig)) -> String {
        self.another(configure, |control| control).await
    }

    async fn another(
        &self,
        configure: impl FnOnce(&mut ControlConfig),
        change: impl FnOnce(Control) -> Control,
    ) -> String {
        let mut cfg = ControlConfig::new("second-server", &self.pepper);
        configure(&mut cfg);
        let control =
            Control::start(cfg, self.store.clone(), self.clock.clone(), Arc::new(OsRng)).await.expect("starts");
        let control = change(control);
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}", tcp.local_addr().expect("address"));
        let listeners = ApiListeners { tcp: vec![tcp], unix: Vec::new() };
        let run = control.run(listeners, Arc::new(Pipe(self.data.clone())), self.stop.clone());
        tokio::spawn(async move { run.await.expect("runs") });
        url
    }

    /// As the admin of `default`.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.as_key(&self.admin, method, path)
    }

    pub(crate) fn as_key(&self, key: &str, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(key)
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str, body: Value) -> RequestBuilder {
        self.request(Method::POST, path).json(&body)
    }

    /// A running agent's id.
    pub(crate) async fn agent(&self, name: &str) -> String {
        let body = json!({ "image": "python:3.11", "name": name });
        let (status, agent) = ok(self.post("/v1/agents?wait=running", body)).await;
        assert_eq!((status, agent["status"].as_str()), (StatusCode::CREATED, Some("running")), "{agent}");
        agent["id"].as_str().expect("id").to_owned()
    }

    pub(crate) async fn exec(&self, id: &str, body: Value) -> (StatusCode, Value) {
        ok(self.post(&format!("/v1/agents/{id}/exec"), body)).await
    }

    /// A key of a tenant (made if need be).
    pub(crate) async fn key(&self, tenant: &str, role: Role, scopes: Option<BTreeSet<Permission>>) -> String {
        let tenant: TenantId = tenant.parse().expect("tenant");
        self.tenant(&tenant).await;
        let key = ApiKey::generate(&OsRng);
        let hash = Pepper::load_or_create(&self.pepper, &OsRng).expect("pepper").hash(&key);
        let by = Principal::new(tenant, Credential::Anonymous, Role::Admin.permissions());
        let id = KeyId::generate("c0", &OsRng);
        let new = NewKey { scopes, ..NewKey::new(id, "k", (hash, key.prefix()), role) };
        self.store.create_key(&by.scope(), new).await.expect("key");
        key.text().expose().to_owned()
    }

    /// A tenant without limits, unless it is there.
    pub(crate) async fn tenant(&self, tenant: &TenantId) {
        let by = TenantScope::system(TenantId::default_tenant(), "test");
        match self.store.create_tenant(&by, NewTenant::new(tenant, Tier::Unlimited)).await {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => {}
            Err(error) => panic!("no tenant: {error}"),
        }
    }

    /// Waits for a condition, long.
    pub(crate) async fn until<'a, F: Future<Output = bool>>(&'a self, condition: impl Fn(&'a Self) -> F) {
        for _ in 0..1200 {
            if condition(self).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the condition never came");
    }

    /// Waits until the end of the agent's newest exec is recorded.
    pub(crate) async fn exec_ended(&self, id: &str) {
        let scope = TenantScope::system("default".parse().expect("tenant"), "test");
        let agent: AgentId = id.parse().expect("id");
        let ended = |s: &Self| {
            let (store, scope, agent) = (s.store.clone(), scope.clone(), agent.clone());
            async move { store.list_execs(&scope, &agent, 10).await.expect("rows")[0].end.is_some() }
        };
        self.until(ended).await;
    }
}

/// Status and JSON body.
pub(crate) async fn ok(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.expect("answered");
    let status = response.status();
    let bytes = response.bytes().await.expect("body");
    let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).expect("JSON") };
    (status, body)
}

/// A problem document with everything that it must have.
pub(crate) async fn problem(request: RequestBuilder, status: u16, code: &str) -> Value {
    let response = request.send().await.expect("answered");
    let got = response.status();
    let kind = response.headers().get("content-type").cloned();
    let text = response.text().await.expect("body");
    assert_eq!(got.as_u16(), status, "{text}");
    assert_eq!(kind.as_ref().and_then(|k| k.to_str().ok()), Some("application/problem+json"), "{text}");
    let body: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((body["code"].as_str(), body["status"].as_u64()), (Some(code), Some(u64::from(status))), "{text}");
    for field in ["type", "title", "detail", "remedy", "suggestion", "request_id"] {
        assert!(body[field].as_str().is_some_and(|t| !t.is_empty()), "{field} in {text}");
    }
    assert!(body["retryable"].is_boolean());
    body
}

/// One request over the Unix socket.
pub(crate) async fn over_socket(socket: &Path, path: &str) -> (StatusCode, Value) {
    let stream = tokio::net::UnixStream::connect(socket).await.expect("connects");
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("handshake");
    tokio::spawn(connection);
    let request = http::Request::get(path).header("host", "aether").body(String::new()).expect("request");
    let response = sender.send_request(request).await.expect("answered");
    let status = StatusCode::from_u16(response.status().as_u16()).expect("status");
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.expect("body").to_bytes();
    (status, serde_json::from_slice(&bytes).expect("JSON"))
}

//! A control plane with nothing in it but what a test says: hands out what is
//! wanted, records what is told.

use aether_core::{AgentId, AgentSpec};
use aether_proto::node::node_control_server::{NodeControl, NodeControlServer};
use aether_proto::node::node_data_client::NodeDataClient;
use aether_proto::node::node_message::Message as Up;
use aether_proto::node::server_message::Message as Down;
use aether_proto::node::{
    AgentAssignment, AgentReport, DesiredSet, NodeHeartbeat, NodeHello, NodeMessage, SecretsRequest, SecretsResponse,
    ServerMessage, ServerWelcome,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

/// An emulated guest on a busy machine.
pub(super) const LONG: Duration = Duration::from_secs(150);
/// What takes longer than this, whatever went wrong, is stuck; but for a boot,
/// whose time is the emulator's.
const STUCK: Duration = Duration::from_secs(60);

/// How long to wait for one of these.
pub(super) fn bound(wanted: &[&str]) -> Duration {
    if wanted.contains(&"running") { LONG } else { STUCK }
}

#[derive(Clone, Default)]
pub(super) struct Server {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    moved: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    revision: u64,
    wanted: BTreeMap<String, AgentAssignment>,
    hellos: Vec<NodeHello>,
    reports: Vec<AgentReport>,
    acked: u64,
    beats: Vec<NodeHeartbeat>,
    /// What is asked for secrets is answered with these, one after the other.
    secrets: VecDeque<Result<SecretsResponse, Status>>,
    asked: Vec<SecretsRequest>,
}

impl Server {
    pub(super) fn service(&self) -> NodeControlServer<Self> {
        NodeControlServer::new(self.clone())
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut self.shared.state.lock());
        self.shared.moved.send_modify(|n| *n += 1);
        done
    }

    /// Wants a new agent to run.
    pub(super) fn create(&self, spec: &AgentSpec) -> String {
        let id = AgentId::generate("c0", &aether_core::source::OsRng).to_string();
        let assignment = AgentAssignment {
            agent_id: id.clone(),
            tenant_id: "default".into(),
            generation: 1,
            desired: "running".into(),
            name: format!("test-{}", &id[id.len() - 6..]),
            spec_json: serde_json::to_vec(spec).expect("serialises").into(),
            env: [("GREETING".to_owned(), "it's \"quoted\"\nand more".to_owned())].into(),
            ..Default::default()
        };
        self.change(|s| {
            s.revision += 1;
            s.wanted.insert(id.clone(), assignment)
        });
        id
    }

    /// Wants something else of it.
    pub(super) fn want(&self, agent: &str, desired: &str) {
        self.change(|s| {
            s.revision += 1;
            let wanted = s.wanted.get_mut(agent).expect("known");
            wanted.generation += 1;
            wanted.desired = desired.into();
        });
    }

    /// Another deadline, or time to live, for the run that is.
    pub(super) fn expire(&self, agent: &str, at_ms: Option<u64>, ttl_s: Option<u64>) {
        self.change(|s| {
            s.revision += 1;
            let wanted = s.wanted.get_mut(agent).expect("known");
            let mut spec: AgentSpec = serde_json::from_slice(&wanted.spec_json).expect("a spec");
            spec.ttl_s = ttl_s;
            wanted.spec_json = serde_json::to_vec(&spec).expect("serialises").into();
            wanted.expires_at_ms = at_ms;
        });
    }

    pub(super) fn reports_of(&self, agent: &str) -> Vec<AgentReport> {
        self.shared.state.lock().reports.iter().filter(|r| r.agent_id == agent).cloned().collect()
    }

    pub(super) fn states_of(&self, agent: &str) -> Vec<String> {
        let mut states: Vec<String> = self.reports_of(agent).into_iter().map(|r| r.observed).collect();
        states.dedup();
        states
    }

    pub(super) fn beats(&self) -> Vec<NodeHeartbeat> {
        self.shared.state.lock().beats.clone()
    }

    async fn until<T>(&self, what: &str, mut look: impl FnMut(&State) -> Option<T>) -> T {
        let mut moved = self.shared.moved.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = look(&self.shared.state.lock()) {
                    return found;
                }
                moved.changed().await.expect("we hold it");
            }
        };
        match tokio::time::timeout(LONG, waiting).await {
            Ok(found) => found,
            Err(_) => panic!("no {what} in time; reports: {:#?}", self.shared.state.lock().reports),
        }
    }

    /// Waits until the newest report of an agent says so.
    pub(super) async fn observed(&self, agent: &str, observed: &str) -> AgentReport {
        self.until(observed, |s| {
            let last = s.reports.iter().rfind(|r| r.agent_id == agent)?;
            if last.observed == "failed" && matches!(observed, "running" | "stopped") {
                panic!("failed instead of {observed}: {} {}", last.error_code, last.error_message);
            }
            (last.observed == observed).then(|| last.clone())
        })
        .await
    }

    /// Waits until the newest report of an agent says that it is well, or not.
    pub(super) async fn health(&self, agent: &str, well: bool) -> AgentReport {
        self.until("change of its health", |s| {
            let last = s.reports.iter().rfind(|r| r.agent_id == agent)?;
            (last.unhealthy != well).then(|| last.clone())
        })
        .await
    }

    pub(super) async fn hello(&self, count: usize) -> NodeHello {
        self.until("hello", |s| s.hellos.get(count - 1).cloned()).await
    }

    pub(super) async fn acked(&self) {
        self.until("ack", |s| (s.acked >= s.revision).then_some(())).await;
    }

    /// The next answers to who asks for secrets.
    pub(super) fn answer_secrets(&self, answers: impl IntoIterator<Item = Result<SecretsResponse, Status>>) {
        self.change(|s| s.secrets.extend(answers));
    }

    pub(super) fn asked_for_secrets(&self) -> Vec<SecretsRequest> {
        self.shared.state.lock().asked.clone()
    }

    /// Forgets an agent: the next set is a full one without it.
    pub(super) fn forget(&self, agent: &str) {
        self.change(|s| {
            s.revision += 1;
            s.wanted.remove(agent);
        });
    }
}

type Down1 = Result<ServerMessage, Status>;

#[tonic::async_trait]
impl NodeControl for Server {
    async fn secrets(&self, request: Request<SecretsRequest>) -> Result<Response<SecretsResponse>, Status> {
        let answer = self.change(|s| {
            s.asked.push(request.into_inner());
            s.secrets.pop_front()
        });
        answer.unwrap_or_else(|| Err(Status::unavailable("no secrets here"))).map(Response::new)
    }

    type SessionStream = Pin<Box<dyn futures::Stream<Item = Down1> + Send>>;

    async fn session(&self, request: Request<Streaming<NodeMessage>>) -> Result<Response<Self::SessionStream>, Status> {
        let mut incoming = request.into_inner();
        let (sender, receiver) = mpsc::channel(16);
        let say = |message| Ok(ServerMessage { message: Some(message) });
        let welcome = ServerWelcome { server_id: "test".into(), lease_ms: 6000, heartbeat_ms: 300 };
        sender.send(say(Down::Welcome(welcome))).await.expect("room");
        let server = self.clone();
        tokio::spawn(async move {
            let mut moved = server.shared.moved.subscribe();
            let mut sent = None;
            loop {
                let set = {
                    let state = server.shared.state.lock();
                    (sent != Some(state.revision)).then(|| DesiredSet {
                        revision: state.revision,
                        full: true,
                        agents: state.wanted.values().cloned().collect(),
                    })
                };
                if let Some(set) = set {
                    sent = Some(set.revision);
                    if sender.send(say(Down::Desired(set))).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    message = incoming.message() => {
                        let Ok(Some(NodeMessage { message: Some(message) })) = message else { return };
                        server.change(|s| match message {
                            Up::Hello(hello) => s.hellos.push(hello),
                            Up::Ack(ack) => s.acked = ack.revision,
                            Up::Report(report) => s.reports.extend(report.agents),
                            Up::Heartbeat(beat) => s.beats.push(beat),
                        });
                    }
                    _ = moved.changed() => {}
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

pub(super) type Data = NodeDataClient<Channel>;

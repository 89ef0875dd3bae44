//! A fresh store of either engine, and short ways to fill it.

use aether_core::api::NodeAmounts;
use aether_core::source::OsRng;
use aether_core::spec::Resources;
use aether_core::state::{Desired, Observed};
use aether_core::tenant::Tier;
use aether_core::{AgentId, AgentSpec, Clock, NodeId, Secret, TenantId, TenantScope, Timestamp};
use aether_store::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) const START_MS: u64 = 1_700_000_000_000;

/// Time that moves only when told.
pub(crate) struct TestClock(AtomicU64);

impl TestClock {
    pub(crate) fn set_ms(&self, ms: u64) {
        self.0.store(ms, Ordering::SeqCst);
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.0.load(Ordering::SeqCst))
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) config: StoreConfig,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) fn seal() -> SealKey {
    SealKey::from_bytes([42; 32])
}

pub(crate) async fn connect(config: &StoreConfig, clock: &Arc<TestClock>) -> Store {
    Store::connect(config.clone(), seal(), clock.clone(), Arc::new(OsRng)).await.expect("the store opens")
}

impl Fixture {
    async fn make(config: impl FnOnce(PathBuf) -> StoreConfig) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let config = config(dir.path().join("aether.db"));
        let clock = Arc::new(TestClock(AtomicU64::new(START_MS)));
        let store = connect(&config, &clock).await;
        store.migrate_up().await.expect("migrates");
        Self { store, clock, config, dir }
    }

    pub(crate) async fn sqlite() -> Self {
        Self::make(|path| StoreConfig::Sqlite { path }).await
    }

    pub(crate) async fn postgres() -> Self {
        let url = crate::postgres::fresh_database().await;
        Self::make(|_| StoreConfig::Postgres { url: Secret::new(url), max_connections: 8 }).await
    }

    pub(crate) fn url(&self) -> Option<&str> {
        match &self.config {
            StoreConfig::Postgres { url, .. } => Some(url.expose()),
            StoreConfig::Sqlite { .. } => None,
        }
    }

    /// A scope in another tenant, which is made.
    pub(crate) async fn other(&self) -> TenantScope {
        let id: TenantId = "acme".parse().expect("an id");
        self.tenant(&id, Tier::Unlimited).await;
        TenantScope::system(id, "test")
    }

    pub(crate) async fn tenant(&self, id: &TenantId, tier: Tier) -> TenantRow {
        self.store.create_tenant(&scope(), NewTenant::new(id, tier)).await.expect("a tenant")
    }

    pub(crate) async fn agent(&self, name: &str) -> AgentRow {
        self.store.create_agent(&scope(), new_agent(name)).await.expect("creates").agent
    }

    pub(crate) async fn leader(&self) -> Epoch {
        self.store.take_leadership("server").await.expect("leads")
    }

    pub(crate) async fn node(&self, cpus: u64, memory_mb: u64) -> NodeId {
        let hello = hello(cpus, memory_mb);
        self.store.register_node(hello.clone()).await.expect("registers");
        hello.node_id
    }

    pub(crate) async fn place(&self, epoch: &Epoch, agent: &AgentId, node: &NodeId) -> AgentRow {
        self.store.place(epoch, place_request(&self.get(agent).await, node)).await.expect("is placed")
    }

    pub(crate) async fn get(&self, agent: &AgentId) -> AgentRow {
        self.store.agent_by_id(agent).await.expect("reads").expect("is there")
    }

    /// A report of the agent's present generation.
    pub(crate) async fn report(&self, node: &NodeId, agent: &AgentId, observed: Observed) -> ReportResult {
        let row = self.get(agent).await;
        self.send(node, ReportRow::of(agent.clone(), row.generation, observed)).await
    }

    pub(crate) async fn send(&self, node: &NodeId, report: ReportRow) -> ReportResult {
        let outcomes = self.store.apply_reports(node, 1, vec![report]).await.expect("applies");
        outcomes.into_iter().next().expect("one outcome").result
    }

    pub(crate) async fn desire(&self, agent: &AgentId, desired: Desired) -> Result<AgentRow, StoreError> {
        self.store.set_desired(&scope(), agent, desired, DesireOptions::default(), None).await
    }

    pub(crate) async fn reserved(&self, node: &NodeId) -> NodeAmounts {
        let nodes = self.store.nodes().await.expect("lists");
        nodes.into_iter().find(|n| n.id == *node).expect("the node").reserved
    }

    /// Reads events until as many are there as are waited for: on PostgreSQL
    /// transactions of other tests on the same server hold them back.
    pub(crate) async fn events(&self, at_least: usize) -> Vec<EventRow> {
        let mut all = Vec::new();
        let mut cursor = EventCursor::default();
        for _ in 0..600 {
            let (rows, next) = self.store.events_after(cursor, 100).await.expect("reads events");
            all.extend(rows);
            cursor = next;
            if all.len() >= at_least {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("only {} of {at_least} events", all.len());
    }
}

pub(crate) fn scope() -> TenantScope {
    TenantScope::system(TenantId::default_tenant(), "test")
}

/// 1 CPU, 512 MB, 1 GB of disk.
pub(crate) fn new_agent(name: &str) -> NewAgent {
    let mut spec = AgentSpec::for_image("python:3.11");
    spec.resources = Resources { cpu_count: 1, memory_mb: 512, disk_mb: 1024 };
    NewAgent {
        id: AgentId::generate("c0", &OsRng),
        name: name.parse().expect("a name"),
        alias: None,
        spec,
        env: BTreeMap::new(),
        idempotency: None,
    }
}

pub(crate) fn hello(cpus: u64, memory_mb: u64) -> NodeHelloRow {
    NodeHelloRow {
        node_id: NodeId::generate("c0", &OsRng),
        version: "0.1.0".to_owned(),
        node_epoch: 1,
        features: vec!["exec".to_owned()],
        capacity: NodeAmounts { cpu_millicores: cpus * 1000, memory_mb, disk_mb: 100_000 },
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        engine: "qemu".to_owned(),
        isolation: "vm-emulated".to_owned(),
        data_address: None,
    }
}

pub(crate) fn place_request(agent: &AgentRow, node: &NodeId) -> PlaceRequest {
    PlaceRequest {
        agent_id: agent.id.clone(),
        expected_version: agent.version,
        node_id: node.clone(),
        reason: "test".to_owned(),
    }
}

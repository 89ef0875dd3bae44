//! Random lives of agents against a small reference model: after every step
//! the store and the model agree on state, generation and reservations.

use crate::fixture::{Fixture, new_agent, place_request, scope};
use aether_core::Clock;
use aether_core::api::NodeAmounts;
use aether_core::state::{Desired, EDGES, Observed, Owner};
use aether_core::{AgentId, NodeId};
use aether_store::*;
use proptest::prelude::*;
use std::time::Duration;

/// Room for three agents on each node: refusals are common.
const FITS: u64 = 3;
const LEASE: Duration = Duration::from_secs(6);

#[derive(Clone, Debug)]
enum Step {
    Create(usize),
    Wish(usize, Desired),
    Place(usize, usize),
    Report(usize, Observed),
    /// All leases end; the nodes come back.
    Blackout,
}

#[derive(Clone, Debug)]
struct Agent {
    id: AgentId,
    name: usize,
    desired: Desired,
    observed: Observed,
    node: Option<usize>,
    assigned: bool,
    generation: u64,
    computes: bool,
    /// Its node has said something of it.
    begun: bool,
}

/// The rules, told a second time and differently.
#[derive(Default)]
struct Model {
    agents: Vec<Agent>,
}

impl Model {
    fn computing(&self, node: usize) -> u64 {
        self.agents.iter().filter(|a| a.node == Some(node) && a.computes).count() as u64
    }

    fn disks(&self, node: usize) -> u64 {
        self.agents.iter().filter(|a| a.node == Some(node) && a.observed != Observed::Gone).count() as u64
    }

    fn name_free(&self, name: usize) -> bool {
        !self.agents.iter().any(|a| a.name == name && a.desired != Desired::Gone)
    }

    /// Whether the wish is granted.
    fn wish(agent: &mut Agent, wish: Desired) -> bool {
        use Observed::{Failed, Gone, Lost, Paused, Pausing, Pending, Resuming, Running, Stopped};
        if agent.desired == Desired::Gone {
            return false;
        }
        let ended = matches!(agent.observed, Stopped | Failed);
        let pausable = matches!(agent.observed, Running | Pausing | Paused | Resuming);
        let before = agent.desired;
        match wish {
            Desired::Gone => {
                if agent.node.is_none() {
                    agent.observed = Gone;
                }
            }
            Desired::Stopped if before == Desired::Stopped => return true,
            Desired::Stopped => {
                if agent.observed == Pending && !agent.assigned {
                    agent.observed = Stopped;
                }
            }
            Desired::Running if ended => {
                agent.observed = Pending;
                agent.assigned = false;
            }
            Desired::Running if agent.observed == Lost => return false,
            Desired::Running if before == Desired::Running => return true,
            Desired::Running if pausable && agent.observed != Running && before == Desired::Paused => {}
            Desired::Running => return false,
            Desired::Paused if !pausable => return false,
            Desired::Paused if before == Desired::Paused => return true,
            Desired::Paused if before == Desired::Stopped => return false,
            Desired::Paused => {}
        }
        agent.desired = wish;
        agent.generation += 1;
        true
    }

    fn may_report(agent: &Agent, to: Observed) -> bool {
        if agent.observed == Observed::Gone || (!agent.assigned && to != Observed::Gone) {
            return false;
        }
        if to == Observed::Gone && agent.desired != Desired::Gone {
            return false;
        }
        agent.observed == to || walks(agent.observed, to, 4)
    }
}

fn walks(from: Observed, to: Observed, left: u32) -> bool {
    left > 0
        && EDGES
            .iter()
            .any(|(f, t, owner, _)| *f == from && *owner == Owner::Node && (*t == to || walks(*t, to, left - 1)))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let desired = prop_oneof![
        3 => Just(Desired::Running),
        1 => Just(Desired::Paused),
        3 => Just(Desired::Stopped),
        2 => Just(Desired::Gone),
    ];
    let step = prop_oneof![
        2 => (0..5usize).prop_map(Step::Create),
        4 => (0..12usize, desired).prop_map(|(a, d)| Step::Wish(a, d)),
        5 => (0..12usize, 0..2usize).prop_map(|(a, n)| Step::Place(a, n)),
        8 => (0..12usize, prop::sample::select(Observed::ALL)).prop_map(|(a, o)| Step::Report(a, o)),
        1 => Just(Step::Blackout),
    ];
    prop::collection::vec(step, 1..60)
}

struct Run {
    fx: Fixture,
    epoch: Epoch,
    nodes: [NodeId; 2],
    model: Model,
}

impl Run {
    async fn new(fx: Fixture) -> Self {
        let epoch = fx.leader().await;
        let nodes = [fx.node(64, FITS * 512).await, fx.node(64, FITS * 512).await];
        Self { fx, epoch, nodes, model: Model::default() }
    }

    async fn step(&mut self, step: &Step) {
        // Every step meets an agent once there is one.
        let known = self.model.agents.len().max(1);
        match step {
            Step::Create(name) => self.create(*name).await,
            Step::Wish(at, wish) => self.wish(*at % known, *wish).await,
            Step::Place(at, node) => self.place(*at % known, *node).await,
            Step::Report(at, observed) => self.report(*at % known, *observed).await,
            Step::Blackout => self.blackout().await,
        }
        self.compare().await;
    }

    async fn create(&mut self, name: usize) {
        let created = self.fx.store.create_agent(&scope(), new_agent(&format!("n{name}"))).await;
        assert_eq!(created.is_ok(), self.model.name_free(name), "{created:?}");
        if let Ok(created) = created {
            let (desired, observed) = (Desired::Running, Observed::Pending);
            let (id, node) = (created.agent.id, None);
            let agent = Agent {
                id,
                name,
                desired,
                observed,
                node,
                assigned: false,
                generation: 1,
                computes: false,
                begun: false,
            };
            self.model.agents.push(agent);
        }
    }

    async fn wish(&mut self, at: usize, wish: Desired) {
        let Some(agent) = self.model.agents.get_mut(at) else { return };
        let granted = Model::wish(agent, wish);
        let result = self.fx.desire(&agent.id, wish).await;
        assert_eq!(result.is_ok(), granted, "{wish} for {agent:?}: {result:?}");
    }

    async fn place(&mut self, at: usize, node: usize) {
        let Some(agent) = self.model.agents.get(at).cloned() else { return };
        let waits = agent.desired == Desired::Running && agent.observed == Observed::Pending && !agent.assigned;
        let here = agent.node.is_none_or(|pinned| pinned == node);
        let fits = self.model.computing(node) < FITS;
        let row = self.fx.get(&agent.id).await;
        let result = self.fx.store.place(&self.epoch, place_request(&row, &self.nodes[node])).await;
        assert_eq!(result.is_ok(), waits && here && fits, "{agent:?}: {result:?}");
        if result.is_ok() {
            let agent = &mut self.model.agents[at];
            agent.node = Some(node);
            agent.assigned = true;
            agent.computes = true;
            agent.generation += 1;
        }
    }

    async fn report(&mut self, at: usize, observed: Observed) {
        let Some(agent) = self.model.agents.get_mut(at) else { return };
        let Some(node) = agent.node else { return };
        let report = ReportRow::of(agent.id.clone(), agent.generation, observed);
        let result = self.fx.send(&self.nodes[node], report).await;
        let taken = matches!(result, ReportResult::Applied { .. } | ReportResult::Unchanged);
        assert_eq!(taken, Model::may_report(agent, observed), "{observed} for {agent:?}: {result:?}");
        if taken {
            agent.begun |= agent.observed != observed;
            agent.observed = observed;
            agent.computes &= observed.holds_compute() || observed == Observed::Pending;
        }
    }

    async fn blackout(&mut self) {
        self.fx.clock.advance(LEASE + Duration::from_millis(1));
        let lost = self.fx.store.expire_nodes(&self.epoch, LEASE, self.fx.clock.now()).await.expect("expires");
        let mut expected = Vec::new();
        for agent in &mut self.model.agents {
            if agent.node.is_some() && agent.observed.on_node() {
                agent.observed = Observed::Lost;
                expected.push(agent.id.clone());
            }
            let waits = agent.node.is_some() && agent.observed == Observed::Pending && !agent.begun;
            if waits && agent.desired == Desired::Gone {
                agent.observed = Observed::Gone;
                agent.computes = false;
            }
        }
        let sorted = |mut ids: Vec<AgentId>| {
            ids.sort();
            ids
        };
        assert_eq!(sorted(lost), sorted(expected));
        for node in &self.nodes {
            self.fx.store.renew_node(node, 1, HeartbeatRow::default()).await.expect("renews");
        }
    }

    async fn compare(&self) {
        for agent in &self.model.agents {
            let row = self.fx.get(&agent.id).await;
            let theirs = (row.desired, row.observed, row.generation, row.assigned);
            assert_eq!(theirs, (agent.desired, agent.observed, agent.generation, agent.assigned), "{agent:?}");
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let computing = self.model.computing(index);
            assert!(computing <= FITS);
            let disk_mb = self.model.disks(index) * 1024;
            let expected = NodeAmounts { cpu_millicores: computing * 1000, memory_mb: computing * 512, disk_mb };
            assert_eq!(self.fx.reserved(node).await, expected);
        }
    }
}

/// One store for many cases would let them meet; a fresh one each is fast.
fn lives(cases: u32, postgres: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    let config =
        ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() };
    proptest!(config, |(steps in steps())| {
        runtime.block_on(async {
            let fx = if postgres { Fixture::postgres().await } else { Fixture::sqlite().await };
            let mut run = Run::new(fx).await;
            for step in &steps {
                run.step(step).await;
            }
            run.fx.store.close().await;
        });
    });
}

#[test]
fn lives_on_sqlite() {
    lives(48, false);
}

#[test]
fn lives_on_postgres() {
    lives(8, true);
}

//! What a tenant holds: exact under any concurrency, given back exactly once.

use crate::fixture::{Fixture, connect, new_agent, place_request, scope};
use aether_core::api::{MapPatch, ResourcesPatch};
use aether_core::state::{Desired, Observed};
use aether_core::tenant::{Excess, Held, Limits, Resource, Tier};
use aether_core::{AgentId, NodeId, TenantScope};
use aether_counted::{Counted, Dice, seed, trials};
use aether_store::*;
use std::collections::BTreeMap;

crate::on_both![
    a_full_tenant_is_told_what_is_used_asked_and_allowed,
    what_an_agent_gives_back_and_takes_again,
    a_recovery_without_quota_waits,
    a_smaller_size_frees_nothing_while_it_runs,
    a_quota_holds_whoever_asks_at_once,
    nothing_drifts,
    limits_may_change_at_any_time,
];

fn acme() -> TenantScope {
    TenantScope::system("acme".parse().expect("an id"), "test")
}

impl Fixture {
    /// The tenant `acme` with these limits and none else.
    async fn limited(&self, limits: Limits) {
        self.tenant(acme().tenant(), Tier::Unlimited).await;
        self.limit(limits).await;
    }

    async fn limit(&self, limits: Limits) {
        self.store.set_quota(&scope(), acme().tenant(), Tier::Free, limits).await.expect("sets");
    }

    async fn acmes(&self, name: &str) -> Result<AgentId, StoreError> {
        self.store.create_agent(&acme(), new_agent(name)).await.map(|created| created.agent.id)
    }

    async fn want(&self, agent: &AgentId, desired: Desired) -> Result<AgentRow, StoreError> {
        self.store.set_desired(&acme(), agent, desired, DesireOptions::default(), None).await
    }

    /// What is counted, which must be the sum over the rows.
    async fn used(&self) -> Held {
        let used = self.store.quota(acme().tenant()).await.expect("reads").used;
        assert_eq!(used, self.store.sum_of_holds(acme().tenant(), None).await.expect("sums"), "the count has drifted");
        used
    }
}

fn agents(most: u64) -> Limits {
    Limits { agents: Some(most), ..Limits::default() }
}

fn exceeded<T: std::fmt::Debug>(result: Result<T, StoreError>) -> Excess {
    match result {
        Err(StoreError::QuotaExceeded { tenant, of, excess }) => {
            assert_eq!((tenant.as_str(), of), ("acme", None));
            excess
        }
        other => panic!("not refused by the quota: {other:?}"),
    }
}

async fn a_full_tenant_is_told_what_is_used_asked_and_allowed(fx: Fixture) {
    fx.tenant(acme().tenant(), Tier::Free).await;
    for name in ["a", "b", "c", "d", "e"] {
        fx.acmes(name).await.expect("is within the free tier");
    }
    let excess = exceeded(fx.acmes("f").await);
    assert_eq!(excess, Excess { resource: Resource::Agents, used: 5, asked: 1, limit: 5 });
    assert_eq!(fx.used().await, Held { agents: 5, cpu_millicores: 5000, memory_mb: 2560, disk_mb: 5120 });
    // A refused create leaves nothing: its name is free, its key unused.
    assert_eq!(fx.store.find_agent(&acme(), "f").await, Ok(None));
    fx.store
        .update_tenant(&scope(), acme().tenant(), TenantChange { tier: Some(Tier::Pro), ..Default::default() })
        .await
        .expect("updates");
    let mut large = new_agent("f");
    large.spec.resources.memory_mb = 102_400;
    let excess = exceeded(fx.store.create_agent(&acme(), large).await);
    assert_eq!((excess.resource, excess.used, excess.limit), (Resource::Memory, 2560, 102_400));
    fx.acmes("f").await.expect("is within the pro tier");
    // Another tenant's are its own.
    fx.store.create_agent(&scope(), new_agent("a")).await.expect("creates");
    assert_eq!(fx.used().await.agents, 6);
}

async fn what_an_agent_gives_back_and_takes_again(fx: Fixture) {
    fx.limited(Limits { cpu_millicores: Some(2000), ..agents(3) }).await;
    let (epoch, node) = (fx.leader().await, fx.node(16, 16_384).await);
    let a = fx.acmes("a").await.expect("creates");
    let b = fx.acmes("b").await.expect("creates");
    assert_eq!(exceeded(fx.acmes("c").await).resource, Resource::Cpu);
    // A stopped one gives back its CPU and keeps its place and its disk.
    fx.place(&epoch, &a, &node).await;
    fx.report(&node, &a, Observed::Running).await;
    fx.want(&a, Desired::Stopped).await.expect("desires");
    assert_eq!(fx.used().await.cpu_millicores, 2000, "not before its node says so");
    fx.report(&node, &a, Observed::Stopped).await;
    assert_eq!(fx.used().await, Held { agents: 2, cpu_millicores: 1000, memory_mb: 512, disk_mb: 2048 });
    let c = fx.acmes("c").await.expect("its CPU is free");
    assert_eq!(exceeded(fx.want(&a, Desired::Running).await).resource, Resource::Cpu);
    assert_eq!(fx.get(&a).await.observed, Observed::Stopped, "and nothing was written");
    // One that never began is over at once, one on a node when that says so.
    fx.want(&c, Desired::Gone).await.expect("desires");
    fx.want(&a, Desired::Running).await.expect("starts");
    fx.place(&epoch, &b, &node).await;
    fx.report(&node, &b, Observed::Running).await;
    fx.want(&b, Desired::Gone).await.expect("desires");
    assert_eq!(fx.used().await.agents, 2);
    for _ in 0..2 {
        fx.report(&node, &b, Observed::Gone).await;
        assert_eq!(fx.used().await, Held { agents: 1, cpu_millicores: 1000, memory_mb: 512, disk_mb: 1024 });
    }
    // Larger by a patch is asked for too.
    let patch = |cpu_count| aether_core::api::CheckedPatch {
        resources: ResourcesPatch { cpu_count: Some(cpu_count), ..ResourcesPatch::default() },
        labels: MapPatch::default(),
        ..Default::default()
    };
    fx.store.update_agent(&acme(), &a, patch(2), None).await.expect("fits");
    assert_eq!(exceeded(fx.store.update_agent(&acme(), &a, patch(3), None).await).asked, 1000);
    assert_eq!(fx.used().await.cpu_millicores, 2000);
}

async fn a_recovery_without_quota_waits(fx: Fixture) {
    fx.limited(Limits { cpu_millicores: Some(1000), ..Limits::default() }).await;
    let (epoch, node) = (fx.leader().await, fx.node(4, 4096).await);
    let mut new = new_agent("a");
    new.spec.recovery = aether_core::spec::Recovery::Restart;
    let a = fx.store.create_agent(&acme(), new).await.expect("creates").agent.id;
    fx.place(&epoch, &a, &node).await;
    fx.report(&node, &a, Observed::Running).await;
    let row = fx.get(&a).await;
    let mut report = ReportRow::of(a.clone(), row.generation, Observed::Failed);
    report.error = Some(aether_core::api::AgentFailure {
        code: aether_core::api::failure::SANDBOX_DIED.to_owned(),
        message: "it died".to_owned(),
    });
    fx.send(&node, report).await;
    let b = fx.acmes("b").await.expect("takes what it gave back");
    assert_eq!(fx.store.recover_agents(&epoch).await, Ok(vec![]), "refused in words, not an error of all");
    fx.want(&b, Desired::Gone).await.expect("desires");
    assert_eq!(fx.store.recover_agents(&epoch).await, Ok(vec![]), "and not at each look");
    fx.clock.advance(std::time::Duration::from_secs(31));
    assert_eq!(fx.store.recover_agents(&epoch).await, Ok(vec![a]));
    fx.used().await;
}

/// A run keeps its size until it ends, so that nobody makes room by a patch.
async fn a_smaller_size_frees_nothing_while_it_runs(fx: Fixture) {
    fx.limited(Limits { cpu_millicores: Some(4000), ..Limits::default() }).await;
    let (epoch, node) = (fx.leader().await, fx.node(16, 16_384).await);
    let mut large = new_agent("a");
    large.spec.resources.cpu_count = 4;
    let a = fx.store.create_agent(&acme(), large).await.expect("creates").agent.id;
    fx.place(&epoch, &a, &node).await;
    fx.report(&node, &a, Observed::Running).await;
    let size = |cpu_count| aether_core::api::CheckedPatch {
        resources: ResourcesPatch { cpu_count: Some(cpu_count), ..ResourcesPatch::default() },
        ..Default::default()
    };
    for smaller in [1, 2, 1] {
        fx.store.update_agent(&acme(), &a, size(smaller), None).await.expect("waits for its next start");
        assert_eq!(fx.used().await.cpu_millicores, 4000);
    }
    assert_eq!(exceeded(fx.acmes("b").await).used, 4000);
    fx.want(&a, Desired::Stopped).await.expect("desires");
    fx.report(&node, &a, Observed::Stopped).await;
    assert_eq!(fx.used().await.cpu_millicores, 0);
    fx.want(&a, Desired::Running).await.expect("starts");
    assert_eq!(fx.used().await.cpu_millicores, 1000, "the next run has the new size");
}

/// trust.md 17, as far as the store goes: several servers, one quota.
async fn a_quota_holds_whoever_asks_at_once(fx: Fixture) {
    const LIMIT: usize = 50;
    const ASKED: usize = 200;
    let mut counted = Counted::new("quota", 17, "quota of 50 under 200 parallel creates and starts", 0);
    fx.limited(Limits { cpu_millicores: Some(LIMIT as u64 * 1000), ..Limits::default() }).await;
    // The file has one server; a real database has several.
    let mut servers = vec![fx.store.clone()];
    if fx.url().is_some() {
        for _ in 0..2 {
            servers.push(connect(&fx.config, &fx.clock).await);
        }
    }
    let mut stopped: Vec<AgentId> = Vec::new();
    for round in 0..trials("AETHER_QUOTA_ROUNDS", 3) {
        let work = (0..ASKED).map(|n| {
            let store = servers[n % servers.len()].clone();
            // Half of them start what was stopped, as far as there is any.
            let old = stopped.get(n / 2).filter(|_| n % 2 == 0).cloned();
            tokio::spawn(async move {
                let options = DesireOptions::default();
                match &old {
                    Some(id) => store.set_desired(&acme(), id, Desired::Running, options, None).await,
                    None => store.create_agent(&acme(), new_agent(&format!("r{round}-{n}"))).await.map(|c| c.agent),
                }
            })
        });
        let work: Vec<_> = work.collect();
        let mut won = Vec::new();
        for task in work {
            match task.await.expect("ends") {
                Ok(row) => won.push(row.id),
                Err(StoreError::QuotaExceeded { excess, .. }) => assert_eq!(excess.used, LIMIT as u64 * 1000),
                Err(other) => panic!("not by the quota: {other}"),
            }
        }
        counted.n += 1;
        counted.faults += ASKED as u64;
        assert_eq!(won.len(), LIMIT, "round {round}");
        assert_eq!(fx.used().await.cpu_millicores, LIMIT as u64 * 1000);
        // Half are stopped, to be started in the next round; half go.
        stopped.clear();
        for (n, id) in won.iter().enumerate() {
            let desired = if n % 2 == 0 { Desired::Stopped } else { Desired::Gone };
            fx.want(id, desired).await.expect("desires");
            if desired == Desired::Stopped {
                stopped.push(id.clone());
            }
        }
        assert_eq!(fx.used().await.cpu_millicores, 0);
    }
    for server in servers.iter().skip(1) {
        server.close().await;
    }
}

/// Random lives of agents on a node that tells this and that.
async fn nothing_drifts(fx: Fixture) {
    let seed = seed();
    let mut counted = Counted::new("quota", 17, "drift of what a tenant holds", seed);
    let mut dice = Dice::new(seed);
    fx.limited(Limits { memory_mb: Some(8 * 512), ..agents(12) }).await;
    let (epoch, node) = (fx.leader().await, fx.node(64, 65_536).await);
    let mut live: Vec<AgentId> = Vec::new();
    for n in 0..trials("AETHER_QUOTA_OPS", 300) {
        let pick = |dice: &mut Dice, live: &[AgentId]| live.get(dice.roll(live.len().max(1) as u64) as usize).cloned();
        match (dice.roll(6), pick(&mut dice, &live)) {
            (0 | 1, _) | (_, None) => live.extend(fx.acmes(&format!("n{n}")).await.ok()),
            (2, Some(id)) => drop(fx.want(&id, Desired::ALL[dice.roll(4) as usize]).await),
            (3, Some(id)) => drop(fx.store.place(&epoch, place_request(&fx.get(&id).await, &node)).await),
            (4, Some(id)) => tell(&fx, &mut dice, &node, &id).await,
            (_, Some(id)) => {
                let most = ResourcesPatch { memory_mb: Some(256 * (1 + dice.roll(4))), ..ResourcesPatch::default() };
                let patch = aether_core::api::CheckedPatch { resources: most, ..Default::default() };
                drop(fx.store.update_agent(&acme(), &id, patch, None).await);
            }
        }
        counted.n += 1;
        let used = fx.used().await;
        assert!(used.agents <= 12 && used.memory_mb <= 8 * 512, "{used:?}");
    }
}

async fn tell(fx: &Fixture, dice: &mut Dice, node: &NodeId, id: &AgentId) {
    let observed = Observed::ALL[dice.roll(Observed::ALL.len() as u64) as usize];
    fx.report(node, id, observed).await;
}

/// A tenant that is counted, and is not, and is again, while it works.
async fn limits_may_change_at_any_time(fx: Fixture) {
    fx.limited(agents(1000)).await;
    let store = fx.store.clone();
    let work = tokio::spawn(async move {
        let mut live = BTreeMap::new();
        for n in 0..120u32 {
            let made = store.create_agent(&acme(), new_agent(&format!("n{n}"))).await.expect("creates").agent;
            live.insert(n, made.id);
            if let Some(old) = n.checked_sub(20).and_then(|old| live.get(&old)) {
                let options = DesireOptions::default();
                store.set_desired(&acme(), old, Desired::Gone, options, None).await.expect("desires");
            }
        }
    });
    while !work.is_finished() {
        for limits in [Limits::default(), agents(1000)] {
            fx.limit(limits).await;
        }
    }
    work.await.expect("works");
    assert_eq!(fx.used().await.agents, 20);
    // Below what is there: nothing goes, nothing new comes, what shrinks may.
    fx.limit(agents(3)).await;
    assert_eq!(exceeded(fx.acmes("more").await).used, 20);
    let one = fx.store.find_agent(&acme(), "n119").await.expect("looks").expect("is there").id.clone();
    fx.want(&one, Desired::Gone).await.expect("desires");
    assert_eq!(fx.used().await.agents, 19);
}

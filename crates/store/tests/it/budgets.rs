//! Budgets of keys and labels: exact, under the tenant's quota, and given back
//! exactly once.

use crate::fixture::{Fixture, connect, new_agent, place_request, scope};
use aether_core::api::{CheckedPatch, MapPatch, ResourcesPatch};
use aether_core::source::OsRng;
use aether_core::state::{Desired, Observed};
use aether_core::tenant::{BudgetOf, Excess, Held, Limits, Resource, Tier};
use aether_core::{AgentId, KeyId, NodeId, Role, TenantId, TenantScope};
use aether_counted::{Counted, Dice, seed, trials};
use aether_store::*;
use std::collections::BTreeMap;

crate::on_both![
    a_keys_budget_holds_under_the_tenants,
    a_labels_budget_follows_the_label,
    a_budget_counts_what_is_there_already,
    a_refused_recovery_moves_no_count,
    budgets_hold_whoever_asks_at_once,
    no_budget_drifts,
    budgets_may_change_at_any_time,
];

fn tenant() -> TenantId {
    "acme".parse().expect("an id")
}

fn admin() -> TenantScope {
    TenantScope::system(tenant(), "test")
}

fn agents(most: u64) -> Limits {
    Limits { agents: Some(most), ..Limits::default() }
}

fn pair(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').expect("a pair");
    (key.to_owned(), value.to_owned())
}

fn label(text: &str) -> BudgetOf {
    BudgetOf::label(text).expect("a label")
}

fn labelled(name: &str, pairs: &[&str]) -> NewAgent {
    let mut new = new_agent(name);
    new.spec.labels = pairs.iter().map(|text| pair(text)).collect();
    new
}

fn relabel(pairs: &[(&str, Option<&str>)]) -> CheckedPatch {
    let pairs: BTreeMap<_, _> = pairs.iter().copied().collect();
    let labels: MapPatch = serde_json::from_value(serde_json::json!(pairs)).expect("a patch");
    CheckedPatch { labels, ..CheckedPatch::default() }
}

impl Fixture {
    /// A key of acme's with this budget, as the scope of who comes with it.
    async fn budgeted(&self, hash: u8, budget: Option<Limits>) -> TenantScope {
        let id = KeyId::generate("c0", &OsRng);
        let mut key = NewKey::new(id.clone(), "k", ([hash; 32], "p".into()), Role::Developer);
        key.budget = budget;
        self.store.create_key(&admin(), key).await.expect("creates");
        admin().narrowed(None, Some(id))
    }

    async fn budget_of(&self, by: &TenantScope) -> BudgetRow {
        self.exact(BudgetOf::Key(by.key().expect("a key").clone())).await
    }

    /// What is counted, which must be the sum over the rows.
    async fn exact(&self, of: BudgetOf) -> BudgetRow {
        let row = self.store.budget(&tenant(), of.clone()).await.expect("reads").expect("is there");
        let sum = self.store.sum_of_holds(&tenant(), Some(of.clone())).await.expect("sums");
        assert_eq!(row.used, sum, "the budget {of} has drifted");
        row
    }

    async fn set_label(&self, text: &str, limits: Option<Limits>) {
        self.store.set_label_budget(&admin(), &tenant(), pair(text), limits).await.expect("sets");
    }

    async fn made(&self, by: &TenantScope, new: NewAgent) -> Result<AgentId, StoreError> {
        self.store.create_agent(by, new).await.map(|created| created.agent.id)
    }

    async fn wish(&self, agent: &AgentId, desired: Desired) -> Result<AgentRow, StoreError> {
        self.store.set_desired(&admin(), agent, desired, DesireOptions::default(), None).await
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) -> (Option<BudgetOf>, Excess) {
    match result {
        Err(StoreError::QuotaExceeded { of, excess, .. }) => (of, excess),
        other => panic!("not refused: {other:?}"),
    }
}

async fn a_keys_budget_holds_under_the_tenants(fx: Fixture) {
    fx.tenant(&tenant(), Tier::Free).await;
    let (one, two, none) =
        (fx.budgeted(1, Some(agents(2))).await, fx.budgeted(2, Some(agents(4))).await, fx.budgeted(3, None).await);
    let a = fx.made(&one, new_agent("a")).await.expect("fits");
    fx.made(&one, new_agent("b")).await.expect("fits");
    let (of, excess) = refused(fx.made(&one, new_agent("c")).await);
    assert_eq!(of, one.key().cloned().map(BudgetOf::Key));
    assert_eq!(excess, Excess { resource: Resource::Agents, used: 2, asked: 1, limit: 2 });
    // The tenant's five are for all of its keys.
    fx.made(&two, new_agent("c")).await.expect("fits");
    fx.made(&two, new_agent("d")).await.expect("fits");
    fx.made(&none, new_agent("e")).await.expect("fits");
    let (of, excess) = refused(fx.made(&two, new_agent("f")).await);
    assert_eq!((of, excess.used, excess.limit), (None, 5, 5), "the tenant's quota comes first");
    assert_eq!(fx.budget_of(&two).await.used.agents, 2, "and a refusal takes nothing");
    // Whoever ends it, it is given back to the key that made it, once.
    for _ in 0..2 {
        drop(fx.wish(&a, Desired::Gone).await);
        assert_eq!(fx.budget_of(&one).await.used.agents, 1);
    }
    fx.made(&one, new_agent("a")).await.expect("fits again");
    let change = |budget| KeyChange { budget: Some(budget), ..KeyChange::default() };
    let key = one.key().expect("a key");
    let row = fx.store.update_key(&admin(), key, change(Some(agents(1)))).await.expect("updates");
    assert!(row.budgeted);
    assert_eq!(fx.budget_of(&one).await.limits, agents(1));
    assert_eq!(fx.budget_of(&one).await.used.agents, 2, "above a new limit it stays");
    fx.store.update_key(&admin(), key, change(None)).await.expect("updates");
    assert_eq!(fx.store.budget(&tenant(), BudgetOf::Key(key.clone())).await, Ok(None));
    let found = fx.store.find_key_by_hash(&[1; 32]).await.expect("looks").expect("is there");
    assert!(!found.budgeted);
    fx.store.revoke_key(&admin(), two.key().expect("a key")).await.expect("revokes");
    assert_eq!(fx.store.budget(&tenant(), BudgetOf::Key(two.key().expect("a key").clone())).await, Ok(None));
    let c = fx.store.find_agent(&admin(), "c").await.expect("looks").expect("is there").id.clone();
    fx.wish(&c, Desired::Gone).await.expect("ends");
}

async fn a_labels_budget_follows_the_label(fx: Fixture) {
    fx.tenant(&tenant(), Tier::Unlimited).await;
    let limits = Limits { cpu_millicores: Some(2000), ..agents(2) };
    fx.set_label("team=a", Some(limits)).await;
    fx.set_label("team=b", Some(agents(1))).await;
    let a = fx.made(&admin(), labelled("a", &["team=a"])).await.expect("fits");
    let b = fx.made(&admin(), labelled("b", &["team=a", "env=ci"])).await.expect("fits");
    let free = fx.made(&admin(), labelled("free", &["team=c"])).await.expect("has no budget");
    let (of, excess) = refused(fx.made(&admin(), labelled("c", &["team=a"])).await);
    assert_eq!((of, excess.used), (Some(label("team=a")), 2));
    // A label that comes is asked for, one that goes gives back.
    let (of, _) = refused(fx.store.update_agent(&admin(), &free, relabel(&[("team", Some("a"))]), None).await);
    assert_eq!(of, Some(label("team=a")));
    fx.store.update_agent(&admin(), &a, relabel(&[("team", Some("b"))]), None).await.expect("fits");
    assert_eq!(fx.exact(label("team=a")).await.used.agents, 1);
    assert_eq!(fx.exact(label("team=b")).await.used.agents, 1);
    refused(fx.store.update_agent(&admin(), &b, relabel(&[("team", Some("b"))]), None).await);
    assert_eq!(fx.exact(label("team=a")).await.used.agents, 1);
    fx.store.update_agent(&admin(), &b, relabel(&[("team", None)]), None).await.expect("leaves");
    assert_eq!(fx.exact(label("team=a")).await.used, Held::default());
    fx.store.update_agent(&admin(), &free, relabel(&[("team", Some("a"))]), None).await.expect("fits now");
    let patch = CheckedPatch {
        resources: ResourcesPatch { cpu_count: Some(3), ..ResourcesPatch::default() },
        ..CheckedPatch::default()
    };
    let (of, excess) = refused(fx.store.update_agent(&admin(), &free, patch, None).await);
    assert_eq!((of, excess.resource), (Some(label("team=a")), Resource::Cpu));
    let listed = fx.store.budgets(&tenant()).await.expect("lists");
    assert_eq!(listed.iter().map(|row| row.of.clone()).collect::<Vec<_>>(), [label("team=a"), label("team=b")]);
    fx.set_label("team=a", None).await;
    let absent = fx.store.set_label_budget(&admin(), &tenant(), pair("team=a"), None).await;
    assert_eq!(absent, Err(StoreError::NotFound { what: "budget" }));
}

async fn a_budget_counts_what_is_there_already(fx: Fixture) {
    fx.tenant(&tenant(), Tier::Unlimited).await;
    let by = fx.budgeted(1, None).await;
    for n in 0..3 {
        fx.made(&by, labelled(&format!("n{n}"), &["team=a"])).await.expect("creates");
    }
    fx.made(&admin(), labelled("other", &["team=a"])).await.expect("creates");
    fx.set_label("team=a", Some(agents(4))).await;
    let change = KeyChange { budget: Some(Some(agents(10))), ..KeyChange::default() };
    fx.store.update_key(&admin(), by.key().expect("a key"), change).await.expect("updates");
    assert_eq!(fx.exact(label("team=a")).await.used.agents, 4);
    assert_eq!(fx.budget_of(&by).await.used.agents, 3);
    refused(fx.made(&by, labelled("more", &["team=a"])).await);
    fx.made(&by, labelled("more", &["team=b"])).await.expect("fits");
    assert_eq!(fx.budget_of(&by).await.used.agents, 4);
}

/// Whoever takes a refusal for an answer goes on in the same transaction.
async fn a_refused_recovery_moves_no_count(fx: Fixture) {
    fx.tenant(&tenant(), Tier::Unlimited).await;
    let limits = Limits { cpu_millicores: Some(10_000), ..Limits::default() };
    fx.store.set_quota(&scope(), &tenant(), Tier::Free, limits).await.expect("sets");
    fx.set_label("team=a", Some(Limits { cpu_millicores: Some(1000), ..Limits::default() })).await;
    let (epoch, node) = (fx.leader().await, fx.node(8, 8192).await);
    let mut new = labelled("a", &["team=a"]);
    new.spec.recovery = aether_core::spec::Recovery::Restart;
    let a = fx.made(&admin(), new).await.expect("creates");
    fx.place(&epoch, &a, &node).await;
    fx.report(&node, &a, Observed::Running).await;
    let mut report = ReportRow::of(a.clone(), fx.get(&a).await.generation, Observed::Failed);
    let code = aether_core::api::failure::SANDBOX_DIED.to_owned();
    report.error = Some(aether_core::api::AgentFailure { code, message: "it died".to_owned() });
    fx.send(&node, report).await;
    let b = fx.made(&admin(), labelled("b", &["team=a"])).await.expect("takes what it gave back");
    assert_eq!(fx.store.recover_agents(&epoch).await, Ok(vec![]));
    let quota = async || {
        let used = fx.store.quota(&tenant()).await.expect("reads").used;
        assert_eq!(used, fx.store.sum_of_holds(&tenant(), None).await.expect("sums"), "the count has drifted");
        used.cpu_millicores
    };
    assert_eq!((quota().await, fx.exact(label("team=a")).await.used.cpu_millicores), (1000, 1000));
    fx.wish(&b, Desired::Gone).await.expect("ends");
    fx.clock.advance(std::time::Duration::from_secs(31));
    assert_eq!(fx.store.recover_agents(&epoch).await, Ok(vec![a]));
    assert_eq!((quota().await, fx.exact(label("team=a")).await.used.cpu_millicores), (1000, 1000));
}

/// Two keys and two labels, whose agents count in one of each, and servers
/// that do not know of each other: nothing passes, nobody waits for ever.
async fn budgets_hold_whoever_asks_at_once(fx: Fixture) {
    const ASKED: usize = 80;
    const EACH: usize = 12;
    let mut counted = Counted::new("budgets", 17, "budgets of 12 under 80 parallel creates and relabels", 0);
    fx.tenant(&tenant(), Tier::Unlimited).await;
    fx.store.set_quota(&scope(), &tenant(), Tier::Free, agents(1000)).await.expect("sets");
    let keys = [fx.budgeted(1, Some(agents(EACH as u64))).await, fx.budgeted(2, Some(agents(EACH as u64))).await];
    for text in ["team=a", "team=b"] {
        fx.set_label(text, Some(agents(EACH as u64))).await;
    }
    let mut servers = vec![fx.store.clone()];
    if fx.url().is_some() {
        servers.push(connect(&fx.config, &fx.clock).await);
    }
    for round in 0..trials("AETHER_QUOTA_ROUNDS", 3) {
        let work = (0..ASKED).map(|n| {
            let (store, by) = (servers[n % servers.len()].clone(), keys[n % 2].clone());
            let text = if n / 2 % 2 == 0 { "team=a" } else { "team=b" };
            tokio::spawn(async move {
                let made = store.create_agent(&by, labelled(&format!("r{round}-{n}"), &[text])).await?.agent.id;
                let other = if text == "team=a" { "b" } else { "a" };
                // Two budgets in either order.
                let moved = store.update_agent(&by, &made, relabel(&[("team", Some(other))]), None).await;
                assert!(matches!(moved, Ok(_) | Err(StoreError::QuotaExceeded { .. })), "{moved:?}");
                Ok::<_, StoreError>(made)
            })
        });
        let work: Vec<_> = work.collect();
        let mut won = Vec::new();
        for task in work {
            match task.await.expect("ends") {
                Ok(id) => won.push(id),
                Err(StoreError::QuotaExceeded { of, .. }) => assert!(of.is_some()),
                Err(other) => panic!("not by a budget: {other}"),
            }
        }
        counted.n += 1;
        counted.faults += ASKED as u64;
        // Both keys and both labels end full, or one of each does.
        assert!(won.len() <= 2 * EACH, "{}", won.len());
        let mut held = 0;
        for by in &keys {
            let used = fx.budget_of(by).await.used.agents;
            assert!(used <= EACH as u64);
            held += used;
        }
        assert_eq!(held as usize, won.len());
        for text in ["team=a", "team=b"] {
            assert!(fx.exact(label(text)).await.used.agents <= EACH as u64);
        }
        for id in won {
            fx.wish(&id, Desired::Gone).await.expect("ends");
        }
        for by in &keys {
            assert_eq!(fx.budget_of(by).await.used, Held::default());
        }
    }
    for server in servers.iter().skip(1) {
        server.close().await;
    }
}

/// Random lives of agents of two keys, whose labels come and go.
async fn no_budget_drifts(fx: Fixture) {
    let seed = seed();
    let mut counted = Counted::new("budgets", 17, "drift of what keys and labels hold", seed);
    let mut dice = Dice::new(seed);
    fx.tenant(&tenant(), Tier::Unlimited).await;
    let limits = Limits { memory_mb: Some(10 * 512), ..agents(14) };
    fx.store.set_quota(&scope(), &tenant(), Tier::Free, limits).await.expect("sets");
    let small = Limits { memory_mb: Some(5 * 512), ..agents(6) };
    let keys = [fx.budgeted(1, Some(small)).await, fx.budgeted(2, Some(agents(8))).await, fx.budgeted(3, None).await];
    fx.set_label("team=a", Some(small)).await;
    fx.set_label("team=b", Some(Limits { memory_mb: Some(4 * 512), ..Limits::default() })).await;
    fx.set_label("env=x", Some(agents(7))).await;
    let (epoch, node) = (fx.leader().await, fx.node(64, 65_536).await);
    let teams = [None, Some("a"), Some("b"), Some("c")];
    let mut live: Vec<AgentId> = Vec::new();
    for n in 0..trials("AETHER_QUOTA_OPS", 300) {
        let picked = live.get(dice.roll(live.len().max(1) as u64) as usize).cloned();
        match (dice.roll(8), picked) {
            (0..=2, _) | (_, None) => {
                let mut pairs = Vec::new();
                pairs.extend(teams[dice.roll(4) as usize].map(|team| format!("team={team}")));
                pairs.extend((dice.roll(2) == 0).then(|| "env=x".to_owned()));
                let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
                let by = &keys[dice.roll(3) as usize];
                live.extend(fx.made(by, labelled(&format!("n{n}"), &pairs)).await.ok());
            }
            (3, Some(id)) => drop(fx.wish(&id, Desired::ALL[dice.roll(4) as usize]).await),
            (4, Some(id)) => drop(fx.store.place(&epoch, place_request(&fx.get(&id).await, &node)).await),
            (5, Some(id)) => tell(&fx, &mut dice, &node, &id).await,
            (6, Some(id)) => {
                let patch = relabel(&[
                    ("team", teams[dice.roll(4) as usize]),
                    ("env", [None, Some("x")][dice.roll(2) as usize]),
                ]);
                drop(fx.store.update_agent(&admin(), &id, patch, None).await);
            }
            (_, Some(id)) => {
                let most = ResourcesPatch { memory_mb: Some(256 * (1 + dice.roll(4))), ..ResourcesPatch::default() };
                let patch = CheckedPatch { resources: most, ..CheckedPatch::default() };
                drop(fx.store.update_agent(&admin(), &id, patch, None).await);
            }
        }
        counted.n += 1;
        let budgets = [
            fx.budget_of(&keys[0]).await,
            fx.budget_of(&keys[1]).await,
            fx.exact(label("team=a")).await,
            fx.exact(label("team=b")).await,
            fx.exact(label("env=x")).await,
        ];
        for BudgetRow { of, limits, used } in budgets {
            let within = used.amounts().iter().zip(limits.amounts()).all(|((_, n), most)| most.is_none_or(|m| *n <= m));
            assert!(within, "{of}: {used:?} of {limits:?}");
        }
        let used = fx.store.quota(&tenant()).await.expect("reads").used;
        assert_eq!(used, fx.store.sum_of_holds(&tenant(), None).await.expect("sums"), "the quota has drifted");
    }
}

async fn tell(fx: &Fixture, dice: &mut Dice, node: &NodeId, id: &AgentId) {
    let observed = Observed::ALL[dice.roll(Observed::ALL.len() as u64) as usize];
    fx.report(node, id, observed).await;
}

/// Budgets that come and go while the tenant works.
async fn budgets_may_change_at_any_time(fx: Fixture) {
    fx.tenant(&tenant(), Tier::Unlimited).await;
    let by = fx.budgeted(1, Some(agents(1000))).await;
    let (store, maker) = (fx.store.clone(), by.clone());
    let work = tokio::spawn(async move {
        let mut live: Vec<AgentId> = Vec::new();
        for n in 0..80usize {
            let made = store.create_agent(&maker, labelled(&format!("n{n}"), &["team=a"])).await.expect("creates");
            live.push(made.agent.id);
            if let Some(old) = n.checked_sub(20).and_then(|old| live.get(old)) {
                let options = DesireOptions::default();
                store.set_desired(&admin(), old, Desired::Gone, options, None).await.expect("desires");
            }
        }
    });
    let change = |limits| KeyChange { budget: Some(limits), ..KeyChange::default() };
    while !work.is_finished() {
        for limits in [None, Some(agents(1000))] {
            fx.store.update_key(&admin(), by.key().expect("a key"), change(limits)).await.expect("updates");
            if limits.is_some() || fx.store.budget(&tenant(), label("team=a")).await.expect("reads").is_some() {
                fx.set_label("team=a", limits).await;
            }
        }
    }
    work.await.expect("works");
    assert_eq!(fx.budget_of(&by).await.used.agents, 20);
    assert_eq!(fx.exact(label("team=a")).await.used.agents, 20);
}

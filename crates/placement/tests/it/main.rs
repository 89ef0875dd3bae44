//! Placement as its callers use it.

use aether_core::api::NodeAmounts;
use aether_core::{AgentId, NodeId};
use aether_placement::*;
use proptest::prelude::{Just, ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};
use proptest::strategy::Strategy as Generator;
use std::collections::{BTreeMap, BTreeSet};

fn amounts(cpu: u64, memory_mb: u64, disk_mb: u64) -> NodeAmounts {
    NodeAmounts { cpu_millicores: cpu, memory_mb, disk_mb }
}

fn id(n: u32) -> String {
    format!("c0{n:016}")
}

fn node(n: u32, capacity: NodeAmounts, reserved: NodeAmounts) -> Node {
    Node {
        id: format!("nod{}", id(n)).parse().expect("an id"),
        ready: true,
        isolation: "vm-kvm".to_owned(),
        labels: BTreeMap::from([("zone".to_owned(), if n.is_multiple_of(2) { "even" } else { "odd" }.to_owned())]),
        capacity,
        reserved,
    }
}

fn request(need: NodeAmounts) -> Request {
    Request {
        agent: format!("agt{}", id(1)).parse::<AgentId>().expect("an id"),
        amounts: need,
        pinned: None,
        selector: BTreeMap::new(),
        isolation: BTreeSet::new(),
    }
}

fn policy(strategy: Strategy) -> Policy {
    Policy { strategy, ..Policy::default() }
}

fn chosen(strategy: Strategy, request: &Request, nodes: &[Node]) -> Option<NodeId> {
    place(policy(strategy), request, nodes).node().cloned()
}

const ROOMY: NodeAmounts = NodeAmounts { cpu_millicores: 8000, memory_mb: 8192, disk_mb: 100_000 };

#[test]
fn strategies_rank_as_documented() {
    let empty = node(1, ROOMY, amounts(0, 0, 0));
    let half = node(2, ROOMY, amounts(4000, 4096, 50_000));
    let tight = node(3, amounts(1000, 512, 1024), amounts(0, 0, 0));
    let nodes = [empty.clone(), half.clone(), tight.clone()];
    let need = request(amounts(1000, 512, 1024));
    assert_eq!(chosen(Strategy::BinPacking, &need, &nodes), Some(half.id));
    assert_eq!(chosen(Strategy::Spread, &need, &nodes), Some(empty.id), "of the empty ones the one with more memory");
    assert_eq!(chosen(Strategy::BestFit, &need, &nodes), Some(tight.id));
}

#[test]
fn weights_of_cpu_alone_give_the_earlier_ranking() {
    let cpu_full = node(1, ROOMY, amounts(6000, 0, 0));
    let memory_full = node(2, ROOMY, amounts(1000, 7000, 90_000));
    let need = request(amounts(100, 128, 1024));
    let nodes = [cpu_full.clone(), memory_full.clone()];
    assert_eq!(chosen(Strategy::BinPacking, &need, &nodes), Some(memory_full.id));
    let weights = Weights { cpu: 1, memory: 0, disk: 0 };
    let decision = place(Policy { strategy: Strategy::BinPacking, weights }, &need, &nodes);
    assert_eq!(decision.node(), Some(&cpu_full.id));
}

#[test]
fn ties_go_to_memory_then_disk_then_the_lowest_id() {
    let base = amounts(1000, 1000, 1000);
    let none = amounts(0, 0, 0);
    let need = request(amounts(1, 1, 1));
    let more_memory = [node(1, base, none), node(2, amounts(1000, 2000, 1000), none)];
    assert_eq!(chosen(Strategy::Spread, &need, &more_memory), Some(more_memory[1].id.clone()));
    let more_disk = [node(1, base, none), node(2, amounts(1000, 1000, 2000), none)];
    assert_eq!(chosen(Strategy::Spread, &need, &more_disk), Some(more_disk[1].id.clone()));
    let equal = [node(9, base, none), node(3, base, none), node(5, base, none)];
    for strategy in [Strategy::BinPacking, Strategy::Spread, Strategy::BestFit] {
        assert_eq!(chosen(strategy, &need, &equal), Some(equal[1].id.clone()), "{strategy:?}");
    }
}

#[test]
fn every_filter_is_named_with_its_count() {
    let full = |cpu, memory, disk| node(20, ROOMY, amounts(cpu, memory, disk));
    let mut nodes = vec![full(8000, 0, 0), full(0, 8192, 0), full(0, 0, 100_000), full(0, 0, 100_000)];
    nodes.push(Node { ready: false, ..node(4, ROOMY, amounts(0, 0, 0)) });
    nodes.push(Node { isolation: "vm-emulated".to_owned(), ..node(6, ROOMY, amounts(0, 0, 0)) });
    nodes.push(node(7, ROOMY, amounts(0, 0, 0)));
    let mut need = request(amounts(1000, 512, 1024));
    need.isolation = BTreeSet::from(["vm-kvm".to_owned()]);
    need.selector = BTreeMap::from([("zone".to_owned(), "even".to_owned())]);
    let decision = place(Policy::default(), &need, &nodes);
    assert_eq!(
        decision.reason(),
        "none of 7 nodes fits: 1 not ready, 1 isolation not allowed, 1 labels do not match, 1 not enough CPU, \
         1 not enough memory, 2 not enough disk"
    );
    assert_eq!(place(Policy::default(), &need, &[]).reason(), "there is no node");
    nodes.push(node(8, ROOMY, amounts(0, 0, 0)));
    assert_eq!(place(Policy::default(), &need, &nodes).reason(), "the only one of 8 nodes that fits");
}

#[test]
fn a_pinned_agent_goes_to_its_disk_or_nowhere() {
    // Its disk fills the node; only CPU and memory are asked for again.
    let home = node(2, ROOMY, amounts(0, 0, 100_000));
    let other = node(1, ROOMY, amounts(0, 0, 0));
    let nodes = [other.clone(), home.clone()];
    let mut need = request(amounts(1000, 512, 1024));
    need.pinned = Some(home.id.clone());
    assert_eq!(chosen(Strategy::BinPacking, &need, &nodes), Some(home.id.clone()));
    let away = [other, Node { ready: false, ..home }];
    let decision = place(Policy::default(), &need, &away);
    assert_eq!(decision.reason(), "none of 2 nodes fits: 1 not the node that holds its disk, 1 not ready");
}

#[test]
fn an_impossible_request_blocks_nobody() {
    let nodes = [node(1, amounts(1_000_000, 1_000_000, 10_000_000), amounts(0, 0, 0))];
    let mut requests = vec![request(amounts(2_000_000, 1, 1))];
    requests.extend((0..1000).map(|_| request(amounts(1000, 512, 1024))));
    let decisions = place_all(Policy::default(), &requests, &nodes);
    assert!(decisions[0].node().is_none());
    assert_eq!(decisions.iter().filter(|d| d.node().is_some()).count(), 1000);
}

#[test]
fn a_fleet_heavy_on_memory_balances() {
    let nodes: Vec<_> = (1..=4).map(|n| node(n, ROOMY, amounts(0, 0, 0))).collect();
    let requests = vec![request(amounts(10, 1024, 1024)); 32];
    let decisions = place_all(policy(Strategy::Spread), &requests, &nodes);
    for node in &nodes {
        assert_eq!(decisions.iter().filter(|d| d.node() == Some(&node.id)).count(), 8);
    }
}

fn any_amounts() -> impl Generator<Value = NodeAmounts> {
    (0..10_000u64, 0..10_000u64, 0..10_000u64).prop_map(|(c, m, d)| amounts(c, m, d))
}

fn any_fleet() -> impl Generator<Value = Vec<Node>> {
    let one = (any_amounts(), any_amounts(), any::<bool>());
    prop::collection::vec(one, 0..12).prop_map(|all| {
        let made = all.into_iter().enumerate();
        made.map(|(i, (capacity, reserved, ready))| Node { ready, ..node(i as u32, capacity, reserved) }).collect()
    })
}

fn any_strategy() -> impl Generator<Value = Strategy> {
    prop::sample::select(vec![Strategy::BinPacking, Strategy::Spread, Strategy::BestFit])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A thousand shuffles: the same node and the same words.
    #[test]
    fn the_order_of_nodes_does_not_matter(
        (fleet, shuffled) in any_fleet().prop_flat_map(|f| (Just(f.clone()), Just(f).prop_shuffle())),
        need in any_amounts(),
        strategy in any_strategy(),
    ) {
        let need = request(need);
        prop_assert_eq!(place(policy(strategy), &need, &fleet), place(policy(strategy), &need, &shuffled));
    }

    /// What is chosen fits, is ready, and no other is better by the rule;
    /// what waits fits nowhere.
    #[test]
    fn the_choice_is_sound_and_best(fleet in any_fleet(), need in any_amounts(), strategy in any_strategy()) {
        let need = request(need);
        let fits = |n: &Node| {
            let free = n.free();
            n.ready && need.amounts.cpu_millicores <= free.cpu_millicores
                && need.amounts.memory_mb <= free.memory_mb && need.amounts.disk_mb <= free.disk_mb
        };
        let decision = place(policy(strategy), &need, &fleet);
        let fitting: Vec<_> = fleet.iter().filter(|n| fits(n)).collect();
        match decision.node() {
            None => prop_assert!(fitting.is_empty()),
            Some(id) => {
                let best = fitting.iter().find(|n| n.id == *id);
                prop_assert!(best.is_some());
                let waste = |n: &Node| {
                    let f = n.free();
                    (f.cpu_millicores - need.amounts.cpu_millicores) / 10 + (f.memory_mb - need.amounts.memory_mb)
                        + (f.disk_mb - need.amounts.disk_mb) / 100
                };
                if strategy == Strategy::BestFit {
                    prop_assert!(fitting.iter().all(|n| waste(n) >= waste(best.expect("is there"))));
                }
            }
        }
    }

    /// However many are placed at once, no node is filled beyond capacity.
    #[test]
    fn many_at_once_never_exceed_a_node(
        fleet in any_fleet(),
        needs in prop::collection::vec(any_amounts(), 0..40),
        strategy in any_strategy(),
    ) {
        let requests: Vec<_> = needs.iter().map(|n| request(*n)).collect();
        let decisions = place_all(policy(strategy), &requests, &fleet);
        prop_assert_eq!(decisions.len(), requests.len());
        for node in &fleet {
            let mine = || decisions.iter().zip(&needs).filter(|(d, _)| d.node() == Some(&node.id)).map(|(_, n)| n);
            let free = node.free();
            prop_assert!(mine().map(|n| n.cpu_millicores).sum::<u64>() <= free.cpu_millicores);
            prop_assert!(mine().map(|n| n.memory_mb).sum::<u64>() <= free.memory_mb);
            prop_assert!(mine().map(|n| n.disk_mb).sum::<u64>() <= free.disk_mb);
        }
    }
}

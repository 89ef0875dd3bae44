//! The decision: filter, score, break ties.

use crate::explain::{Tally, removed_by};
use crate::{Decision, Node, Policy, Request, Strategy, Weights};
use std::cmp::Reverse;

/// Utilisation is compared in parts per million of whole numbers: floating
/// point would make ties depend on rounding.
const PPM: u128 = 1_000_000;

/// Chooses a node for one request.
pub fn place(policy: Policy, request: &Request, nodes: &[Node]) -> Decision {
    let mut tally = Tally::default();
    let mut fitting = Vec::new();
    for node in nodes {
        match removed_by(request, node) {
            Some(filter) => tally.count(filter),
            None => fitting.push(node),
        }
    }
    let best = fitting.iter().min_by_key(|node| {
        let free = node.free();
        (score(policy, request, node), Reverse(free.memory_mb), Reverse(free.disk_mb), &node.id)
    });
    match best {
        Some(node) => Decision::Place { node: node.id.clone(), reason: reason(policy, fitting.len(), nodes.len()) },
        None if nodes.is_empty() => Decision::Wait { reason: "there is no node".to_owned() },
        None => Decision::Wait { reason: format!("none of {} nodes fits: {tally}", nodes.len()) },
    }
}

/// Decides for many, in their order, each on what the ones before it left.
/// One that does not fit blocks nobody.
pub fn place_all(policy: Policy, requests: &[Request], nodes: &[Node]) -> Vec<Decision> {
    let mut nodes = nodes.to_vec();
    requests
        .iter()
        .map(|request| {
            let decision = place(policy, request, &nodes);
            if let Some(node) = decision.node().and_then(|id| nodes.iter_mut().find(|n| n.id == *id)) {
                let need = request.amounts;
                node.reserved.cpu_millicores += need.cpu_millicores;
                node.reserved.memory_mb += need.memory_mb;
                node.reserved.disk_mb += if request.pinned.is_some() { 0 } else { need.disk_mb };
            }
            decision
        })
        .collect()
}

fn reason(policy: Policy, fitting: usize, all: usize) -> String {
    let why = match policy.strategy {
        Strategy::BinPacking => "the fullest",
        Strategy::Spread => "the emptiest",
        Strategy::BestFit => "the least left over",
    };
    match fitting {
        1 => format!("the only one of {all} nodes that fits"),
        _ => format!("{why} of {fitting} nodes that fit, of {all}"),
    }
}

/// Lower is better.
fn score(policy: Policy, request: &Request, node: &Node) -> i128 {
    let signed = |n: u128| i128::try_from(n).unwrap_or(i128::MAX);
    match policy.strategy {
        Strategy::BinPacking => -signed(utilisation(policy.weights, node)),
        Strategy::Spread => signed(utilisation(policy.weights, node)),
        Strategy::BestFit => signed(waste(policy.weights, request, node)),
    }
}

/// The weighted mean of the three utilisations of the node as it stands.
fn utilisation(weights: Weights, node: &Node) -> u128 {
    let share = |used: u64, all: u64| {
        if all == 0 { PPM } else { u128::from(used.min(all)) * PPM / u128::from(all) }
    };
    let (r, c) = (node.reserved, node.capacity);
    let parts = [
        (weights.cpu, share(r.cpu_millicores, c.cpu_millicores)),
        (weights.memory, share(r.memory_mb, c.memory_mb)),
        (weights.disk, share(r.disk_mb, c.disk_mb)),
    ];
    let total: u128 = parts.iter().map(|(w, _)| u128::from(*w)).sum();
    let weighted: u128 = parts.iter().map(|(w, s)| u128::from(*w) * s).sum();
    weighted.checked_div(total).unwrap_or(0)
}

/// What would be left over, in whole numbers of comparable size.
fn waste(weights: Weights, request: &Request, node: &Node) -> u128 {
    let (free, need) = (node.free(), request.amounts);
    let part = |weight: u32, free: u64, need: u64, unit: u64| {
        u128::from(weight) * u128::from(free.saturating_sub(need) / unit)
    };
    // A pinned agent's disk is inside the node's reservations already.
    let disk = if request.pinned.is_some() { 0 } else { need.disk_mb };
    part(weights.cpu, free.cpu_millicores, need.cpu_millicores, 10)
        + part(weights.memory, free.memory_mb, need.memory_mb, 1)
        + part(weights.disk, free.disk_mb, disk, 100)
}

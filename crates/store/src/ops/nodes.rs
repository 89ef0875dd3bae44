//! Nodes: what they say of themselves, their lease, and its end.

use super::agent_row::{self, Trace};
use super::{audit, events, leadership, reservation};
use crate::error::StoreError;
use crate::model::{AgentRow, Epoch, HeartbeatRow, NodeHelloRow, NodeRow, NodeStatus};
use crate::tx::{Context, Row, Tx, params, query_one, to_json};
use aether_core::api::NodeAmounts;
use aether_core::state::{Desired, Observed, Owner, may_move};
use aether_core::{AgentId, NodeId, TenantScope, Timestamp};
use serde_json::json;
use std::time::Duration;

const COLUMNS: &str =
    "id, status, version, node_epoch, features, labels, engine, isolation, data_address, capacity_cpu,
    capacity_mem, capacity_disk, reserved_cpu, reserved_mem, reserved_disk, boots_queued, boots_running, sandboxes,
    memory_free_mb, disk_free_mb, registered_ms, lease_renewed_ms";

/// The part of a node's row that decisions need.
pub(crate) struct Locked {
    pub(crate) status: NodeStatus,
    pub(crate) node_epoch: u64,
}

fn status_of(row: &Row) -> Result<NodeStatus, StoreError> {
    NodeStatus::from_text(&row.text("status")?).ok_or_else(|| StoreError::internal("a node has an unknown status"))
}

pub(crate) async fn lock(tx: &mut dyn Tx, id: &NodeId) -> Result<Option<Locked>, StoreError> {
    let sql = format!("SELECT status, node_epoch FROM scheduler_nodes WHERE id = $1{}", tx.dialect().for_update());
    let Some(row) = query_one(tx, &sql, params![id.as_str()]).await? else { return Ok(None) };
    Ok(Some(Locked { status: status_of(&row)?, node_epoch: row.uint("node_epoch")? }))
}

/// Locks the node's row for its own present run, and for no earlier one.
pub(crate) async fn lock_epoch(tx: &mut dyn Tx, id: &NodeId, node_epoch: u64) -> Result<NodeStatus, StoreError> {
    let node = lock(tx, id).await?.ok_or(StoreError::NotFound { what: "node" })?;
    if node.node_epoch != node_epoch {
        return Err(StoreError::Fenced { held: node_epoch, current: node.node_epoch });
    }
    Ok(node.status)
}

/// A hello. Reservations are not the node's to say, and stay as they are.
pub(crate) async fn register(tx: &mut dyn Tx, cx: &Context, hello: &NodeHelloRow) -> Result<(), StoreError> {
    let known = lock(tx, &hello.node_id).await?;
    if let Some(node) = &known
        && hello.node_epoch < node.node_epoch
    {
        return Err(StoreError::Fenced { held: hello.node_epoch, current: node.node_epoch });
    }
    let now = cx.now();
    let capacity = hello.capacity;
    tx.execute(
        "INSERT INTO scheduler_nodes (id, status, version, node_epoch, features, labels, engine, isolation, data_address,
            capacity_cpu, capacity_mem, capacity_disk, reserved_cpu, reserved_mem, reserved_disk, boots_queued,
            boots_running, sandboxes, memory_free_mb, disk_free_mb, registered_ms, lease_renewed_ms)
         VALUES ($1, 'ready', $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, 0, 0, 0, 0, 0, 0, 0, $12, $12)
         ON CONFLICT (id) DO UPDATE SET version = $2, node_epoch = $3, features = $4, labels = $5, engine = $6,
            isolation = $7, data_address = $8, capacity_cpu = $9, capacity_mem = $10, capacity_disk = $11,
            registered_ms = $12, lease_renewed_ms = $12,
            status = CASE WHEN scheduler_nodes.status = 'lost' THEN 'ready' ELSE scheduler_nodes.status END
         WHERE scheduler_nodes.node_epoch <= $3",
        params![
            hello.node_id.as_str(),
            &hello.version,
            hello.node_epoch,
            to_json(&hello.features)?,
            to_json(&hello.labels)?,
            &hello.engine,
            &hello.isolation,
            hello.data_address.as_deref(),
            capacity.cpu_millicores,
            capacity.memory_mb,
            capacity.disk_mb,
            now,
        ],
    )
    .await?;
    let data = json!({ "epoch": hello.node_epoch, "engine": &hello.engine, "isolation": &hello.isolation });
    events::of_node(tx, cx, &hello.node_id, "node.registered", &data).await?;
    audit::platform(tx, cx, "system:node", "register", "node", hello.node_id.as_str(), data).await
}

/// A heartbeat. Brings a lost node back; true: this one did.
pub(crate) async fn renew(
    tx: &mut dyn Tx,
    cx: &Context,
    id: &NodeId,
    (node_epoch, beat): (u64, HeartbeatRow),
) -> Result<bool, StoreError> {
    let before = lock_epoch(tx, id, node_epoch).await?;
    tx.execute(
        "UPDATE scheduler_nodes SET lease_renewed_ms = $1, boots_queued = $2, boots_running = $3, sandboxes = $4,
            memory_free_mb = $5, disk_free_mb = $6, status = CASE WHEN status = 'lost' THEN 'ready' ELSE status END
         WHERE id = $7",
        params![
            cx.now(),
            beat.boots_queued,
            beat.boots_running,
            beat.sandboxes,
            beat.memory_free_mb,
            beat.disk_free_mb,
            id.as_str(),
        ],
    )
    .await?;
    let back = before == NodeStatus::Lost;
    if back {
        events::of_node(tx, cx, id, "node.ready", &json!({})).await?;
        audit::platform(tx, cx, "system:node", "recover", "node", id.as_str(), json!({})).await?;
    }
    Ok(back)
}

pub(crate) async fn list(tx: &mut dyn Tx) -> Result<Vec<NodeRow>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS}, (SELECT count(*) FROM agent_placements p WHERE p.node_id = scheduler_nodes.id) AS agents
         FROM scheduler_nodes ORDER BY id"
    );
    tx.query(&sql, Vec::new()).await?.iter().map(decode).collect()
}

fn decode(row: &Row) -> Result<NodeRow, StoreError> {
    let amounts = |cpu: &str, mem: &str, disk: &str| -> Result<NodeAmounts, StoreError> {
        Ok(NodeAmounts { cpu_millicores: row.uint(cpu)?, memory_mb: row.uint(mem)?, disk_mb: row.uint(disk)? })
    };
    Ok(NodeRow {
        id: row.parse("id")?,
        status: status_of(row)?,
        version: row.text("version")?,
        node_epoch: row.uint("node_epoch")?,
        features: row.json("features")?,
        capacity: amounts("capacity_cpu", "capacity_mem", "capacity_disk")?,
        reserved: amounts("reserved_cpu", "reserved_mem", "reserved_disk")?,
        agents: row.uint("agents")?,
        labels: row.json("labels")?,
        engine: row.text("engine")?,
        isolation: row.text("isolation")?,
        data_address: row.text_opt("data_address")?,
        heartbeat: HeartbeatRow {
            boots_queued: row.small("boots_queued")?,
            boots_running: row.small("boots_running")?,
            sandboxes: row.small("sandboxes")?,
            memory_free_mb: row.uint("memory_free_mb")?,
            disk_free_mb: row.uint("disk_free_mb")?,
        },
        registered_at: row.time("registered_ms")?,
        lease_renewed_at: row.time("lease_renewed_ms")?,
    })
}

/// Marks nodes whose lease is over, and what they hold, as lost: over now, and
/// when the caller saw the clock.
pub(crate) async fn expire(
    tx: &mut dyn Tx,
    cx: &Context,
    epoch: &Epoch,
    lease: Duration,
    seen: Timestamp,
) -> Result<Vec<AgentId>, StoreError> {
    leadership::check(tx, epoch).await?;
    let oldest = cx.now().min(seen).minus(lease).unix_ms();
    let sql = format!(
        "SELECT id FROM scheduler_nodes WHERE status <> 'lost' AND lease_renewed_ms < $1 ORDER BY id{}",
        tx.dialect().for_update()
    );
    let mut lost = Vec::new();
    for row in tx.query(&sql, params![oldest]).await? {
        let node: NodeId = row.parse("id")?;
        tx.execute("UPDATE scheduler_nodes SET status = 'lost' WHERE id = $1", params![node.as_str()]).await?;
        events::of_node(tx, cx, &node, "node.lost", &json!({})).await?;
        audit::platform(tx, cx, "system:scheduler", "lose", "node", node.as_str(), json!({})).await?;
        lost.extend(lose_agents(tx, cx, &node).await?);
    }
    Ok(lost)
}

/// Deleted while it waited for this node to begin: nobody else can confirm it.
async fn end_unbegun(tx: &mut dyn Tx, cx: &Context, before: AgentRow) -> Result<(), StoreError> {
    reservation::release_all(tx, &before.id).await?;
    let data = json!({ "from": before.observed.as_str(), "to": "gone" });
    let agent = AgentRow { observed: Observed::Gone, ..before.clone() };
    let scope = TenantScope::system(agent.tenant.clone(), "scheduler");
    agent_row::save(tx, cx, &scope, &before, agent, Trace { event: "agent.gone", data, action: Some("erase") }).await?;
    Ok(())
}

async fn lose_agents(tx: &mut dyn Tx, cx: &Context, node: &NodeId) -> Result<Vec<AgentId>, StoreError> {
    let sql = "SELECT id FROM agents WHERE node_id = $1 AND observed <> 'gone' ORDER BY id";
    let mut lost = Vec::new();
    for row in tx.query(sql, params![node.as_str()]).await? {
        let id: AgentId = row.parse("id")?;
        let Some((before, _)) = agent_row::lock_any(tx, &id).await? else { continue };
        if before.desired == Desired::Gone && agent_row::never_begun(tx, &before).await? {
            end_unbegun(tx, cx, before).await?;
            continue;
        }
        // Stopped ones lose nothing but the way to their disk.
        if before.observed == Observed::Lost || !may_move(before.observed, Observed::Lost, Owner::Control) {
            continue;
        }
        let data = json!({ "from": before.observed.as_str(), "to": "lost", "node": node.as_str() });
        let agent = AgentRow { observed: Observed::Lost, queue_position: None, ..before.clone() };
        let scope = TenantScope::system(agent.tenant.clone(), "scheduler");
        agent_row::save(tx, cx, &scope, &before, agent, Trace { event: "agent.observed", data, action: Some("lose") })
            .await?;
        lost.push(id);
    }
    Ok(lost)
}

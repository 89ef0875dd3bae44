//! What agents hold on nodes. `agent_placements` says it per agent, the
//! node's row holds the sums; both change together, under the node's lock.

use crate::error::StoreError;
use crate::model::AgentRow;
use crate::tx::{Context, Tx, params, query_one};
use aether_core::api::NodeAmounts;
use aether_core::{AgentId, NodeId};

/// What the agent holds now; `None`: nothing, nowhere.
async fn held(tx: &mut dyn Tx, agent: &AgentId) -> Result<Option<(NodeId, NodeAmounts)>, StoreError> {
    let sql = "SELECT node_id, cpu, mem, disk FROM agent_placements WHERE agent_id = $1";
    let Some(row) = query_one(tx, sql, params![agent.as_str()]).await? else { return Ok(None) };
    let amounts =
        NodeAmounts { cpu_millicores: row.uint("cpu")?, memory_mb: row.uint("mem")?, disk_mb: row.uint("disk")? };
    Ok(Some((row.parse("node_id")?, amounts)))
}

fn wanted(agent: &AgentRow) -> NodeAmounts {
    let r = agent.spec.resources.with_defaults();
    NodeAmounts { cpu_millicores: r.cpu_millicores(), memory_mb: r.memory_mb, disk_mb: r.disk_mb }
}

/// Reserves what the agent lacks on the node: all, or CPU and memory where
/// its disk is there. The first write; refuses before it.
pub(crate) async fn reserve(tx: &mut dyn Tx, cx: &Context, agent: &AgentRow, node: &NodeId) -> Result<(), StoreError> {
    let all = wanted(agent);
    let has = match held(tx, &agent.id).await? {
        Some((at, amounts)) if at == *node => amounts,
        Some((at, _)) => return Err(StoreError::NoRoom { detail: format!("its disk is on {at}") }),
        None => NodeAmounts::default(),
    };
    let (cpu, mem, disk) = (
        all.cpu_millicores.saturating_sub(has.cpu_millicores),
        all.memory_mb.saturating_sub(has.memory_mb),
        all.disk_mb.saturating_sub(has.disk_mb),
    );
    // A restarted agent adds no disk: a node that shrank keeps it.
    let fits = tx
        .execute(
            "UPDATE scheduler_nodes SET reserved_cpu = reserved_cpu + $1, reserved_mem = reserved_mem + $2,
                reserved_disk = reserved_disk + $3
             WHERE id = $4 AND reserved_cpu + $1 <= capacity_cpu AND reserved_mem + $2 <= capacity_mem
                AND ($3 = 0 OR reserved_disk + $3 <= capacity_disk)",
            params![cpu, mem, disk, node.as_str()],
        )
        .await?;
    if fits != 1 {
        let detail = format!("{cpu} millicores, {mem} MB memory and {disk} MB disk do not fit");
        return Err(StoreError::NoRoom { detail });
    }
    tx.execute(
        "INSERT INTO agent_placements (agent_id, tenant_id, node_id, cpu, mem, disk, placed_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (agent_id) DO UPDATE SET cpu = $4, mem = $5, disk = $6, placed_ms = $7",
        params![
            agent.id.as_str(),
            agent.tenant.as_str(),
            node.as_str(),
            all.cpu_millicores,
            all.memory_mb,
            all.disk_mb,
            cx.now(),
        ],
    )
    .await?;
    Ok(())
}

/// Gives back CPU and memory and keeps the disk. A second time changes
/// nothing.
pub(crate) async fn release_compute(tx: &mut dyn Tx, agent: &AgentId) -> Result<(), StoreError> {
    let Some((node, held)) = held(tx, agent).await? else { return Ok(()) };
    give_back(tx, &node, NodeAmounts { disk_mb: 0, ..held }).await?;
    tx.execute("UPDATE agent_placements SET cpu = 0, mem = 0 WHERE agent_id = $1", params![agent.as_str()]).await?;
    Ok(())
}

/// Gives back everything. A second time changes nothing.
pub(crate) async fn release_all(tx: &mut dyn Tx, agent: &AgentId) -> Result<(), StoreError> {
    let Some((node, held)) = held(tx, agent).await? else { return Ok(()) };
    give_back(tx, &node, held).await?;
    tx.execute("DELETE FROM agent_placements WHERE agent_id = $1", params![agent.as_str()]).await?;
    Ok(())
}

async fn give_back(tx: &mut dyn Tx, node: &NodeId, amounts: NodeAmounts) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE scheduler_nodes SET reserved_cpu = reserved_cpu - $1, reserved_mem = reserved_mem - $2,
            reserved_disk = reserved_disk - $3 WHERE id = $4",
        params![amounts.cpu_millicores, amounts.memory_mb, amounts.disk_mb, node.as_str()],
    )
    .await?;
    Ok(())
}

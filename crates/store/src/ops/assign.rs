//! What a node is to do: its agents, with their env in clear.

use super::agent_row::{COLUMNS, decode};
use super::agents::open_env;
use crate::error::StoreError;
use crate::model::Assignment;
use crate::tx::{Context, Tx, Value, params};
use aether_core::state::Desired;
use aether_core::{AgentId, NodeId};

/// Every agent on the node that is not confirmed gone, or those named.
pub(crate) async fn assignments(
    tx: &mut dyn Tx,
    cx: &Context,
    node: &NodeId,
    among: Option<&[AgentId]>,
) -> Result<Vec<Assignment>, StoreError> {
    let mut values = params![node.as_str()];
    let mut narrowed = String::new();
    if let Some(ids) = among {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let marks: Vec<_> = ids.iter().enumerate().map(|(i, _)| format!("${}", i + 2)).collect();
        values.extend(ids.iter().map(|id| Value::from(id.as_str())));
        narrowed = format!(" AND id IN ({})", marks.join(", "));
    }
    let sql = format!(
        "SELECT {COLUMNS}, env_sealed FROM agents WHERE node_id = $1 AND observed <> 'gone'{narrowed} ORDER BY id"
    );
    let rows = tx.query(&sql, values).await?;
    rows.iter()
        .map(|row| {
            let agent = decode(row)?;
            let env = open_env(cx, &agent, row.bytes_opt("env_sealed")?.as_deref())?;
            // Until room is reserved again the node only keeps the disk.
            let waits = !agent.assigned && agent.desired == Desired::Running;
            let desired = if waits { Desired::Stopped } else { agent.desired };
            Ok(Assignment { agent, desired, env })
        })
        .collect()
}

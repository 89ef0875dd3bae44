//! The fence of the control plane: one row whose epoch only rises.

use crate::error::StoreError;
use crate::model::{Epoch, LeadershipRow};
use crate::tx::{Context, Tx, params, query_one};

/// Whoever calls this leads; everyone before is fenced.
pub(crate) async fn take(tx: &mut dyn Tx, cx: &Context, server_id: &str) -> Result<Epoch, StoreError> {
    let row = query_one(
        tx,
        "UPDATE control_epoch SET epoch = epoch + 1, server_id = $1, renewed_ms = $2 WHERE id = 1 RETURNING epoch",
        params![server_id, cx.now()],
    )
    .await?;
    let row = row.ok_or_else(|| StoreError::internal("the row of the epoch is missing"))?;
    Ok(Epoch { value: row.uint("epoch")? })
}

pub(crate) async fn renew(tx: &mut dyn Tx, cx: &Context, epoch: &Epoch) -> Result<(), StoreError> {
    let sql = "UPDATE control_epoch SET renewed_ms = $1 WHERE id = 1 AND epoch = $2";
    match tx.execute(sql, params![cx.now(), epoch.value]).await? {
        1 => Ok(()),
        _ => check(tx, epoch).await,
    }
}

/// Reads the epoch in the caller's transaction and holds it to its end: a
/// takeover waits for this write, or this write sees the takeover.
pub(crate) async fn check(tx: &mut dyn Tx, epoch: &Epoch) -> Result<(), StoreError> {
    let sql = format!("SELECT epoch FROM control_epoch WHERE id = 1{}", tx.dialect().for_share());
    let row = query_one(tx, &sql, Vec::new()).await?;
    let current = row.ok_or_else(|| StoreError::internal("the row of the epoch is missing"))?.uint("epoch")?;
    if current == epoch.value { Ok(()) } else { Err(StoreError::Fenced { held: epoch.value, current }) }
}

pub(crate) async fn read(tx: &mut dyn Tx) -> Result<LeadershipRow, StoreError> {
    let row = query_one(tx, "SELECT epoch, server_id, renewed_ms FROM control_epoch WHERE id = 1", Vec::new()).await?;
    let row = row.ok_or_else(|| StoreError::internal("the row of the epoch is missing"))?;
    Ok(LeadershipRow {
        epoch: row.uint("epoch")?,
        server_id: row.text_opt("server_id")?,
        renewed_at: row.time("renewed_ms")?,
    })
}

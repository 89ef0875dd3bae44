//! Signed heads of chains, and what retention removes below them. The
//! signatures are the control plane's; here they are numbered and kept, each
//! write fenced by the leader's epoch.

use super::audit_chain::{HEAD, chain_of, decode_head, head};
use super::audit_export::{hash_at, kept};
use super::leadership;
use crate::error::StoreError;
use crate::model::{AuditCut, AuditHead, Epoch, KeptDigest};
use crate::tx::{Tx, params, query_one, to_json};
use aether_core::Timestamp;
use aether_core::audit::{Digest, DigestKind};

/// Chains that grew since their last digest.
pub(crate) async fn undigested(tx: &mut dyn Tx, limit: u32) -> Result<Vec<AuditHead>, StoreError> {
    let sql = format!("SELECT {HEAD} FROM audit_heads WHERE position > digest_to ORDER BY chain LIMIT $1");
    tx.query(&sql, params![limit]).await?.iter().map(decode_head).collect()
}

/// Keeps digests in order. One that does not follow what is there is left
/// out: another one of this server was faster.
pub(crate) async fn keep(tx: &mut dyn Tx, epoch: &Epoch, digests: &[Digest]) -> Result<(), StoreError> {
    leadership::check(tx, epoch).await?;
    for digest in digests {
        let head = head(tx, digest.tenant.as_deref()).await?;
        let follows = digest.number == head.digest_number + 1 && digest.previous == head.digest_signature;
        if !follows || digest.to > head.position {
            continue;
        }
        let chain = chain_of(digest.tenant.as_deref());
        let sql = "INSERT INTO audit_digests (id, chain, number, kind, to_position, document)
             SELECT coalesce(max(id), 0) + 1, $1, $2, $3, $4, $5 FROM audit_digests";
        let document = to_json(digest)?;
        tx.execute(sql, params![chain, digest.number, digest.kind.as_str(), digest.to, document]).await?;
        // A cut covers nothing new.
        let to = if digest.kind == DigestKind::Interval { digest.to } else { head.digest_to };
        let sql = "UPDATE audit_heads SET digest_to = $1, digest_number = $2, digest_signature = $3 WHERE chain = $4";
        tx.execute(sql, params![to, digest.number, digest.signature.0.as_slice(), chain]).await?;
    }
    Ok(())
}

/// Digests of all chains after `id`, as they were kept.
pub(crate) async fn after(tx: &mut dyn Tx, id: u64, limit: u32) -> Result<Vec<KeptDigest>, StoreError> {
    let sql = "SELECT id, document FROM audit_digests WHERE id > $1 ORDER BY id LIMIT $2";
    tx.query(sql, params![id, limit]).await?.iter().map(kept).collect()
}

/// What retention may remove of each chain: records from before `cutoff`,
/// from the beginning without a gap, that a digest covers.
pub(crate) async fn cuts(tx: &mut dyn Tx, cutoff: Timestamp) -> Result<Vec<AuditCut>, StoreError> {
    let sql = format!("SELECT {HEAD} FROM audit_heads WHERE digest_to > floor ORDER BY chain");
    let heads: Vec<AuditHead> = tx.query(&sql, Vec::new()).await?.iter().map(decode_head).collect::<Result<_, _>>()?;
    let mut cuts = Vec::new();
    for head in heads {
        let sql = "SELECT c.position FROM audit_chain c JOIN audit_logs a ON a.seq = c.seq
             WHERE c.chain = $1 AND c.position > $2 AND a.at_ms >= $3 ORDER BY c.position LIMIT 1";
        let first_kept = query_one(tx, sql, params![chain_of(head.tenant.as_deref()), head.floor, cutoff]).await?;
        let to = match first_kept {
            Some(row) => row.uint("position")?.saturating_sub(1).min(head.digest_to),
            None => head.digest_to,
        };
        if to <= head.floor {
            continue;
        }
        if let Some(hash) = hash_at(tx, head.tenant.as_deref(), to).await? {
            cuts.push(AuditCut { head, to, hash });
        }
    }
    Ok(cuts)
}

/// Removes one batch of what a kept cut covers; 0: nothing is left of that.
pub(crate) async fn prune(tx: &mut dyn Tx, epoch: &Epoch, tenant: Option<&str>, batch: u32) -> Result<u64, StoreError> {
    leadership::check(tx, epoch).await?;
    let chain = chain_of(tenant);
    let sql = "SELECT max(to_position) AS cut FROM audit_digests WHERE chain = $1 AND kind = 'cut'";
    let cut = query_one(tx, sql, params![chain]).await?.map(|row| row.int_opt("cut")).transpose()?.flatten();
    let Some(cut) = cut.and_then(|n| u64::try_from(n).ok()) else { return Ok(0) };
    let head = head(tx, tenant).await?;
    if cut > head.floor {
        let Some(hash) = hash_at(tx, tenant, cut).await? else { return Ok(0) };
        let sql = "UPDATE audit_heads SET floor = $1, floor_hash = $2 WHERE chain = $3";
        tx.execute(sql, params![cut, hash.0.as_slice(), chain]).await?;
        // Digests below it say nothing any more; the anchors keep them.
        let sql = "DELETE FROM audit_digests WHERE chain = $1 AND number <
             (SELECT min(number) FROM audit_digests WHERE chain = $1 AND to_position >= $2)";
        tx.execute(sql, params![chain, cut]).await?;
    }
    let some = "SELECT seq FROM audit_chain WHERE chain = $1 AND position <= $2 ORDER BY position LIMIT $3";
    let values = || params![chain, cut, batch];
    tx.execute(&format!("DELETE FROM audit_logs WHERE seq IN ({some})"), values()).await?;
    tx.execute(&format!("DELETE FROM audit_chain WHERE seq IN ({some})"), values()).await
}

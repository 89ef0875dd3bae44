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

/// Of one chain, for one cut; what is older than that waits for the next.
const LOOKED_AT: u32 = 1000;

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
        // A cut covers nothing new.
        let to = if digest.kind == DigestKind::Interval { digest.to } else { head.digest_to };
        insert(tx, digest, 0).await?;
        move_head(tx, &head, digest, to).await?;
    }
    Ok(())
}

/// Goes on where anchored digests end that this database, restored from a
/// backup, has not: their numbers, of a chain and of all (`last`), are not
/// given again. One that is not ahead of the chain is left out.
pub(crate) async fn resume(tx: &mut dyn Tx, epoch: &Epoch, digests: &[Digest], last: u64) -> Result<(), StoreError> {
    leadership::check(tx, epoch).await?;
    for digest in digests {
        let head = head(tx, digest.tenant.as_deref()).await?;
        if digest.number <= head.digest_number || digest.to != head.position || digest.head != head.hash {
            continue;
        }
        insert(tx, digest, last).await?;
        move_head(tx, &head, digest, digest.to).await?;
    }
    Ok(())
}

async fn insert(tx: &mut dyn Tx, digest: &Digest, above: u64) -> Result<(), StoreError> {
    let sql = "INSERT INTO audit_digests (id, chain, number, kind, to_position, document)
         SELECT CASE WHEN coalesce(max(id), 0) > $6 THEN max(id) ELSE $6 END + 1, $1, $2, $3, $4, $5 FROM audit_digests";
    let chain = chain_of(digest.tenant.as_deref());
    let values = params![chain, digest.number, digest.kind.as_str(), digest.to, to_json(digest)?, above];
    tx.execute(sql, values).await.map(|_| ())
}

async fn move_head(tx: &mut dyn Tx, head: &AuditHead, digest: &Digest, to: u64) -> Result<(), StoreError> {
    let sql = "INSERT INTO audit_heads
             (chain, position, hash, floor, floor_hash, digest_to, digest_number, digest_signature)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (chain) DO UPDATE SET
             digest_to = excluded.digest_to, digest_number = excluded.digest_number,
             digest_signature = excluded.digest_signature";
    let (hash, floor) = (head.hash.0.as_slice(), head.floor_hash.0.as_slice());
    let chain = chain_of(head.tenant.as_deref());
    let signature = digest.signature.0.as_slice();
    let values = params![chain, head.position, hash, head.floor, floor, to, digest.number, signature];
    tx.execute(sql, values).await.map(|_| ())
}

/// The highest number of a digest, 0 for none.
pub(crate) async fn last(tx: &mut dyn Tx) -> Result<u64, StoreError> {
    let row = query_one(tx, "SELECT coalesce(max(id), 0) AS id FROM audit_digests", Vec::new()).await?;
    row.map_or(Ok(0), |row| row.uint("id"))
}

/// Digests of all chains after `id`, as they were kept.
pub(crate) async fn after(tx: &mut dyn Tx, id: u64, limit: u32) -> Result<Vec<KeptDigest>, StoreError> {
    let sql = "SELECT id, document FROM audit_digests WHERE id > $1 ORDER BY id LIMIT $2";
    tx.query(sql, params![id, limit]).await?.iter().map(kept).collect()
}

/// What retention may remove of each chain: what the newest interval covers
/// that was signed before `cutoff`. The times of records do not count: nobody
/// has signed those.
pub(crate) async fn cuts(tx: &mut dyn Tx, cutoff: Timestamp) -> Result<Vec<AuditCut>, StoreError> {
    let sql = format!("SELECT {HEAD} FROM audit_heads WHERE digest_to > floor ORDER BY chain");
    let heads: Vec<AuditHead> = tx.query(&sql, Vec::new()).await?.iter().map(decode_head).collect::<Result<_, _>>()?;
    let mut cuts = Vec::new();
    for head in heads {
        let sql = "SELECT id, document FROM audit_digests
             WHERE chain = $1 AND kind = 'interval' AND to_position > $2 ORDER BY number LIMIT $3";
        let rows = tx.query(sql, params![chain_of(head.tenant.as_deref()), head.floor, LOOKED_AT]).await?;
        let signed = rows.iter().map(kept).collect::<Result<Vec<_>, _>>()?;
        let Some(signed) = signed.into_iter().take_while(|kept| kept.digest.time < cutoff).last() else { continue };
        if let Some(hash) = hash_at(tx, head.tenant.as_deref(), signed.digest.to).await? {
            cuts.push(AuditCut { head, signed, hash });
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

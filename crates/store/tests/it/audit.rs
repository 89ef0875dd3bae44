//! The audit log and its chains: every record is linked once, in the order in
//! which it may be read, whoever leads and whatever crashes.

use crate::fixture::{Fixture, new_agent, scope};
use aether_core::audit::{Digest, DigestKind, Head, Record, Signer, genesis};
use aether_core::{TenantScope, Timestamp};
use aether_store::*;
use sqlx::Executor;
use std::collections::BTreeSet;
use std::time::Duration;

crate::on_both![
    two_tenants_and_the_platform_have_chains_of_their_own,
    a_fenced_sealer_links_nothing,
    many_writers_and_two_sealers_make_one_chain,
    digests_are_numbered_and_kept_once,
    retention_cuts_what_was_signed_long_ago,
    a_restored_database_goes_on_where_the_anchor_ends,
    pages_are_filtered_and_meet,
];

fn of(scope: &TenantScope) -> AuditOf {
    AuditOf::Tenant(scope.clone())
}

fn entry(action: &str, resource_id: &str) -> AuditEntry {
    AuditEntry {
        action: action.to_owned(),
        resource: "agent".to_owned(),
        resource_id: Some(resource_id.to_owned()),
        result: "success".to_owned(),
        details: serde_json::json!({ "ä": [1, null] }),
        error: None,
    }
}

/// Links until as many are linked: on PostgreSQL transactions of other tests
/// hold them back.
async fn link(fx: &Fixture, epoch: &Epoch, of: &AuditOf, at_least: u64) -> AuditHead {
    for _ in 0..600 {
        while fx.store.audit_link(epoch).await.expect("links") > 0 {}
        let head = fx.store.audit_head(of).await.expect("reads");
        if head.position >= at_least {
            return head;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not {at_least} records are linked");
}

async fn whole(fx: &Fixture, of: &AuditOf) -> Vec<Record> {
    let (mut all, mut position) = (Vec::new(), 0);
    loop {
        let page = fx.store.audit_export(of, position, 7).await.expect("reads");
        let Some(last) = page.linked.last() else { return all };
        position = last.position.expect("linked");
        all.extend(page.linked);
    }
}

/// The chain holds together from its start; its sequences.
fn chained(tenant: Option<&str>, records: &[Record]) -> Vec<u64> {
    let mut prev = genesis(tenant);
    for (n, r) in (1..).zip(records) {
        assert_eq!((r.position, r.prev, r.tenant.as_deref()), (Some(n), Some(prev), tenant));
        prev = r.fields().hash(&prev, n);
        assert_eq!(r.hash, Some(prev), "record {n}");
    }
    records.iter().map(|r| r.sequence).collect()
}

async fn two_tenants_and_the_platform_have_chains_of_their_own(fx: Fixture) {
    let acme = fx.other().await;
    for n in 0..12 {
        let scope = if n % 3 == 0 { &acme } else { &scope() };
        fx.store.audit(scope, entry("read", &format!("a{n}"))).await.expect("writes");
    }
    let before = fx.store.audit_export(&of(&acme), 0, 5).await.expect("reads");
    assert_eq!((before.linked.len(), before.unlinked.len(), before.more), (0, 4, false));
    let epoch = fx.leader().await;
    assert_eq!(link(&fx, &epoch, &of(&acme), 4).await.position, 4);
    assert_eq!(link(&fx, &epoch, &of(&scope()), 8).await.position, 8);
    chained(Some("acme"), &whole(&fx, &of(&acme)).await);
    chained(Some("default"), &whole(&fx, &of(&scope())).await);
    // The tenant was made by nobody's tenant.
    let platform = whole(&fx, &AuditOf::Platform).await;
    chained(None, &platform);
    let rest = fx.store.audit_export(&of(&acme), 4, 3).await.expect("reads");
    assert_eq!((rest.linked.len(), rest.unlinked.len(), rest.more), (0, 0, false));
}

async fn a_fenced_sealer_links_nothing(fx: Fixture) {
    let old = fx.leader().await;
    fx.store.audit(&scope(), entry("read", "a")).await.expect("writes");
    link(&fx, &old, &of(&scope()), 1).await;
    let new = fx.store.take_leadership("other").await.expect("leads");
    fx.store.audit(&scope(), entry("read", "b")).await.expect("writes");
    // On PostgreSQL other tests may hide the record for a while.
    for _ in 0..600 {
        match fx.store.audit_link(&old).await {
            Ok(0) => tokio::time::sleep(Duration::from_millis(50)).await,
            result => {
                assert_eq!(result, Err(StoreError::Fenced { held: old.value(), current: new.value() }));
                break;
            }
        }
    }
    assert_eq!(fx.store.audit_head(&of(&scope())).await.expect("reads").position, 1);
    let digest = sign(&fx.store.audit_head(&of(&scope())).await.expect("reads"), DigestKind::Interval, 1);
    let kept = fx.store.audit_keep_digests(&old, vec![digest]).await;
    assert!(matches!(kept, Err(StoreError::Fenced { .. })), "{kept:?}");
    let pruned = fx.store.audit_prune(&old, Some(scope().tenant())).await;
    assert!(matches!(pruned, Err(StoreError::Fenced { .. })), "{pruned:?}");
    // The next leader goes on where the other was cut off.
    link(&fx, &new, &of(&scope()), 2).await;
    chained(Some("default"), &whole(&fx, &of(&scope())).await);
}

async fn many_writers_and_two_sealers_make_one_chain(fx: Fixture) {
    let epoch = fx.leader().await;
    let mut tasks = Vec::new();
    for w in 0..6 {
        let store = fx.store.clone();
        tasks.push(tokio::spawn(async move {
            for i in 0..20 {
                store.create_agent(&scope(), new_agent(&format!("w{w}-{i}"))).await.expect("creates");
            }
        }));
    }
    // Two of one epoch, as a server that leads twice by mistake.
    let sealers: Vec<_> = (0..2)
        .map(|_| {
            let (store, epoch) = (fx.store.clone(), epoch.clone());
            tokio::spawn(async move {
                for _ in 0..400 {
                    store.audit_link(&epoch).await.expect("links");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        })
        .collect();
    for task in tasks.into_iter().chain(sealers) {
        task.await.expect("runs");
    }
    link(&fx, &epoch, &of(&scope()), 120).await;
    let sequences = chained(Some("default"), &whole(&fx, &of(&scope())).await);
    assert_eq!(sequences.len(), 120);
    assert_eq!(sequences.iter().collect::<BTreeSet<_>>().len(), 120, "each once");
    let rest = fx.store.audit_export(&of(&scope()), 120, 10).await.expect("reads");
    assert!(rest.unlinked.is_empty(), "none is skipped");
}

/// Two sessions write; the second commits first. A sealer that goes by number
/// alone would link the second and never the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_commit_is_linked_in_commit_order_on_postgres() {
    let fx = Fixture::postgres().await;
    let epoch = fx.leader().await;
    let url = fx.url().expect("is PostgreSQL").to_owned();
    let insert = |action: &str| {
        format!(
            "INSERT INTO audit_logs (at_ms, tenant_id, actor, action, resource, result, details)
             VALUES (1, 'default', 'x', '{action}', 'agent', 'success', '{{}}')"
        )
    };
    for round in 0..3u64 {
        let before = fx.store.audit_head(&of(&scope())).await.expect("reads").position;
        let (mut early, mut late) = (crate::postgres::connect(&url).await, crate::postgres::connect(&url).await);
        // The number is taken first by one, the transaction begun first by the other.
        late.execute("BEGIN; SELECT pg_current_xact_id()").await.expect("begins");
        early.execute("BEGIN").await.expect("begins");
        early.execute(insert("first-number").as_str()).await.expect("inserts");
        late.execute(insert("second-number").as_str()).await.expect("inserts");
        early.execute("COMMIT").await.expect("commits");
        while fx.store.audit_link(&epoch).await.expect("links") > 0 {}
        let head = fx.store.audit_head(&of(&scope())).await.expect("reads");
        assert_eq!(head.position, before, "nothing is linked above a transaction that still runs");
        late.execute("COMMIT").await.expect("commits");
        link(&fx, &epoch, &of(&scope()), (round + 1) * 2).await;
        let actions: Vec<String> = whole(&fx, &of(&scope())).await.into_iter().map(|r| r.action).collect();
        assert_eq!(actions[actions.len() - 2..], ["second-number", "first-number"]);
    }
    chained(Some("default"), &whole(&fx, &of(&scope())).await);
}

fn sign(head: &AuditHead, kind: DigestKind, to: u64) -> Digest {
    sign_at(head, kind, to, Timestamp::from_unix_ms(1))
}

fn sign_at(head: &AuditHead, kind: DigestKind, to: u64, time: Timestamp) -> Digest {
    let signer = Signer::from_seed(&[1; 32]).expect("a seed");
    let from = if kind == DigestKind::Cut { head.floor + 1 } else { head.digest_to + 1 };
    signer.sign(Head {
        kind,
        number: head.digest_number + 1,
        tenant: head.tenant.clone(),
        from,
        to,
        unsealed: 0,
        head: head.hash,
        tail: None,
        previous: head.digest_signature,
        time,
    })
}

async fn digests_are_numbered_and_kept_once(fx: Fixture) {
    let epoch = fx.leader().await;
    let acme = fx.other().await;
    for n in 0..3 {
        fx.store.audit(&scope(), entry("read", &format!("{n}"))).await.expect("writes");
        fx.store.audit(&acme, entry("read", &format!("{n}"))).await.expect("writes");
        link(&fx, &epoch, &of(&scope()), n + 1).await;
        link(&fx, &epoch, &of(&acme), n + 1).await;
        let heads = fx.store.audit_undigested(10).await.expect("reads");
        let digests: Vec<Digest> = heads.iter().map(|h| sign(h, DigestKind::Interval, h.position)).collect();
        fx.store.audit_keep_digests(&epoch, digests.clone()).await.expect("keeps");
        // A crash after the commit, and the same once more.
        fx.store.audit_keep_digests(&epoch, digests).await.expect("is no error");
        assert_eq!(fx.store.audit_undigested(10).await, Ok(Vec::new()));
    }
    let mine = fx.store.audit_digests(&of(&acme), 0, 10).await.expect("reads");
    assert_eq!(mine.iter().map(|d| (d.digest.number, d.digest.to)).collect::<Vec<_>>(), [(1, 1), (2, 2), (3, 3)]);
    assert!(mine.iter().all(|d| d.digest.is_sound()));
    let all = fx.store.audit_digests_after(0, 100).await.expect("reads");
    assert_eq!(all.iter().map(|d| d.id).collect::<Vec<_>>(), (1..=all.len() as u64).collect::<Vec<_>>());
    assert_eq!(fx.store.audit_digests_after(all.len() as u64, 100).await, Ok(Vec::new()));
}

async fn retention_cuts_what_was_signed_long_ago(fx: Fixture) {
    let epoch = fx.leader().await;
    let tenant = scope().tenant().clone();
    let cutoff = Timestamp::from_unix_ms(35_000);
    // Signed at 0 s, 20 s and 40 s; when the records say they were written
    // does not count.
    for n in 0..6 {
        fx.store.audit(&scope(), entry("read", &format!("{n}"))).await.expect("writes");
        let head = link(&fx, &epoch, &of(&scope()), n + 1).await;
        assert_eq!(fx.store.audit_cuts(cutoff).await.expect("reads").len(), usize::from(n > 1), "what is signed");
        if n % 2 == 1 {
            let time = Timestamp::from_unix_ms((n - 1) * 10_000);
            fx.store
                .audit_keep_digests(&epoch, vec![sign_at(&head, DigestKind::Interval, n + 1, time)])
                .await
                .expect("keeps");
        }
    }
    let records = whole(&fx, &of(&scope())).await;
    let cuts = fx.store.audit_cuts(cutoff).await.expect("reads");
    let signed = cuts[0].signed.digest.clone();
    assert_eq!(
        (cuts.len(), signed.to, Some(signed.head), Some(cuts[0].hash)),
        (1, 4, records[3].hash, records[3].hash)
    );
    assert_eq!(fx.store.audit_prune(&epoch, Some(&tenant)).await, Ok(0), "nothing without a kept cut");
    let cut = sign(&AuditHead { hash: cuts[0].hash, ..cuts[0].head.clone() }, DigestKind::Cut, 4);
    fx.store.audit_keep_digests(&epoch, vec![cut]).await.expect("keeps");
    assert_eq!(fx.store.audit_prune(&epoch, Some(&tenant)).await, Ok(4));
    assert_eq!(fx.store.audit_prune(&epoch, Some(&tenant)).await, Ok(0));
    let left = whole(&fx, &of(&scope())).await;
    assert_eq!(
        left.iter().map(|r| (r.position, r.prev, r.hash)).collect::<Vec<_>>(),
        records[4..].iter().map(|r| (r.position, r.prev, r.hash)).collect::<Vec<_>>()
    );
    assert_eq!(
        fx.store.audit_list(&scope(), AuditFilter { limit: 100, ..AuditFilter::default() }).await.map(|r| r.len()),
        Ok(2)
    );
    // The chain goes on as if nothing had been removed.
    fx.store.audit(&scope(), entry("read", "7")).await.expect("writes");
    assert_eq!(link(&fx, &epoch, &of(&scope()), 7).await.position, 7);
    assert_eq!(whole(&fx, &of(&scope())).await.last().expect("the new one").prev, records[5].hash);
    let late = fx.store.audit_cuts(Timestamp::from_unix_ms(u64::MAX)).await.expect("reads");
    assert_eq!(late[0].signed.digest.to, 6, "what no digest covers stays");
}

async fn a_restored_database_goes_on_where_the_anchor_ends(fx: Fixture) {
    let epoch = fx.leader().await;
    fx.store.audit(&scope(), entry("read", "a")).await.expect("writes");
    let head = link(&fx, &epoch, &of(&scope()), 1).await;
    fx.store.audit_keep_digests(&epoch, vec![sign(&head, DigestKind::Interval, 1)]).await.expect("keeps");
    let head = fx.store.audit_head(&of(&scope())).await.expect("reads");
    // The anchor file has four more of this chain, and twenty of all.
    let lost = AuditHead { digest_number: 5, ..head.clone() };
    let went_on = sign(&lost, DigestKind::Restored, 1);
    let elsewhere = AuditHead { tenant: Some("unknown".into()), position: 0, ..lost.clone() };
    let elsewhere = AuditHead { hash: genesis(Some("unknown")), ..elsewhere };
    let ahead = vec![went_on.clone(), sign(&elsewhere, DigestKind::Restored, 0), sign(&lost, DigestKind::Restored, 9)];
    fx.store.audit_resume(&epoch, ahead, 20).await.expect("keeps");
    let now = fx.store.audit_head(&of(&scope())).await.expect("reads");
    assert_eq!((now.digest_number, now.digest_to, now.digest_signature), (6, 1, Some(went_on.signature)));
    let kept = fx.store.audit_digests_after(20, 10).await.expect("reads");
    assert_eq!(kept.iter().map(|k| (k.id, k.digest.number)).collect::<Vec<_>>(), [(21, 6), (22, 6)]);
    assert_eq!(fx.store.audit_head_of_chain(Some("unknown")).await.map(|h| h.digest_number), Ok(6));
    // Done once: whoever leads next finds nothing to do.
    fx.store.audit_resume(&epoch, vec![went_on], 20).await.expect("keeps");
    assert_eq!(fx.store.audit_last_digest().await, Ok(22));
}

/// As after `pg_dump` and a restore into a younger cluster.
#[tokio::test]
async fn a_database_from_another_cluster_is_numbered_anew_on_postgres() {
    let fx = Fixture::postgres().await;
    let epoch = fx.leader().await;
    fx.store.create_agent(&scope(), new_agent("a")).await.expect("creates");
    let linked = link(&fx, &epoch, &of(&scope()), 1).await.position;
    let old = fx.store.tenant_events_after(&scope(), EventCursor::default(), 10).await.expect("reads").1;
    fx.store.audit(&scope(), entry("read", "waits")).await.expect("writes");
    assert_eq!(fx.store.audit_renumber(&epoch).await, Ok(0), "its own cluster");
    let mut raw = crate::postgres::connect(fx.url().expect("is PostgreSQL")).await;
    for table in ["audit_logs", "events"] {
        let far = format!("UPDATE {table} SET xid = (xid::text::bigint + 1000000000)::text::xid8");
        raw.execute(far.as_str()).await.expect("updates");
    }
    raw.execute("UPDATE audit_linked SET txn = txn + 1000000000").await.expect("updates");
    let old = old.to_string();
    let (transaction, sequence) = old.split_once('-').expect("two numbers");
    let far = transaction.parse::<u64>().expect("a number") + 1_000_000_000;
    let far: EventCursor = format!("{far}-{sequence}").parse().expect("a cursor");
    fx.store.audit(&scope(), entry("read", "since")).await.expect("writes");
    assert_eq!(fx.store.audit_link(&epoch).await, Ok(0), "nothing is readable");
    assert!(fx.store.audit_renumber(&epoch).await.expect("renumbers") > 0);
    link(&fx, &epoch, &of(&scope()), linked + 2).await;
    let records = whole(&fx, &of(&scope())).await;
    chained(Some("default"), &records);
    let ids: Vec<_> = records[linked as usize..].iter().filter_map(|r| r.resource_id.as_deref()).collect();
    assert_eq!(ids, ["waits", "since"], "each once, the old one first");
    assert_eq!(fx.store.audit_renumber(&epoch).await, Ok(0));
    let expired = fx.store.tenant_events_after(&scope(), far, 10).await;
    assert!(matches!(expired, Err(StoreError::CursorExpired)), "{expired:?}");
    let events = fx.store.tenant_events_after(&scope(), EventCursor::default(), 10).await.expect("reads").0;
    assert_eq!(events.iter().map(|e| e.kind.as_str()).collect::<Vec<_>>(), ["agent.created"]);
}

async fn pages_are_filtered_and_meet(fx: Fixture) {
    let (epoch, acme) = (fx.leader().await, fx.other().await);
    for n in 0..9 {
        let action = if n % 3 == 0 { "read" } else { "exec" };
        fx.store.audit(&scope(), entry(action, &format!("a{}", n % 2))).await.expect("writes");
        fx.clock.advance(Duration::from_secs(1));
    }
    fx.store.audit(&acme, entry("read", "a0")).await.expect("writes");
    let page = |filter: AuditFilter| async { fx.store.audit_page(&of(&scope()), filter).await.expect("reads") };
    let first = page(AuditFilter { action: Some("exec".into()), limit: 4, ..AuditFilter::default() }).await;
    assert_eq!((first.rows.len(), first.total, first.more), (4, 6, true));
    let before = Some(first.rows[3].sequence);
    let rest = page(AuditFilter { action: Some("exec".into()), before, limit: 4, ..AuditFilter::default() }).await;
    assert_eq!((rest.rows.len(), rest.total, rest.more), (2, 6, false));
    assert!(rest.rows[0].sequence < first.rows[3].sequence);
    for (filter, count) in [
        (AuditFilter { resource_id: Some("a0".into()), ..AuditFilter::default() }, 5),
        (AuditFilter { actor: Some("nobody".into()), ..AuditFilter::default() }, 0),
        (AuditFilter { result: Some("denied".into()), ..AuditFilter::default() }, 0),
        (AuditFilter { resource: Some("agent".into()), action: Some("read".into()), ..AuditFilter::default() }, 3),
        (
            AuditFilter {
                until: Some(Timestamp::from_unix_ms(crate::fixture::START_MS + 2000)),
                ..AuditFilter::default()
            },
            2,
        ),
    ] {
        assert_eq!(page(AuditFilter { limit: 100, ..filter.clone() }).await.rows.len(), count, "{filter:?}");
    }
    // By position only what is linked, oldest first.
    let none = page(AuditFilter { after: Some(0), limit: 100, ..AuditFilter::default() }).await;
    assert!(none.rows.is_empty());
    link(&fx, &epoch, &of(&scope()), 9).await;
    let new = page(AuditFilter { after: Some(5), limit: 3, ..AuditFilter::default() }).await;
    assert_eq!(new.rows.iter().map(|r| r.position).collect::<Vec<_>>(), [Some(6), Some(7), Some(8)]);
    assert!(new.more);
}

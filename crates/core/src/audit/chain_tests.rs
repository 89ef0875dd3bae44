//! Digests that tell of each other: cuts, and backups that were restored.

use super::tests::{Log, faults, link, record, signer, verify};
use super::{DigestKind as K, Fault as F, *};
use crate::Timestamp;

const KEY: u8 = 1;

/// A digest that follows the last one of `log`.
fn next(log: &Log, kind: K, (from, to): (u64, u64), head: Hash) -> Digest {
    let last = log.digests.last();
    signer(KEY).sign(Head {
        kind,
        number: last.map_or(1, |d| d.number + 1),
        tenant: log.tenant.clone(),
        from,
        to,
        unsealed: 0,
        head,
        tail: None,
        previous: last.map(|d| d.signature),
        time: Timestamp::from_unix_ms(1),
    })
}

fn hash_at(log: &Log, position: usize) -> Hash {
    log.records[position - 1].hash.expect("linked")
}

/// The file that is exported once the records up to `to` are removed, with the
/// digests that are kept then.
fn pruned(log: &Log, to: usize) -> Vec<String> {
    let begin = Begin {
        version: 1,
        tenant: log.tenant.clone(),
        from: to as u64 + 1,
        prev: hash_at(log, to),
        time: Timestamp::from_unix_ms(2),
        key: signer(KEY).public_key(),
    };
    let kept = log.digests.iter().skip_while(|d| d.to < to as u64);
    let end = log.end(&signer(KEY));
    let end = signer(KEY).sign(Head {
        kind: K::Export,
        number: log.digests.len() as u64,
        tenant: end.tenant,
        from: to as u64 + 1,
        to: end.to,
        unsealed: 0,
        head: end.head,
        tail: None,
        previous: end.previous,
        time: end.time,
    });
    let mut lines = vec![Line::Begin(begin)];
    lines.extend(kept.cloned().map(Line::Digest));
    lines.extend(log.records[to..].iter().cloned().map(|r| Line::Record(Box::new(r))));
    lines.push(Line::End(end));
    lines.iter().map(|l| l.text().expect("JSON")).collect()
}

#[test]
fn a_cut_is_founded_by_the_interval_that_ends_there() {
    let key = [signer(KEY).public_key()];
    let mut log = Log::new(30, 10, 0);
    let unfounded = |to: u64| (None, F::BeginsUnfounded { from: to + 1 });
    assert_eq!(faults(&verify(&pruned(&log, 10), &log.anchor(), &key)), [unfounded(10)], "no cut at all");
    log.digests.push(next(&log, K::Cut, (1, 10), hash_at(&log, 10)));
    assert_eq!(faults(&verify(&pruned(&log, 10), &log.anchor(), &key)), []);
    assert_eq!(faults(&verify(&pruned(&log, 10), &[], &key)), [], "by the digests that are kept, too");
    // With the key, at a place where no interval ends: more goes than was old.
    let mut log = Log::new(30, 10, 0);
    log.digests.push(next(&log, K::Cut, (1, 12), hash_at(&log, 12)));
    assert_eq!(faults(&verify(&pruned(&log, 12), &log.anchor(), &key)), [unfounded(12)]);
}

#[test]
fn a_thief_with_the_key_founds_no_cut_of_his_own() {
    let key = [signer(KEY).public_key()];
    let log = Log::new(30, 10, 0);
    // From the 16th record on another history; the server itself anchors what
    // he makes it sign.
    let mut forged = Log::new(30, 10, 0);
    forged.records[15..].iter_mut().for_each(|r| r.actor = "mallory".into());
    link(&mut forged.records, genesis(Some("acme")), 1);
    forged.digests.clone_from(&log.digests);
    for (kind, from) in [(K::Interval, 13), (K::Cut, 1)] {
        forged.digests.push(next(&forged, kind, (from, 20), hash_at(&forged, 20)));
    }
    let report = verify(&pruned(&forged, 20), &forged.anchor(), &key);
    assert!(faults(&report).contains(&(None, F::DigestUnlinked)), "{:?}", report.findings);
    // Signed again instead, it meets what was anchored.
    let mut again = Log::new(30, 10, 0);
    again.records.clone_from(&forged.records);
    again.sign(&signer(KEY), 10);
    again.digests.push(next(&again, K::Cut, (1, 20), hash_at(&again, 20)));
    let report = verify(&pruned(&again, 20), &log.anchor(), &key);
    assert!(faults(&report).contains(&(None, F::SignedTwice { number: 2 })), "{:?}", report.findings);
}

#[test]
fn digests_that_went_before_another_server_had_them_are_not_missed() {
    let key = [signer(KEY).public_key()];
    let mut log = Log::new(40, 10, 0);
    log.digests.push(next(&log, K::Cut, (1, 30), hash_at(&log, 30)));
    let mut gap = log.anchor();
    gap.remove(1);
    assert_eq!(faults(&verify(&pruned(&log, 30), &gap, &key)), []);
    assert_eq!(faults(&verify(&log.lines(), &gap, &key)), [], "the file has it");
    log.hidden = log.digests.len();
    assert_eq!(faults(&verify(&log.lines(), &gap, &key)), [(None, F::DigestMissing { number: 2 })]);
}

/// After a backup from when 15 records were linked, 5 more.
fn restored() -> (Log, Log) {
    let before = Log::new(30, 10, 0);
    let mut after = Log::new(15, 10, 0);
    let mut new: Vec<Record> = (100..105).map(|n| record(n, Some("acme"))).collect();
    link(&mut new, hash_at(&after, 15), 16);
    let mut digests = before.digests.clone();
    let last = Log { digests: digests.clone(), ..Log::new(15, 10, 0) };
    digests.push(next(&last, K::Restored, (11, 15), hash_at(&after, 15)));
    after.records.extend(new);
    after.digests = digests;
    after.digests.push(next(&after, K::Interval, (16, 20), hash_at(&after, 20)));
    (before, after)
}

#[test]
fn a_restored_backup_is_told_and_the_chain_goes_on() {
    let key = [signer(KEY).public_key()];
    let (_, mut log) = restored();
    let anchor = log.anchor();
    // The database has the first digest of the old ones, and the two new.
    log.digests.drain(1..3);
    let told = (None, F::Restored { from: 16 });
    assert_eq!(faults(&verify(&log.lines(), &anchor, &key)), std::slice::from_ref(&told));
    assert_eq!(faults(&verify(&log.lines(), &[], &key)), std::slice::from_ref(&told));
    let known = |lines: &[String]| {
        let mut verifier = Verifier::new(Some(key.into())).knowing_restores();
        (1..).zip(&anchor).for_each(|(n, line)| verifier.anchor(n, line));
        lines.iter().for_each(|line| verifier.line(line));
        verifier.finish()
    };
    let report = known(&log.lines());
    assert_eq!((faults(&report), report.restores, report.anchored_to), (Vec::new(), 1, Some(20)));
    // What came since is guarded as before.
    let mut lines = log.lines();
    lines.remove(lines.len() - 3);
    assert!(!known(&lines).is_clean());
    log.records[12].actor = "mallory".into();
    link(&mut log.records, genesis(Some("acme")), 1);
    assert!(!known(&log.lines()).is_clean());
}

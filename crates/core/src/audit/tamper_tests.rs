//! Test 29 of the reliability table, its pure part: an exported log is
//! tampered with in eight ways, at random places; each one is found and none
//! is claimed of the log as it was. `AETHER_TAMPERS` says how often.

use super::tests::{Log, link, record, signer, verify};
use super::*;
use aether_counted::{Counted, Dice, seed, trials};

const KINDS: [&str; 8] = ["flip", "delete", "reorder", "insert", "cut tail", "replay", "fork", "signed again"];

/// How far a thief goes: changes the file, makes the chain anew after it, or
/// signs it with another key, or with the stolen one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thief {
    Plain,
    Rehashes,
    OtherKey,
    StolenKey,
}

fn tampered(log: &Log, kind: &str, thief: Thief, dice: &mut Dice) -> Vec<String> {
    let count = log.records.len();
    let at = dice.roll(count as u64) as usize;
    let other = dice.roll(count as u64 - 1) as usize;
    let other = if other >= at { other + 1 } else { other };
    let mut forged = Log::new(0, 10, 0);
    forged.tenant.clone_from(&log.tenant);
    forged.records.clone_from(&log.records);
    forged.unsealed.clone_from(&log.unsealed);
    forged.digests.clone_from(&log.digests);
    match kind {
        "flip" => flip(&mut forged.records[at], dice),
        "delete" => drop(forged.records.remove(at)),
        "reorder" => forged.records.swap(at, other),
        "insert" => {
            let mut new = record(9_000 + dice.roll(1000), Some("acme"));
            let next = &log.records[at];
            (new.position, new.prev) = (next.position, next.prev);
            new.hash = next.prev.map(|prev| new.fields().hash(&prev, at as u64 + 1));
            forged.records.insert(at, new);
        }
        "cut tail" => forged.records.truncate(at),
        "replay" => forged.records.insert(other, log.records[at].clone()),
        // From here on another history, well linked.
        "fork" => {
            forged.records.truncate(at);
            let from = forged.records.last().and_then(|r| r.hash).unwrap_or(genesis(Some("acme")));
            let mut new: Vec<Record> = (at..count).map(|n| record(5_000 + n as u64, Some("acme"))).collect();
            link(&mut new, from, at as u64 + 1);
            forged.records.extend(new);
        }
        // An old part, well linked and signed anew with the stolen key.
        _ => {
            forged.records[at].actor.push('x');
            link(&mut forged.records, genesis(Some("acme")), 1);
            forged.sign(&signer(1), 10);
        }
    }
    match thief {
        Thief::Plain => {}
        Thief::Rehashes => drop(link(&mut forged.records, genesis(Some("acme")), 1)),
        Thief::OtherKey | Thief::StolenKey => {
            link(&mut forged.records, genesis(Some("acme")), 1);
            forged.sign(&signer(if thief == Thief::OtherKey { 2 } else { 1 }), 10);
        }
    }
    let mut lines = forged.lines();
    // The thief cannot sign the end; with a key he can.
    if thief == Thief::Plain || thief == Thief::Rehashes {
        let end = Line::End(log.end(&signer(1))).text().expect("JSON");
        *lines.last_mut().expect("an end") = end.trim_end().to_owned();
    }
    if thief == Thief::OtherKey {
        let end = Line::End(forged.end(&signer(2))).text().expect("JSON");
        *lines.last_mut().expect("an end") = end.trim_end().to_owned();
    }
    lines
}

/// One byte of one field, so that it is another text.
fn flip(record: &mut Record, dice: &mut Dice) {
    match dice.roll(8) {
        0 => record.actor.push('x'),
        1 => record.action = format!("{}x", record.action),
        2 => record.result = "denied".into(),
        3 => record.time = Timestamp::from_unix_ms(record.time.unix_ms() ^ 1 << dice.roll(30)),
        4 => record.sequence ^= 1 << dice.roll(20),
        5 => record.address = Some("198.51.100.1".into()),
        6 => {
            let mut text = record.details.get().to_owned();
            text.insert(1, ' ');
            record.details = Record::details_of(text);
        }
        _ => record.error = Some("x".into()),
    }
}

#[test]
fn every_tampering_is_found_and_none_is_claimed() {
    let tampers = trials("AETHER_TAMPERS", 240);
    let seed = seed();
    let mut dice = Dice::new(seed);
    let mut counted = Counted::new("audit", 29, "tampered logs", seed);
    let key = [signer(1).public_key()];
    for n in 0..tampers {
        let log = Log::new(20 + dice.roll(60), 10, dice.roll(3));
        let anchor = log.anchor();
        let clean = verify(&log.lines(), &anchor, &key);
        assert!(clean.is_clean(), "claimed of an untouched log: {:?}", clean.findings);
        let kind = KINDS[n as usize % KINDS.len()];
        let thief = [Thief::Plain, Thief::Rehashes, Thief::OtherKey, Thief::StolenKey][(n as usize / KINDS.len()) % 4];
        // What was signed again is so already.
        let thief = if kind == "signed again" { Thief::StolenKey } else { thief };
        let lines = tampered(&log, kind, thief, &mut dice);
        counted.n += 1;
        counted.faults += 1;
        if verify(&lines, &anchor, &key).is_clean() {
            counted.failures += 1;
            println!("not found: {kind} by {thief:?}, seed {seed}");
        }
    }
    assert_eq!(counted.failures, 0);
}

/// Any byte of the file: what still reads as the same log is no tampering.
#[test]
fn every_changed_byte_is_found_or_says_the_same() {
    let log = Log::new(6, 4, 1);
    let (anchor, key) = (log.anchor(), [signer(1).public_key()]);
    let whole = log.lines();
    let values = |lines: &[String]| -> Vec<Option<serde_json::Value>> {
        lines.iter().map(|l| serde_json::from_str(l).ok()).collect()
    };
    let before = values(&whole);
    let mut silent = 0;
    for at in 0..whole.len() {
        // In a debug build each signature takes long.
        for byte in (at % 5..whole[at].len()).step_by(5) {
            let mut bytes = whole[at].clone().into_bytes();
            bytes[byte] ^= 1;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let mut lines = whole.clone();
            lines[at] = text;
            if !verify(&lines, &anchor, &key).is_clean() {
                continue;
            }
            // Only what nobody relies on: when the file was begun, and which key it says to have been signed with.
            let at_begin = at == 0;
            assert!(at_begin || values(&lines) == before, "line {at}, byte {byte}: {}", lines[at]);
            silent += 1;
        }
    }
    assert!(silent < 200, "{silent}");
}

/// Enough for a log of years in a minute.
#[test]
fn fifty_thousand_records_a_second() {
    let records = trials("AETHER_VERIFIED", if cfg!(debug_assertions) { 2_000 } else { 20_000 });
    let log = Log::new(records, 1000, 0);
    let (lines, anchor) = (log.lines(), log.anchor());
    let mut counted = Counted::new("audit", 29, "records verified", 0);
    let clock = crate::source::SystemClock::default();
    let began = crate::Clock::monotonic(&clock);
    let report = verify(&lines, &anchor, &[signer(1).public_key()]);
    let took = crate::Clock::monotonic(&clock).saturating_sub(began);
    assert!(report.is_clean());
    counted.n = records;
    let rate = u64::try_from(u128::from(records) * 1000 / took.as_millis().max(1)).unwrap_or(0);
    counted.tell("records_per_s", rate);
    counted.tell("optimised", !cfg!(debug_assertions));
    // A debug build says nothing of it.
    assert!(cfg!(debug_assertions) || rate >= 50_000, "{rate} records a second");
}

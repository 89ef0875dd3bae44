use super::*;
use crate::audit::{DigestKind as K, Fault as F};
use proptest::prelude::*;
use std::collections::BTreeSet;

pub(super) fn record(n: u64, tenant: Option<&str>) -> Record {
    Record {
        position: None,
        prev: None,
        hash: None,
        sequence: 1000 + n * 3,
        time: Timestamp::from_unix_ms(1_700_000_000_000 + n * 7),
        tenant: tenant.map(str::to_owned),
        actor: format!("key{}", n % 5),
        action: ["create", "delete", "update", "exec"][n as usize % 4].to_owned(),
        resource: "agent".to_owned(),
        resource_id: (!n.is_multiple_of(3)).then(|| format!("agtc0{n:016}")),
        result: "success".to_owned(),
        address: (!n.is_multiple_of(2)).then(|| "192.0.2.7".to_owned()),
        details: Record::details_of(format!("{{\"n\":{n},\"name\":\"ä\\n\"}}")),
        error: None,
    }
}

/// Links records as the sealer does, from a hash on.
pub(super) fn link(records: &mut [Record], mut prev: Hash, mut position: u64) -> Hash {
    for r in records {
        let hash = r.fields().hash(&prev, position);
        (r.position, r.prev, r.hash) = (Some(position), Some(prev), Some(hash));
        (prev, position) = (hash, position + 1);
    }
    prev
}

pub(super) fn signer(seed: u8) -> Signer {
    Signer::from_seed(&[seed; 32]).expect("a seed")
}

/// A whole log: digests each `every`, some records not linked yet.
pub(super) struct Log {
    pub(super) tenant: Option<String>,
    pub(super) records: Vec<Record>,
    pub(super) unsealed: Vec<Record>,
    pub(super) digests: Vec<Digest>,
    /// Digests that the exported file leaves out: anchored alone.
    pub(super) hidden: usize,
}

impl Log {
    pub(super) fn new(records: u64, every: usize, unsealed: u64) -> Self {
        let tenant = Some("acme".to_owned());
        let mut linked: Vec<Record> = (0..records).map(|n| record(n, Some("acme"))).collect();
        link(&mut linked, genesis(Some("acme")), 1);
        let unsealed = (records..records + unsealed).map(|n| record(n, Some("acme"))).collect();
        let mut log = Self { tenant, records: linked, unsealed, digests: Vec::new(), hidden: 0 };
        log.sign(&signer(1), every);
        log
    }

    pub(super) fn sign(&mut self, signer: &Signer, every: usize) {
        self.digests.clear();
        let (mut from, mut previous) = (1, None);
        for (number, part) in (1..).zip(self.records.chunks(every)) {
            let last = part.last().expect("chunks are not empty");
            let (to, head) = (last.position.expect("linked"), last.hash.expect("linked"));
            let digest = signer.sign(Head {
                kind: K::Interval,
                number,
                tenant: self.tenant.clone(),
                from,
                to,
                unsealed: 0,
                head,
                tail: None,
                previous,
                time: last.time,
            });
            previous = Some(digest.signature);
            self.digests.push(digest);
            from = to + 1;
        }
    }

    pub(super) fn anchor(&self) -> Vec<String> {
        let line = |(id, digest): (u64, &Digest)| {
            serde_json::to_string(&AnchorLine { id: Some(id), digest: digest.clone() }).expect("JSON")
        };
        (1..).zip(&self.digests).map(line).collect()
    }

    pub(super) fn end(&self, signer: &Signer) -> Digest {
        let head = self.records.last().and_then(|r| r.hash).unwrap_or(genesis(self.tenant.as_deref()));
        let mut tail = None;
        for r in &self.unsealed {
            tail = Some(r.fields().hash(&tail.unwrap_or(head), 0));
        }
        signer.sign(Head {
            kind: K::Export,
            number: self.digests.len() as u64,
            tenant: self.tenant.clone(),
            from: 1,
            to: self.records.len() as u64,
            unsealed: self.unsealed.len() as u64,
            head,
            tail,
            previous: self.digests.last().map(|d| d.signature),
            time: Timestamp::from_unix_ms(1_800_000_000_000),
        })
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let begin = Begin {
            version: 1,
            tenant: self.tenant.clone(),
            from: 1,
            prev: genesis(self.tenant.as_deref()),
            time: Timestamp::from_unix_ms(1_800_000_000_000),
            key: signer(1).public_key(),
        };
        let shown = self.digests.len().saturating_sub(self.hidden);
        let mut lines = vec![Line::Begin(begin)];
        lines.extend(self.digests[..shown].iter().cloned().map(Line::Digest));
        lines.extend(self.records.iter().chain(&self.unsealed).cloned().map(|r| Line::Record(Box::new(r))));
        lines.push(Line::End(self.end(&signer(1))));
        lines.iter().map(|l| l.text().expect("JSON").trim_end().to_owned()).collect()
    }
}

pub(super) fn verify(lines: &[String], anchor: &[String], keys: &[PublicKey]) -> Report {
    let trusted = (!keys.is_empty()).then(|| keys.iter().copied().collect::<BTreeSet<_>>());
    let mut verifier = Verifier::new(trusted);
    for (n, line) in (1..).zip(anchor) {
        verifier.anchor(n, line);
    }
    lines.iter().for_each(|line| verifier.line(line));
    verifier.finish()
}

pub(super) fn faults(report: &Report) -> Vec<(Option<u64>, F)> {
    report.findings.iter().map(|f| (f.position, f.fault.clone())).collect()
}

#[test]
fn an_untouched_log_is_clean() {
    for (records, unsealed) in [(0, 0), (1, 0), (25, 3), (40, 0)] {
        let log = Log::new(records, 10, unsealed);
        let report = verify(&log.lines(), &log.anchor(), &[signer(1).public_key()]);
        assert_eq!(faults(&report), [], "{records}");
        assert_eq!((report.records, report.unsealed), (records, unsealed));
        assert!(report.keys_trusted);
        let alone = verify(&log.lines(), &[], &[]);
        assert!(alone.is_clean() && !alone.keys_trusted);
    }
}

#[test]
fn the_encoding_does_not_change_unnoticed() {
    // Every file ever exported is verified by this: a change of it is a new version. The values are of another
    // program, written from the documentation.
    let hash = record(7, Some("acme")).fields().hash(&genesis(Some("acme")), 1);
    assert_eq!(hash.to_string(), "0ac2d86189ef28f8b547b3f526bab5e51289b19895c42f72913babdd88407ceb");
    assert_eq!(genesis(None).to_string(), "a0403339224509be15a97f6ee07f3b0b2c93fd56aeaf2108819457a20fe11b4b");
    assert_ne!(genesis(None), genesis(Some("")));
}

#[test]
fn the_first_bad_record_is_named_with_what_is_wrong() {
    let log = Log::new(30, 10, 2);
    let key = [signer(1).public_key()];
    // Line 1 is `begin`, three digests follow: the record n is at 4 + n - 1.
    let at = |n: usize| 3 + n;
    let check = |change: &dyn Fn(&mut Vec<String>), expected: &[(Option<u64>, F)]| {
        let mut lines = log.lines();
        change(&mut lines);
        assert_eq!(faults(&verify(&lines, &log.anchor(), &key)), expected);
    };
    check(&|l| l[at(5)] = l[at(5)].replace("success", "denied"), &[(Some(5), F::Altered)]);
    check(&|l| drop(l.remove(at(5))), &[(Some(6), F::Missing { from: 5, to: 5 })]);
    check(
        &|l| l.swap(at(5), at(6)),
        &[(Some(6), F::Missing { from: 5, to: 5 }), (Some(5), F::OutOfOrder), (Some(7), F::OutOfOrder)][..2],
    );
    check(&|l| l.insert(at(9), l[at(5)].clone()), &[(Some(5), F::Repeated)]);
    let other = {
        let mut r = log.records[4].clone();
        r.actor = "mallory".into();
        r.hash = Some(r.fields().hash(&r.prev.expect("linked"), 5));
        Line::Record(Box::new(r)).text().expect("JSON")
    };
    check(&|l| l.insert(at(9), other.clone()), &[(Some(5), F::Forked)]);
    check(&|l| l[at(5)] = other.clone(), &[(Some(6), F::Unlinked)]);
    check(
        &|l| drop(l.drain(at(28)..at(31))),
        &[(Some(30), F::Missing { from: 28, to: 30 })][..0]
            .iter()
            .cloned()
            .chain([(None, F::TailMissing { from: 28, to: 30 }), (None, F::TailMissing { from: 28, to: 30 })])
            .collect::<Vec<_>>(),
    );
    check(&|l| drop(l.pop()), &[(None, F::NoEnd)]);
    check(&|l| drop(l.remove(at(32))), &[(None, F::EndsElsewhere)]);
    check(&|l| drop(l.remove(0)), &[(None, F::NoBegin)]);
    check(&|l| drop(l.drain(..at(4))), &[(None, F::NoBegin), (Some(4), F::Missing { from: 1, to: 3 })]);
    check(&|l| l.push(l[at(1)].clone()), &[(None, F::OutOfPlace)]);
}

#[test]
fn a_chain_made_anew_meets_what_was_signed() {
    let log = Log::new(30, 10, 0);
    let mut forged = Log::new(30, 10, 0);
    forged.records[4].actor = "mallory".into();
    link(&mut forged.records, genesis(Some("acme")), 1);
    // The thief has no key: the old digests stay, or are signed by another.
    forged.digests = log.digests.clone();
    let key = [signer(1).public_key()];
    let report = verify(&forged.lines(), &[], &key);
    assert!(matches!(faults(&report)[0], (Some(10), F::Rewritten { number: 1, .. })), "{:?}", report.findings);
    forged.sign(&signer(2), 10);
    let report = verify(&forged.lines(), &[], &key);
    assert!(matches!(report.findings[0].fault, F::UnknownKey { .. }));
    // With the real key only the anchor knows better.
    forged.sign(&signer(1), 10);
    assert!(verify(&forged.lines(), &[], &key).is_clean());
    let report = verify(&forged.lines(), &log.anchor(), &key);
    assert!(report.findings.iter().any(|f| f.fault == F::SignedTwice { number: 1 }), "{:?}", report.findings);
    assert!(report.findings.iter().any(|f| matches!(f.fault, F::Rewritten { .. })));
}

#[test]
fn details_stay_the_bytes_they_are() {
    for (stored, shown) in [
        ("{\"a\":1.10,\"a\":2}", "{\"a\":1.10,\"a\":2}"),
        ("not json", "\"not json\""),
        ("{\n}", "\"{\\n}\""),
        ("", "\"\""),
    ] {
        assert_eq!(Record::details_of(stored.to_owned()).get(), shown);
    }
}

#[test]
fn an_event_of_ocsf_has_what_the_class_requires() {
    let mut r = record(1, Some("acme"));
    link(std::slice::from_mut(&mut r), genesis(Some("acme")), 1);
    r.action = "delete".into();
    r.result = "denied".into();
    let event = ocsf(&r);
    for field in [
        "activity_id",
        "actor",
        "api",
        "category_uid",
        "class_uid",
        "metadata",
        "severity_id",
        "src_endpoint",
        "time",
        "type_uid",
    ] {
        assert!(!event[field].is_null(), "{field}");
    }
    assert_eq!((event["class_uid"].as_u64(), event["type_uid"].as_u64()), (Some(6003), Some(600_304)));
    assert_eq!((event["status_id"].as_u64(), event["src_endpoint"]["ip"].as_str()), (Some(2), Some("192.0.2.7")));
    assert_eq!(event["unmapped"]["position"], 1);
}

fn text() -> impl Strategy<Value = String> {
    "[a-c\u{0}ä]{0,3}"
}

proptest! {
    /// No two different records have one encoding, however their texts run
    /// into each other.
    #[test]
    fn different_records_have_different_hashes(
        a in (text(), text(), proptest::option::of(text()), proptest::option::of(text())),
        b in (text(), text(), proptest::option::of(text()), proptest::option::of(text())),
    ) {
        let make = |(actor, action, address, error): (String, String, Option<String>, Option<String>)| {
            let r = Record { actor, action, address, error, ..record(1, Some("t")) };
            r.fields().hash(&genesis(None), 1)
        };
        prop_assert_eq!(a == b, make(a) == make(b));
    }

    /// Whatever stands in the file, there is a report and no panic.
    #[test]
    fn reading_never_panics(lines in proptest::collection::vec(".{0,80}", 0..8), cut in 0usize..400) {
        let log = Log::new(3, 2, 1);
        let mut all = log.lines();
        let at = cut % all.len();
        let keep: String = all[at].chars().take(cut).collect();
        all[at] = keep;
        all.extend(lines.clone());
        let _ = verify(&all, &lines, &[]);
    }

    #[test]
    fn hex_is_read_as_it_is_written(bytes in proptest::array::uniform32(any::<u8>())) {
        let hash = Hash(bytes);
        prop_assert_eq!(hash.to_string().parse(), Ok(hash));
        prop_assert!(hash.to_string().to_uppercase().parse::<Hash>().is_err() || hash.to_string() == hash.to_string().to_uppercase());
    }
}

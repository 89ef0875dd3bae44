//! Reads an exported log line by line, and anchors before it, and says what
//! is wrong. Pure and offline: lines in, report out; memory grows with the
//! digests and with nothing else.
//!
//! A fault is told once where it is, and reading goes on from what the file
//! claims, so that one changed record is one finding.

use super::report::{Fault, Finding, Report};
use super::{AnchorLine, Begin, Digest, DigestKind, Hash, Line, PublicKey, Record, Signature, genesis};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Findings that are kept; more are counted.
const KEPT: usize = 100;
/// Records back in which a repeated one is told from a forked chain.
const WINDOW: usize = 4096;
/// Runs of missing records that are remembered, to tell a record that comes
/// later from a second one.
const GAPS: usize = 4096;

/// The store's numbers end here.
const MOST: u64 = i64::MAX as u64;

/// A digest and where it stands.
struct Signed {
    digest: Digest,
    line: u64,
    in_anchor: bool,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Part {
    Start,
    Digests,
    Records,
    Unsealed,
    Ended,
}

pub struct Verifier {
    /// None: whatever key the file names.
    trusted: Option<BTreeSet<PublicKey>>,
    restores_known: bool,
    keys: BTreeSet<PublicKey>,
    report: Report,
    line: u64,
    part: Part,
    begin: Option<Begin>,
    tenant: Option<String>,
    /// Of the anchor file, of all tenants, until the log names its own.
    anchors: Vec<Signed>,
    digests: Vec<Signed>,
    /// What digests say of the positions to come.
    heads: BTreeMap<u64, Vec<(DigestKind, u64, Hash)>>,
    cuts: BTreeSet<(u64, Hash)>,
    /// The furthest that an anchor covers.
    covered: u64,
    head: Hash,
    last: u64,
    recent: VecDeque<(u64, Hash)>,
    gaps: BTreeMap<u64, u64>,
    tail: Option<Hash>,
}

impl Verifier {
    pub fn new(trusted: Option<BTreeSet<PublicKey>>) -> Self {
        let report = Report { keys_trusted: trusted.is_some(), ..Report::default() };
        Self {
            trusted,
            restores_known: false,
            keys: BTreeSet::new(),
            report,
            line: 0,
            part: Part::Start,
            begin: None,
            tenant: None,
            anchors: Vec::new(),
            digests: Vec::new(),
            heads: BTreeMap::new(),
            cuts: BTreeSet::new(),
            covered: 0,
            head: Hash([0; 32]),
            last: 0,
            recent: VecDeque::new(),
            gaps: BTreeMap::new(),
            tail: None,
        }
    }

    /// That backups were restored is known, and what was lost with it.
    #[must_use]
    pub fn knowing_restores(self) -> Self {
        Self { restores_known: true, ..self }
    }

    /// Lines of the anchor file, before any of the log.
    pub fn anchor(&mut self, line: u64, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        match serde_json::from_str::<AnchorLine>(text) {
            Ok(AnchorLine { digest, .. }) => self.anchors.push(Signed { digest, line, in_anchor: true }),
            Err(e) => self.found(Some(line), true, None, Fault::Unreadable { why: e.to_string() }),
        }
    }

    /// The next line of the log.
    pub fn line(&mut self, text: &str) {
        self.line += 1;
        if text.trim().is_empty() {
            return;
        }
        if self.part == Part::Ended {
            return self.here(None, Fault::OutOfPlace);
        }
        match serde_json::from_str::<Line>(text) {
            Err(e) => self.here(None, Fault::Unreadable { why: e.to_string() }),
            Ok(Line::Begin(begin)) => self.begin(begin),
            Ok(Line::Digest(digest)) => {
                self.begun(digest.tenant.as_ref());
                if self.part != Part::Digests {
                    self.here(None, Fault::OutOfPlace);
                }
                let line = self.line;
                self.digests.push(Signed { digest, line, in_anchor: false });
            }
            Ok(Line::Record(record)) => self.record(&record),
            Ok(Line::End(digest)) => self.end(&digest),
        }
    }

    /// What came of it.
    pub fn finish(mut self) -> Report {
        if self.part == Part::Start {
            self.found(None, false, None, Fault::NoBegin);
        } else {
            self.settle();
            if self.part != Part::Ended {
                self.found(None, false, None, Fault::NoEnd);
            }
            if self.covered > self.last {
                let (from, to) = (self.last + 1, self.covered);
                self.found(None, true, None, Fault::TailMissing { from, to });
            }
        }
        let mut report = self.report;
        report.tenant = self.tenant;
        report.keys = self.keys.into_iter().collect();
        report.anchored_to = (self.covered > 0).then_some(self.covered);
        report.last = report.first.map(|_| self.last);
        report.head = report.first.map(|_| self.head);
        report
    }

    fn found(&mut self, line: Option<u64>, in_anchor: bool, record: Option<&Record>, fault: Fault) {
        if self.report.findings.len() >= KEPT {
            self.report.more_findings += 1;
            return;
        }
        let (position, sequence) = (record.and_then(|r| r.position), record.map(|r| r.sequence));
        self.report.findings.push(Finding { line, in_anchor, position, sequence, fault });
    }

    fn here(&mut self, record: Option<&Record>, fault: Fault) {
        self.found(Some(self.line), false, record, fault);
    }

    fn begin(&mut self, begin: Begin) {
        if self.part != Part::Start {
            return self.here(None, Fault::OutOfPlace);
        }
        if begin.version != 1 {
            let why = format!("the format {} is not known", begin.version);
            self.here(None, Fault::Unreadable { why });
        }
        if begin.from > MOST {
            return self.here(None, Fault::Unreadable { why: "no chain is as long".into() });
        }
        self.tenant.clone_from(&begin.tenant);
        self.part = Part::Digests;
        self.head = begin.prev;
        self.last = begin.from.saturating_sub(1);
        self.begin = Some(begin);
    }

    /// Where the first line is not `begin`, the tenant is whose the line is.
    fn begun(&mut self, tenant: Option<&String>) {
        if self.part == Part::Start {
            self.here(None, Fault::NoBegin);
            self.tenant = tenant.cloned();
            self.head = genesis(self.tenant.as_deref());
            self.part = Part::Digests;
        }
    }

    /// After the last digest: judges them, and where the chain begins.
    fn settle(&mut self) {
        if self.part != Part::Digests {
            return;
        }
        self.part = Part::Records;
        let anchors = std::mem::take(&mut self.anchors);
        let mut all: Vec<Signed> = anchors.into_iter().filter(|s| s.digest.tenant == self.tenant).collect();
        all.append(&mut self.digests);
        let mut sound = Vec::with_capacity(all.len());
        for signed in all {
            if self.sound(&signed) {
                sound.push(signed);
            }
        }
        let sound = self.digest_chain(sound);
        for signed in &sound {
            let d = &signed.digest;
            self.heads.entry(d.to).or_default().push((d.kind, d.number, d.head));
            if signed.in_anchor {
                self.covered = self.covered.max(d.to);
            }
        }
        self.cuts = founded_cuts(&sound);
        self.start();
    }

    fn start(&mut self) {
        let Some(begin) = self.begin.clone() else { return };
        let founded = match begin.from {
            0 => false,
            1 => begin.prev == genesis(self.tenant.as_deref()),
            from => self.cuts.contains(&(from - 1, begin.prev)),
        };
        if !founded {
            self.found(Some(1), false, None, Fault::BeginsUnfounded { from: begin.from });
        }
    }

    /// Whether a digest may be believed; says why not.
    fn sound(&mut self, signed: &Signed) -> bool {
        let (line, in_anchor, d) = (Some(signed.line), signed.in_anchor, &signed.digest);
        let fault = if d.tenant != self.tenant {
            Fault::OtherTenant
        } else if self.trusted.as_ref().is_some_and(|keys| !keys.contains(&d.key)) {
            Fault::UnknownKey { key: d.key }
        } else if !d.is_sound() {
            Fault::BadSignature
        } else if !in_anchor && self.part != Part::Ended && d.kind == DigestKind::Export {
            Fault::OutOfPlace
        } else {
            self.keys.insert(d.key);
            self.report.digests += 1;
            return true;
        };
        self.found(line, in_anchor, None, fault);
        false
    }

    /// In order, without those that a restored backup has overtaken. Numbers
    /// have no gaps, each names the signature of the one before, intervals
    /// follow each other.
    fn digest_chain(&mut self, mut sound: Vec<Signed>) -> Vec<Signed> {
        // An export bears the number of the digest before it.
        sound.sort_by_key(|s| (s.digest.number, s.digest.kind == DigestKind::Export, s.digest.signature));
        sound.dedup_by_key(|s| (s.digest.number, s.digest.signature));
        let floor = self.begin.as_ref().map_or(0, |b| b.from.saturating_sub(1));
        let mut faults = Vec::new();
        let mut chain: Vec<Signed> = Vec::with_capacity(sound.len());
        let (mut before, mut covered) = (None::<(u64, Signature)>, None::<u64>);
        for signed in sound {
            let d = &signed.digest;
            if d.kind != DigestKind::Export {
                let follows = follows(d, before, covered, floor);
                let adjacent = before.is_some_and(|(number, _)| number + 1 == d.number);
                faults.extend(follows.err().map(|fault| (signed.line, signed.in_anchor, fault)));
                before = Some((d.number, d.signature));
                covered = match d.kind {
                    DigestKind::Interval | DigestKind::Restored => Some(d.to),
                    _ => covered.filter(|_| adjacent),
                };
            }
            if d.kind == DigestKind::Restored {
                chain.retain(|earlier| earlier.digest.to <= d.to);
                match self.restores_known {
                    true => self.report.restores += 1,
                    false => faults.push((signed.line, signed.in_anchor, Fault::Restored { from: d.to + 1 })),
                }
            }
            chain.push(signed);
        }
        for (line, in_anchor, fault) in faults {
            self.found(Some(line), in_anchor, None, fault);
        }
        chain
    }

    fn record(&mut self, record: &Record) {
        self.begun(record.tenant.as_ref());
        self.settle();
        if record.tenant != self.tenant {
            self.here(Some(record), Fault::OtherTenant);
        }
        match (record.position, record.prev, record.hash) {
            (Some(position), ..) if position > MOST => {
                self.here(Some(record), Fault::Unreadable { why: "no chain is as long".into() });
            }
            (Some(position), Some(prev), Some(hash)) => self.linked(record, position, prev, hash),
            (None, None, None) => self.unlinked(record),
            _ => {
                self.here(Some(record), Fault::Unreadable { why: "a part of its place in the chain is missing".into() })
            }
        }
    }

    fn unlinked(&mut self, record: &Record) {
        self.part = Part::Unsealed;
        self.report.unsealed += 1;
        self.report.unsealed_from.get_or_insert(record.sequence);
        self.tail = Some(record.fields().hash(&self.tail.unwrap_or(self.head), 0));
    }

    fn linked(&mut self, record: &Record, position: u64, prev: Hash, hash: Hash) {
        if self.part == Part::Unsealed {
            self.here(Some(record), Fault::OutOfOrder);
        }
        self.report.records += 1;
        let first = self.report.first.is_none();
        self.report.first.get_or_insert(position);
        if record.fields().hash(&prev, position) != hash {
            self.here(Some(record), Fault::Altered);
        }
        let expected = self.last + 1;
        if position < expected {
            let fault = self.second(position, hash);
            return self.here(Some(record), fault);
        }
        if position > expected {
            self.here(Some(record), Fault::Missing { from: expected, to: position - 1 });
            if self.gaps.len() < GAPS {
                self.gaps.insert(expected, position - 1);
            }
        } else if prev != self.head {
            let unfounded = first && self.begin.is_some();
            self.here(Some(record), if unfounded { Fault::BeginsElsewhere } else { Fault::Unlinked });
        }
        self.last = position;
        self.head = hash;
        self.recent.push_back((position, hash));
        if self.recent.len() > WINDOW {
            self.recent.pop_front();
        }
        for (kind, number, signed) in self.heads.remove(&position).unwrap_or_default() {
            if signed != hash {
                self.here(Some(record), Fault::Rewritten { kind, number, signed, found: hash });
            }
        }
    }

    /// What a record is whose position was passed already.
    fn second(&mut self, position: u64, hash: Hash) -> Fault {
        let gap = self.gaps.range(..=position).next_back().map(|(from, to)| (*from, *to));
        if let Some((from, to)) = gap.filter(|(_, to)| position <= *to) {
            self.gaps.remove(&from);
            if from < position {
                self.gaps.insert(from, position - 1);
            }
            if position < to {
                self.gaps.insert(position + 1, to);
            }
            return Fault::OutOfOrder;
        }
        let known = self.recent.iter().rev().find(|(p, _)| *p == position);
        if known.is_some_and(|(_, known)| *known == hash) { Fault::Repeated } else { Fault::Forked }
    }

    fn end(&mut self, digest: &Digest) {
        self.begun(digest.tenant.as_ref());
        self.settle();
        self.part = Part::Ended;
        let signed = Signed { digest: digest.clone(), line: self.line, in_anchor: false };
        if !self.sound(&signed) {
            return;
        }
        let from = self.begin.as_ref().map_or(1, |b| b.from);
        let fits = digest.kind == DigestKind::Export
            && (digest.from, digest.to, digest.head) == (from, self.last, self.head)
            && (digest.unsealed, digest.tail) == (self.report.unsealed, self.tail);
        if !fits && digest.to > self.last {
            let (from, to) = (self.last + 1, digest.to);
            self.here(None, Fault::TailMissing { from, to });
        } else if !fits {
            self.here(None, Fault::EndsElsewhere);
        }
    }
}

/// Whether a digest follows the one before it; the first one that is known
/// follows nothing.
fn follows(d: &Digest, before: Option<(u64, Signature)>, covered: Option<u64>, floor: u64) -> Result<(), Fault> {
    let Some((number, signature)) = before else { return Ok(()) };
    let interval = d.kind == DigestKind::Interval;
    match d.number - number {
        0 => Err(Fault::SignedTwice { number }),
        1 if d.previous != Some(signature) => Err(Fault::DigestUnlinked),
        1 if interval && covered.is_some_and(|to| d.from != to + 1) => Err(Fault::DigestUnlinked),
        1 => Ok(()),
        // What retention removed, before another server had it in its file;
        // and what a restored backup did not have.
        _ if (interval && d.to <= floor) || d.kind == DigestKind::Restored => Ok(()),
        _ => Err(Fault::DigestMissing { number: number + 1 }),
    }
}

/// Where the chain may begin. A cut is believed where an interval ends that
/// was signed on its own: who signs a cut at a place of his choice would have
/// to sign that interval too, which then overlaps those that are anchored.
fn founded_cuts(chain: &[Signed]) -> BTreeSet<(u64, Hash)> {
    let place = |s: &Signed| (s.digest.to, s.digest.head);
    let ends: BTreeSet<_> = chain.iter().filter(|s| s.digest.kind == DigestKind::Interval).map(place).collect();
    let cuts = chain.iter().filter(|s| s.digest.kind == DigestKind::Cut).map(place);
    cuts.filter(|cut| ends.contains(cut)).collect()
}

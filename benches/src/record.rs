//! One line of `results/bench.json`, and the file of them.

use crate::stats::Interval;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One figure. Where the target is an added time or an amount, `ratio…` hold
/// that in `unit`; else they are ours over the peer's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The row's name; a further measure of it after a dot: `5.running`.
    pub(crate) row: String,
    pub(crate) what: String,
    /// Medians, in `unit`; absent where there is no such side.
    pub(crate) ours: Option<f64>,
    pub(crate) peer: Option<f64>,
    pub(crate) unit: String,
    pub(crate) ratio: f64,
    pub(crate) ratio_low: f64,
    pub(crate) ratio_high: f64,
    /// The peer over itself.
    pub(crate) aa_low: Option<f64>,
    pub(crate) aa_high: Option<f64>,
    /// Absent where a figure is shown without one.
    pub(crate) target: Option<f64>,
    /// By the interval's bad end.
    pub(crate) met: Option<bool>,
    pub(crate) pairs: usize,
    pub(crate) commit: String,
}

impl Record {
    /// An amount with an upper bound, or none.
    pub(crate) fn amount(row: &str, what: &str, unit: &str, value: Interval, n: usize, at_most: Option<f64>) -> Self {
        Self {
            row: row.into(),
            what: what.into(),
            ours: Some(round(value.mid)),
            peer: None,
            unit: unit.into(),
            ratio: round(value.mid),
            ratio_low: round(value.low),
            ratio_high: round(value.high),
            aa_low: None,
            aa_high: None,
            target: at_most,
            met: at_most.map(|limit| value.high <= limit),
            pairs: n,
            commit: commit(),
        }
    }

    /// With a lower bound instead.
    pub(crate) fn at_least(mut self, limit: f64) -> Self {
        self.target = Some(limit);
        self.met = Some(self.ratio_low >= limit);
        self
    }

    pub(crate) fn sentence(&self) -> String {
        let target = match (self.target, self.met) {
            (Some(target), Some(true)) => format!("; target {target}: met"),
            (Some(target), _) => format!("; target {target}: MISSED"),
            _ => String::new(),
        };
        let side = |name: &str, v: Option<f64>| v.map(|v| format!("{name} {v} {}, ", self.unit)).unwrap_or_default();
        let control = match (self.aa_low, self.aa_high) {
            (Some(low), Some(high)) if low <= 1.0 && high >= 1.0 => format!("; A-A {low}–{high}"),
            (Some(low), Some(high)) => format!("; A-A {low}–{high} DOES NOT HOLD 1: void"),
            _ => String::new(),
        };
        format!(
            "{:14} {}: {}{}{} ({}–{}), n={}{target}{control}",
            self.row,
            self.what,
            side("ours", self.ours),
            side("peer", self.peer),
            self.ratio,
            self.ratio_low,
            self.ratio_high,
            self.pairs
        )
    }
}

/// Four significant figures: the rest is noise.
pub(crate) fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// What was measured, as git names it; `+` when the tree differs from it.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git").args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(id) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".into() };
    let dirty = git(&["status", "--porcelain", "--untracked-files=no", "--", "crates", "benches", "Cargo.lock"]);
    if dirty.is_none_or(|d| d.is_empty()) { id } else { format!("{id}+") }
}

/// The file: a line per figure, in the order of the table.
pub(crate) struct Book {
    path: PathBuf,
    lines: BTreeMap<String, Vec<Record>>,
}

impl Book {
    pub(crate) fn open(path: PathBuf) -> anyhow::Result<Self> {
        let mut lines: BTreeMap<String, Vec<Record>> = BTreeMap::new();
        if let Ok(text) = std::fs::read_to_string(&path) {
            for line in text.lines().filter(|l| !l.trim().is_empty()) {
                let record: Record = serde_json::from_str(line).with_context(|| format!("a line of {path:?}"))?;
                let row = record.row.split('.').next().unwrap_or_default().to_owned();
                lines.entry(row).or_default().push(record);
            }
        }
        Ok(Self { path, lines })
    }

    /// Replaces the figures of one row and writes the file.
    pub(crate) fn put(&mut self, row: &str, records: Vec<Record>) -> anyhow::Result<()> {
        self.lines.insert(row.to_owned(), records);
        let mut text = String::new();
        for record in self.lines.values().flatten() {
            text.push_str(&serde_json::to_string(record)?);
            text.push('\n');
        }
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&self.path, text).with_context(|| format!("write {:?}", self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_figures() {
        assert_eq!(round(1234.56), 1235.0);
        assert_eq!(round(0.001_234_56), 0.001_235);
        assert_eq!(round(0.0), 0.0);
    }

    #[test]
    fn a_row_is_replaced_and_the_others_stay() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("bench.json");
        let interval = Interval { mid: 2.0, low: 1.0, high: 3.0 };
        let record = |row: &str, limit| Record::amount(row, "x", "ms", interval, 15, Some(limit));
        let mut book = Book::open(path.clone()).expect("opens");
        book.put("5", vec![record("5", 2.5), record("5.p99", 9.0)]).expect("writes");
        book.put("7", vec![record("7", 3.0)]).expect("writes");
        let mut book = Book::open(path.clone()).expect("opens again");
        book.put("5", vec![record("5", 4.0)]).expect("writes");
        let text = std::fs::read_to_string(&path).expect("reads");
        let rows: Vec<Record> = text.lines().map(|l| serde_json::from_str(l).expect("a line")).collect();
        assert_eq!(rows.iter().map(|r| r.row.as_str()).collect::<Vec<_>>(), ["5", "7"]);
        assert!(rows.iter().all(|r| r.met == Some(true)), "judged by the upper end");
        assert_eq!(record("5", 2.5).met, Some(false));
    }
}

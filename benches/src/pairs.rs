//! Ours and the peer in turns, A-B-B-A, so that what the machine does
//! meanwhile meets both alike; then the peer against itself.

use crate::record::{Record, round};
use crate::stats::{bootstrap_groups, median, quantile};

/// What one interleaved run gave: the same number of values on each side.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    pub(crate) ours: Vec<f64>,
    pub(crate) peer: Vec<f64>,
    /// The peer once more, for the control.
    pub(crate) again: Vec<f64>,
    /// Where a group of pairs begins whose guests differ from the others'.
    starts: Vec<usize>,
}

/// The order within pair `n`. Every turn of a peer follows one of ours and
/// the other way round, so that what the turn before left (caches, a warm
/// guest) is alike for the peer and its control.
pub(crate) fn order(n: usize) -> [Side; 4] {
    if n.is_multiple_of(2) {
        [Side::Ours, Side::Peer, Side::Between, Side::Again]
    } else {
        [Side::Between, Side::Again, Side::Ours, Side::Peer]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Peer,
    Again,
    /// A turn of ours that is not counted.
    Between,
}

impl Pairs {
    /// What is pushed from here on comes of other guests than before.
    pub(crate) fn begin_group(&mut self) {
        self.starts.push(self.peer.len());
    }

    /// One value per pair, by group.
    fn grouped(&self, values: &[f64]) -> Vec<Vec<f64>> {
        if self.starts.is_empty() {
            return values.iter().map(|v| vec![*v]).collect();
        }
        let ends = self.starts.iter().skip(1).copied().chain([values.len()]);
        self.starts.iter().zip(ends).map(|(from, to)| values[*from..to].to_vec()).collect()
    }

    pub(crate) fn push(&mut self, side: Side, value: f64) {
        match side {
            Side::Ours => self.ours.push(value),
            Side::Peer => self.peer.push(value),
            Side::Again => self.again.push(value),
            Side::Between => {}
        }
    }

    /// Ours minus the peer, pair by pair, in the unit of the values.
    pub(crate) fn added(&self, row: &str, what: &str, unit: &str, at_most: f64) -> Record {
        let added: Vec<f64> = self.ours.iter().zip(&self.peer).map(|(a, b)| a - b).collect();
        self.record(row, what, unit, &added, Some(at_most))
    }

    /// Ours over the peer, pair by pair.
    pub(crate) fn ratio(&self, row: &str, what: &str, unit: &str, at_most: f64) -> Record {
        self.record(row, what, unit, &over(&self.ours, &self.peer), Some(at_most))
    }

    /// The same where more is better.
    pub(crate) fn ratio_at_least(&self, row: &str, what: &str, unit: &str, at_least: f64) -> Record {
        self.record(row, what, unit, &over(&self.ours, &self.peer), None).at_least(at_least)
    }

    /// The 99th percentiles side by side, without an interval of their own.
    pub(crate) fn p99(&self, row: &str, what: &str, unit: &str) -> Record {
        let (ours, peer) = (quantile(&self.ours, 0.99), quantile(&self.peer, 0.99));
        let mut record = self.record(row, what, unit, &vec![ours - peer; self.ours.len()], None);
        (record.ours, record.peer) = (Some(round(ours)), Some(round(peer)));
        record
    }

    fn record(&self, row: &str, what: &str, unit: &str, values: &[f64], at_most: Option<f64>) -> Record {
        let control = bootstrap_groups(&self.grouped(&over(&self.again, &self.peer)));
        let interval = bootstrap_groups(&self.grouped(values));
        let mut record = Record::amount(row, what, unit, interval, self.ours.len(), at_most);
        record.ours = Some(round(median(&self.ours)));
        record.peer = Some(round(median(&self.peer)));
        record.aa_low = Some(round(control.low));
        record.aa_high = Some(round(control.high));
        record
    }
}

/// One side over the other, pair by pair.
fn over(side: &[f64], other: &[f64]) -> Vec<f64> {
    side.iter().zip(other).map(|(a, b)| a / b).collect()
}

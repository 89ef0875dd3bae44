//! Medians of pairs and their bootstrap intervals: what makes a ratio honest.

/// The middle value; the mean of the two middle ones for an even count.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The value below which `q` (0–1) of the values lie.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    if sorted.is_empty() {
        return f64::NAN;
    }
    let index = ((sorted.len() - 1) as f64 * q).round() as usize;
    sorted[index.min(sorted.len() - 1)]
}

/// A median with its 95 % bootstrap percentile interval.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    pub(crate) mid: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Efron's percentile bootstrap of the median: 4,000 resamples from a fixed
/// seed, so that one set of measurements always gives one interval.
pub(crate) fn bootstrap(values: &[f64]) -> Interval {
    let alone: Vec<Vec<f64>> = values.iter().map(|v| vec![*v]).collect();
    bootstrap_groups(&alone)
}

/// The same where values of one group are alike for a reason that has nothing
/// to do with what is measured, such as the guest they came from: whole groups
/// are drawn (Davison and Hinkley 1997, 3.8), else the interval is too narrow.
pub(crate) fn bootstrap_groups(groups: &[Vec<f64>]) -> Interval {
    const RESAMPLES: usize = 4000;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move || {
        // xorshift64*, Vigna 2016.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    };
    let medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sample: Vec<f64> =
                groups.iter().flat_map(|_| &groups[(next() % groups.len().max(1) as u64) as usize]).copied().collect();
            median(&sample)
        })
        .collect();
    Interval { mid: median(&groups.concat()), low: quantile(&medians, 0.025), high: quantile(&medians, 0.975) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!((quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 1.0) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn groups_that_differ_widen_the_interval() {
        let groups: Vec<Vec<f64>> =
            (0..8).map(|g| (0..30).map(|i| f64::from(g * 10) + f64::from(i) / 30.0).collect()).collect();
        let (whole, alone) = (bootstrap_groups(&groups), bootstrap(&groups.concat()));
        assert!(whole.high - whole.low > 1.5 * (alone.high - alone.low), "{whole:?} {alone:?}");
        assert!((whole.mid - alone.mid).abs() < 1e-9);
    }

    #[test]
    fn the_interval_holds_the_median_and_is_repeatable() {
        let values: Vec<f64> = (0..30).map(|i| f64::from(i % 7)).collect();
        let (a, b) = (bootstrap(&values), bootstrap(&values));
        assert!(a.low <= a.mid && a.mid <= a.high);
        assert!((a.low - b.low).abs() < 1e-12 && (a.high - b.high).abs() < 1e-12);
    }
}

//! A token bucket as one number: the time at which it will be full again
//! (GCRA, ITU-T I.371, as virtual scheduling). Pure; times are of a monotonic
//! clock.

use std::time::Duration;

const SHARE_BURST: u64 = 10;

/// How fast tokens come, and how many are kept at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    per_minute: u64,
    burst: u64,
}

impl Rate {
    /// At least one a minute; two seconds' worth are kept, as users of the
    /// earlier version know it.
    pub(crate) fn per_minute(n: u64) -> Self {
        let n = n.max(1);
        Self { per_minute: n, burst: (n / 30).max(1) }
    }

    /// A part of it, never below one a second, nor above the whole. It keeps
    /// [`SHARE_BURST`] tokens at least: a client makes a few requests at once.
    pub(crate) fn share(self, percent: u32) -> Self {
        let part = self.per_minute.saturating_mul(u64::from(percent)) / 100;
        let part = Self::per_minute(part.max(60).min(self.per_minute));
        Self { burst: part.burst.max(SHARE_BURST.min(self.burst)), ..part }
    }

    pub(crate) fn burst(self) -> u64 {
        self.burst
    }

    /// What `tokens` take to come.
    pub(crate) fn time_of(self, tokens: u64) -> Duration {
        let nanos = u128::from(tokens) * 60_000_000_000 / u128::from(self.per_minute);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Full when it is new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    full_at: Duration,
}

impl Bucket {
    /// One that is full after `missing`, at the time 0.
    pub(crate) fn full_in(missing: Duration) -> Self {
        Self { full_at: missing }
    }

    /// Whether `cost` tokens are there; else how long until they are. What
    /// costs more than a whole bucket needs a full one, and empties it below
    /// nothing.
    pub(crate) fn look(self, rate: Rate, now: Duration, cost: u64) -> Result<(), Duration> {
        let after = self.full_at.max(now) + rate.time_of(cost.min(rate.burst));
        match after.checked_sub(now + rate.time_of(rate.burst)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(()),
        }
    }

    pub(crate) fn take(&mut self, rate: Rate, now: Duration, cost: u64) {
        self.full_at = self.full_at.max(now) + rate.time_of(cost);
    }

    /// Tokens that are left, and how long until it is full.
    pub(crate) fn left(self, rate: Rate, now: Duration) -> (u64, Duration) {
        let missing = self.full_at.saturating_sub(now);
        let room = rate.time_of(rate.burst).saturating_sub(missing);
        let each = rate.time_of(1).max(Duration::from_nanos(1));
        (u64::try_from(room.as_nanos() / each.as_nanos()).unwrap_or(u64::MAX).min(rate.burst), missing)
    }

    /// Whether it has been full for so long.
    pub(crate) fn idle(self, now: Duration, since: Duration) -> bool {
        now.saturating_sub(self.full_at) >= since
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_rates_of_the_tiers() {
        let free = Rate::per_minute(600);
        assert_eq!((free.burst(), free.time_of(1)), (20, ms(100)));
        assert_eq!(free.share(10), Rate { per_minute: 60, burst: 10 }, "never below one a second");
        assert_eq!(Rate::per_minute(6000).share(10), Rate::per_minute(600));
        assert_eq!(Rate::per_minute(30).share(50), Rate::per_minute(30), "nor above the whole");
        assert_eq!(Rate::per_minute(0).burst(), 1);
    }

    #[test]
    fn a_retry_in_time_succeeds_and_one_earlier_fails() {
        let (rate, mut bucket) = (Rate::per_minute(600), Bucket::default());
        for _ in 0..20 {
            assert_eq!(bucket.look(rate, ms(0), 1), Ok(()));
            bucket.take(rate, ms(0), 1);
        }
        assert_eq!(bucket.left(rate, ms(0)), (0, ms(2000)));
        assert_eq!(bucket.look(rate, ms(0), 1), Err(ms(100)));
        assert_eq!(bucket.look(rate, ms(99), 1), Err(ms(1)));
        assert_eq!(bucket.look(rate, ms(100), 1), Ok(()));
        assert_eq!(bucket.look(rate, ms(100), 5), Err(ms(400)));
    }

    #[test]
    fn what_costs_more_than_a_bucket_needs_a_full_one_and_is_paid_for() {
        let (rate, mut bucket) = (Rate::per_minute(600), Bucket::default());
        assert_eq!(bucket.look(rate, ms(0), 50), Ok(()));
        bucket.take(rate, ms(0), 50);
        assert_eq!(bucket.look(rate, ms(0), 1), Err(ms(3100)), "as if fifty had come one by one");
        assert_eq!(bucket.look(rate, ms(3000), 50), Err(ms(2000)));
    }

    proptest! {
        /// In any span no more is let through than the burst and what came in
        /// it; and whoever asks slowly enough is never refused.
        #[test]
        fn no_span_lets_through_more(
            per_minute in 1u64..6000,
            steps in prop::collection::vec((0u64..2000, 1u64..4), 1..200),
        ) {
            let (rate, mut bucket, mut now, mut taken) = (Rate::per_minute(per_minute), Bucket::default(), 0, 0);
            for (pause, cost) in steps {
                now += pause;
                let cost = cost.min(rate.burst());
                match bucket.look(rate, ms(now), cost) {
                    Ok(()) => {
                        bucket.take(rate, ms(now), cost);
                        taken += cost;
                    }
                    Err(wait) => {
                        prop_assert!(bucket.look(rate, ms(now) + wait, cost).is_ok());
                        prop_assert!(bucket.look(rate, ms(now) + wait - Duration::from_nanos(1), cost).is_err());
                    }
                }
                prop_assert!(taken <= rate.burst() + now * per_minute / 60_000 + 1);
            }
        }
    }
}

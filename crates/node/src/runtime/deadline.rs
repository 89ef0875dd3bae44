//! When a run's time is over. The wall clock says when; the monotonic clock
//! sees to it that a wall clock set back does not prolong it.

use aether_core::{Clock, Timestamp};
use std::time::Duration;

/// The wall clock is looked at this often, in case it jumps.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    at: Timestamp,
    /// The same moment on the monotonic clock, taken when it was set.
    monotonic: Duration,
}

impl Deadline {
    pub(crate) fn new(at: Timestamp, clock: &dyn Clock) -> Self {
        Self { at, monotonic: clock.monotonic() + at.since(clock.now()) }
    }

    pub(crate) fn at(&self) -> Timestamp {
        self.at
    }

    pub(crate) fn passed(&self, clock: &dyn Clock) -> bool {
        clock.now() >= self.at || clock.monotonic() >= self.monotonic
    }

    /// How long to sleep before looking again.
    pub(crate) fn next_look(&self, clock: &dyn Clock) -> Duration {
        let left = self.monotonic.saturating_sub(clock.monotonic());
        left.min(self.at.since(clock.now())).min(LOOK)
    }
}

/// The deadline of a run that began at `started`: the store's, unless that
/// one is of an earlier run; else by the spec's own time to live.
pub(crate) fn effective(started: Timestamp, told: Option<Timestamp>, ttl_s: Option<u64>) -> Option<Timestamp> {
    told.filter(|at| *at > started).or_else(|| ttl_s.map(|s| started.plus(Duration::from_secs(s))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    struct Hands(Mutex<(u64, u64)>);

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            Timestamp::from_unix_ms(self.0.lock().0)
        }
        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.0.lock().1)
        }
    }

    #[test]
    fn either_clock_ends_it() {
        let clock = Hands(Mutex::new((100_000, 0)));
        let deadline = Deadline::new(Timestamp::from_unix_ms(110_000), &clock);
        assert!(!deadline.passed(&clock));
        assert_eq!(deadline.next_look(&clock), LOOK);
        *clock.0.lock() = (109_900, 9_900);
        assert_eq!(deadline.next_look(&clock), Duration::from_millis(100));
        *clock.0.lock() = (50_000, 10_000);
        assert!(deadline.passed(&clock), "the wall clock was set back");
        *clock.0.lock() = (200_000, 20);
        assert!(deadline.passed(&clock), "the machine slept");
    }

    #[test]
    fn a_deadline_of_an_earlier_run_is_not_this_ones() {
        let t = Timestamp::from_unix_ms;
        assert_eq!(effective(t(10_000), Some(t(5_000)), Some(3)), Some(t(13_000)));
        assert_eq!(effective(t(10_000), Some(t(50_000)), Some(3)), Some(t(50_000)));
        assert_eq!(effective(t(10_000), None, None), None);
    }
}

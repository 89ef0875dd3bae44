//! When a run's time is over. It is told by the wall clock and kept by the
//! time since the host's boot, which nobody sets and which goes on while the
//! node is down: a wall clock that jumps neither shortens a run nor prolongs
//! it.

use crate::journal::Ends;
use aether_core::{Clock, Timestamp};
use std::time::Duration;

/// The clock is looked at this often: a machine that slept wakes up late.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    at: Timestamp,
    /// The same moment since boot, taken when it was told.
    due: Duration,
}

impl Deadline {
    /// As an earlier process of this node noted it, if it is the same one.
    pub(crate) fn new(at: Timestamp, noted: Option<Ends>, clock: &dyn Clock) -> Self {
        let due = match noted {
            Some(ends) if ends.at == at => Duration::from_millis(ends.since_boot_ms),
            _ => clock.since_boot() + at.since(clock.now()),
        };
        Self { at, due }
    }

    pub(crate) fn at(&self) -> Timestamp {
        self.at
    }

    pub(crate) fn noted(&self) -> Ends {
        Ends { at: self.at, since_boot_ms: u64::try_from(self.due.as_millis()).unwrap_or(u64::MAX) }
    }

    pub(crate) fn left(&self, clock: &dyn Clock) -> Duration {
        self.due.saturating_sub(clock.since_boot())
    }

    pub(crate) fn passed(&self, clock: &dyn Clock) -> bool {
        self.left(clock).is_zero()
    }

    /// How long to sleep before looking again.
    pub(crate) fn next_look(&self, clock: &dyn Clock) -> Duration {
        self.left(clock).min(LOOK)
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
    fn a_wall_clock_that_jumps_has_no_say() {
        let clock = Hands(Mutex::new((100_000, 0)));
        let deadline = Deadline::new(Timestamp::from_unix_ms(110_000), None, &clock);
        assert_eq!(deadline.next_look(&clock), LOOK);
        for wall in [50_000, 100_000, 200_000] {
            *clock.0.lock() = (wall, 9_900);
            assert!(!deadline.passed(&clock));
            assert_eq!(deadline.next_look(&clock), Duration::from_millis(100));
            *clock.0.lock() = (wall, 10_000);
            assert!(deadline.passed(&clock));
        }
    }

    #[test]
    fn the_next_process_goes_on_with_what_was_noted() {
        let clock = Hands(Mutex::new((100_000, 5_000)));
        let at = Timestamp::from_unix_ms(110_000);
        let noted = Deadline::new(at, None, &clock).noted();
        assert_eq!(noted, Ends { at, since_boot_ms: 15_000 });
        *clock.0.lock() = (900_000, 8_000);
        assert_eq!(Deadline::new(at, Some(noted), &clock).left(&clock), Duration::from_secs(7));
        let later = Timestamp::from_unix_ms(920_000);
        assert_eq!(Deadline::new(later, Some(noted), &clock).left(&clock), Duration::from_secs(20), "another deadline");
    }

    #[test]
    fn a_deadline_of_an_earlier_run_is_not_this_ones() {
        let t = Timestamp::from_unix_ms;
        assert_eq!(effective(t(10_000), Some(t(5_000)), Some(3)), Some(t(13_000)));
        assert_eq!(effective(t(10_000), Some(t(50_000)), Some(3)), Some(t(50_000)));
        assert_eq!(effective(t(10_000), None, None), None);
    }
}

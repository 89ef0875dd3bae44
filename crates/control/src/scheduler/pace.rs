//! Whether the wall clock goes as time does. Leases are told by the wall clock,
//! which all servers share; a leap of it is not their holders' silence.

use aether_core::{Clock, Timestamp};
use std::time::Duration;

/// A wall clock that is put right moves slower than that, or leaps.
const LEAP: Duration = Duration::from_secs(1);

/// Both clocks as they were last read.
pub(super) struct Pace {
    wall: Timestamp,
    monotonic: Duration,
}

impl Pace {
    pub(super) fn of(clock: &dyn Clock) -> Self {
        Self { wall: clock.now(), monotonic: clock.monotonic() }
    }

    /// What the wall clock said when it was last judged.
    pub(super) fn wall(&self) -> Timestamp {
        self.wall
    }

    /// Whether the wall clock went by more, or less, than time did.
    pub(super) fn leapt(&mut self, clock: &dyn Clock) -> bool {
        let now = Self::of(clock);
        let expected = self.wall.plus(now.monotonic.saturating_sub(self.monotonic));
        let by = now.wall.since(expected).max(expected.since(now.wall));
        *self = now;
        by > LEAP
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use proptest::prelude::*;

    /// Long past 1970, so that a leap back by a day is one.
    const TODAY_MS: u64 = 1_800_000_000_000;

    /// Two hands that go as a test says: the wall's in milliseconds.
    struct Hands(Mutex<(u64, Duration)>);

    impl Hands {
        fn new() -> Self {
            Self(Mutex::new((TODAY_MS, Duration::from_secs(7))))
        }

        /// Time goes by; the wall clock shows as much and `off` ms more, or less.
        fn go(&self, passed: Duration, off: i64) {
            let mut hands = self.0.lock();
            let shown = hands.0 + u64::try_from(passed.as_millis()).expect("fits");
            *hands = (shown.checked_add_signed(off).expect("after 1970"), hands.1 + passed);
        }
    }

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            Timestamp::from_unix_ms(self.0.lock().0)
        }
        fn monotonic(&self) -> Duration {
            self.0.lock().1
        }
    }

    #[test]
    fn a_leap_is_told_once_to_and_fro() {
        let clock = Hands::new();
        let mut pace = Pace::of(&clock);
        for off in [3_600_000, -3_600_000, 86_400_000, -86_400_000, 1_002, -1_002] {
            clock.go(Duration::from_millis(200), off);
            assert!(pace.leapt(&clock), "{off} ms");
            clock.go(Duration::from_millis(200), 0);
            assert!(!pace.leapt(&clock), "once alone, after {off} ms");
        }
    }

    #[test]
    fn a_machine_that_slept_has_leapt() {
        // The monotonic clock stands still meanwhile.
        let clock = Hands::new();
        let mut pace = Pace::of(&clock);
        clock.go(Duration::ZERO, 8 * 3_600_000);
        assert!(pace.leapt(&clock));
    }

    #[test]
    fn a_server_that_was_held_has_not() {
        // Stopped, or starved: both clocks went on.
        let clock = Hands::new();
        let mut pace = Pace::of(&clock);
        clock.go(Duration::from_secs(3600), 0);
        assert!(!pace.leapt(&clock));
    }

    proptest! {
        /// Readings at any distance, with the clock put right bit by bit (what
        /// `adjtime` does is at most 500 ppm) and cut to whole milliseconds.
        #[test]
        fn what_is_put_right_slowly_is_no_leap(
            steps in proptest::collection::vec((0u64..1_000_000_000_000, -500i64..=500), 1..50)
        ) {
            let clock = Hands::new();
            let mut pace = Pace::of(&clock);
            for (ns, ppm) in steps {
                let off = i64::try_from(ns / 1_000_000).expect("fits") * ppm / 1_000_000;
                clock.go(Duration::from_nanos(ns), off);
                prop_assert!(!pace.leapt(&clock), "{ns} ns at {ppm} ppm");
            }
        }

        /// However long between two readings, whichever way.
        #[test]
        fn more_than_a_second_at_once_is_one(
            steps in proptest::collection::vec((0u64..100_000_000_000, 1_002i64..1_000_000_000, any::<bool>()), 1..50)
        ) {
            let clock = Hands::new();
            let mut pace = Pace::of(&clock);
            for (ns, off, back) in steps {
                clock.go(Duration::from_nanos(ns), if back { -off } else { off });
                prop_assert!(pace.leapt(&clock), "{ns} ns and {off} ms, back: {back}");
                prop_assert!(!pace.leapt(&clock), "read again at once");
            }
        }

        /// Any two readings are judged, none panics; the same ones are no leap.
        #[test]
        fn any_readings_are_judged(wall in any::<u64>(), ns in any::<u64>(), wall2 in any::<u64>(), ns2 in any::<u64>()) {
            let clock = Hands(Mutex::new((wall, Duration::from_nanos(ns))));
            let mut pace = Pace::of(&clock);
            prop_assert!(!pace.leapt(&clock));
            *clock.0.lock() = (wall2, Duration::from_nanos(ns2));
            let _ = pace.leapt(&clock);
            prop_assert!(!pace.leapt(&clock));
        }
    }
}

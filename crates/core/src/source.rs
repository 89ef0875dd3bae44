//! Where time and randomness come from: passed in, so that the logic above
//! can be simulated.

use crate::time::Timestamp;
use std::time::Duration;

/// Wall-clock and monotonic time.
pub trait Clock: Send + Sync {
    /// For showing and for absolute deadlines.
    fn now(&self) -> Timestamp;
    /// Time since an arbitrary fixed point; never goes back.
    fn monotonic(&self) -> Duration;
    /// Time since this machine booted, what it slept included: the same for
    /// every process on it, and never set.
    fn since_boot(&self) -> Duration {
        self.monotonic()
    }
}

/// A source of random bytes fit for secrets.
pub trait Rng: Send + Sync {
    fn fill(&self, out: &mut [u8]);
}

#[cfg(feature = "system")]
pub use system::{OsRng, SystemClock};

#[cfg(feature = "system")]
#[allow(clippy::disallowed_methods, reason = "the one place that reads the operating system's clock")]
mod system {
    use super::{Clock, Rng, Timestamp};
    use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

    /// The operating system's clocks.
    #[derive(Debug, Clone)]
    pub struct SystemClock {
        start: Instant,
    }

    impl Default for SystemClock {
        fn default() -> Self {
            Self { start: Instant::now() }
        }
    }

    impl Clock for SystemClock {
        fn now(&self) -> Timestamp {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
        }

        fn monotonic(&self) -> Duration {
            self.start.elapsed()
        }

        fn since_boot(&self) -> Duration {
            let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
            let seconds = text.split_whitespace().next().and_then(|seconds| seconds.parse().ok());
            seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or_else(|| self.monotonic())
        }
    }

    /// `getrandom(2)`.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct OsRng;

    impl Rng for OsRng {
        fn fill(&self, out: &mut [u8]) {
            getrandom::fill(out).expect("getrandom fails only before the pool is seeded, and then blocks");
        }
    }
}

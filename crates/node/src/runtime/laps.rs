//! How long each step of one boot took: for the log line that says `running`,
//! and for whoever asks where the time went. It decides nothing.

use std::fmt;
use std::time::Duration;
use tokio::time::Instant;

pub(super) struct Laps {
    last: Instant,
    steps: Vec<(&'static str, Duration)>,
}

impl Laps {
    pub(super) fn start() -> Self {
        Self { last: Instant::now(), steps: Vec::new() }
    }

    /// Ends the step of that name; the next begins.
    pub(super) fn lap(&mut self, step: &'static str) {
        let now = Instant::now();
        self.steps.push((step, now.duration_since(self.last)));
        self.last = now;
    }
}

/// `image=0.4 queue=0.1 …`, in milliseconds.
impl fmt::Display for Laps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (step, took)) in self.steps.iter().enumerate() {
            let gap = if n == 0 { "" } else { " " };
            write!(f, "{gap}{step}={:.1}", took.as_secs_f64() * 1000.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_step_has_its_own_time() {
        let mut laps = Laps::start();
        tokio::time::sleep(Duration::from_millis(12)).await;
        laps.lap("image");
        tokio::time::sleep(Duration::from_millis(3)).await;
        laps.lap("slot");
        assert_eq!(laps.to_string(), "image=12.0 slot=3.0");
    }
}

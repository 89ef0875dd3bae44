//! A client that does nothing wrong, beside whatever goes on.

use super::target::Target;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, timeout};

const LONG: Duration = Duration::from_secs(60);
const SLOWEST: usize = 8;

/// What goes on beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Calm,
    /// Hostile requests.
    Requests,
    /// Connections that stay.
    Connections,
    /// The same attackers, busy with another server.
    RequestsElsewhere,
    ConnectionsElsewhere,
}

/// A client that does nothing wrong, on one kept connection and now and then
/// on a new one; on a thread of its own, so that it does not wait for the
/// attackers' turn.
pub(super) struct Honest {
    phase: Arc<Mutex<Phase>>,
    stop: Arc<AtomicBool>,
    working: std::thread::JoinHandle<Seen>,
}

/// One request that was answered.
#[derive(Clone, Copy, Debug)]
struct Asked {
    phase: Phase,
    took: Duration,
    /// Since the first one.
    at: Duration,
    /// On a connection of its own.
    fresh: bool,
}

#[derive(Default)]
pub(super) struct Seen {
    took: Vec<Asked>,
    pub(super) failed: Vec<String>,
}

/// How long requests took in one phase.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Took {
    n: usize,
    p50: Duration,
    pub(super) p99: Duration,
    most: Duration,
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:?}, p99 {:?}, at most {:?} ({} requests)", self.p50, self.p99, self.most, self.n)
    }
}

impl Seen {
    /// The slowest of a phase, in words.
    pub(super) fn slowest(&self, phase: Phase) -> String {
        let mut slow: Vec<_> = self.took.iter().filter(|a| a.phase == phase).collect();
        slow.sort_by_key(|a| std::cmp::Reverse(a.took));
        let told = |a: &&Asked| {
            let on = if a.fresh { "a new" } else { "the kept" };
            format!("{:.0?} at {:.1?} on {on} connection", a.took, a.at)
        };
        slow.iter().take(SLOWEST).map(told).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn took(&self, phase: Phase) -> Took {
        let mut took: Vec<_> = self.took.iter().filter(|a| a.phase == phase).map(|a| a.took).collect();
        took.sort();
        let at = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
        Took { n: took.len(), p50: at(50), p99: at(99), most: took.last().copied().unwrap_or_default() }
    }
}

impl Honest {
    #[allow(clippy::disallowed_methods, reason = "its own thread is the point")]
    pub(super) fn start(target: &Target) -> Self {
        let (phase, stop) = (Arc::new(Mutex::new(Phase::Calm)), Arc::new(AtomicBool::new(false)));
        let url = format!("http://{}/v1/agents/{}", target.address, target.agent);
        let (key, now, ended) = (target.admin.clone(), phase.clone(), stop.clone());
        let working = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(ask(&url, &key, &now, &ended))
        });
        Self { phase, stop, working }
    }

    pub(super) fn phase(&self, phase: Phase) {
        *self.phase.lock().expect("lock") = phase;
    }

    pub(super) fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.working.join().expect("joined")
    }
}

async fn ask(url: &str, key: &str, phase: &Mutex<Phase>, ended: &AtomicBool) -> Seen {
    let kept = reqwest::Client::builder().no_proxy().build().expect("client");
    let fresh = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("client");
    let mut seen = Seen::default();
    let mut turn = 0u32;
    let first = Instant::now();
    while !ended.load(Ordering::Relaxed) {
        let new = turn.is_multiple_of(8);
        let client = if new { &fresh } else { &kept };
        turn = turn.wrapping_add(1);
        let (now, began) = (*phase.lock().expect("lock"), Instant::now());
        let answer = timeout(LONG, client.get(url).bearer_auth(key).send()).await;
        let took = began.elapsed();
        match answer {
            Ok(Ok(answer)) if answer.status().as_u16() == 200 => {
                seen.took.push(Asked { phase: now, took, at: began - first, fresh: new });
            }
            other => seen.failed.push(format!("an honest request after {took:?}: {other:?}")),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    seen
}

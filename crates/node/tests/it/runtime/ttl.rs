//! Times to live, while the control plane is away, the node is killed and
//! begun again, and the wall clock jumps: each is acted on once, within 2 s of
//! its deadline, and the VMM is gone within 5 s of that, also where the guest
//! is deaf or does not run at all.
//!
//! A deadline that passes while no node runs counts from the adoption.
//! `AETHER_TTLS` says how many agents (`make ttl`: 100), in batches.

use super::adoption::{slot_of, vmms};
use super::recycle::identity;
use super::world::World;
use super::{sh, spec};
use aether_core::source::OsRng;
use aether_counted::{Counted, Dice, seed, trials};
use aether_node::journal::Journal;
use nix::sys::signal::{Signal, kill};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const ACTED: Duration = Duration::from_secs(2);
const GONE: Duration = Duration::from_secs(5);
const BATCH: u64 = 6;
const HOUR_MS: i64 = 3_600_000;

/// What is seen of one agent.
struct Watched {
    agent: String,
    form: &'static str,
    pid: u32,
    due: Instant,
    acted: Option<Instant>,
    gone: Option<Instant>,
    /// The node was killed while it ended this one.
    cut_short: bool,
}

fn now_ms() -> u64 {
    use aether_core::Clock;
    aether_core::source::SystemClock::default().now().unix_ms()
}

#[tokio::test(flavor = "multi_thread")]
async fn times_to_live_end_on_time_whoever_is_away() {
    let seed = seed();
    let mut dice = Dice::new(seed);
    let wanted = trials("AETHER_TTLS", BATCH);
    let mut counted =
        Counted::new("ttl", 15, "deadlines with no control plane, a killed node and a clock that jumps", seed);
    let mut world = World::new("ttl").await;
    world.import("one:v1", "one").await;
    let keeper = world.server.create(&spec("one:v1"));
    world.server.observed(&keeper, "running").await;
    world.server.expire(&keeper, Some(now_ms() + 1_800_000), None);
    let (mut late, mut slow) = (Duration::ZERO, Duration::ZERO);
    while counted.n < wanted {
        let all = batch(&mut world, &keeper, &mut dice, BATCH.min(wanted - counted.n)).await;
        for w in &all {
            let (acted, gone) = (w.acted.expect("acted"), w.gone.expect("gone"));
            late = late.max(acted.saturating_duration_since(w.due));
            slow = slow.max(gone - acted);
        }
        counted.n += all.len() as u64;
        // The control plane's absence, the kill, and two jumps of the clock.
        counted.faults += 4;
    }
    println!("acted at most {late:?} after the deadline, and the VMM gone at most {slow:?} after that");
    let report = world.server.observed(&keeper, "running").await;
    assert!(report.stopped_at_ms.is_none(), "half an hour was not over");
    world.server.want(&keeper, "gone");
    world.server.observed(&keeper, "gone").await;
    world.assert_nothing_left().await;
}

/// From agents that run to agents whose time is over.
async fn batch(world: &mut World, keeper: &str, dice: &mut Dice, count: u64) -> Vec<Watched> {
    let mut agents = Vec::new();
    for n in 0..count {
        let form = ["plain", "deaf", "ttl of the spec", "held"][n as usize % 4];
        let spec = match form {
            "deaf" => sh("one:v1", "trap '' TERM INT HUP; while :; do sleep 1; done"),
            _ => spec("one:v1"),
        };
        agents.push((world.server.create(&spec), form));
    }
    let mut all = Vec::new();
    for (agent, form) in agents {
        let started = world.server.observed(&agent, "running").await.started_at_ms.expect("started");
        let slot = slot_of(world, &agent).expect("in the log");
        all.push((agent, form, started, vmms(world)[&slot].pid));
    }
    let mut watched = Vec::new();
    for (agent, form, started, pid) in all {
        let (now, left) = (now_ms(), 4000 + dice.roll(6000));
        let left = match form {
            // Whole seconds from the start of the run.
            "ttl of the spec" => {
                let ttl = (now + left - started).div_ceil(1000);
                world.server.expire(&agent, None, Some(ttl));
                started + ttl * 1000 - now
            }
            _ => {
                world.server.expire(&agent, Some(now + left), None);
                left
            }
        };
        let due = Instant::now() + Duration::from_millis(left);
        watched.push(Watched { agent, form, pid, due, acted: None, gone: None, cut_short: false });
    }
    world.server.acked().await;
    noted(world, &watched).await;
    world.silence();
    hostile_times(world, keeper, dice, &mut watched).await;
    world.serve();
    for w in &watched {
        world.server.observed(&w.agent, "stopped").await;
        let stops = world.server.states_of(&w.agent).iter().filter(|s| *s == "stopped").count();
        assert_eq!(stops, 1, "{}: reported once", w.form);
        let acts = world.log().matches(&format!("stopping agent={} reason=Expired", w.agent)).count();
        // One more where the node died between the act and the end.
        let again = usize::from(w.cut_short);
        assert!((1..=1 + again).contains(&acts), "{}: acted on {acts} times", w.form);
        world.server.want(&w.agent, "gone");
    }
    for w in &watched {
        world.server.observed(&w.agent, "gone").await;
    }
    world.jump(0);
    watched
}

/// Waits until the journal has each deadline: what is told while the clock
/// jumps is another test.
async fn noted(world: &World, watched: &[Watched]) {
    let state = world.setup.base.join("state");
    let journal =
        Journal::open(state.join("journal.db"), state.join("node.key"), Arc::new(OsRng)).await.expect("opens");
    loop {
        let rows = journal.load().await.expect("reads").sandboxes;
        let has = |w: &Watched| rows.iter().any(|(agent, row)| agent.as_str() == w.agent && row.ends.is_some());
        if watched.iter().all(has) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The clock jumps, the node dies and comes back at a moment of its own, the
/// clock jumps the other way; meanwhile all is watched to its end.
async fn hostile_times(world: &mut World, keeper: &str, dice: &mut Dice, watched: &mut [Watched]) {
    for w in watched.iter().filter(|w| w.form == "held") {
        kill(nix::unistd::Pid::from_raw(w.pid.cast_signed()), Signal::SIGSTOP).expect("holds the VMM");
    }
    world.jump(if dice.roll(2) == 0 { 2 * HOUR_MS } else { -2 * HOUR_MS });
    let dies = Instant::now() + Duration::from_millis(500 + dice.roll(3000));
    watch(world, watched, Some(dies), Instant::now()).await;
    world.kill();
    for w in watched.iter_mut() {
        w.cut_short = w.gone.is_none() && w.due < Instant::now();
    }
    world.jump(if dice.roll(2) == 0 { 3 * HOUR_MS } else { -3 * HOUR_MS });
    tokio::time::sleep(Duration::from_millis(dice.roll(1500))).await;
    let logged = world.log().len();
    let begun = Instant::now();
    world.start(None);
    while !world.log().split_off(logged).contains(&format!("adopted agent={keeper} ")) {
        assert!(begun.elapsed() < Duration::from_secs(10), "the keeper is not adopted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    watch(world, watched, None, Instant::now()).await;
}

/// Until then, or until all are gone. `up` is when the node came to be.
async fn watch(world: &World, watched: &mut [Watched], until: Option<Instant>, up: Instant) {
    while until.map_or(watched.iter().any(|w| w.gone.is_none()), |until| Instant::now() < until) {
        let log = world.log();
        for w in watched.iter_mut() {
            look(w, &log, up);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn look(w: &mut Watched, log: &str, up: Instant) {
    let (now, form) = (Instant::now(), w.form);
    if w.acted.is_none() && log.contains(&format!("stopping agent={} reason=Expired", w.agent)) {
        assert!(now + Duration::from_millis(100) > w.due, "{form}: {:?} too early", w.due - now);
        w.acted = Some(now);
        w.due = w.due.max(up);
    }
    if w.gone.is_none() && identity(w.pid).is_none() {
        w.gone = Some(now);
        let acted = w.acted.unwrap_or_else(|| panic!("{form}: it ended by itself"));
        w.acted = Some(acted.max(up));
    }
    match (w.acted, w.gone) {
        (None, _) => assert!(now < w.due.max(up) + ACTED, "{form}: not acted upon in time"),
        (Some(acted), None) => assert!(now < acted.max(up) + GONE, "{form}: its VMM lives on"),
        _ => {}
    }
}

//! Every failpoint with every fault: a crash, the step's error, a step that
//! hangs. Afterwards the agent is where it should be or says why not, it was
//! there once, and nothing of it is left.
//!
//! `AETHER_ALL_FAILPOINTS=1` takes all combinations; otherwise some, by a seed
//! that is printed and that `AETHER_SEED` repeats. `AETHER_FAILPOINTS_OF` narrows
//! them to the points that begin so; `AETHER_LANES` nodes go through them side
//! by side.

use super::exec::{start_message, try_run};
use super::server::bound;
use super::world::{World, listen_in, try_import};
use super::{sh, spec};
use aether_core::source::{OsRng, SystemClock};
use aether_core::{AgentSpec, Clock, Rng};
use aether_counted::{Counted, trials};
use aether_node::failpoint::POINTS;
use aether_proto::node::AgentReport;
use futures::future::join_all;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

const FAULTS: [&str; 3] = ["crash", "error", "hang:2"];
/// Per run where not all are wanted: a few minutes of an emulated machine.
const SOME: usize = 16;

#[derive(Clone, Debug)]
struct Case {
    point: &'static str,
    fault: &'static str,
    number: usize,
}

impl Case {
    fn kind(&self) -> &str {
        self.point.split('.').next().unwrap_or_default()
    }

    fn step(&self) -> &str {
        self.point.rsplit_once('.').map_or(self.point, |(step, _)| step)
    }

    /// What leads to the step.
    fn spec(&self, image: &str) -> AgentSpec {
        match self.step() {
            "event.note" => sh(image, "exit 0"),
            "rest.note" => AgentSpec { ttl_s: Some(3600), ..spec(image) },
            _ => spec(image),
        }
    }

    /// What is armed: some steps are on ways that need a fault to be taken.
    fn armed(&self) -> String {
        let way = match self.kind() {
            "fail" => ",boot.make_disk.after=error",
            "undo" => ",boot.start_vmm.before=hang:3",
            _ => "",
        };
        format!("{}={}{way}", self.point, self.fault)
    }

    /// As the node's log has it.
    fn trace(&self) -> String {
        let fault = match self.fault {
            "crash" => "Crash",
            "error" => "Error",
            _ => "Hang(2s)",
        };
        format!("failpoint name=\"{}\" fault={fault}", self.point)
    }
}

fn cases(seed: u64) -> Vec<Case> {
    let all = POINTS.iter().flat_map(|point| FAULTS.map(|fault| (*point, fault)));
    let of = std::env::var("AETHER_FAILPOINTS_OF").unwrap_or_default();
    let mut cases: Vec<Case> = all
        .enumerate()
        .map(|(number, (point, fault))| Case { point, fault, number })
        .filter(|case| case.point.starts_with(&of))
        .collect();
    if std::env::var_os("AETHER_ALL_FAILPOINTS").is_none() && of.is_empty() {
        cases.sort_by_key(|case| mixed(seed ^ case.number as u64));
        cases.truncate(SOME);
    }
    cases
}

/// splitmix64: neighbours in, strangers out.
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn seed() -> u64 {
    let given = std::env::var("AETHER_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| {
        let mut bytes = [0; 4];
        OsRng.fill(&mut bytes);
        u64::from(u32::from_le_bytes(bytes))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_at_any_step_loses_doubles_or_leaves_anything() {
    let seed = seed();
    let cases = cases(seed);
    println!("seed {seed}: {} of {} combinations", cases.len(), POINTS.len() * FAULTS.len());
    let counted = Mutex::new(Counted::new("failpoints", 8, "failpoints", seed));
    let next = Mutex::new(cases.iter());
    let lanes = (0..trials("AETHER_LANES", 1)).map(async |lane| {
        let mut world = World::new(&format!("failpoints{lane}")).await;
        let registry = super::registry::serve(listen_in(&world.netns));
        world.end().await;
        loop {
            let Some(case) = next.lock().next() else { return };
            println!("{} {}", case.point, case.fault);
            {
                let mut counted = counted.lock();
                (counted.n, counted.faults) = (counted.n + 1, counted.faults + 1);
            }
            pass(&mut world, case, &registry).await;
        }
    });
    join_all(lanes).await;
}

/// To an image for the case's agent.
async fn image_of(trip: &mut Trip<'_>, registry: &str) -> String {
    let name = format!("case{}", trip.case.number);
    if trip.case.step() == "image.read" {
        trip.import(&name).await;
        format!("{name}:v1")
    } else if trip.case.kind() == "image" {
        format!("{registry}/t/{name}:1")
    } else {
        // One for all, from the second case on without a download.
        format!("{registry}/t/plain:1")
    }
}

async fn pass(world: &mut World, case: &Case, registry: &str) {
    let logged = world.log().len();
    world.start(Some(&case.armed()));
    let mut trip = Trip { world, case, agent: String::new(), generation: 1, died: false };
    let image = image_of(&mut trip, registry).await;
    trip.agent = trip.world.server.create(&case.spec(&image));
    if case.kind() == "undo" {
        trip.until(&["creating", "running"]).await;
        trip.turn("stopped").await;
    }
    let ends = if case.kind() == "event" { "stopped" } else { "running" };
    let report = trip.until(&[ends, "failed", "stopped"]).await;
    match report.observed.as_str() {
        "running" => assert_eq!(trip.world.sandboxes_alive(), 1, "{case:?}"),
        "failed" => {
            assert!(!report.error_code.is_empty(), "{case:?} {report:?}");
            let asked = case.fault == "error" || case.kind() == "fail";
            assert!(asked, "only an error may fail it: {case:?} {report:?}");
        }
        _ => {}
    }
    match case.step() {
        "exec.start" => trip.exec().await,
        "rest.note_generation" => trip.turn("running").await,
        "stop.keep_logs" | "stop.note_begin" | "stop.note_end" => trip.turn("stopped").await,
        "settle.note" => {
            trip.turn("stopped").await;
            trip.turn("stopped").await;
        }
        _ if case.kind() == "end" => trip.expire().await,
        _ => {}
    }
    trip.turn("gone").await;
    let (died, agent) = (trip.died, trip.agent);
    let states = world.server.states_of(&agent);
    assert!(states.iter().filter(|state| *state == "running").count() <= 1, "{case:?}: {states:?}");
    world.assert_nothing_left().await;
    world.server.forget(&agent);
    let log = world.log().split_off(logged);
    assert!(log.contains(&case.trace()), "{case:?} was not reached");
    assert_eq!(died, case.fault == "crash", "{case:?}");
}

/// A node on its way through one case.
struct Trip<'a> {
    world: &'a mut World,
    case: &'a Case,
    agent: String,
    generation: u64,
    died: bool,
}

impl Trip<'_> {
    /// Begins a node that crashed again, as a service manager does.
    fn revive(&mut self) {
        if !self.world.is_dead() {
            return;
        }
        assert!(self.case.fault == "crash" && !self.died, "it died unasked: {:?}", self.case);
        self.died = true;
        self.world.start(None);
    }

    /// Wants something else, and waits for it.
    async fn turn(&mut self, desired: &str) {
        self.world.server.want(&self.agent, desired);
        self.generation += 1;
        self.until(&[desired]).await;
    }

    /// Its time is over.
    async fn expire(&mut self) {
        let now = SystemClock::default().now().unix_ms();
        self.world.server.expire(&self.agent, Some(now + 500), None);
        self.until(&["stopped"]).await;
    }

    /// Waits for one of these, and lets the node die once on the way.
    async fn until(&mut self, wanted: &[&str]) -> AgentReport {
        let began = Instant::now();
        while began.elapsed() < bound(wanted) {
            self.revive();
            let last = self.world.server.reports_of(&self.agent).pop();
            let is =
                |last: &AgentReport| last.generation >= self.generation && wanted.contains(&last.observed.as_str());
            if let Some(report) = last.filter(is) {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?}: not {wanted:?}: {:#?}", self.case, self.world.server.reports_of(&self.agent))
    }

    /// Asked for again by its id until it is known how it ended: it ran once.
    async fn exec(&mut self) {
        let start = start_message(&self.agent, &["/bin/sh", "-c", "echo x >> /ran; cat /ran"]);
        let began = Instant::now();
        while began.elapsed() < bound(&[]) {
            self.revive();
            let mut data = self.world.data().await;
            if let Some(ran) = try_run(&mut data, &start).await {
                return assert_eq!((ran.stdout.as_str(), ran.code), ("x\n", Some(0)), "{:?}: {ran:?}", self.case);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("{:?}: no exec", self.case)
    }

    /// A client that asks again.
    async fn import(&mut self, name: &str) {
        for _ in 0..50 {
            let mut data = self.world.data().await;
            match try_import(&mut data, &format!("{name}:v1"), name).await {
                Ok(image) => return assert!(image.is_some()),
                Err(e) => println!("  {e}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            self.revive();
        }
        panic!("{:?}: not imported", self.case)
    }
}

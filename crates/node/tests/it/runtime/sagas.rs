//! Sagas. Every step's work twice in a row, as after a lost answer; and every
//! step failing, before and after its work, with every undo done twice. The
//! agent becomes what it would have become, or is refused in words and starts
//! the next time. There is never a second VMM, main process, exec or line of
//! its log; nothing but a boot takes a minute; nothing is left.
//!
//! `AETHER_ALL_SAGAS=1` takes all cases; otherwise one that has every step
//! twice, and some of the others, by a seed that is printed and that
//! `AETHER_SEED` repeats. `AETHER_SAGAS_OF` narrows them to the steps that
//! begin so (several with commas between them); `AETHER_LANES` nodes go through
//! them side by side.

use super::exec::{start_message, try_run};
use super::server::bound;
use super::sh;
use super::world::{World, listen_in, try_import};
use aether_core::{AgentSpec, Clock};
use aether_counted::{Counted, Dice, seed, trials};
use aether_node::failpoint::STEPS;
use aether_proto::node as wire;
use aether_proto::node::AgentReport;
use futures::future::join_all;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Beside the one that has all steps twice, where not all are wanted.
const SOME: usize = 3;
/// Stands for all steps.
const ALL: &str = "";
/// Twice would be one too many: these refuse, with this code.
const REFUSED: [(&str, &str); 2] = [("boot.claim_slot", "NODE_ERROR"), ("boot.start_vmm", "BOOT_FAILED")];
/// On ways of their own, which the one case with all steps does not go.
const ASIDE: [&str; 5] = ["fail.remove_disk", "fail.release_image", "fail.note", "undo.note", "image.read"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Twice,
    /// At this point, and every other undo twice.
    Fails(&'static str),
}

#[derive(Clone, Copy, Debug)]
struct Case {
    step: &'static str,
    what: What,
}

fn is_undo(step: &str) -> bool {
    ["end.", "fail.", "undo.", "destroy."].iter().any(|kind| step.starts_with(kind))
}

/// Refused when done twice, with which code.
fn refusal(step: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(refused, _)| *refused == step).map(|(_, code)| *code)
}

fn all_twice(which: impl Fn(&str) -> bool) -> Vec<String> {
    STEPS.iter().filter(|step| which(step)).map(|step| format!("{step}=twice")).collect()
}

impl Case {
    fn kind(&self) -> &str {
        self.step.split('.').next().unwrap_or_default()
    }

    /// What is armed: some steps are on ways that need a fault to be taken.
    fn armed(&self) -> String {
        let mut armed = match self.what {
            What::Twice if self.step == ALL => all_twice(|step| refusal(step).is_none()),
            What::Twice => vec![format!("{}=twice", self.step)],
            What::Fails(at) => {
                let mut armed = all_twice(|step| is_undo(step) && step != self.step);
                armed.push(format!("{}.{at}=error", self.step));
                armed
            }
        };
        match self.kind() {
            "fail" => armed.push("boot.make_disk.after=error".to_owned()),
            "undo" => armed.push("boot.start_vmm.before=hang:3".to_owned()),
            _ => {}
        }
        armed.join(",")
    }

    fn refused(&self) -> Option<&'static str> {
        refusal(self.step).filter(|_| self.what == What::Twice)
    }

    /// Whether the life is to hold a stop, another start and a time to live.
    fn is_long(&self) -> bool {
        match self.kind() {
            "" | "stop" | "end" | "rest" | "event" | "settle" => true,
            "boot" => self.what == What::Twice && self.refused().is_none(),
            _ => false,
        }
    }

    fn assert_reached(&self, log: &str) {
        let twice = |step: &str| assert!(log.contains(&format!("twice name=\"{step}\"")), "{self:?}: not {step}");
        match self.what {
            What::Twice if self.step == ALL => {
                for step in STEPS.iter().filter(|step| refusal(step).is_none() && !ASIDE.contains(step)) {
                    twice(step);
                }
            }
            What::Twice => twice(self.step),
            What::Fails(at) => {
                let trace = format!("failpoint name=\"{}.{at}\" fault=Error", self.step);
                assert!(log.contains(&trace), "{self:?} was not reached");
            }
        }
    }
}

fn cases(seed: u64) -> Vec<Case> {
    let of = std::env::var("AETHER_SAGAS_OF").unwrap_or_default();
    let steps = STEPS.iter().filter(|step| of.split(',').any(|of| step.starts_with(of)));
    let mut others: Vec<Case> = steps
        .flat_map(|step| [What::Twice, What::Fails("before"), What::Fails("after")].map(|what| Case { step, what }))
        .collect();
    if !of.is_empty() {
        return others;
    }
    let mut cases = vec![Case { step: ALL, what: What::Twice }];
    if std::env::var_os("AETHER_ALL_SAGAS").is_some() {
        cases.append(&mut others);
        return cases;
    }
    let mut dice = Dice::new(seed);
    for _ in 0..SOME {
        let drawn = usize::try_from(dice.roll(others.len() as u64)).expect("small");
        cases.push(others.swap_remove(drawn));
    }
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_or_an_undo_done_twice_is_as_good_as_once() {
    let seed = seed();
    let cases = cases(seed);
    let name = "steps twice, undos twice, a failure at every step";
    let counted = Mutex::new(Counted::new("sagas", 9, name, seed));
    let next = Mutex::new(cases.iter().enumerate());
    let lanes = (0..trials("AETHER_LANES", 1)).map(async |lane| {
        let mut world = World::new(&format!("sagas{lane}")).await;
        let registry = super::registry::serve(listen_in(&world.netns));
        let idle_mb = idle(&world).await;
        world.end().await;
        let mut longest = Duration::ZERO;
        loop {
            let Some((number, case)) = next.lock().next() else { return longest };
            println!("{number} of {}: {case:?}", cases.len());
            counted.lock().n += 1;
            let image = format!("{registry}/t/{}:1", if case.kind() == "image" { number } else { 0 });
            let logged = world.log().len();
            longest = longest.max(live(&mut world, case, &image, idle_mb).await);
            world.assert_nothing_left().await;
            let log = world.log().split_off(logged);
            case.assert_reached(&log);
            assert!(!log.contains("panicked"), "{case:?}");
            let faults = log.matches("failpoint name=").count() + log.matches("twice name=").count();
            counted.lock().faults += faults as u64;
        }
    });
    println!("the longest wait was {:?}", join_all(lanes).await.into_iter().max());
}

/// The memory that is free while nothing runs.
async fn idle(world: &World) -> u64 {
    loop {
        match world.server.beats().pop() {
            Some(beat) => return beat.memory_free_mb,
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// From create to gone; answers the longest wait.
async fn live(world: &mut World, case: &Case, image: &str, idle_mb: u64) -> Duration {
    world.start(Some(&case.armed()));
    if case.step == "image.read" {
        import(world, case, image).await;
    }
    let agent = world.server.create(&spec(image));
    let mut life = Life { world, case, agent, generation: 1, execs: 0, longest: Duration::ZERO };
    if case.kind() == "undo" {
        life.until(&["creating", "running"]).await;
        life.turn("stopped").await;
        life.turn("running").await;
    }
    let report = life.until(&["running", "failed"]).await;
    match report.observed.as_str() {
        "failed" => life.recover(&report).await,
        _ => assert_eq!(case.refused(), None, "{case:?}: it was not refused"),
    }
    life.works().await;
    if case.is_long() {
        life.whole().await;
    }
    life.turn("gone").await;
    let states = life.world.server.states_of(&life.agent);
    assert_eq!(states.iter().filter(|state| *state == "gone").count(), 1, "{case:?}: {states:?}");
    life.is_idle(idle_mb).await;
    life.world.server.forget(&life.agent);
    life.longest
}

/// Its main process leaves a line in its log and one on its disk.
fn spec(image: &str) -> AgentSpec {
    AgentSpec { ttl_s: Some(3600), ..sh(image, "echo said; echo x >> /mains; exec sleep 100000") }
}

/// A stream is there once: a second reading of it is refused, and so is one
/// that fails; a client that sends it again is served.
async fn import(world: &mut World, case: &Case, name: &str) {
    let refusal = try_import(&mut world.data().await, name, "saga").await.expect_err("refused");
    assert!(!refusal.message().is_empty() && !refusal.message().contains('/'), "{refusal:?}");
    if case.what == What::Twice {
        world.end().await;
        world.start(None);
    }
    let image = try_import(&mut world.data().await, name, "saga").await.expect("imported");
    assert!(image.is_some());
}

struct Life<'a> {
    world: &'a mut World,
    case: &'a Case,
    agent: String,
    generation: u64,
    /// One per boot that worked.
    execs: usize,
    longest: Duration,
}

impl Life<'_> {
    /// Wants something else, and waits for it.
    async fn turn(&mut self, desired: &str) -> AgentReport {
        self.world.server.want(&self.agent, desired);
        self.generation += 1;
        self.until(&[desired]).await
    }

    async fn until(&mut self, wanted: &[&str]) -> AgentReport {
        let (case, began) = (self.case, Instant::now());
        while began.elapsed() < bound(wanted) {
            assert!(!self.world.is_dead(), "{case:?}: the node died");
            assert!(self.vmms() <= 1, "{case:?}: two VMMs");
            let last = self.world.server.reports_of(&self.agent).pop();
            let is =
                |last: &AgentReport| last.generation >= self.generation && wanted.contains(&last.observed.as_str());
            if let Some(report) = last.filter(is) {
                self.longest = self.longest.max(began.elapsed());
                return report;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{case:?}: stuck, not {wanted:?}: {:#?}", self.world.server.reports_of(&self.agent))
    }

    /// Others run under a slot's uid for a moment: whoever ends what is there.
    fn vmms(&self) -> usize {
        let is_one = |pid: &nix::unistd::Pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.split(|b| *b == 0).any(|word| word.starts_with(b"microvm"))
        };
        self.world.setup.processes().iter().filter(|pid| is_one(pid)).count()
    }

    /// It failed in words, with nothing of its run left; the next start works.
    async fn recover(&mut self, report: &AgentReport) {
        let case = self.case;
        let asked = matches!(case.what, What::Fails(_)) || case.kind() == "fail" || case.refused().is_some();
        assert!(asked, "{case:?}: {report:?}");
        assert!(!report.error_code.is_empty() && !report.error_message.is_empty(), "{case:?}: {report:?}");
        assert_eq!(self.vmms(), 0, "{case:?}: a VMM of a run that failed");
        if case.kind() == "fail" && case.what == What::Twice {
            let disks = std::fs::read_dir(self.world.setup.base.join("state/disks")).expect("disks").flatten();
            let left: Vec<_> = disks.map(|disk| disk.file_name()).collect();
            assert!(left.is_empty(), "{case:?}: a disk that is not whole stays: {left:?}");
        }
        if let Some(code) = case.refused() {
            assert_eq!(report.error_code, code, "{case:?}: {report:?}");
            // In this process it would be refused again.
            self.world.end().await;
            self.world.start(None);
        }
        self.turn("running").await;
    }

    /// One VMM, one network, one main process, and a command that runs once.
    async fn works(&mut self) {
        let case = self.case;
        self.execs += 1;
        let wait = format!(
            "n=0; while [ $(cat /mains 2>/dev/null | wc -l) -lt {} ] && [ $n -lt 100 ]; do n=$((n+1)); sleep 0.1; done",
            self.execs
        );
        let script = format!("{wait}; echo x >> /ran; cat /ran | wc -l; cat /mains | wc -l");
        let start = start_message(&self.agent, &["/bin/sh", "-c", &script]);
        let began = Instant::now();
        let ran = loop {
            match try_run(&mut self.world.data().await, &start).await {
                Some(ran) => break ran,
                None => assert!(began.elapsed() < bound(&[]), "{case:?}: no exec"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let counts: Vec<usize> = ran.stdout.lines().map(|line| line.trim().parse().expect("a number")).collect();
        let [execs, mains] = counts[..] else { panic!("{case:?}: {ran:?}") };
        assert_eq!(execs, self.execs, "{case:?}: an exec ran twice, or its disk is another");
        // A run that failed after its start may have left a line.
        assert!(mains == execs || case.what != What::Twice && mains > execs, "{case:?}: {mains} mains");
        let list = wire::ExecListRequest { agent_id: self.agent.clone() };
        let known = self.world.data().await.exec_list(list).await.expect("lists").into_inner().execs;
        let ours = known.iter().filter(|exec| exec.command.last().is_some_and(|last| *last == script)).count();
        assert_eq!(ours, 1, "{case:?}: {known:?}");
        assert_eq!(self.vmms(), 1, "{case:?}: one VMM");
        let spaces = std::fs::read_dir(self.world.setup.base.join("run/netns")).expect("namespaces").count();
        assert!(spaces <= 3, "{case:?}: {spaces} namespaces for one sandbox and two spares");
    }

    /// Asked to run once more, stopped twice, started again, over by its time.
    async fn whole(&mut self) {
        self.turn("running").await;
        let report = self.turn("stopped").await;
        // Not asked, it is killed; and a stop never fails for its logs.
        let asked = !(self.case.step == "end.ask_guest" && self.case.what == What::Fails("before"));
        let end = (report.exit_code, report.exit_signal.as_deref(), report.error_code.as_str());
        assert_eq!(end, (None, Some("SIGTERM").filter(|_| asked), ""), "{:?}", self.case);
        if self.case.step != "stop.keep_logs" || self.case.what == What::Twice {
            self.said_once().await;
        }
        self.turn("stopped").await;
        self.turn("running").await;
        self.works().await;
        let now = aether_core::source::SystemClock::default().now().unix_ms();
        self.world.server.expire(&self.agent, Some(now + 1500), None);
        self.until(&["stopped"]).await;
        self.said_once().await;
    }

    async fn said_once(&mut self) {
        let request = wire::LogsRequest { agent_id: self.agent.clone(), tail: 10, ..Default::default() };
        let mut lines = self.world.data().await.logs(request).await.expect("logs").into_inner();
        let mut said = Vec::new();
        while let Some(line) = lines.message().await.expect("goes on") {
            said.push(String::from_utf8_lossy(&line.line).into_owned());
        }
        assert_eq!(said, ["said"], "{:?}: what was kept of its log", self.case);
    }

    /// The node counts nothing as taken any more.
    async fn is_idle(&mut self, idle_mb: u64) {
        let began = Instant::now();
        loop {
            let beat = self.world.server.beats().pop().expect("it beat");
            if (beat.sandboxes, beat.boots_running, beat.boots_queued, beat.memory_free_mb) == (0, 0, 0, idle_mb) {
                return;
            }
            assert!(began.elapsed() < bound(&[]), "{:?}: something stays counted: {beat:?}", self.case);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

//! The node dies by `kill -9`, again and again, with living sandboxes and
//! streams of their execs. All are adopted within seconds, no guest is begun
//! anew, each exec goes on where it was or says its exact end. Meanwhile
//! VMMs that the journal names die, and their pids are taken by strangers:
//! those are neither adopted nor ended.
//!
//! The journal is the one place where a pid is kept: converters, jails and
//! whatever else the node starts are found by uid.
//!
//! `AETHER_KILLS`, `AETHER_ADOPTED` and `AETHER_RECYCLED` say how many kills,
//! guests, and recycled pids per kill (`make adoption`: 100, 20 and 2).

mod rows;

use super::exec::{Live, open, run, start_message};
use super::recycle::{Identity, Stranger, identity, spawn_at};
use super::spec;
use super::world::World;
use aether_counted::{Counted, Dice, seed, trials};
use aether_proto::node as wire;
use aether_proto::node::exec_request::Message as Ask;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::time::Duration;

/// From the start of the process to the last adoption.
const LIMIT: Duration = Duration::from_secs(5);

/// An exec that counts, and how it will end.
struct Counting {
    live: Live,
    lines: u64,
    code: Option<i32>,
}

async fn count(world: &World, agent: &str, (lines, code): (u64, Option<i32>)) -> Counting {
    let end = code.map_or("kill -9 $$".to_owned(), |code| format!("exit {code}"));
    let script = format!("n=0; while [ $n -lt {lines} ]; do n=$((n+1)); echo $n; sleep 0.05; done; {end}");
    let mut data = world.data().await;
    let start = Ask::Start(start_message(agent, &["/bin/sh", "-c", &script]));
    let mut live = open(&mut data, start).await.expect("starts");
    live.read_until(|r| r.stdout.ends_with("3\n")).await.expect("counts");
    Counting { live, lines, code }
}

/// Some end while no node runs, some long after.
fn an_end(dice: &mut Dice) -> (u64, Option<i32>) {
    let code = i32::try_from(dice.roll(200)).expect("small");
    (10 + dice.roll(40), (dice.roll(4) > 0).then_some(code))
}

/// Follows it where it was left, however soon the node answers.
async fn attach(world: &World, agent: &str, old: &Live) -> Live {
    let attach = || wire::ExecAttach { agent_id: agent.into(), exec_id: old.id.clone(), offset: old.ran.next_offset };
    let mut data = world.data().await;
    loop {
        match open(&mut data, Ask::Attach(attach())).await {
            Ok(live) => return live,
            Err(e) if matches!(e.code(), tonic::Code::Unavailable | tonic::Code::FailedPrecondition) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(e) => panic!("{agent}: {e}"),
        }
    }
}

async fn assert_goes_on(world: &World, agent: &str, counting: Counting) {
    let mut again = attach(world, agent, &counting.live).await;
    again.read_until(|_| false).await.expect("ends");
    let all = counting.live.ran.stdout + &again.ran.stdout;
    let wanted: String = (1..=counting.lines).map(|n| format!("{n}\n")).collect();
    assert_eq!(all, wanted, "{agent}: a line was lost or came twice");
    let signal = counting.code.is_none().then_some("SIGKILL");
    let ran = &again.ran;
    assert_eq!((ran.code, ran.signal.as_deref()), (counting.code, signal), "{agent}: another end: {ran:?}");
}

/// The VMMs by slot.
pub(super) fn vmms(world: &World) -> BTreeMap<u32, Identity> {
    use std::os::unix::fs::MetadataExt;
    let pids = world.setup.processes().into_iter().map(|pid| pid.as_raw().cast_unsigned());
    let known = pids.filter_map(|pid| {
        let uid = std::fs::metadata(format!("/proc/{pid}")).ok()?.uid();
        Some((uid - world.setup.uid_base, identity(pid)?))
    });
    known.collect()
}

async fn boot_id(world: &World, agent: &str) -> String {
    let mut data = world.data().await;
    run(&mut data, agent, &["/bin/cat", "/proc/sys/kernel/random/boot_id"]).await.stdout
}

/// What is known of the agents that live.
struct Agents {
    /// With the boot's id.
    all: BTreeMap<String, String>,
}

impl Agents {
    async fn fill(&mut self, world: &World, count: usize) {
        let new: Vec<String> = (self.all.len()..count).map(|_| world.server.create(&spec("one:v1"))).collect();
        for agent in &new {
            world.server.observed(agent, "running").await;
        }
        for agent in new {
            let id = boot_id(world, &agent).await;
            self.all.insert(agent, id);
        }
    }
}

/// Ends a guest while no node runs, and gives its pid to a stranger that
/// runs the very same program.
fn bury_one(world: &World, agents: &mut Agents) -> (String, Stranger) {
    let (agent, _) = agents.all.pop_first().expect("one lives");
    let (slot, vmm) = vmms(world).into_iter().find(|(slot, _)| slot_of(world, &agent) == Some(*slot)).expect("its VMM");
    // The engine runs a copy of its own.
    let file = std::fs::File::open(format!("/proc/{}/exe", vmm.pid)).expect("its program");
    let program = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&file));
    let pid = nix::unistd::Pid::from_raw(vmm.pid.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("ends");
    // Ours since its parent died: the pid is free once it was waited for.
    nix::sys::wait::waitpid(pid, None).expect("a child by inheritance");
    let stranger = spawn_at(vmm.pid, &[&program, "-M", "none", "-display", "none", "-S"]).expect("the pid is free");
    assert_eq!(stranger.identity.exe, vmm.exe, "slot {slot}: the same program");
    (agent, stranger)
}

/// As the node's log says.
pub(super) fn slot_of(world: &World, agent: &str) -> Option<u32> {
    let log = world.log();
    let line = log.lines().rfind(|line| line.contains(&format!("agent={agent} slot=Some(")))?;
    line.split("slot=Some(").nth(1)?.split(')').next()?.parse().ok()
}

/// Waits until all were adopted by the process that has just begun.
async fn adopted(world: &World, agents: &Agents, logged: usize, began: tokio::time::Instant) -> Duration {
    loop {
        let log = world.log().split_off(logged);
        let waiting = |agent: &&String| !log.contains(&format!("adopted agent={agent} "));
        let left: Vec<&String> = agents.all.keys().filter(waiting).collect();
        if left.is_empty() {
            return began.elapsed();
        }
        assert!(began.elapsed() < LIMIT, "not adopted within {LIMIT:?}: {left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Default)]
struct Sums {
    execs: u64,
    recycled: u64,
    longest: Duration,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_again_and_again_loses_no_sandbox_and_harms_no_stranger() {
    // VMMs whose node was killed become ours, and can be waited for.
    nix::sys::prctl::set_child_subreaper(true).expect("prctl");
    let seed = seed();
    let mut dice = Dice::new(seed);
    let (kills, guests) = (trials("AETHER_KILLS", 3), trials("AETHER_ADOPTED", 3) as usize);
    let each = trials("AETHER_RECYCLED", 5);
    let mut counted = Counted::new("adoption", 13, "kill -9 of the node with live execs; pids come round", seed);
    let mut world = World::with("adoption", |setup| setup.slots = 64).await;
    world.import("one:v1", "one").await;
    let (mut agents, mut sums) = (Agents { all: BTreeMap::new() }, Sums::default());
    for kill in 1..=kills {
        agents.fill(&world, guests).await;
        let with_victim = kill % 3.max(kills / 10) == 0;
        one_kill(&mut world, &mut agents, &mut dice, each, with_victim, &mut sums).await;
        counted.n += 1;
        counted.faults += 1;
    }
    counted.faults += sums.recycled;
    println!(
        "{kills} kills, {} execs followed, {} pids recycled; the longest adoption took {:?}",
        sums.execs, sums.recycled, sums.longest
    );
    assert!(sums.recycled >= kills * each, "only {} pids came round", sums.recycled);
    for agent in agents.all.keys() {
        world.server.want(agent, "gone");
    }
    for agent in agents.all.keys() {
        world.server.observed(agent, "gone").await;
    }
    world.assert_nothing_left().await;
}

async fn one_kill(
    world: &mut World,
    agents: &mut Agents,
    dice: &mut Dice,
    each: u64,
    with_victim: bool,
    sums: &mut Sums,
) {
    let ends: Vec<_> = agents.all.keys().map(|agent| (agent.clone(), an_end(dice))).collect();
    let starts = ends.into_iter().map(async |(agent, end)| {
        let counting = count(world, &agent, end).await;
        (agent, counting)
    });
    let mut execs = join_all(starts).await;
    world.kill();
    for (_, counting) in &mut execs {
        let _ = counting.live.read_until(|_| false).await;
    }
    let victim = with_victim.then(|| bury_one(world, agents));
    let planted = rows::plant(world, each).await;
    let before = vmms(world);
    let logged = world.log().len();
    let began = tokio::time::Instant::now();
    world.start(None);
    let took = adopted(world, agents, logged, began).await;
    println!("{} adopted after {took:?}", agents.all.len());
    sums.longest = sums.longest.max(took);
    sums.execs += execs.len() as u64;
    let dead = victim.as_ref().map(|(dead, _)| dead.clone());
    let follow = execs.into_iter().map(async |(agent, counting)| {
        if dead.as_ref() == Some(&agent) {
            assert_unknown(world, &agent, counting).await;
        } else {
            assert_goes_on(world, &agent, counting).await;
        }
    });
    join_all(follow).await;
    let now = join_all(agents.all.keys().map(|agent| boot_id(world, agent))).await;
    assert_eq!(now, agents.all.values().cloned().collect::<Vec<_>>(), "a guest was begun anew");
    for row in &planted {
        world.server.observed(&row.agent, "gone").await;
    }
    assert_eq!(vmms(world), before, "the same VMMs, and no other");
    let log = world.log().split_off(logged);
    for row in &planted {
        assert!(!log.contains(&format!("adopted agent={}", row.agent)), "a stranger was adopted: {}", row.form);
        assert!(row.stranger.is_untouched(), "a stranger was ended: {}", row.form);
    }
    sums.recycled += planted.len() as u64;
    if let Some((dead, stranger)) = victim {
        assert!(!log.contains(&format!("adopted agent={dead}")), "a stranger was adopted");
        world.server.want(&dead, "gone");
        world.server.observed(&dead, "gone").await;
        assert!(stranger.is_untouched(), "a stranger was ended for the guest whose pid it has");
        sums.recycled += 1;
    }
}

/// Its guest is dead: nobody knows how it ended, and nobody says so.
async fn assert_unknown(world: &World, agent: &str, counting: Counting) {
    let report = world.server.observed(agent, "failed").await;
    assert_eq!(report.error_code, "SANDBOX_DIED");
    let mut again = attach(world, agent, &counting.live).await;
    again.read_until(|_| false).await.expect("ends");
    assert!(again.ran.unknown.is_some() && again.ran.code.is_none(), "{:?}", again.ran);
}

//! Ten kinds of things without an owner, each in several forms, planted among
//! living sandboxes while the node runs: all of them go within a minute, and
//! neither the living nor what is a stranger's is touched. Pids come round
//! while the node looks for whom to end.
//!
//! `AETHER_ORPHANS` says how many are planted (`make orphans`: 1,000).

mod kinds;
mod living;
mod plant;

use super::exec::run;
use super::recycle::{Stranger, identity, spawn_at};
use super::spec;
use super::world::World;
use aether_counted::{Counted, Dice, seed, trials};
use nix::sys::signal::Signal;
pub(super) use plant::as_uid;
use plant::{Orphan, Planter};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const LIVING: usize = 3;
/// Pids that come round, per round.
const RECYCLED: usize = 4;

fn output(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output().expect(program);
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn groups(parent: &str) -> Vec<PathBuf> {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|e| e.path());
    let all = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|root| root.join(parent));
    all.filter(|group| group.exists()).collect()
}

fn is_mounted(path: &Path) -> bool {
    let escaped = path.display().to_string().replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011");
    let escaped = escaped.replace('\n', "\\012");
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    table.lines().any(|line| line.split(' ').nth(4) == Some(&escaped))
}

/// Waits until all are gone.
async fn reaped(world: &World, orphans: &mut [Orphan]) -> Duration {
    let began = tokio::time::Instant::now();
    loop {
        let left: Vec<String> = orphans.iter_mut().filter_map(|o| (o.there)().then(|| o.name())).collect();
        if left.is_empty() {
            return began.elapsed();
        }
        assert!(began.elapsed() < LIMIT, "not reaped: {left:#?}\n{}", world.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Processes of slots that end by themselves at any moment of a sweep, and
/// whose pids somebody else has at once.
async fn recycle(world: &World, dice: &mut Dice, first: u32) -> Vec<Stranger> {
    let mut strangers = Vec::new();
    for n in 0..RECYCLED as u32 {
        let mut orphan = plant::as_uid(world.setup.uid_base + first + n, "sleep", &["1000"]).spawn().expect("sleep");
        let pid = orphan.id();
        tokio::time::sleep(Duration::from_millis(dice.roll(700))).await;
        let _ = orphan.kill();
        orphan.wait().expect("ends");
        match spawn_at(pid, &["sleep", "1000"]) {
            Ok(stranger) => strangers.push(stranger),
            Err(e) => println!("pid {pid} did not come round: {e}"),
        }
    }
    strangers
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_every_kind_go_and_the_living_stay() {
    let seed = seed();
    let mut dice = Dice::new(seed);
    let wanted = trials("AETHER_ORPHANS", 90);
    let mut counted = Counted::new("orphans", 14, "orphans of ten kinds planted among living sandboxes", seed);
    let mut world = World::with("orphans", |setup| setup.sweep_s = 2).await;
    world.import("one:v1", "one").await;
    let agents: Vec<String> = (0..LIVING).map(|_| world.server.create(&spec("one:v1"))).collect();
    for agent in &agents {
        world.server.observed(agent, "running").await;
    }
    let boots = boot_ids(&world, &agents).await;
    let slots = living::slots(&world);
    assert_eq!(slots.len(), LIVING, "{slots:?}");
    let before = living::facts(&world, &slots);
    let mut planter = Planter::new(&world, &slots);
    let (mut recycled, mut longest) = (0, Duration::ZERO);
    while counted.n < wanted {
        // A sweep in the middle of planting would meet half of a thing.
        world.signal(Signal::SIGSTOP);
        let mut orphans = planter.round(&world);
        world.signal(Signal::SIGCONT);
        counted.n += orphans.len() as u64;
        counted.faults += orphans.len() as u64;
        let strangers = recycle(&world, &mut dice, 9000).await;
        let took = reaped(&world, &mut orphans).await;
        longest = longest.max(took);
        println!("{} of {wanted} planted; the last of {} gone after {took:?}", counted.n, orphans.len());
        drop(orphans);
        let touched: Vec<_> = strangers.iter().filter(|s| !s.is_untouched()).map(|s| &s.identity).collect();
        assert!(touched.is_empty(), "a stranger at a recycled pid was touched: {touched:?}");
        recycled += strangers.len() as u64;
        planter.assert_strangers_untouched();
        pretty(&before, &living::facts(&world, &slots));
        assert_eq!(boot_ids(&world, &agents).await, boots, "a living one was touched");
    }
    counted.faults += recycled;
    println!("{recycled} pids came round; the longest wait was {longest:?}");
    assert!(recycled > 0, "no pid came round");
    drop(planter);
    for agent in &agents {
        world.server.want(agent, "gone");
    }
    for agent in &agents {
        world.server.observed(agent, "gone").await;
    }
    world.assert_nothing_left().await;
}

fn pretty(before: &living::Facts, after: &living::Facts) {
    for (name, was) in before {
        let is = after.get(name).map_or("gone", String::as_str);
        assert!(was == is, "{name} of the living changed from\n{was}\nto\n{is}");
    }
    assert_eq!(before.len(), after.len(), "{after:#?}");
}

async fn boot_ids(world: &World, agents: &[String]) -> Vec<String> {
    let mut data = world.data().await;
    let mut ids = Vec::new();
    for agent in agents {
        let ran = run(&mut data, agent, &["/bin/cat", "/proc/sys/kernel/random/boot_id"]).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ids.push(ran.stdout);
    }
    ids
}

/// What the rest leans on: this test can tell one process from its successor.
#[test]
fn a_pid_comes_round() {
    let mut first = Command::new("sleep").arg("1000").spawn().expect("sleep");
    let before = identity(first.id()).expect("lives");
    first.kill().expect("ends");
    assert!(spawn_at(first.id(), &["sleep", "1000"]).is_err(), "a pid is not free before its owner was waited for");
    first.wait().expect("waits");
    let second = spawn_at(first.id(), &["sleep", "1000"]).expect("the pid is free");
    assert!(second.is_untouched());
    assert_eq!(second.identity.pid, before.pid);
    assert_ne!(second.identity.start, before.start);
}

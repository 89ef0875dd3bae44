//! Things without an owner, of every kind that a node makes, planted beside a
//! living sandbox while the node runs: the sweep takes them all, and nothing else.
//!
//! Rules of a slot lie in its namespace and go with it. The node makes no loop
//! devices, so there are none to lose. Disks are swept at a start alone, when
//! nobody makes any.

use super::exec::run;
use super::spec;
use super::world::World;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longer than the interval between two sweeps.
const LIMIT: Duration = Duration::from_secs(60);

fn must(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output().expect(program);
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Something that was planted, and how to see that it is still there.
struct Orphan {
    kind: &'static str,
    there: Box<dyn FnMut() -> bool>,
}

fn orphan(kind: &'static str, there: impl FnMut() -> bool + 'static) -> Orphan {
    Orphan { kind, there: Box::new(there) }
}

/// A process as the uid of a slot.
fn process(kind: &'static str, uid: u32, argv: &[&str]) -> Orphan {
    let id = uid.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).args(argv);
    let mut child = command.stdin(std::process::Stdio::null()).spawn().expect("setpriv");
    orphan(kind, move || child.try_wait().expect("waits").is_none())
}

fn file(kind: &'static str, path: PathBuf) -> Orphan {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("mkdir");
    std::fs::write(&path, b"x").expect("writes");
    orphan(kind, move || path.exists())
}

fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    table.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == path))
}

fn groups(parent: &str) -> Vec<PathBuf> {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|e| e.path());
    let all = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|root| root.join(parent));
    all.filter(|group| group.exists()).collect()
}

fn plant(world: &World) -> Vec<Orphan> {
    let (setup, netns) = (&world.setup, world.netns.clone());
    let slots = setup.base.join("run/slots");
    let mut all = vec![
        process("vmm", setup.uid_base + 8, &["qemu-system-x86_64", "-M", "none", "-display", "none", "-S"]),
        process("uid", setup.uid_base + 9, &["sleep", "1000"]),
        file("jail root", slots.join("13/root/left")),
    ];
    let tap = format!("{}-10", setup.prefix);
    must("ip", &["-n", &netns, "tuntap", "add", "name", &tap, "mode", "tap"]);
    all.push(orphan("tap", move || {
        Command::new("ip").args(["-n", &netns, "link", "show", &tap]).output().expect("ip").status.success()
    }));
    let space = setup.base.join(format!("run/netns/{}-11", setup.prefix));
    std::fs::write(&space, b"").expect("a file to bind to");
    let rules = "add table inet left; add chain inet left c";
    must("unshare", &[&format!("--net={}", space.display()), "nft", rules]);
    all.push(orphan("namespace and rules", move || space.exists() || is_mounted(&space)));
    for parent in groups(&setup.cgroup_parent()) {
        let group = parent.join("slot-12");
        std::fs::create_dir(&group).expect("a cgroup");
        all.push(orphan("cgroup", move || group.exists()));
    }
    let mount = slots.join("14/root/mnt");
    std::fs::create_dir_all(&mount).expect("mkdir");
    must("mount", &["-t", "tmpfs", "left", &mount.display().to_string()]);
    all.push(orphan("mount", move || is_mounted(&mount)));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_every_kind_go_and_the_living_stay() {
    let mut world = World::with("orphans", |setup| setup.sweep_s = 2).await;
    world.import("one:v1", "one").await;
    let agent = world.server.create(&spec("one:v1"));
    world.server.observed(&agent, "running").await;
    let mut data = world.data().await;
    let boot_id = ["/bin/cat", "/proc/sys/kernel/random/boot_id"];
    let before = run(&mut data, &agent, &boot_id).await.stdout;
    let mut orphans = plant(&world);
    let began = tokio::time::Instant::now();
    loop {
        let left: Vec<&str> = orphans.iter_mut().filter_map(|o| (o.there)().then_some(o.kind)).collect();
        if left.is_empty() {
            break;
        }
        assert!(began.elapsed() < LIMIT, "not reaped: {left:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("{} orphans reaped after {:?}", orphans.len(), began.elapsed());
    assert_eq!(run(&mut data, &agent, &boot_id).await.stdout, before, "the living one was touched");
    // A file of nobody's is seen when nobody can be making it.
    let mut disk = file("disk", world.setup.base.join("state/disks/agtnobody.disk"));
    let mut log = file("log", world.setup.base.join("state/logs/agtnobody.log"));
    world.kill();
    world.start(None);
    let began = tokio::time::Instant::now();
    while !world.log().contains(&format!("adopted agent={agent}")) {
        assert!(began.elapsed() < LIMIT, "not adopted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut data = world.data().await;
    assert!(!(disk.there)() && !(log.there)());
    assert_eq!(run(&mut data, &agent, &boot_id).await.stdout, before, "the living one was touched");
    world.server.want(&agent, "gone");
    world.server.observed(&agent, "gone").await;
    world.assert_nothing_left().await;
}

//! Counted test 22, the whole server: calls that write fail under one of its
//! folders in turn while something is asked of it. What it answered stands,
//! lists go on, a sandbox that runs goes on, and all else goes on within a
//! minute after the fault is over. `AETHER_FAULTS_N` says how many windows.
//!
//! VMMs in their jails and programs that the server starts are not reached
//! by the faults (`aether_faults`); full_disk.rs fills a real disk.

use aether_e2e::{Cli, Counted, Dice, Run, Server, Settings, seed, tiny_image, trials, wait_for};
use aether_faults::{Faults, How, Plan, calls};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const HEALS_WITHIN: Duration = Duration::from_secs(60);
/// A read while writes fail: slow machines are slow, but no retry is needed.
const READS_WITHIN: Duration = Duration::from_secs(10);
const ERRNOS: [i32; 3] = [libc::ENOSPC, libc::EIO, libc::EDQUOT];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Create,
    Destroy,
    Stop,
    Exec,
    Import,
}

use Op::{Create, Destroy, Exec, Import, Stop};

/// A place that the server writes to.
struct Place {
    what: &'static str,
    path: &'static str,
    /// What makes it write there.
    ops: &'static [Op],
    /// The calls that it makes there, and about how many.
    calls: &'static [u64],
    most: u64,
}

const DATABASE: &[u64] = &[calls::WRITE, calls::SYNC, calls::ALL];
const NAMES: u64 = calls::CREATE | calls::TRUNCATE | calls::RENAME;
const FILES: &[u64] = &[calls::WRITE, NAMES, calls::ALL, calls::ALL | calls::REMOVE];

const fn place(what: &'static str, path: &'static str, ops: &'static [Op], calls: &'static [u64], most: u64) -> Place {
    Place { what, path, ops, calls, most }
}

const PLACES: [Place; 9] = [
    place("the store, under the whole server", "state/aether.db", &[Create, Destroy, Stop, Exec], DATABASE, 10),
    place("the node's journal", "state/node/journal.db", &[Create, Destroy, Stop], DATABASE, 8),
    place("the image catalogue", "state/images/catalogue.db", &[Import, Create, Destroy], DATABASE, 3),
    place("blobs, conversion and devices", "state/images", &[Import], FILES, 3),
    place("agents' disks", "state/node/disks", &[Create, Destroy], &[NAMES, calls::ALL | calls::REMOVE], 1),
    place("spare disks", "state/node/spares", &[Create], &[NAMES, calls::ALL, calls::ALL | calls::REMOVE], 1),
    place("kept logs", "state/node/logs", &[Stop], &[calls::WRITE, NAMES, calls::ALL], 1),
    place("the run folder: jails, sockets, namespaces", "run", &[Create, Destroy], &[NAMES, calls::ALL], 2),
    place("the whole state folder", "state", &[Create, Destroy, Stop, Exec, Import], FILES, 12),
];

fn plan(dice: &mut Dice, under: PathBuf, calls: &[u64], most: u64) -> Plan {
    let calls = calls[dice.roll(calls.len() as u64) as usize];
    let how = match dice.roll(3) {
        0 if calls & calls::WRITE != 0 => How::Short,
        1 => How::Lose,
        _ => How::Error,
    };
    // A full disk removes what it is told to.
    let errno = if calls & calls::REMOVE == 0 { ERRNOS[dice.roll(3) as usize] } else { libc::EIO };
    let times = [Some(1), Some(3), None, None][dice.roll(4) as usize];
    Plan { under, calls, errno, how, skip: dice.roll(most), times }
}

/// A CLI call under way, with its output in files: nobody reads meanwhile.
struct Asked {
    child: Child,
    out: PathBuf,
    what: String,
}

impl Asked {
    fn begin(cli: &Cli, dir: &Path, args: &[&str]) -> Self {
        let out = dir.join("asked");
        let file = |end: &str| std::fs::File::create(out.with_extension(end)).expect("makes a file");
        let child = cli.command(args).stdin(Stdio::null()).stdout(file("out")).stderr(file("err")).spawn();
        Self { child: child.expect("the CLI starts"), out, what: args.join(" ") }
    }

    fn ended(&mut self) -> bool {
        self.child.try_wait().expect("waits").is_some()
    }

    fn end(mut self) -> Run {
        let status = wait_for(&format!("an answer to {}", self.what), HEALS_WITHIN * 2, || {
            self.child.try_wait().expect("waits")
        });
        let read = |end: &str| std::fs::read_to_string(self.out.with_extension(end)).expect("reads");
        Run { code: status.code(), stdout: read("out"), stderr: read("err") }
    }
}

struct Rig {
    server: Server,
    cli: Cli,
    faults: Faults,
    dice: Dice,
    scratch: tempfile::TempDir,
    /// Created and answered, and not destroyed since.
    there: BTreeSet<String>,
    next: u32,
    keeper_boot: String,
}

impl Rig {
    fn new(seed: u64) -> Self {
        let faults = Faults::build();
        let scratch = tempfile::tempdir().expect("a folder");
        let settings = Settings { env: faults.env().to_vec(), ..Settings::default() };
        let server = Server::start(settings);
        let cli = server.cli();
        let image = tiny_image(scratch.path(), "tiny");
        cli.ok(&["image", "import", "--name", "tiny:1", &image.to_string_lossy()]);
        cli.ok(&["agent", "create", "--name", "keeper", "--image", "tiny:1", "--memory", "128", "--wait"]);
        let keeper_boot = cli.ok(&BOOT_ID);
        let there = BTreeSet::from(["keeper".to_owned()]);
        Self { server, cli, faults, dice: Dice::new(seed), scratch, there, next: 0, keeper_boot }
    }

    fn fresh(&mut self) -> String {
        self.next += 1;
        format!("w{}", self.next)
    }

    /// One that runs already, made without any fault where there is none.
    fn victim(&mut self) -> String {
        if let Some(name) = self.there.iter().find(|n| *n != "keeper") {
            return name.clone();
        }
        let name = self.fresh();
        self.cli.ok(&create(&name, true));
        self.there.insert(name.clone());
        name
    }

    fn window(&mut self, op: Op, plan: &Plan) -> u64 {
        let name = match op {
            Create | Import => self.fresh(),
            Destroy | Stop => self.victim(),
            Exec => "keeper".to_owned(),
        };
        let archive = (op == Import).then(|| tiny_image(self.scratch.path(), &name));
        let archive = archive.as_ref().map_or(String::new(), |a| a.to_string_lossy().into_owned());
        let reference = format!("{name}:1");
        let args: Vec<&str> = match op {
            Create => create(&name, false).to_vec(),
            Destroy => vec!["agent", "destroy", "--yes", &name],
            Stop => vec!["agent", "stop", &name],
            Exec => vec!["agent", "exec", &name, "--", "echo", "said"],
            Import => vec!["image", "import", "--name", &reference, &archive],
        };
        self.faults.arm(plan);
        let mut asked = Asked::begin(&self.cli, self.scratch.path(), &args);
        let lasting = Instant::now() + Duration::from_millis(400 + self.dice.roll(1200));
        loop {
            self.reads();
            // What a create has begun goes on after its answer.
            let over = asked.ended() || plan.times.is_none_or(|times| self.faults.hits() >= times) || op == Create;
            if Instant::now() >= lasting && (over || Instant::now() >= lasting + Duration::from_secs(4)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let hits = self.faults.hits();
        self.faults.disarm();
        let over = Instant::now();
        let answer = asked.end();
        assert!(answer.code.is_some_and(|c| c != 101), "the CLI died: {}", answer.stderr);
        assert!(answer.code == Some(0) || answer.stderr.contains("error"), "{op:?}: {}", answer.stderr);
        self.judge(op, &name, &answer);
        assert!(over.elapsed() < HEALS_WITHIN + HEALS_WITHIN, "{op:?} took {:?} after the fault", over.elapsed());
        hits
    }

    /// While the fault lasts.
    fn reads(&mut self) {
        for args in [&["agent", "list", "--quiet"][..], &["agent", "get", "keeper"][..]] {
            let begun = Instant::now();
            let run = self.cli.run(args);
            assert_eq!(run.code, Some(0), "{args:?} while writes fail: {}", run.stderr);
            assert!(begun.elapsed() < READS_WITHIN, "{args:?} took {:?}", begun.elapsed());
        }
    }

    /// The fault is over: what was answered holds, what was not is repeated.
    fn judge(&mut self, op: Op, name: &str, answer: &Run) {
        let said_yes = answer.code == Some(0);
        match op {
            Create => {
                if said_yes {
                    self.there.insert(name.to_owned());
                    self.comes_up(name);
                } else {
                    // It may be there or not; either way it can be destroyed.
                    self.gone(name);
                }
            }
            Destroy => {
                self.there.remove(name);
                self.gone(name);
            }
            Stop => {
                wait_for("the agent to stop", HEALS_WITHIN, || match self.cli.status(name).as_str() {
                    "stopped" => Some(()),
                    "running" | "failed" => {
                        self.cli.run(&["agent", "stop", "--no-wait", name]);
                        None
                    }
                    _ => None,
                });
                self.cli.ok(&["agent", "logs", name]);
                self.there.remove(name);
                self.gone(name);
            }
            Exec => assert!(!said_yes || answer.stdout == "said\n", "{answer:?}"),
            Import => {
                let reference = format!("{name}:1");
                let known = || self.cli.run(&["image", "inspect", &reference]).code == Some(0);
                assert!(!said_yes || known(), "an image that was answered is gone");
                let archive = self.scratch.path().join(format!("{name}.tar"));
                wait_for("the import", HEALS_WITHIN, || {
                    let import = ["image", "import", "--name", &reference, &archive.to_string_lossy()];
                    (known() || self.cli.run(&import).code == Some(0)).then_some(())
                });
                self.cli.ok(&["image", "rm", &reference]);
            }
        }
        self.healed();
    }

    /// Runs, or failed for a reason that has gone: then a start is enough.
    fn comes_up(&self, name: &str) {
        wait_for(&format!("{name} to run"), HEALS_WITHIN, || match self.cli.status(name).as_str() {
            "running" => Some(()),
            "failed" => {
                self.cli.run(&["agent", "start", name]);
                None
            }
            "gone" => panic!("{name} was acknowledged, and is gone"),
            _ => None,
        });
    }

    fn gone(&self, name: &str) {
        wait_for(&format!("{name} to be gone"), HEALS_WITHIN, || {
            (self.cli.status(name) == "gone").then_some(()).or_else(|| {
                self.cli.run(&["agent", "destroy", "--yes", name]);
                None
            })
        });
    }

    fn healed(&mut self) {
        wait_for("all to be as before", HEALS_WITHIN, || {
            let exec = self.cli.run(&BOOT_ID);
            (exec.code == Some(0) && self.cli.status("keeper") == "running").then(|| {
                assert_eq!(exec.stdout, self.keeper_boot, "the guest was started again");
            })
        });
        let lost: Vec<&String> = self.there.iter().filter(|n| self.cli.status(n) == "gone").collect();
        assert!(lost.is_empty(), "{lost:?} were answered, and are gone");
        assert!(self.server.ended().is_none(), "the server died: {}", self.server.log());
        assert!(!self.server.log().contains("panicked"), "{}", self.server.log());
    }
}

const BOOT_ID: [&str; 6] = ["agent", "exec", "keeper", "--", "cat", "/proc/sys/kernel/random/boot_id"];

fn create(name: &str, wait: bool) -> Vec<&str> {
    let mut args = vec!["agent", "create", "--name", name, "--image", "tiny:1", "--memory", "128"];
    args.extend(wait.then_some("--wait"));
    args.extend(["--", "sh", "-c", "echo said; exec sleep 1000000"]);
    args
}

pub(crate) fn assert_sound(file: &Path) {
    let out = Command::new("sqlite3").arg(file).arg("PRAGMA integrity_check").output().expect("sqlite3 is installed");
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "ok", "{}", file.display());
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

#[test]
fn whatever_the_server_writes_may_fail() {
    let seed = seed();
    let mut rig = Rig::new(seed);
    let mut counted: Vec<Counted> = PLACES.iter().map(|p| Counted::new("faults", 22, p.what, seed)).collect();
    let first = rig.dice.roll(PLACES.len() as u64) as usize;
    let windows = trials("AETHER_FAULTS_N", 9);
    let mut met = 0;
    for n in 0..windows {
        let number = (first + n as usize) % PLACES.len();
        let place = &PLACES[number];
        let op = place.ops[rig.dice.roll(place.ops.len() as u64) as usize];
        let under = rig.server.path(place.path);
        let plan = plan(&mut rig.dice, under, place.calls, place.most);
        println!("window {n}: {}, {op:?}, {plan:?}", place.what);
        let begun = Instant::now();
        let hits = rig.window(op, &plan);
        println!("window {n}: {hits} calls failed, {:?}", begun.elapsed());
        counted[number].n += 1;
        counted[number].faults += hits;
        met += u64::from(hits > 0);
    }
    assert!(met * 3 > windows, "only {met} of {windows} windows met a call");
    after_a_crash(rig);
}

/// A kill on top: the files are sound, and the next start finds what it should.
fn after_a_crash(mut rig: Rig) {
    rig.server.crash();
    for file in ["state/aether.db", "state/node/journal.db", "state/images/catalogue.db"] {
        assert_sound(&rig.server.path(file));
    }
    rig.server.launch();
    rig.healed();
    rig.cli.ok(&["agent", "destroy", "--all", "--yes"]);
    let left = || {
        let dirs = ["state/node/disks", "state/node/logs", "state/images/tmp", "state/images/jail"];
        dirs.iter().flat_map(|dir| files_in(&rig.server.path(dir))).collect::<Vec<_>>()
    };
    wait_for("all to be gone", HEALS_WITHIN, || left().is_empty().then_some(()));
    assert_eq!(rig.server.finish(), Vec::<String>::new());
}

#[test]
fn a_start_that_fails_half_way_is_repaired_by_the_next() {
    let seed = seed();
    let mut counted = Counted::new("faults", 22, "first starts: keys, schema, engine", seed);
    let mut dice = Dice::new(seed);
    let (mut ended, mut met) = (0, 0);
    let wanted = trials("AETHER_FAULTS_N", 9).div_ceil(3);
    // A start whose fault lay beyond what it writes proves little: another is taken beside it.
    for n in 0.. {
        if met >= wanted {
            break;
        }
        assert!(n < 4 * wanted + 8, "only {met} of {n} starts met a call");
        let faults = Faults::build();
        let settings = Settings { env: faults.env().to_vec(), ..Settings::default() }.with("engine.accel", "tcg");
        let mut server = Server::unstarted(settings);
        for dir in ["state", "run"] {
            std::fs::create_dir(server.path(dir)).expect("makes a folder");
        }
        let (under, most) = if dice.roll(5) == 0 { ("run", 20) } else { ("state", 60) };
        let mut plan = plan(&mut dice, server.path(under), FILES, 1);
        let most = if plan.calls == calls::WRITE && under == "state" { 400 } else { most };
        // Anywhere in what a start writes; a fault for good would only ever show the first.
        (plan.skip, plan.times) = (dice.roll(most), Some(1 + dice.roll(3)));
        faults.arm(&plan);
        let first = server.try_launch();
        let hits = faults.hits();
        faults.disarm();
        let log = server.log();
        // Another server's network, which a start with another prefix would not meet.
        if log.contains("choose another node.prefix") {
            continue;
        }
        assert!(!log.contains("panicked"), "{plan:?}: {log}");
        println!("start {n}: {first:?}, {hits} calls failed, {plan:?}");
        if first.is_err() {
            ended += 1;
            let last = log.lines().rev().find(|l| !l.is_empty()).unwrap_or_default();
            assert!(log.contains("error"), "it ended without a reason: {last}");
            server.launch();
        }
        counted.n += 1;
        counted.faults += hits;
        met += u64::from(hits > 0);
        for (key, least) in [("seal.key", 32), ("api-keys.pepper", 32), ("node/node.key", 32), ("admin.key", 20)] {
            let length = std::fs::metadata(server.path("state").join(key)).map_or(0, |m| m.len());
            assert!(length >= least, "{key} has {length} bytes; {plan:?}: {}", server.log());
        }
        server.cli().ok(&["apikey", "create", "--name", "another", "--role", "admin"]);
        assert_eq!(server.finish(), Vec::<String>::new(), "{plan:?}");
    }
    println!("{} starts, {met} met a fault, {ended} ended by it", counted.n);
}

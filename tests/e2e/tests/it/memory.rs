//! Counted test 22, memory: it runs out where the guests and the server are.
//! The kernel takes one guest and nothing else; that is told, in words that
//! name the node; nothing new is begun meanwhile; and it starts again.
//!
//! The shortage is that of a control group, filled by processes which are
//! smaller than a guest: the machine itself has enough for other tests.

use crate::api::all_events;
use aether_e2e::{Cli, Counted, LONG, Server, Settings, tiny_image, trials, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const MB: u64 = 1 << 20;
/// What one process holds.
const PIECE: u64 = 32 * MB;
/// Less than the larger guest wants, and enough for what runs.
const LEFT: u64 = 192 * MB;
/// A number of the smaller guest, so that another one would be told.
const BOOT_ID: [&str; 6] = ["agent", "exec", "small", "--", "cat", "/proc/sys/kernel/random/boot_id"];

/// A control group's memory.
struct Group {
    dir: PathBuf,
    v2: bool,
}

impl Group {
    fn of(name: &str) -> Self {
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let root = if v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" };
        Self { dir: Path::new(root).join(name), v2 }
    }

    fn file(&self, v1: &str, v2: &str) -> PathBuf {
        self.dir.join(if self.v2 { v2 } else { v1 })
    }

    fn used(&self) -> u64 {
        let path = self.file("memory.usage_in_bytes", "memory.current");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        text.trim().parse().expect("a number")
    }

    fn bound(&self, bytes: Option<u64>) {
        let none = if self.v2 { "max" } else { "-1" };
        let text = bytes.map_or(none.to_owned(), |bytes| bytes.to_string());
        let path = self.file("memory.limit_in_bytes", "memory.max");
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// Where processes go: with v2 none can be beside groups.
    fn room(&self) -> PathBuf {
        if self.v2 { self.dir.join("pressed") } else { self.dir.clone() }
    }
}

/// The shortage; it is over when this is dropped.
struct Shortage {
    group: Group,
    server: i32,
    /// Where the server came from.
    home: PathBuf,
    held: Vec<Child>,
    limit: u64,
}

impl Shortage {
    fn begin(server: &Server) -> Self {
        let group = Group::of(&format!("aether-{}", server.uid_base()));
        let own = std::fs::read_to_string("/proc/self/cgroup").expect("reads");
        let kind = if group.v2 { "0::" } else { ":memory:" };
        let path =
            own.lines().find_map(|line| Some(line.split_once(kind)?.1)).expect("a group").trim_start_matches('/');
        let home = group.dir.parent().expect("the root").join(path).join("cgroup.procs");
        if group.v2 {
            std::fs::create_dir(group.room()).expect("makes a group");
        }
        std::fs::write(group.room().join("cgroup.procs"), server.pid().to_string()).expect("moves the server");
        let limit = group.used() + PIECE;
        group.bound(Some(limit));
        Self { group, server: server.pid(), home, held: Vec::new(), limit }
    }

    fn left(&self) -> u64 {
        self.limit.saturating_sub(self.group.used())
    }

    /// One process more that holds a piece, or `until`.
    fn fill(&mut self, until: impl Fn() -> bool) {
        assert!(self.held.len() < 100, "memory does not run out");
        let room = self.group.room();
        let script = format!("echo $$ > {}/cgroup.procs && exec dd if=/dev/zero bs={PIECE} count=1", room.display());
        // Nobody reads what it writes, so it stays as it is.
        let mut child = Command::new("sh");
        let child = child.args(["-c", &script]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
        let status = format!("/proc/{}/status", child.id());
        self.held.push(child);
        wait_for("memory to be held", LONG, || {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let kib =
                text.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
            (kib.is_some_and(|kib| kib << 10 >= PIECE) || until()).then_some(())
        });
    }
}

impl Drop for Shortage {
    fn drop(&mut self) {
        for child in &mut self.held {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.group.dir.exists() {
            self.group.bound(None);
        }
        let _ = std::fs::write(&self.home, self.server.to_string());
        if self.group.v2 {
            let _ = std::fs::remove_dir(self.group.room());
        }
    }
}

fn oom_score_adj(pid: i32) -> i32 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("reads");
    text.trim().parse().expect("a number")
}

fn create(cli: &Cli, name: &str, memory_mb: u64) {
    let memory_mb = memory_mb.to_string();
    cli.ok(&["agent", "create", "--name", name, "--image", "tiny:1", "--memory", &memory_mb, "--wait"]);
}

/// What the agent says of itself, once it has failed so.
fn failure(cli: &Cli, agent: &str, code: &str) -> Value {
    wait_for(&format!("{agent} to have failed with {code}"), LONG, || {
        let info = cli.json(&["agent", "get", agent]);
        let told = info["status"] == "failed" && info["error"]["code"] == code;
        told.then(|| info["error"].clone())
    })
}

/// Short of memory, a conversion is not begun.
fn an_import_is_refused(server: &Server, import: &[&str]) {
    let cli = server.cli();
    let group = Group::of(&format!("aether-images-{}", server.uid_base() - 1));
    std::fs::create_dir(&group.dir).expect("makes the converter's group");
    group.bound(Some(64 * MB));
    let refused = cli.run(import);
    assert_ne!(refused.code, Some(0), "{}", refused.stdout);
    for word in ["short of memory", "64 MB", "then try again"] {
        assert!(refused.stderr.contains(word), "{word:?} is missing in {}", refused.stderr);
    }
    std::fs::remove_dir(&group.dir).expect("removes the group");
}

#[test]
fn memory_that_runs_out_costs_one_guest_and_nothing_else() {
    let mut counted = Counted::new("faults", 22, "memory that runs out under guests and server", 0);
    let mut server = Server::start(Settings::default());
    let cli = server.cli();
    cli.ok(&["image", "import", "--name", "tiny:1", &tiny_image(server.dir.path(), "tiny").to_string_lossy()]);
    create(&cli, "small", 128);
    let small = server.vmms();
    create(&cli, "large", 512);
    let boot_id = cli.ok(&BOOT_ID);
    // A round takes some ten seconds.
    for round in 0..trials("AETHER_FAULTS_N", 1).div_ceil(25) {
        // Another one each time: what was converted once is not converted again.
        let second = tiny_image(server.dir.path(), &format!("second-{round}"));
        let import = ["image", "import", "--name", "second:1", &*second.to_string_lossy()];
        let shortage = the_kernel_takes_the_largest(&server, &small);
        counted.faults += 1;
        let told = |e: &Value| e["agent_name"] == "large" && e["data"]["to"] == "failed" && died(&e["data"]["error"]);
        let socket = server.path("run/aether.sock").to_string_lossy().into_owned();
        let times = all_events(&socket).iter().filter(|e| told(e)).count() as u64;
        assert_eq!(times, round + 1, "each death is told once in the events");
        nothing_new_is_begun(&server, &import, shortage);
        assert_eq!((cli.ok(&BOOT_ID), cli.status("small").as_str()), (boot_id.clone(), "running"));
        assert!(server.ended().is_none(), "the server died");
        cli.ok(&["agent", "start", "large", "--wait"]);
        assert_eq!(cli.ok(&["agent", "exec", "large", "--", "echo", "back"]), "back\n");
        cli.ok(&import);
        cli.ok(&["image", "rm", "second:1"]);
        counted.n += 1;
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert_eq!(server.finish(), Vec::<String>::new());
}

fn died(error: &Value) -> bool {
    error["code"] == "SANDBOX_DIED"
        && error["message"].as_str().is_some_and(|said| said.contains("the node ran out of memory"))
}

/// Memory runs out; it is still short when this returns.
fn the_kernel_takes_the_largest(server: &Server, small: &[i32]) -> Shortage {
    let cli = server.cli();
    cli.ok(&["agent", "exec", "large", "--", "dd", "if=/dev/zero", "of=/dev/shm/used", "bs=1M", "count=200"]);
    for vmm in server.vmms() {
        assert!(oom_score_adj(vmm) >= oom_score_adj(server.pid()) + 500, "{vmm} would be kept");
    }
    let mut shortage = Shortage::begin(server);
    // The second boot's VMM is the largest, so it is the kernel's choice.
    let taken = || server.vmms() == small;
    while !taken() {
        shortage.fill(taken);
        assert!(!server.vmms().is_empty(), "both were taken");
    }
    let error = failure(&cli, "large", "SANDBOX_DIED");
    assert!(died(&error), "{error}");
    shortage
}

/// While it lasts, which is until this returns.
fn nothing_new_is_begun(server: &Server, import: &[&str], mut shortage: Shortage) {
    let cli = server.cli();
    let before = server.vmms();
    while shortage.left() > LEFT {
        shortage.fill(|| false);
    }
    cli.run(&["agent", "start", "large"]);
    let error = failure(&cli, "large", "NO_CAPACITY");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains("short of memory") && message.contains("512 MB"), "{message}");
    an_import_is_refused(server, import);
    assert!(cli.ok(&["agent", "list"]).contains("large"));
    assert_eq!(server.vmms(), before);
}

//! Counted test 22 with a real disk: the state folder is a small tmpfs that is
//! filled to its last byte. Reading and deleting go on, what takes room is
//! refused in words, a guest that writes is held, and all goes on by itself
//! within a minute after space has returned.

use aether_e2e::{Cli, Counted, LONG, Run, Server, Settings, tiny_image, wait_for};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const HEALS_WITHIN: Duration = Duration::from_secs(60);
const DISK_MB: u32 = 320;

/// A tmpfs that goes with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let dir = tempfile::Builder::new().prefix("aether-small-").tempdir().expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK_MB}m,mode=755"), "small"])
            .arg(dir.path())
            .status();
        assert!(mounted.expect("mount runs").success());
        Self(dir)
    }

    fn free_bytes(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(self.0.path()).expect("asks");
        stat.blocks_available() * stat.fragment_size()
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }

    /// Takes all that is left, to the last byte. Its end is the error that we want.
    fn fill(&self) {
        let file = format!("of={}", self.filler().display());
        for size in ["bs=64k", "bs=4k"] {
            let args = ["if=/dev/zero", size, "oflag=append", "conv=notrunc", &file];
            Command::new("dd").args(args).output().expect("dd runs");
        }
        assert_eq!(self.free_bytes(), 0);
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).expect("removes");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn state_on(disk: &SmallDisk) -> Settings {
    let state = disk.0.path().join("state");
    Settings::default().with("server.state_dir", &state.display().to_string()).with("node.disk_overcommit", "1000")
}

/// A server whose whole state lies on the small disk, with agents that run.
fn server_on(disk: &SmallDisk, agents: &[&str]) -> Server {
    let server = Server::start(state_on(disk));
    let cli = server.cli();
    let image = tiny_image(server.dir.path(), "tiny");
    cli.ok(&["image", "import", "--name", "tiny:1", &image.to_string_lossy()]);
    for name in agents {
        create(&cli, name).ok();
    }
    // What a delete needs on a full disk is taken in advance.
    for (log, least) in [("aether.db-wal", 3), ("node/journal.db-wal", 0), ("images/catalogue.db-wal", 0)] {
        let log = disk.0.path().join("state").join(log);
        wait_for("the databases to have their room", LONG, || {
            std::fs::metadata(&log).is_ok_and(|m| m.len() > (least << 20) + (1 << 19)).then_some(())
        });
    }
    server
}

fn create(cli: &Cli, name: &str) -> Run {
    cli.run(&["agent", "create", "--name", name, "--image", "tiny:1", "--memory", "128", "--disk", "1024", "--wait"])
}

/// Nothing is left that a guest's own kernel would write by and by: on a full
/// disk it is held at that, and answers no exec either.
fn settle(cli: &Cli, agent: &str) {
    cli.ok(&["agent", "exec", agent, "--", "sh", "-c", "sync && sync"]);
}

fn hostname(cli: &Cli, agent: &str) {
    assert_eq!(cli.ok(&["agent", "exec", agent, "--", "hostname"]).trim(), agent);
}

#[test]
fn a_guest_that_fills_the_hosts_disk_is_held_and_goes_on() {
    let mut counted = Counted::new("faults", 22, "a guest's writes on a full host", 0);
    let disk = SmallDisk::mount();
    let server = server_on(&disk, &["writer", "other"]);
    let cli = server.cli();
    disk.fill();
    counted.faults += 1;
    // More than is left anywhere; synced, so that it is the host's matter.
    let script = "dd if=/dev/urandom of=/data bs=1M count=24 conv=fsync 2>/dev/null && sha256sum < /data";
    let mut writing = cli
        .command(&["agent", "exec", "writer", "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    wait_for("the writer to be held", LONG, || server.log().contains("a guest that wrote is held").then_some(()));
    // It would end with an error if it were told of one.
    std::thread::sleep(Duration::from_secs(5));
    assert!(writing.try_wait().expect("waits").is_none(), "the guest was told of the full disk");
    // Reads go on. Another guest does until its own kernel writes something.
    assert!(cli.ok(&["agent", "list"]).contains("writer"));
    assert_eq!((cli.status("writer").as_str(), cli.status("other").as_str()), ("running", "running"));
    disk.make_room();
    let returned = Instant::now();
    let done = wait_for("the writer to go on", HEALS_WITHIN, || writing.try_wait().expect("waits"));
    assert!(done.success() && returned.elapsed() < HEALS_WITHIN, "{done}");
    // What it wrote across the gap is whole, and its filesystem still takes writes.
    let told = std::io::read_to_string(writing.stdout.take().expect("a pipe")).expect("reads");
    let again = "echo 3 > /proc/sys/vm/drop_caches; sha256sum < /data";
    assert_eq!(cli.ok(&["agent", "exec", "writer", "--", "sh", "-c", again]).trim(), told.trim());
    cli.ok(&["agent", "exec", "writer", "--", "sh", "-c", "echo more > /more && sync"]);
    hostname(&cli, "other");
    counted.n += 1;
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn a_clean_stop_and_start_need_no_room() {
    let mut counted = Counted::new("faults", 22, "a clean stop and start on a disk without a free byte", 0);
    let disk = SmallDisk::mount();
    let mut server = server_on(&disk, &["one"]);
    let cli = server.cli();
    settle(&cli, "one");
    disk.fill();
    counted.faults += 1;
    server.terminate();
    // Whatever the stop gave back, somebody else has it.
    disk.fill();
    server.launch();
    disk.fill();
    cli.wait_status("one", "running");
    erase(&cli, &server, "one", 0);
    counted.n += 1;
    disk.make_room();
    assert_eq!(server.finish(), Vec::<String>::new());
}

fn refused(run: &Run) {
    assert_ne!(run.code, Some(0), "{}", run.stdout);
    for word in ["nearly full", "prune"] {
        assert!(run.stderr.contains(word), "{word:?} is missing in {}", run.stderr);
    }
}

fn erase(cli: &Cli, server: &Server, agent: &str, left: usize) {
    cli.ok(&["agent", "destroy", "--yes", agent]);
    wait_for("its machine to be gone", HEALS_WITHIN, || (server.vmms().len() == left).then_some(()));
    assert_eq!(cli.status(agent), "gone");
}

#[test]
fn a_full_disk_stops_what_takes_room_and_nothing_else() {
    let mut counted = Counted::new("faults", 22, "reading and deleting on a disk without a free byte", 0);
    let disk = SmallDisk::mount();
    let mut server = server_on(&disk, &["one", "two", "three"]);
    let cli = server.cli();
    let second = tiny_image(server.dir.path(), "second");
    let second = second.to_string_lossy();
    let import = ["image", "import", "--name", "second:1", &*second];
    cli.ok(&["image", "import", "--name", "third:1", &tiny_image(server.dir.path(), "third").to_string_lossy()]);
    for agent in ["one", "two", "three"] {
        settle(&cli, agent);
    }
    disk.fill();
    counted.faults += 1;
    // What takes room is refused before it takes any, and says why.
    refused(&cli.run(&import));
    refused(&cli.run(&["image", "pull", "127.0.0.1:9/x/y:1"]));
    refused(&create(&cli, "four"));
    assert_eq!(cli.status("four"), "gone", "nothing was made");
    // Reading and deleting go on, for as long as one likes.
    assert!(cli.ok(&["agent", "list"]).contains("two"));
    for _ in 0..20 {
        hostname(&cli, "two");
    }
    cli.ok(&["agent", "stop", "three"]);
    cli.ok(&["agent", "logs", "three"]);
    erase(&cli, &server, "one", 1);
    disk.fill();
    cli.ok(&["image", "rm", "third:1"]);
    // A start finds a full disk as well.
    server.crash();
    disk.fill();
    server.launch();
    cli.wait_status("two", "running");
    disk.fill();
    erase(&cli, &server, "two", 0);
    counted.n += 1;
    assert!(disk.free_bytes() > 0, "a delete gives room back");
    disk.make_room();
    // All goes on by itself.
    wait_for("a create", HEALS_WITHIN, || {
        cli.run(&["agent", "destroy", "--yes", "four"]);
        (create(&cli, "four").code == Some(0)).then_some(())
    });
    cli.ok(&import);
    cli.ok(&["agent", "start", "--wait", "three"]);
    for file in ["aether.db", "node/journal.db", "images/catalogue.db"] {
        crate::machine::assert_sound(&disk.0.path().join("state").join(file));
    }
    assert_eq!(server.finish(), Vec::<String>::new());
}

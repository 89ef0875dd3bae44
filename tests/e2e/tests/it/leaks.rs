//! Many rounds and many at once leave the host as it was.
//! `AETHER_ROUNDS` and `AETHER_BURST` set how many (`make leaks`: 200 and 50).

use aether_e2e::{Counted, HostState, LONG, Server, Settings, wait_for};
use std::process::Command;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

/// KiB of the state folder, without what is bounded by itself: the write-ahead
/// logs, and the disk that is kept ready for the next agent.
pub(crate) fn disk_kib(server: &Server) -> u64 {
    let mut du = Command::new("du");
    du.args(["-sk", "--exclude=*.db-wal", "--exclude=*.db-shm", "--exclude=spares"]);
    let out = du.arg(server.path("state")).output().expect("du runs");
    String::from_utf8_lossy(&out.stdout).split_whitespace().next().and_then(|n| n.parse().ok()).expect("a size")
}

/// The host once everything of this server is idle: agents gone, VMMs gone.
fn idle(server: &Server) -> HostState {
    let cli = server.cli();
    wait_for("no agents", LONG, || cli.ok(&["agent", "list", "--quiet"]).trim().is_empty().then_some(()));
    wait_for("no VMMs", LONG, || server.vmms().is_empty().then_some(()));
    // The pool of network slots fills up again in the background: wait until two readings agree.
    let read = || HostState::read(&server.prefix, &[&server.path("run"), &server.path("state")]);
    let mut last = read();
    wait_for("the host to settle", LONG, || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let now = read();
        let same = now == last;
        last = now;
        same.then(|| last.clone())
    })
}

#[test]
fn leaks_rounds_leave_the_host_as_it_was() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    let round = |n: usize| {
        let text = format!("round {n}");
        assert_eq!(cli.ok(&["run", "--memory", "128", "python:3.11", "--", "echo", &text]), format!("{text}\n"));
    };
    round(0);
    let before = idle(&server);
    let disk = disk_kib(&server);
    let mut counted = Counted::new("leaks", 14, "residue of create-exec-destroy rounds", 0);
    let rounds = number("AETHER_ROUNDS", 6);
    for n in 1..=rounds {
        round(n);
        counted.n += 1;
    }
    let after = idle(&server);
    let own = [server.prefix.as_str(), &server.dir.path().to_string_lossy()];
    assert_eq!(after.grown_since(&before, &own), Vec::<String>::new());
    for kind in ["process", "cgroup", "link", "namespace", "mount"] {
        println!("{kind}: {} before, {} after", before.count(kind), after.count(kind));
    }
    let grown = disk_kib(&server).saturating_sub(disk);
    println!("the state folder grew by {grown} KiB in {rounds} rounds");
    // What stays of an agent is its history: events, audit rows, execs.
    let history = 1024 + 24 * rounds as u64;
    assert!(grown < history, "the state folder grew by {grown} KiB, more than {history}");
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn leaks_burst_all_run_together_and_leave_the_host_as_it_was() {
    let burst = number("AETHER_BURST", 8);
    let server = Server::with_image(Settings::default().with("node.max_boots", "2"));
    let cli = server.cli();
    cli.ok(&["run", "--memory", "128", "python:3.11", "--", "true"]);
    let before = idle(&server);
    let mut counted = Counted::new("leaks", 14, "residue of agents created at once", 0);
    counted.n = burst as u64;
    let mut most_booting = 0;
    for n in 0..burst {
        cli.ok(&["agent", "create", "--name", &format!("b{n}"), "--image", "python:3.11", "--memory", "128"]);
    }
    let mut queue_seen = false;
    wait_for("all to run", LONG * 10, || {
        let nodes = cli.json(&["node", "list"]);
        let node = nodes["data"][0].clone();
        let node = if node.is_null() { nodes[0].clone() } else { node };
        most_booting = most_booting.max(node["boots_running"].as_u64().unwrap_or(0));
        queue_seen |= node["boots_queued"].as_u64().unwrap_or(0) > 0;
        let running = cli.ok(&["agent", "list", "--quiet", "--status", "running", "--limit", "100"]);
        std::thread::sleep(std::time::Duration::from_millis(400));
        (running.lines().count() == burst).then_some(())
    });
    assert!(most_booting <= 2, "{most_booting} booted at once");
    assert!(queue_seen, "the queue is visible");
    assert_eq!(server.vmms().len(), burst);
    cli.ok(&["agent", "destroy", "--all", "--yes"]);
    let after = idle(&server);
    let own = [server.prefix.as_str(), &server.dir.path().to_string_lossy()];
    assert_eq!(after.grown_since(&before, &own), Vec::<String>::new());
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn leaks_planted_ones_are_seen() {
    let prefix = format!("planted{}", std::process::id() % 1000);
    let dir = tempfile::tempdir().expect("a folder");
    let before = HostState::read(&prefix, &[dir.path()]);
    let link = format!("pl{}l", std::process::id() % 1000);
    let ip = |args: &[&str]| assert!(Command::new("ip").args(args).status().expect("ip runs").success(), "{args:?}");
    ip(&["link", "add", &link, "type", "veth", "peer", "name", &format!("{link}p")]);
    ip(&["netns", "add", &prefix]);
    std::fs::write(dir.path().join("left"), "over").expect("writes");
    let table = ["add", "table", "inet", prefix.as_str()];
    assert!(Command::new("nft").args(table).status().expect("nft runs").success());
    let cgroup = ["/sys/fs/cgroup", "/sys/fs/cgroup/pids"]
        .iter()
        .map(|root| std::path::Path::new(root).join(&prefix))
        .find(|path| std::fs::create_dir(path).is_ok())
        .expect("a cgroup can be made");
    let after = HostState::read(&prefix, &[dir.path()]);
    ip(&["link", "del", &link]);
    ip(&["netns", "del", &prefix]);
    let _ = Command::new("nft").args(["delete", "table", "inet", prefix.as_str()]).status();
    let _ = std::fs::remove_dir(cgroup);
    let added = after.all_added_since(&before).join("\n");
    for kind in ["link ", "mount ", "file ", "rule table", "cgroup "] {
        assert!(added.contains(kind), "{kind} is missing in {added}");
    }
}

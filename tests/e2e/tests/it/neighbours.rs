//! A guest that does its worst, and its neighbour. Each limit is tried at
//! twice itself and more; the neighbour's boots go on, and the host's memory
//! and disk stay within what was promised.
//! `AETHER_ROUNDS` above 1 runs each attack alone, with so many boots beside
//! it and as many without (`make neighbours`: 10).

use aether_e2e::{ATTACKS, Cli, Counted, LONG, Server, Settings, trials, wait_for};
use std::process::Command;
use std::time::{Duration, Instant};

const DISK_MB_PER_S: u64 = 8;
const DISK_IOPS: u64 = 250;
const DISK_MB: u64 = 1024;
const MEMORY_MB: u64 = 256;
/// Of a VMM beside its guest's memory, under emulation.
const OVERHEAD_MB: u64 = 224;
/// What the server may grow by while all this goes on.
const SERVER_MB: u64 = 128;

fn settings() -> Settings {
    Settings::default()
        .with("node.disk_mb_per_s", &DISK_MB_PER_S.to_string())
        .with("node.disk_iops", &DISK_IOPS.to_string())
}

/// A number of /proc/PID/status.
fn status(pid: i32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_default()
}

fn state_mb(server: &Server) -> u64 {
    let out = Command::new("du").arg("-sm").arg(server.path("state")).output().expect("du runs");
    String::from_utf8_lossy(&out.stdout).split_whitespace().next().and_then(|n| n.parse().ok()).expect("a size")
}

fn attacker(cli: &Cli, name: &str, script: &str) {
    let (memory, disk) = (MEMORY_MB.to_string(), DISK_MB.to_string());
    let sandbox = ["--name", name, "--image", "python:3.11", "--memory", &memory, "--disk", &disk];
    cli.ok(&[&["agent", "create"], sandbox.as_slice(), &["--", "sh", "-c", script]].concat());
    wait_for("the attacker to begin or to be over", LONG, || {
        ["running", "failed", "stopped"].contains(&cli.status(name).as_str()).then_some(())
    });
}

/// A create with a command in it, to its end.
fn neighbour(cli: &Cli) -> Duration {
    let begun = Instant::now();
    assert_eq!(cli.ok(&["run", "--memory", "128", "python:3.11", "--", "echo", "well"]), "well\n");
    begun.elapsed()
}

/// What a sandbox may cost the host, and the server with it.
fn assert_bounded(server: &Server, attackers: u64, before: (u64, u64)) {
    for pid in server.vmms() {
        let (kib, tasks) = (status(pid, "VmRSS:"), status(pid, "Threads:"));
        assert!(kib >> 10 <= MEMORY_MB + OVERHEAD_MB, "a VMM holds {kib} KiB");
        assert!(tasks <= 81, "a VMM has {tasks} threads");
    }
    let (rss, disk) = before;
    let grown = (status(server.pid(), "VmRSS:") >> 10).saturating_sub(rss);
    assert!(grown <= SERVER_MB, "the server grew by {grown} MiB");
    // Beside the disks: a spare, logs, rows, the neighbour's own.
    let grown = state_mb(server).saturating_sub(disk);
    let promised = attackers * (DISK_MB + DISK_MB / 20 + 64) + 256;
    assert!(grown <= promised, "the state folder grew by {grown} MiB, more than {promised}");
    let log = std::fs::metadata(server.path("server.log")).expect("the log").len();
    assert!(log < 4 << 20, "the server's log has {log} bytes");
}

/// Writes twice and more of what a few seconds have room for, past the page
/// cache; seconds that it took.
fn timed_writes(cli: &Cli, agent: &str, size: u64, count: u64) -> f64 {
    let script = format!("dd if=/dev/zero of=/var/tmp/t oflag=direct bs={size} count={count} 2>&1");
    let said = cli.ok(&["exec", agent, "--", "sh", "-c", &script]);
    let copied = said.split("copied, ").nth(1).and_then(|rest| rest.split(' ').next());
    copied.and_then(|seconds| seconds.parse().ok()).unwrap_or_else(|| panic!("dd said {said}"))
}

#[test]
fn neighbours_are_not_hurt_and_limits_hold() {
    let rounds = usize::try_from(trials("AETHER_ROUNDS", 1)).expect("a number");
    let server = Server::with_image(settings());
    let cli = server.cli();
    cli.ok(&["agent", "create", "--name", "writer", "--image", "python:3.11", "--memory", "256"]);
    cli.wait_status("writer", "running");
    let seconds = timed_writes(&cli, "writer", 1 << 20, DISK_MB_PER_S * 4);
    assert!(seconds > 3.2, "{} MiB took {seconds} s, at {DISK_MB_PER_S} MiB a second", DISK_MB_PER_S * 4);
    println!("{seconds} s for bytes");
    let seconds = timed_writes(&cli, "writer", 4096, DISK_IOPS * 4);
    println!("{seconds} s for requests");
    assert!(seconds > 3.2, "{} writes took {seconds} s, at {DISK_IOPS} a second", DISK_IOPS * 4);
    cli.ok(&["agent", "destroy", "--yes", "writer"]);
    let before = (status(server.pid(), "VmRSS:") >> 10, state_mb(&server));
    if rounds > 1 {
        one_by_one(&server, rounds, before);
    } else {
        all_at_once(&server, before);
    }
    assert_eq!(server.finish(), Vec::<String>::new());
}

/// The bomb takes its whole guest, so the others have one of their own.
fn all_at_once(server: &Server, before: (u64, u64)) {
    let cli = server.cli();
    let mut counted = Counted::new("neighbours", 7, "attacks of a guest on its neighbour and its host", 0);
    let others: String = ATTACKS[2..].iter().map(|(_, script)| format!("({script}) &\n")).collect();
    attacker(&cli, "bomb", &format!("({}) &\n{}", ATTACKS[1].1, ATTACKS[0].1));
    attacker(&cli, "all", &format!("{others}wait"));
    (counted.n, counted.faults) = (ATTACKS.len() as u64, ATTACKS.len() as u64);
    // Its output fills the channel, and nobody reads it.
    cli.ok(&["exec", "-d", "all", "--", "yes", "exec"]);
    neighbour(&cli);
    assert_bounded(server, 2, before);
}

fn one_by_one(server: &Server, rounds: usize, before: (u64, u64)) {
    let cli = server.cli();
    let boots = || (0..rounds).map(|_| neighbour(&cli)).collect::<Vec<_>>();
    let mut all = (Vec::new(), Vec::new());
    for (what, script) in ATTACKS {
        let mut counted = Counted::new("neighbours", 7, "boots of a neighbour beside an attack", 0);
        let alone = boots();
        attacker(&cli, "attacker", script);
        let beside = boots();
        assert_bounded(server, 1, before);
        cli.ok(&["agent", "destroy", "--yes", "attacker"]);
        (counted.n, counted.faults) = (beside.len() as u64, beside.len() as u64);
        println!("{what}: {}", compared(&alone, &beside));
        all.0.extend(alone);
        all.1.extend(beside);
    }
    println!("all attacks: {}", compared(&all.0, &all.1));
}

fn compared(alone: &[Duration], beside: &[Duration]) -> String {
    let at = |times: &[Duration], percent: usize| {
        let mut sorted = times.to_vec();
        sorted.sort();
        sorted[(sorted.len() * percent).div_ceil(100).clamp(1, sorted.len()) - 1].as_secs_f64()
    };
    let row = |percent| {
        let (a, b) = (at(alone, percent), at(beside, percent));
        format!("p{percent} {a:.2} s alone, {b:.2} s beside it ({:.2} x)", b / a)
    };
    format!("{}; {}", row(50), row(99))
}

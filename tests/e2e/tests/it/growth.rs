//! Counted test 23: many rounds of create, exec and destroy leave the server
//! as small and as quick as it was. `AETHER_GROWTH_ROUNDS` says how many
//! (`make rounds`: 1,000).
//!
//! After each batch of rounds the server comes to rest and is looked at. What
//! is judged is the later half of the looks, by the median of the slopes
//! between all pairs of them, which a few odd looks do not move.
//!
//! Not here: what is left on the host (`leaks`), and faults in between.

use crate::leaks::disk_kib;
use aether_e2e::{Cli, Counted, LONG, Server, Settings, tiny_image, trials, wait_for};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Rounds of a CI run, and from which on a run is a long one.
const FEW: u64 = 12;
const MANY: u64 = 500;
const LOOKS: u64 = 40;
/// One answer is too short to measure.
const ASKS: usize = 25;
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

/// The server at rest, after so many rounds.
#[derive(Clone, Copy, Debug)]
struct Look {
    rounds: f64,
    values: [f64; MEASURES.len()],
}

/// What may come on top.
enum Bound {
    /// With each round; and in a run too short to tell it from noise.
    Each(f64, f64),
    /// Of the first value, over all that is judged of a long run.
    Share(f64),
}

const MEASURES: [(&str, Bound); 7] = [
    ("descriptors", Bound::Each(0.01, 0.5)),
    ("threads", Bound::Each(0.01, 0.5)),
    ("rss_kib", Bound::Each(2.0, 512.0)),
    // Not of the binary: its pages count less for as long as other tests' servers share them.
    ("own_kib", Bound::Each(2.0, 512.0)),
    // The history of an agent stays: its row, its events, its audit records.
    ("state_kib", Bound::Each(24.0, 256.0)),
    ("list_us", Bound::Share(0.25)),
    ("round_ms", Bound::Share(0.25)),
];

/// The number after a field of a file of /proc.
fn field(pid: i32, file: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the server runs");
    let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {file}"));
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the server runs").count()
}

/// The median time of one small list, by curl on the local socket.
fn list_us(server: &Server) -> f64 {
    let url = "http://localhost/v1/agents?per_page=1";
    let out = Command::new("curl")
        .args(["-sS", "-m", "60", "-w", "\n%{time_total} %{http_code}\n", "--unix-socket"])
        .arg(server.path("run/aether.sock"))
        .args([url; ASKS])
        .output()
        .expect("curl runs");
    let text = String::from_utf8_lossy(&out.stdout);
    let times = text.lines().filter_map(|l| l.strip_suffix(" 200")).filter_map(|t| t.parse::<f64>().ok());
    let mut times: Vec<f64> = times.map(|t| t * 1e6).collect();
    assert_eq!(times.len(), ASKS, "{text} {}", String::from_utf8_lossy(&out.stderr));
    median(&mut times)
}

fn median(values: &mut [f64]) -> f64 {
    assert!(!values.is_empty(), "no values");
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// By Theil and Sen.
fn slope(points: &[(f64, f64)]) -> f64 {
    let mut slopes = Vec::new();
    for (n, (x, y)) in points.iter().enumerate() {
        slopes.extend(points[n + 1..].iter().map(|(later, then)| (then - y) / (later - x)));
    }
    median(&mut slopes)
}

/// Waits for the ends of what the rounds began, then looks.
fn look(server: &Server, rounds: u64, took: &mut [f64]) -> Look {
    let cli = server.cli();
    wait_for("no agents", LONG, || cli.ok(&["agent", "list", "--quiet"]).trim().is_empty().then_some(()));
    wait_for("no VMMs", LONG, || server.vmms().is_empty().then_some(()));
    let pid = server.pid();
    // Spare slots and disks are made anew in the background.
    let read = || (descriptors(pid), field(pid, "status", "Threads:") as u64);
    let (begun, mut last) = (Instant::now(), read());
    while begun.elapsed() < SETTLES_WITHIN {
        std::thread::sleep(Duration::from_secs(1));
        let now = read();
        if std::mem::replace(&mut last, now) == now {
            break;
        }
    }
    let values = [
        last.0 as f64,
        last.1 as f64,
        field(pid, "status", "VmRSS:"),
        field(pid, "smaps_rollup", "Pss_Anon:"),
        disk_kib(server) as f64,
        list_us(server),
        median(took),
    ];
    Look { rounds: rounds as f64, values }
}

/// So many rounds, some at the same time; how long each took, in ms.
fn batch(cli: &Cli, first: u64, rounds: u64, at_once: u64) -> Vec<f64> {
    let (next, took) = (Mutex::new(first), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let number = {
                let mut next = next.lock().expect("not poisoned");
                if *next == first + rounds {
                    return;
                }
                *next += 1;
                *next
            };
            let begun = Instant::now();
            let said = format!("round {number}");
            assert_eq!(cli.ok(&["run", "--memory", "128", "tiny:1", "--", "echo", &said]), format!("{said}\n"));
            took.lock().expect("not poisoned").push(begun.elapsed().as_secs_f64() * 1e3);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(work);
        }
    });
    took.into_inner().expect("not poisoned")
}

/// What has grown, in words; and all figures into the line.
fn judge(looks: &[Look], long: bool, counted: &mut Counted) -> Vec<String> {
    let mut grown = Vec::new();
    for (at, (name, bound)) in MEASURES.iter().enumerate() {
        let points: Vec<(f64, f64)> = looks.iter().map(|look| (look.rounds, look.values[at])).collect();
        let later = &points[points.len() / 2..];
        let each = slope(later);
        let span = later[later.len() - 1].0 - later[0].0;
        let before = median(&mut later.iter().map(|(_, value)| *value).collect::<Vec<_>>());
        let most = match bound {
            Bound::Each(most, _) if long => *most,
            Bound::Each(_, short) => *short,
            Bound::Share(share) if long => share * before / span,
            Bound::Share(_) => f64::INFINITY,
        };
        let (first, last) = (points[0].1, points[points.len() - 1].1);
        println!("{name}: {first:.0} first, {last:.0} last, {each:+.4} a round in the later half (at most {most:.4})");
        let rounded = (each * 1e4).round() / 1e4;
        counted.tell(name, serde_json::json!({ "first": first.round(), "last": last.round(), "each": rounded }));
        if each > most {
            grown.push(format!("{name}: {each:+.4} a round, at most {most:.4}: {points:?}"));
        }
    }
    grown
}

#[test]
fn growth_rounds_leave_the_server_as_it_was() {
    let rounds = trials("AETHER_GROWTH_ROUNDS", FEW);
    let long = rounds >= MANY;
    let at_once = if long { 4 } else { 2 };
    let server = Server::start(Settings::default());
    let cli = server.cli();
    let image = tiny_image(server.dir.path(), "tiny");
    cli.ok(&["image", "import", "--name", "tiny:1", &image.to_string_lossy()]);
    let mut counted = Counted::new("growth", 23, "create-exec-destroy rounds without growth", 0);
    let size = (rounds / LOOKS).max(2);
    let mut looks = Vec::new();
    let begun = Instant::now();
    while counted.n < rounds {
        let mut took = batch(&cli, counted.n, size, at_once);
        counted.n += size;
        looks.push(look(&server, counted.n, &mut took));
        println!("{:?} after {:?}", looks[looks.len() - 1], begun.elapsed());
    }
    let grown = judge(&looks, long, &mut counted);
    counted.tell("at_once", at_once);
    counted.tell("seconds", begun.elapsed().as_secs());
    counted.failures += grown.len() as u64;
    assert!(grown.is_empty(), "{}", grown.join("\n"));
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn growth_is_told_from_noise() {
    let noisy = |each: f64| -> Vec<(f64, f64)> {
        let odd = |n: i32| if n % 7 == 0 { 500.0 } else { f64::from(n % 3) };
        (0..20).map(|n| (f64::from(n) * 25.0, 100.0 + each * f64::from(n) * 25.0 + odd(n))).collect()
    };
    assert!(slope(&noisy(0.0)).abs() < 0.01, "{}", slope(&noisy(0.0)));
    assert!((slope(&noisy(1.0)) - 1.0).abs() < 0.05, "{}", slope(&noisy(1.0)));
}

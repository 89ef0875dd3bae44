//! Counted test 22, clocks: the wall clock of a whole server leaps by an hour
//! and by a day, to and fro, while agents live. Nothing ends early, a time to
//! live is kept by the time that passes, and only what names a moment (a key's
//! expiry) goes by the wall clock.
//!
//! A preloaded object shows the server another time; the machine's own clock
//! and those of the guests stay as they are.

use crate::api::{all_events, curl};
use aether_e2e::{Cli, Counted, LONG, Server, Settings, tiny_image, wait_for};
use aether_faults::Faults;
use serde_json::Value;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// From the true time.
const LEAPS: [i64; 6] = [HOUR, DAY, -HOUR, -DAY, 2 * HOUR, 0];
/// Further leaps after each: of three times a node's lease, so that whenever
/// the scheduler looks at leases, the last heartbeat lies before one.
const MORE: i64 = 8;
const EACH: i64 = 18;
/// Of a guest, about what the leaps take; what comes later than it is not looked at.
const TTL: Duration = Duration::from_secs(30);
/// Of a machine that is busy.
const SLACK: Duration = Duration::from_secs(20);
const BOOT_ID: [&str; 6] = ["agent", "exec", "steady", "--", "cat", "/proc/sys/kernel/random/boot_id"];
const TICKS: usize = 100;

struct Rig {
    server: Server,
    faults: Faults,
    cli: Cli,
    socket: String,
    address: String,
    /// Of a key that ends after two hours.
    bearer: String,
    boot_id: String,
    /// Before the agent with a time to live was asked for, and when it ran.
    asked: Instant,
    ran: Instant,
}

impl Rig {
    fn new() -> Self {
        let faults = Faults::build();
        let address =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").to_string();
        let settings = Settings { env: faults.env().to_vec(), ..Settings::default() }.with("server.address", &address);
        let server = Server::start(settings);
        let cli = server.cli();
        let image = tiny_image(server.dir.path(), "tiny");
        cli.ok(&["image", "import", "--name", "tiny:1", &image.to_string_lossy()]);
        let create = |name: &str, more: &[&str]| {
            let args = ["agent", "create", "--name", name, "--image", "tiny:1", "--memory", "128", "--wait"];
            cli.ok(&[&args, more].concat());
        };
        create("steady", &[]);
        let boot_id = cli.ok(&BOOT_ID);
        let key = cli.json(&["apikey", "create", "--name", "brief", "--role", "admin", "--expires-in", "2h"]);
        let secret = key["key"].as_str().unwrap_or_else(|| panic!("no secret in {key}"));
        let bearer = format!("Authorization: Bearer {secret}");
        let socket = server.path("run/aether.sock").to_string_lossy().into_owned();
        let asked = Instant::now();
        create("mayfly", &["--ttl", &format!("{}s", TTL.as_secs())]);
        let ran = Instant::now();
        Self { server, faults, cli, socket, address, bearer, boot_id, asked, ran }
    }

    /// The same answer to the same key, whatever the clock says within a day.
    fn keyed_create(&self) -> String {
        let body = r#"{"name":"keyed","image":"tiny:1","resources":{"memory_mb":128}}"#;
        let header = "idempotency-key: once";
        let answer = curl(&["--unix-socket", &self.socket, "-H", header, "--json", body, "http://aether/v1/agents"]);
        assert!(matches!(answer.status, 200 | 201), "{} {}", answer.status, answer.body);
        serde_json::from_str::<Value>(&answer.body).expect("JSON")["id"].as_str().expect("an id").to_owned()
    }

    /// Prints while the clock leaps.
    fn ticking(&self) -> Child {
        let script = format!("i=0; while [ $i -lt {TICKS} ]; do i=$((i+1)); echo $i; sleep 0.1; done; exit 9");
        let mut command = self.cli.command(&["agent", "exec", "steady", "--", "sh", "-c", &script]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("starts")
    }

    /// While its time is not over.
    fn mayfly_lives(&self) {
        let status = self.cli.status("mayfly");
        let lived = self.asked.elapsed();
        assert!(lived >= TTL || status == "running", "{status} after {lived:?}");
    }

    fn leap(&self, by: i64, once: &str) {
        self.faults.shift_clock(by);
        let list = curl(&["-H", &self.bearer, &format!("http://{}/v1/agents", self.address)]);
        assert_eq!(list.status, if by >= 2 * HOUR { 401 } else { 200 }, "a key of two hours, {by} s on");
        if by < DAY {
            assert_eq!(self.keyed_create(), once, "a key of a day, {by} s on");
        }
        for more in 1..=MORE {
            self.faults.shift_clock(by + more * EACH);
            std::thread::sleep(Duration::from_millis(250));
            assert_eq!(self.cli.status("steady"), "running", "{by} s and {more} times {EACH} on");
        }
        self.mayfly_lives();
        assert_eq!(self.cli.ok(&BOOT_ID), self.boot_id);
    }
}

#[test]
fn a_wall_clock_that_leaps_ends_nothing_early() {
    let mut counted = Counted::new("faults", 22, "leaps of the whole server's wall clock", 0);
    let mut rig = Rig::new();
    let once = rig.keyed_create();
    let ticking = rig.ticking();
    for by in LEAPS {
        rig.leap(by, &once);
        (counted.n, counted.faults) = (counted.n + 1, counted.faults + 1 + MORE.unsigned_abs());
    }
    let out = ticking.wait_with_output().expect("ends");
    let lines = out.stdout.iter().filter(|b| **b == b'\n').count();
    assert_eq!((out.status.code(), lines), (Some(9), TICKS));
    // A start in another time takes the deadline over as it was.
    rig.faults.shift_clock(-DAY);
    rig.server.crash();
    rig.faults.shift_clock(DAY);
    rig.server.launch();
    rig.cli.wait_status("steady", "running");
    rig.mayfly_lives();
    // On a busy machine it may be over long before it is looked for.
    let looked = rig.ran.elapsed();
    wait_for("the time to live to be over", LONG, || (rig.cli.status("mayfly") == "stopped").then_some(()));
    let (most, least) = (rig.asked.elapsed(), rig.ran.elapsed());
    assert!(most >= TTL && least < TTL.max(looked) + SLACK, "it lived {least:?} to {most:?}");
    (counted.n, counted.faults) = (counted.n + 1, counted.faults + 1);
    rig.faults.shift_clock(0);
    assert_eq!(rig.cli.ok(&BOOT_ID), rig.boot_id);
    let events = all_events(&rig.socket);
    assert!(events.len() > 3, "{events:?}");
    let lost: Vec<&Value> = events.iter().filter(|e| e["data"]["to"] == "lost").collect();
    assert!(lost.is_empty(), "an agent was written off: {lost:?}");
    let log = rig.server.log();
    assert!(log.matches("the wall clock leapt").count() >= LEAPS.len() && !log.contains("panicked"), "{log}");
    assert_eq!(rig.server.finish(), Vec::<String>::new());
}

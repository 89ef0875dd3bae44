//! What users do beside run and exec: change, follow, wait, measure, forward.

use aether_e2e::{LONG, Server, Settings, wait_for};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

/// Of `python:3.11`, the default image.
fn create(server: &Server, name: &str, more: &[&str]) {
    server.cli().ok(&[&["agent", "create", "--memory", "256", "--wait", "--name", name], more].concat());
}

#[test]
fn a_change_holds_from_the_next_start_on_and_events_tell_it() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    let mut follower = cli
        .command(&["-o", "json", "events", "-f", "--since", "1h"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    create(&server, "one", &["-e", "GREETING=hello", "--ttl", "1h"]);
    let greeting = |name: &str| cli.ok(&["exec", name, "--", "sh", "-c", "echo \"$GREETING $(nproc)\""]);
    assert_eq!(greeting("one"), "hello 1\n");
    let changed =
        cli.json(&["agent", "update", "one", "-e", "GREETING=goodbye", "--cpu", "2", "--ttl", "none", "-l", "a=b"]);
    assert_eq!(changed["pending_restart"], serde_json::json!(["env", "resources"]), "{changed}");
    assert!(changed["expires_at"].is_null(), "{changed}");
    assert_eq!(greeting("one"), "hello 1\n", "what runs goes on as it was");
    cli.ok(&["rename", "one", "two"]);
    cli.ok(&["agent", "stop", "two"]);
    cli.ok(&["agent", "start", "two"]);
    cli.ok(&["wait", "two", "--for", "running"]);
    assert_eq!(greeting("two"), "goodbye 2\n");
    let mut waiter = cli
        .command(&["wait", "two", "--for", "gone"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    cli.ok(&["rm", "two"]);
    let status = wait_for("the waiter", LONG, || waiter.try_wait().expect("waits"));
    assert!(status.success());
    let mut kinds = Vec::new();
    let lines = BufReader::new(follower.stdout.take().expect("piped")).lines();
    for line in lines {
        let event: serde_json::Value = serde_json::from_str(&line.expect("text")).expect("JSON");
        kinds.push(event["kind"].as_str().expect("kind").to_owned());
        if event["status"] == "gone" {
            break;
        }
    }
    follower.kill().expect("ends");
    follower.wait().expect("ends");
    let updates = kinds.iter().filter(|k| *k == "agent.updated").count();
    assert!(updates >= 2 && kinds[0] == "agent.created", "{kinds:?}");
}

#[test]
fn figures_follow_what_the_agent_does() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    create(&server, "busy", &[]);
    let idle = cli.json(&["stats", "busy"]);
    cli.ok(&["exec", "-d", "busy", "--", "python3", "-c", "while True: pass"]);
    cli.ok(&["exec", "busy", "--", "sh", "-c", "head -c 30000000 /dev/urandom > /var/tmp/big; sync; ls /proc/self/fd"]);
    let number = |stats: &serde_json::Value, key: &str| stats[key].as_f64().unwrap_or_else(|| panic!("{key}: {stats}"));
    let busy = wait_for("the figures to move", LONG, || {
        let now = cli.json(&["stats", "busy"]);
        (number(&now, "cpu_usage_percent") > 50.0).then_some(now)
    });
    for key in ["cpu_usage_us", "host_cpu_usage_us", "disk_usage_bytes", "host_disk_bytes"] {
        assert!(number(&busy, key) > number(&idle, key), "{key}: {idle} {busy}");
    }
    assert!(number(&busy, "disk_usage_bytes") - number(&idle, "disk_usage_bytes") > 25e6, "{idle} {busy}");
    let memory = number(&busy, "memory_total_bytes");
    assert!(number(&busy, "memory_usage_bytes") < memory && memory < 256.0 * 1048576.0, "{busy}");
    assert!(number(&busy, "host_memory_bytes") > 20e6, "{busy}");
    assert_eq!(number(&busy, "cpu_count"), 1.0);
    let table = cli.ok(&["top"]);
    assert!(table.lines().count() == 2 && table.contains("busy"), "{table}");
    assert!(!table.contains('\u{1b}'), "no control sequences into a pipe");
    let found = cli.run(&["inspect", "busy", "python:3.11"]).json();
    assert_eq!((found[0]["kind"].as_str(), found[1]["kind"].as_str()), (Some("agent"), Some("image")));
    // On a terminal: a live table that ctrl-C ends, and the screen is put back.
    let mut terminal = aether_e2e::Pty::spawn(cli.command(&["top", "-d", "500ms"]), 80, 24);
    terminal.expect("busy", LONG);
    terminal.type_text("\u{3}");
    assert_eq!(terminal.wait(LONG), Some(0));
    assert!(terminal.text().trim_end().ends_with("\u{1b}[?1049l"), "{:?}", terminal.text());
}

/// A web server for an image whose Python has little more than sockets.
const SERVE: &str = r#"
import socket, _thread
listener = socket.socket()
listener.bind(("127.0.0.1", 8000))
listener.listen(16)
def one(c):
    path = c.recv(4096).split(b" ")[1]
    body = open("/root/big", "rb").read() if path == b"/big" else b"small"
    c.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + body)
    c.close()
while True:
    _thread.start_new_thread(one, (listener.accept()[0],))
"#;

/// One request as a client without HTTP would make it.
fn fetch(address: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LONG))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    Ok(answer.split_off(body))
}

#[test]
fn ports_are_forwarded_into_an_agent_without_network() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    create(&server, "web", &["--network", "none"]);
    let script = "import hashlib,os; d=os.urandom(20_000_000); open('/root/big','wb').write(d); \
                  print(hashlib.sha256(d).hexdigest())";
    let hash = cli.ok(&["exec", "web", "--", "python3", "-c", script]);
    cli.ok(&["exec", "-d", "web", "--", "python3", "-c", SERVE]);
    let mut forwarder = cli
        .command(&["-o", "json", "port-forward", "web", "0:8000", "0:8001"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(forwarder.stdout.take().expect("piped")).lines();
    let mut next = || -> String {
        let line = lines.next().expect("a line").expect("text");
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        value["local"].as_str().expect("an address").to_owned()
    };
    let (address, nobody) = (next(), next());
    let first =
        wait_for("the server inside", LONG, || fetch(&address, "/big").ok().filter(|body| body.len() == 20_000_000));
    let checked = server.path("big");
    std::fs::write(&checked, first).expect("writes");
    let sum = std::process::Command::new("sha256sum").arg(&checked).output().expect("runs");
    assert!(String::from_utf8_lossy(&sum.stdout).starts_with(hash.trim()), "the bytes are the same");
    // Several at once; each is a connection of its own inside.
    let all: Vec<_> = (0..8)
        .map(|_| {
            let address = address.clone();
            std::thread::spawn(move || fetch(&address, "/").expect("answers"))
        })
        .collect();
    for one in all {
        assert!(String::from_utf8_lossy(&one.join().expect("ends")).contains("small"));
    }
    assert!(fetch(&nobody, "/").map_or(true, |body| body.is_empty()), "nothing listens there");
    // A connection that is open when the agent goes ends with it.
    let mut open = TcpStream::connect(&address).expect("connects");
    open.set_read_timeout(Some(LONG)).expect("sets");
    open.write_all(b"GET /").expect("writes");
    cli.ok(&["rm", "web", "--grace", "0s"]);
    let mut rest = Vec::new();
    let _ = open.read_to_end(&mut rest);
    forwarder.kill().expect("ends");
    forwarder.wait().expect("ends");
}

#[test]
fn a_failing_probe_is_shown_and_restarts_the_main_process() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    let main = &["--", "sh", "-c", "echo started; touch /tmp/ok; exec sleep 100000"];
    let probe = &["--health-cmd", "test -e /tmp/ok", "--health-interval", "1s", "--health-retries", "2"];
    let keep = &["--health-tcp", "9999", "--health-interval", "1s", "--health-no-restart"];
    create(&server, "heals", &[&probe[..], main].concat());
    create(&server, "ill", &[&keep[..], main].concat());
    wait_for("the first probe", LONG, || (cli.json(&["agent", "health", "heals"])["probe"] == "healthy").then_some(()));
    cli.ok(&["exec", "heals", "--", "rm", "/tmp/ok"]);
    let healed = wait_for("the restart", LONG, || {
        let agent = cli.json(&["agent", "get", "heals"]);
        (agent["restarts"] == 1 && agent["unhealthy"] == false).then_some(agent)
    });
    assert_eq!(healed["status"], "running");
    let logs = cli.ok(&["logs", "heals"]);
    assert!(logs.matches("started").count() >= 2 && logs.contains("unhealthy"), "{logs}");
    let ill = wait_for("the verdict", LONG, || {
        let agent = cli.json(&["agent", "get", "ill"]);
        (agent["unhealthy"] == true).then_some(agent)
    });
    assert_eq!((ill["restarts"].as_u64(), ill["status"].as_str()), (Some(0), Some("running")));
    let told = cli.run(&["agent", "health", "ill"]);
    assert!(told.code == Some(1) && told.stdout.contains("port 9999"), "{told:?}");
    assert!(cli.ok(&["ps"]).contains("unhealthy"));
}

#[test]
fn images_are_named_anew_and_unused_ones_given_back() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    cli.ok(&["image", "tag", "python:3.11", "localhost:5000/team/mine:1"]);
    create(&server, "one", &["--image", "localhost:5000/team/mine:1"]);
    let used = cli.json(&["system", "df"]);
    assert_eq!((&used["images"]["active"], &used["agents"]["active"]), (&serde_json::json!(1), &serde_json::json!(1)));
    assert_eq!(cli.json(&["image", "prune"])["images"], serde_json::json!([]), "an agent uses it");
    cli.ok(&["agent", "stop", "one"]);
    assert_eq!(cli.json(&["image", "prune"])["images"], serde_json::json!([]), "its disk lies over it");
    assert!(cli.json(&["system", "df"])["agents"]["reclaimable_bytes"].as_u64().is_some_and(|b| b > 0));
    let pruned = cli.json(&["system", "prune", "--all"]);
    assert_eq!((&pruned["agents"], pruned["images"].as_array().map(Vec::len)), (&serde_json::json!(["one"]), Some(1)));
    assert!(pruned["freed_bytes"].as_u64().is_some_and(|b| b > 10_000_000), "{pruned}");
    assert_eq!(cli.json(&["image", "list"]), serde_json::json!([]));
    let left = cli.json(&["system", "df"]);
    assert_eq!((&left["images"]["bytes"], &left["agents"]["count"]), (&serde_json::json!(0), &serde_json::json!(0)));
}

#[test]
fn an_agent_whose_vmm_dies_starts_again_on_its_disk_where_it_is_to() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    create(&server, "again", &["--recovery", "restart"]);
    cli.ok(&["exec", "again", "--", "sh", "-c", "echo kept > /root/kept; sync"]);
    let boot = cli.ok(&["exec", "again", "--", "cat", "/proc/sys/kernel/random/boot_id"]);
    for pid in server.vmms() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("kills");
    }
    wait_for("the recovery", LONG, || {
        let told = cli.json(&["events", "--agent", "again", "--kind", "agent.recovering"]);
        (told[0]["data"]["attempt"] == 1).then_some(())
    });
    cli.ok(&["wait", "again", "--for", "running"]);
    assert_eq!(cli.ok(&["exec", "again", "--", "cat", "/root/kept"]), "kept\n");
    assert_ne!(cli.ok(&["exec", "again", "--", "cat", "/proc/sys/kernel/random/boot_id"]), boot);
}

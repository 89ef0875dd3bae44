//! What a sandbox can reach, and how its VMM is confined.

use aether_e2e::{Counted, LONG, Server, Settings, repo, wait_for};
use std::process::Command;

/// Test hosts in a namespace of their own: one public address that is
/// permitted, and one of each denied range, every one of them answering.
struct TestHosts {
    name: String,
    server: std::process::Child,
}

const PUBLIC: &str = "203.0.113.10";
const DENIED: [&str; 5] = ["10.77.7.7", "172.20.77.7", "192.168.77.7", "100.77.7.7", "169.254.169.254"];

impl TestHosts {
    fn start() -> Self {
        let name = format!("e2ehosts{}", std::process::id() % 10_000);
        let ip = |args: &[&str]| {
            assert!(Command::new("ip").args(args).status().expect("ip runs").success(), "ip {args:?}");
        };
        ip(&["netns", "add", &name]);
        ip(&["link", "add", "e2eh0", "type", "veth", "peer", "name", "e2eh1", "netns", &name]);
        ip(&["addr", "add", "203.0.113.1/24", "dev", "e2eh0"]);
        ip(&["link", "set", "e2eh0", "up"]);
        ip(&["-n", &name, "addr", "add", "203.0.113.10/24", "dev", "e2eh1"]);
        ip(&["-n", &name, "link", "set", "e2eh1", "up"]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        ip(&["-n", &name, "route", "add", "default", "via", "203.0.113.1"]);
        for address in DENIED {
            ip(&["-n", &name, "addr", "add", &format!("{address}/32"), "dev", "lo"]);
            ip(&["route", "replace", &format!("{address}/32"), "via", PUBLIC, "dev", "e2eh0"]);
        }
        let script = repo().join("tests/e2e/answer.py");
        let server = Command::new("ip")
            .args(["netns", "exec", &name, "python3"])
            .arg(script)
            .args(["0.0.0.0", "18473"])
            .spawn()
            .expect("the answering server starts");
        Self { name, server }
    }
}

impl Drop for TestHosts {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        for address in DENIED {
            let _ = Command::new("ip").args(["route", "del", &format!("{address}/32")]).status();
        }
        let _ = Command::new("ip").args(["link", "del", "e2eh0"]).status();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn probe_script() -> String {
    std::fs::read_to_string(repo().join("tests/e2e/probe.py")).expect("reads")
}

#[test]
fn a_guest_reaches_the_permitted_server_and_nothing_it_must_not() {
    let hosts = TestHosts::start();
    let host_probe = |address: &str| {
        let args = ["-c", &probe_script(), &format!("{address}:18473")];
        let out = Command::new("python3").args(args).output().expect("python runs");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    // Controls: from the host every test host answers, over TCP and UDP.
    for address in DENIED.iter().chain([&PUBLIC]) {
        let seen = wait_for("the test hosts to answer", LONG, || {
            let seen = host_probe(address);
            (seen.contains("tcp") && seen.contains("udp")).then_some(seen)
        });
        assert!(seen.contains(address), "{seen}");
    }

    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    for agent in ["one", "two", "shut"] {
        let mut args = vec!["agent", "create", "--name", agent, "--image", "python:3.11", "--wait"];
        if agent == "shut" {
            args.extend(["--network", "none"]);
        }
        cli.ok(&args);
    }
    // Sandbox two listens on every address; the host listens on all of its own.
    let listen = std::fs::read_to_string(repo().join("tests/e2e/answer.py")).expect("reads");
    let mut listener = cli
        .command(&["agent", "exec", "two", "--", "python3", "-c", &listen, "0.0.0.0", "18473"])
        .spawn()
        .expect("starts");
    let mut host_listener = Command::new("python3").args(["-c", &listen, "0.0.0.0", "18473"]).spawn().expect("starts");

    let addresses = Command::new("sh")
        .args(["-c", "ip -o -4 addr show | awk '{print $4}' | cut -d/ -f1"])
        .output()
        .expect("ip runs");
    let mut targets: Vec<String> =
        String::from_utf8_lossy(&addresses.stdout).lines().filter(|a| *a != "127.0.0.1").map(str::to_owned).collect();
    assert!(targets.len() > 1, "the host has addresses: {targets:?}");
    wait_for("the host's own listener", LONG, || host_probe("127.0.0.1").contains("tcp").then_some(()));
    targets.extend(DENIED.iter().map(|a| (*a).to_owned()));
    // The gateway, and every address that the other sandboxes' namespaces have.
    let gateway = cli.ok(&["agent", "exec", "one", "--", "sh", "-c", "ip route | awk '/default/{print $3}'"]);
    targets.push(gateway.trim().to_owned());
    let namespaces = std::fs::read_dir(server.path("run/netns")).expect("the slots' namespaces");
    for entry in namespaces.flatten() {
        let out = Command::new("nsenter")
            .arg(format!("--net={}", entry.path().display()))
            .args(["ip", "-o", "-4", "addr", "show"])
            .output()
            .expect("nsenter runs");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        targets.extend(text.split_whitespace().filter(|w| w.contains('/')).filter_map(|w| {
            let address = w.split('/').next()?.to_owned();
            (!address.starts_with("127.")).then_some(address)
        }));
    }
    targets.sort();
    targets.dedup();

    let probe = |agent: &str, list: &[String]| {
        let script = probe_script();
        let mut args = vec!["agent", "exec", agent, "--timeout", "120s", "--", "python3", "-c", &script];
        let list: Vec<String> = list.iter().map(|a| format!("{a}:18473")).collect();
        args.extend(list.iter().map(String::as_str));
        cli.ok(&args)
    };
    let control = probe("one", &[PUBLIC.to_owned()]);
    assert!(control.contains("tcp") && control.contains("udp"), "the permitted server answers: {control:?}");
    println!("{} targets probed over tcp and udp: {targets:?}", targets.len());
    let mut counted = Counted::new("isolation", 2, "denied addresses probed from a guest over tcp and udp", 0);
    counted.n = 2 * targets.len() as u64 * 2;
    assert_eq!(probe("one", &targets), "", "nothing denied answers");
    targets.push(PUBLIC.to_owned());
    assert_eq!(probe("shut", &targets), "", "policy none reaches nothing");

    let _ = host_listener.kill();
    let _ = host_listener.wait();
    let _ = listener.kill();
    let _ = listener.wait();
    drop(hosts);
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn each_vmm_is_confined() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    for name in ["one", "two"] {
        cli.ok(&[
            "agent",
            "create",
            "--name",
            name,
            "--image",
            "python:3.11",
            "--env",
            "CANARY=c4n4ry-value",
            "--wait",
        ]);
    }
    let vmms: Vec<i32> = server.vmms().into_iter().filter(|pid| cmdline(*pid).contains("qemu")).collect();
    assert_eq!(vmms.len(), 2);
    let mut counted = Counted::new("isolation", 1, "live VMMs whose confinement was read from /proc", 0);
    counted.n = vmms.len() as u64;
    let mut uids = Vec::new();
    for pid in &vmms {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("reads");
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let uid = field("Uid:");
        assert!(uid.iter().all(|u| *u == uid[0] && u != "0"), "{uid:?}");
        uids.push(uid[0].clone());
        assert_eq!(field("Groups:"), Vec::<String>::new());
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set), ["0000000000000000"], "{set}");
        }
        assert_eq!(field("NoNewPrivs:"), ["1"]);
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks").flatten() {
            let text = std::fs::read_to_string(task.path().join("status")).expect("reads");
            assert!(text.contains("Seccomp:\t2"), "every thread is filtered");
        }
        for kind in ["mnt", "net", "pid", "ipc", "uts"] {
            let of = |p: &str| std::fs::read_link(format!("/proc/{p}/ns/{kind}")).expect("a namespace");
            assert_ne!(of(&pid.to_string()), of("self"), "{kind}");
        }
        assert!(!cmdline(*pid).contains("c4n4ry"), "no env on the command line");
    }
    assert_ne!(uids[0], uids[1], "a user each");
    // The env is nowhere on the host's disk in plain text.
    let grep = Command::new("grep").args(["-rl", "c4n4ry-value"]).arg(server.path("state")).output().expect("greps");
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "");
    assert!(!server.log().contains("c4n4ry"));
    assert_eq!(cli.ok(&["agent", "exec", "one", "--", "printenv", "CANARY"]), "c4n4ry-value\n");
    assert_eq!(server.finish(), Vec::<String>::new());
}

fn cmdline(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}

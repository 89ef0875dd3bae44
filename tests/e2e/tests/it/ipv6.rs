//! IPv6 in a sandbox, on a host of its own: a network namespace that forwards
//! IPv6, with a world behind it, so that the machine's settings stay as they are.

use aether_e2e::{LONG, Server, Settings, repo, wait_for};
use std::process::{Child, Command};

const PERMITTED: &str = "2001:db8:77::10";
/// Unique local, link to metadata services, and NAT64 and 6to4 of 10.1.2.3.
const DENIED: [&str; 4] = ["fd00:ec2::254", "fc00::7", "64:ff9b::a01:203", "2002:a01:203::1"];
const HOSTS_OWN: &str = "2001:db8:1::1";
const PORT: &str = "18474";

/// Answers over TCP and UDP on every IPv6 address of its namespace. One UDP
/// socket per address: an answer has to come from where it was asked.
const ANSWER: &str = r#"
import socket, sys, threading
def tcp(address, port):
    s = socket.socket(socket.AF_INET6)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, port)); s.listen(64)
    while True: s.accept()[0].close()
def udp(address, port):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.bind((address, port))
    while True: s.sendto(*s.recvfrom(64))
for address in sys.argv[2:]:
    for serve in tcp, udp: threading.Thread(target=serve, args=(address, int(sys.argv[1]))).start()
"#;

fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).status().expect("ip runs");
    assert!(done.success(), "ip {args}");
}

/// Two namespaces: the server's host, and the world that is its default route.
struct Hosts {
    node: String,
    world: String,
    servers: Vec<Child>,
}

impl Hosts {
    fn start() -> Self {
        let (node, world) = (format!("e2e6n{}", std::process::id()), format!("e2e6w{}", std::process::id()));
        let mut hosts = Self { node: node.clone(), world: world.clone(), servers: Vec::new() };
        for name in [&node, &world] {
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
        }
        ip(&format!("-n {node} link add w0 type veth peer name w1 netns {world}"));
        ip(&format!("-n {node} -6 addr add {HOSTS_OWN}/64 dev w0 nodad"));
        ip(&format!("-n {world} -6 addr add 2001:db8:1::2/64 dev w1 nodad"));
        ip(&format!("-n {node} link set w0 up"));
        ip(&format!("-n {world} link set w1 up"));
        ip(&format!("-n {node} -6 route add default via 2001:db8:1::2"));
        ip(&format!("-n {world} -6 route add default via {HOSTS_OWN}"));
        for address in DENIED.iter().chain([&PERMITTED]) {
            ip(&format!("-n {world} -6 addr add {address}/128 dev lo nodad"));
        }
        hosts.inside(&node, &["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"]);
        let mut targets = DENIED.to_vec();
        targets.push(PERMITTED);
        hosts.serve(&world, &targets);
        hosts.serve(&node, &[HOSTS_OWN]);
        hosts
    }

    fn command(name: &str, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{name}")).args(args);
        command
    }

    fn inside(&self, name: &str, args: &[&str]) -> String {
        let out = Self::command(name, args).output().expect("nsenter runs");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn serve(&mut self, name: &str, addresses: &[&str]) {
        let args = [&["python3", "-c", ANSWER, PORT], addresses].concat();
        self.servers.push(Self::command(name, &args).spawn().expect("the answering server starts"));
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        for name in [&self.node, &self.world] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

#[test]
fn a_guest_has_its_ipv6_address_and_reaches_by_it_what_it_may() {
    let hosts = Hosts::start();
    let script = std::fs::read_to_string(repo().join("tests/e2e/probe.py")).expect("reads");
    let target = |address: &str| format!("{address}:{PORT}");
    // Controls: from the host every address answers, over TCP and UDP.
    for address in DENIED.iter().chain([&PERMITTED, &HOSTS_OWN]) {
        wait_for("the test hosts to answer", LONG, || {
            let seen = hosts.inside(&hosts.node, &["python3", "-c", &script, &target(address)]);
            (seen.contains("tcp") && seen.contains("udp")).then_some(())
        });
    }
    let settings = Settings { netns: Some(hosts.node.clone()), ..Default::default() };
    let server = Server::with_image(settings.with("node.ipv6_prefix", "2001:db8:5000::/112"));
    let cli = server.cli();
    for (name, network) in [("six", "public"), ("shut", "none")] {
        cli.ok(&["agent", "create", "--name", name, "--image", "python:3.11", "--network", network, "--wait"]);
    }
    let addresses = cli.ok(&["agent", "exec", "six", "--", "cat", "/proc/net/if_inet6"]);
    assert!(addresses.contains("fdae7468657200000000000000000002"), "{addresses}");
    let shut = cli.ok(&["agent", "exec", "shut", "--", "cat", "/proc/net/if_inet6"]);
    assert!(!shut.contains("eth0"), "policy none is told no address: {shut}");

    let probe = |agent: &str, list: &[&str]| {
        let mut args = vec!["agent", "exec", agent, "--timeout", "120s", "--", "python3", "-c", &script];
        let list: Vec<String> = list.iter().map(|a| target(a)).collect();
        args.extend(list.iter().map(String::as_str));
        cli.ok(&args)
    };
    let permitted = probe("six", &[PERMITTED]);
    assert!(permitted.contains("tcp") && permitted.contains("udp"), "the permitted server answers: {permitted:?}");
    let mut never = DENIED.to_vec();
    never.push(HOSTS_OWN);
    assert_eq!(probe("six", &never), "", "nothing denied answers");
    never.push(PERMITTED);
    assert_eq!(probe("shut", &never), "", "policy none reaches nothing");
    assert_eq!(server.finish(), Vec::<String>::new());
}

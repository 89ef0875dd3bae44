//! A host of its own for each test: a private network namespace in which the
//! pool runs as on a real host, a "world" behind its uplink that really owns
//! every probed address, and guests on the far side of a slot's tap. Nothing
//! touches the machine's own network, and no packet can leave this lab.

use aether_core::spec::NetworkPolicy;
use aether_node::network::{ClaimedNet, NetworkConfig, NetworkPool};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Protocol, Socket, Type};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub(super) const PORT: u16 = 7000;
/// For a probe that should succeed: generous. For one that should not, it is
/// the time waited in vain.
const REACH: Duration = Duration::from_secs(15);
const IN_VAIN: Duration = Duration::from_millis(1200);

pub(super) const PERMITTED: &str = "203.0.113.10";
pub(super) const PERMITTED6: &str = "2001:db8:77::10";
/// Addresses in ranges that are always denied, each alive in the world.
pub(super) const DENIED: &[&str] = &[
    "10.1.2.3",
    "100.64.9.9",
    "169.254.169.254",
    "169.254.7.7",
    "172.16.5.5",
    "172.31.255.1",
    "192.0.0.8",
    "192.168.7.7",
    "198.18.3.3",
    "198.19.4.4",
    "240.1.1.1",
];
pub(super) const DENIED6: &[&str] =
    &["fd00:ec2::254", "fc00::7", "64:ff9b::a01:203", "64:ff9b::a9fe:a9fe", "2002:a01:203::1", "64:ff9b:1::5"];
/// The host's own, besides its end of each slot's link.
pub(super) const HOSTS_OWN: &[&str] = &["198.51.100.1", "203.0.113.99", "172.17.0.1"];
pub(super) const HOSTS_OWN6: &[&str] = &["2001:db8:1::1", "2001:db8:99::99"];

pub(super) struct Ns(pub(super) File);

impl Ns {
    pub(super) fn new() -> Self {
        Ns(thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            run("ip", "link set lo up");
            File::open("/proc/thread-self/ns/net").expect("own namespace")
        }))
    }

    pub(super) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let ns = self.0.try_clone().expect("dup");
        thread(move || {
            setns(&ns, CloneFlags::CLONE_NEWNET).expect("setns");
            work()
        })
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    pub(super) fn ip(&self, line: &str) {
        let line = line.to_owned();
        self.run(move || run("ip", &line));
    }
}

pub(super) fn thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().spawn(work).expect("spawn").join().expect("a lab thread panicked")
}

pub(super) fn run(program: &str, line: &str) -> String {
    let out = Command::new(program).args(line.split_whitespace()).output().expect(program);
    assert!(out.status.success(), "{program} {line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn sysctl(key: &str, value: &str) {
    std::fs::write(format!("/proc/sys/{key}"), value).unwrap_or_else(|e| panic!("{key}: {e}"));
}

/// TCP and UDP echo on each address; counts what arrives.
pub(super) fn serve(addresses: &[&str], hits: &Arc<AtomicU64>) {
    for address in addresses {
        let at = SocketAddr::new(address.parse().expect(address), PORT);
        let tcp = TcpListener::bind(at).unwrap_or_else(|e| panic!("{at}: {e}"));
        let udp = UdpSocket::bind(at).unwrap_or_else(|e| panic!("{at}: {e}"));
        let count = hits.clone();
        std::thread::Builder::new()
            .spawn(move || {
                for stream in tcp.incoming().map_while(Result::ok) {
                    count.fetch_add(1, Ordering::SeqCst);
                    let count = count.clone();
                    let _ = std::thread::Builder::new().spawn(move || echo(stream, &count));
                }
            })
            .expect("spawn");
        let count = hits.clone();
        std::thread::Builder::new()
            .spawn(move || {
                let mut buffer = [0; 2048];
                while let Ok((n, from)) = udp.recv_from(&mut buffer) {
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ = udp.send_to(&buffer[..n], from);
                }
            })
            .expect("spawn");
    }
}

fn echo(mut stream: TcpStream, hits: &AtomicU64) {
    let mut buffer = [0; 2048];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 {
            return;
        }
        // Before the answer: whoever has it may compare the counts.
        hits.fetch_add(1, Ordering::SeqCst);
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

pub(super) struct Lab {
    pub(super) dir: tempfile::TempDir,
    pub(super) world: Ns,
    /// Arrivals at the world's servers, and at the host's.
    pub(super) world_hits: Arc<AtomicU64>,
    pub(super) host_hits: Arc<AtomicU64>,
}

/// Runs a test in a fresh host.
pub(super) fn in_lab<F: Future<Output = ()>>(test: impl FnOnce(Lab) -> F + Send + 'static) {
    let _ = tracing_subscriber::fmt().with_test_writer().with_max_level(tracing::Level::INFO).try_init();
    thread(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("tests of the network need root");
        nix::mount::mount(
            None::<&str>,
            "/",
            None::<&str>,
            nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .expect("private mounts");
        // The runtime's threads begin here, so they inherit the namespaces.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        let lab = Lab::new();
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(240), test(lab)).await.expect("timeout") });
    });
}

impl Lab {
    fn new() -> Self {
        let world = Ns::new();
        // Inherited from the machine, where a server may run.
        sysctl("net/ipv4/ip_forward", "0");
        run("ip", "link set lo up");
        run("ip", &format!("link add w0 type veth peer name w1 netns {}", world.path()));
        for line in ["addr add 198.51.100.1/30 dev w0", "-6 addr add 2001:db8:1::1/64 dev w0 nodad", "link set w0 up"] {
            run("ip", line);
        }
        for line in ["addr add 198.51.100.2/30 dev w1", "-6 addr add 2001:db8:1::2/64 dev w1 nodad", "link set w1 up"] {
            world.ip(line);
        }
        world.ip("route add default via 198.51.100.1");
        world.ip("-6 route add default via 2001:db8:1::1");
        run("ip", "route add default via 198.51.100.2");
        run("ip", "-6 route add default via 2001:db8:1::2");
        run("ip", "link add docker0 type bridge");
        run("ip", "addr add 172.17.0.1/16 dev docker0");
        run("ip", "link set docker0 up");
        run("ip", "addr add 203.0.113.99/32 dev lo");
        run("ip", "-6 addr add 2001:db8:99::99/128 dev lo nodad");
        for (address, family) in DENIED
            .iter()
            .chain([&PERMITTED])
            .map(|a| (a, "-4"))
            .chain(DENIED6.iter().chain([&PERMITTED6]).map(|a| (a, "-6")))
        {
            let (len, nodad, via) =
                if family == "-6" { (128, " nodad", "2001:db8:1::2") } else { (32, "", "198.51.100.2") };
            world.ip(&format!("{family} addr add {address}/{len} dev lo{nodad}"));
            run("ip", &format!("{family} route add {address}/{len} via {via}"));
        }
        let (world_hits, host_hits) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let hits = world_hits.clone();
        world.run(move || {
            serve(DENIED, &hits);
            serve(DENIED6, &hits);
            serve(&[PERMITTED, PERMITTED6], &hits);
        });
        serve(HOSTS_OWN, &host_hits);
        serve(HOSTS_OWN6, &host_hits);
        Lab { dir: tempfile::tempdir().expect("tempdir"), world, world_hits, host_hits }
    }

    pub(super) fn config(&self, prefix: &str) -> NetworkConfig {
        let mut cfg = NetworkConfig::new(self.dir.path(), prefix);
        cfg.spare = 0;
        // Nobody listens there: no test asks a server of this machine by accident.
        cfg.upstream_dns = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 9))];
        cfg
    }

    pub(super) async fn guest(&self, pool: &NetworkPool, slot: u32, policy: NetworkPolicy) -> Guest {
        Guest::new(pool.claim(slot, policy).await.expect("claim"))
    }

    /// The namespace of a slot, to put servers or to look into it.
    pub(super) fn slot_ns(&self, prefix: &str, slot: u32) -> Ns {
        Ns(File::open(self.dir.path().join(format!("netns/{prefix}-{slot}"))).expect("the slot's namespace"))
    }

    pub(super) fn hits(&self) -> u64 {
        self.world_hits.load(Ordering::SeqCst)
    }
}

/// The guest's side: a namespace whose `eth0` is wired to the slot's tap.
pub(super) struct Guest {
    pub(super) ns: Ns,
    stop: Arc<AtomicBool>,
    pump: Option<std::thread::JoinHandle<()>>,
    wire: File,
    pub(super) net: aether_node::network::GuestNet,
}

impl Guest {
    pub(super) fn new(claimed: ClaimedNet) -> Self {
        let ns = Ns::new();
        let net = claimed.guest.clone();
        let far = ns.run(|| open_tap("eth0"));
        let mac = net.mac.map(|b| format!("{b:02x}")).join(":");
        ns.run(|| sysctl("net/ipv4/ping_group_range", "0 2147483647"));
        ns.ip(&format!("link set eth0 address {mac} mtu {}", net.mtu));
        ns.ip(&format!("addr add {}/{} dev eth0", net.address, net.prefix_len));
        if let Some(v6) = &net.ipv6 {
            ns.ip(&format!("-6 addr add {}/{} dev eth0 nodad", v6.address, v6.prefix_len));
        }
        ns.ip("link set eth0 up");
        ns.ip(&format!("route add default via {}", net.gateway));
        if let Some(v6) = &net.ipv6 {
            ns.ip(&format!("-6 route add default via {}", v6.gateway));
        }
        let near = File::from(claimed.tap.expect("a claim has a tap"));
        let wire = near.try_clone().expect("dup");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let pump = std::thread::Builder::new().spawn(move || pump(near, File::from(far), &stopped)).expect("spawn");
        Guest { ns, stop, pump: Some(pump), wire, net }
    }

    /// Puts one frame on the wire as the guest's driver would.
    pub(super) fn inject(&self, frame: &[u8]) {
        let mut bytes = vec![0_u8; 10]; // virtio-net header: no offloads
        bytes.extend(frame);
        let n = (&self.wire).write(&bytes).expect("write a frame");
        assert_eq!(n, bytes.len());
    }

    /// Every protocol that answers at the address.
    pub(super) fn reaches(&self, address: &str, limit: Duration) -> Vec<&'static str> {
        let ip: IpAddr = address.parse().expect(address);
        self.ns.run(move || {
            let at = SocketAddr::new(ip, PORT);
            let probes = [
                std::thread::Builder::new().spawn(move || tcp(at, limit).then_some("tcp")),
                std::thread::Builder::new().spawn(move || udp(at, limit).then_some("udp")),
                std::thread::Builder::new().spawn(move || ping(ip, limit).then_some("icmp")),
            ];
            probes.into_iter().filter_map(|p| p.expect("spawn").join().expect("probe")).collect()
        })
    }

    pub(super) fn assert_reaches(&self, address: &str) {
        assert_eq!(self.reaches(address, REACH), ["tcp", "udp", "icmp"], "{address} must be reachable");
    }

    pub(super) fn assert_denied(&self, addresses: &[&str]) {
        std::thread::scope(|scope| {
            let probes: Vec<_> = addresses.iter().map(|a| (a, scope.spawn(move || self.reaches(a, IN_VAIN)))).collect();
            for (address, probe) in probes {
                assert_eq!(probe.join().expect("probe"), [""; 0], "{address} must not be reachable");
            }
        });
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.pump.take().map(std::thread::JoinHandle::join);
    }
}

/// Control for every denial: the address answers, from the host itself.
pub(super) fn assert_alive(addresses: &[&str]) {
    for address in addresses {
        let ip: IpAddr = address.parse().expect(address);
        let at = SocketAddr::new(ip, PORT);
        assert!(tcp(at, REACH), "{address} is not alive over TCP");
        assert!(udp(at, REACH), "{address} is not alive over UDP");
    }
}

pub(super) fn tcp(at: SocketAddr, limit: Duration) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&at, limit) else { return false };
    let _ = stream.set_read_timeout(Some(limit));
    let mut answer = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut answer).is_ok() && answer == *b"ping"
}

pub(super) fn udp(at: SocketAddr, limit: Duration) -> bool {
    let local = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let Ok(socket) = UdpSocket::bind(local) else { return false };
    let tries = 4;
    let _ = socket.set_read_timeout(Some(limit / tries));
    socket.connect(at).is_ok()
        && (0..tries).any(|_| {
            let mut answer = [0; 4];
            socket.send(b"ping").is_ok() && socket.recv(&mut answer).is_ok_and(|n| answer[..n] == *b"ping")
        })
}

pub(super) fn ping(to: IpAddr, limit: Duration) -> bool {
    let (domain, protocol, kind) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let Ok(socket) = Socket::new(domain, Type::DGRAM, Some(protocol)) else { return false };
    let tries = 4;
    let _ = socket.set_read_timeout(Some(limit / tries));
    let echo = [kind, 0, 0, 0, 0, 1, 0, 1, b'p', b'i', b'n', b'g'];
    (0..tries).any(|_| {
        let mut answer = [0_u8; 64];
        socket.send_to(&echo, &SocketAddr::new(to, 0).into()).is_ok()
            && (&socket).read(&mut answer).is_ok_and(|n| n >= 12 && answer[8..12] == *b"ping")
    })
}

fn pump(near: File, far: File, stop: &AtomicBool) {
    let mut buffer = vec![0; 70_000];
    while !stop.load(Ordering::SeqCst) {
        let mut fds = [PollFd::new(near.as_fd(), PollFlags::POLLIN), PollFd::new(far.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(50_u8)).is_err() {
            return;
        }
        let readable = fds.map(|f| f.revents().is_some_and(|r| r.contains(PollFlags::POLLIN)));
        for (from, to, ready) in [(&near, &far, readable[0]), (&far, &near, readable[1])] {
            if ready {
                // The slot may be released under the guest: then reads fail.
                let Ok(n) = (&*from).read(&mut buffer) else { return };
                let _ = (&*to).write(&buffer[..n]);
            }
        }
    }
}

#[repr(C)]
struct IfReq {
    name: [libc::c_char; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

#[allow(unsafe_code, reason = "the guest's own tap, made as a VMM's would be")]
fn open_tap(name: &str) -> OwnedFd {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    let mut request = IfReq { name: [0; libc::IFNAMSIZ], flags: 0x0002 | 0x1000 | 0x4000, rest: [0; 22] };
    for (to, from) in request.name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: `request` has the layout of struct ifreq and outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), 0x4004_54ca, &raw mut request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    file.into()
}

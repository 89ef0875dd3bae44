//! Raw frames, as a hostile driver sends them.

use super::lab::{self, Guest, Lab, PERMITTED, PORT, in_lab, run};
use aether_core::spec::NetworkPolicy::Public;
use aether_node::network::{NetworkConfig, NetworkPool, Share};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

const GATEWAY_MAC: [u8; 6] = [0x02, 0xae, 0x74, 0x68, 0x00, 0x01];
const TARGET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

#[derive(Clone)]
struct Frame {
    to: [u8; 6],
    from: [u8; 6],
    vlan: bool,
    source: Ipv4Addr,
    protocol: u8,
    from_port: u16,
    /// Flags and offset.
    fragment: u16,
    options: bool,
}

impl Frame {
    fn good(guest: &Guest) -> Self {
        Frame {
            to: GATEWAY_MAC,
            from: guest.net.mac,
            vlan: false,
            source: guest.net.address,
            protocol: 17,
            from_port: 40_000,
            fragment: 0,
            options: false,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let udp: Vec<u8> = [self.from_port, PORT, 12, 0].into_iter().flat_map(u16::to_be_bytes).collect(); // no checksum
        match self.fragment {
            0 => self.around(&[&udp, b"evil".as_slice()].concat()),
            FIRST => self.around(&udp),
            _ => self.around(b"evil"),
        }
    }

    fn around(&self, payload: &[u8]) -> Vec<u8> {
        let header_words: u8 = if self.options { 6 } else { 5 };
        let mut ip = vec![0x40 | header_words, 0];
        let length = usize::from(header_words) * 4 + payload.len();
        ip.extend(u16::try_from(length).expect("short").to_be_bytes());
        ip.extend([0x12, 0x34]);
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([64, self.protocol, 0, 0]);
        ip.extend(self.source.octets());
        ip.extend(TARGET.octets());
        if self.options {
            ip.extend([1, 1, 1, 0]); // no-ops
        }
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut out = Vec::new();
        out.extend(self.to);
        out.extend(self.from);
        if self.vlan {
            out.extend([0x81, 0x00, 0x00, 0x05]);
        }
        out.extend([0x08, 0x00]);
        out.extend(ip);
        out.extend(payload);
        out
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

/// More fragments; and 8 bytes in, the last: together a good datagram.
const FIRST: u16 = 0x2000;
const LAST: u16 = 0x0001;

/// Counts what arrives in the world by kind.
fn watch(lab: &Lab) {
    let rules = "table inet watch { chain pre { type filter hook prerouting priority -450;\n\
                 iifname w1 meta l4proto != { tcp, udp, icmp, ipv6-icmp } counter\n\
                 iifname w1 ip daddr 203.0.113.10 udp dport 7000 counter\n\
                 iifname w1 ip daddr 203.0.113.10 ip frag-off & 0x3fff != 0 counter\n\
                 iifname w1 ip6 daddr 2001:db8:77::10 counter\n}\n}\n";
    let file = lab.dir.path().join("watch.nft");
    std::fs::write(&file, rules).expect("write");
    let line = format!("-f {}", file.display());
    lab.world.run(move || run("nft", &line));
}

/// [odd protocols, UDP to the target, fragments to it, IPv6 to it]
fn arrived(lab: &Lab) -> Vec<u64> {
    let text = lab.world.run(|| run("nft", "list chain inet watch pre"));
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(2).filter(|w| w[0] == "packets").map(|w| w[1].parse().expect("a count")).collect()
}

/// A frame behind others proves that those before it have been judged.
async fn settle(lab: &Lab, guest: &Guest) -> u64 {
    let before = arrived(lab)[1];
    guest.inject(&Frame::good(guest).bytes());
    for _ in 0..300 {
        if arrived(lab)[1] > before {
            return before;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("a good frame does not arrive");
}

#[test]
fn spoofed_fragmented_and_odd_packets_are_dropped() {
    in_lab(async |lab| {
        let pool = NetworkPool::open(lab.config("tspoof")).await.expect("open");
        let guest = lab.guest(&pool, 0, Public).await;
        guest.assert_reaches(PERMITTED);
        watch(&lab);
        // Control for the odd ones: from the host they do arrive.
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(132))).expect("raw socket");
        raw.send_to(b"odd!", &SocketAddr::from((TARGET, 0)).into()).expect("send");
        settle(&lab, &guest).await;
        assert_eq!(arrived(&lab)[0], 1, "the watch sees odd protocols");

        let good = Frame::good(&guest);
        let one = |frame: Frame| vec![frame.bytes()];
        let fragments = [FIRST, LAST].map(|fragment| Frame { fragment, ..good.clone() }.bytes());
        let bad = [
            ("another source", one(Frame { source: Ipv4Addr::new(10, 200, 0, 3), ..good.clone() })),
            ("the gateway's source", one(Frame { source: Ipv4Addr::new(10, 200, 0, 1), ..good.clone() })),
            ("a public source", one(Frame { source: Ipv4Addr::new(203, 0, 113, 200), ..good.clone() })),
            ("another hardware address", one(Frame { from: [2, 0, 0, 0, 0, 9], ..good.clone() })),
            ("the gateway's hardware address", one(Frame { from: GATEWAY_MAC, ..good.clone() })),
            ("a broadcast frame", one(Frame { to: [0xff; 6], ..good.clone() })),
            ("a VLAN tag", one(Frame { vlan: true, ..good.clone() })),
            ("a first fragment", vec![fragments[0].clone()]),
            ("a datagram in fragments", fragments.to_vec()),
            ("options", one(Frame { options: true, ..good.clone() })),
            ("SCTP", one(Frame { protocol: 132, ..good.clone() })),
            ("GRE", one(Frame { protocol: 47, ..good.clone() })),
        ];
        for (what, frames) in bad {
            let before = arrived(&lab);
            frames.iter().for_each(|f| guest.inject(f));
            settle(&lab, &guest).await;
            let mut after = arrived(&lab);
            after[1] -= 1; // the good one
            assert_eq!(after, before, "{what} must be dropped");
        }
    });
}

#[test]
fn a_sandbox_cannot_hold_more_than_its_share_of_connections() {
    in_lab(async |lab| {
        let pool = NetworkPool::open(lab.config("tfull")).await.expect("open");
        let guest = lab.guest(&pool, 0, Public).await;
        guest.assert_reaches(PERMITTED);
        watch(&lab);
        let at = SocketAddr::from((TARGET, PORT));
        let connects = |limit| guest.ns.run(move || lab::tcp(at, Duration::from_secs(limit)));
        for round in 0..10 {
            for from_port in 20_000..30_000 {
                guest.inject(&Frame { from_port, ..Frame::good(&guest) }.bytes());
            }
            // A burst may lose packets on the way; then there is room left.
            if !connects(3) {
                break;
            }
            assert!(round < 9, "there is no limit");
        }
        // The neighbour's share is its own, and a cut makes room.
        let neighbour = lab.guest(&pool, 1, Public).await;
        neighbour.assert_reaches(PERMITTED);
        pool.set_policy(0, Public).await.expect("cut");
        assert!(connects(30), "room again");
    });
}

/// What a sandbox may use, small enough to be passed by far.
fn small(lab: &Lab, prefix: &str, share: Share) -> NetworkConfig {
    let mut cfg = lab.config(prefix);
    cfg.share = share;
    cfg
}

const NO_SHARE: Share = Share { mb_per_s: 0, packets_per_s: 0, flows: 0 };

/// Sends frames as fast as it can; (packets that arrived, seconds it took).
async fn flood(lab: &Lab, guest: &Guest, frame: &[u8], frames: u32) -> (u64, f64) {
    let before = arrived(lab)[1];
    let begun = tokio::time::Instant::now();
    for _ in 0..frames {
        guest.inject(frame);
    }
    let passed = begun.elapsed().as_secs_f64();
    // Those that were let through are on their way for a moment.
    tokio::time::sleep(Duration::from_millis(500)).await;
    (arrived(lab)[1] - before, passed)
}

#[test]
fn a_sandbox_sends_no_more_than_its_share() {
    in_lab(async |lab| {
        watch(&lab);
        let packets = Share { packets_per_s: 400, ..NO_SHARE };
        let pool = NetworkPool::open(small(&lab, "tpps", packets)).await.expect("open");
        let guest = lab.guest(&pool, 0, Public).await;
        guest.assert_reaches(PERMITTED);
        let frame = Frame::good(&guest);
        let (came, passed) = flood(&lab, &guest, &frame.bytes(), 20_000).await;
        let share = 100.0 + 400.0 * (passed + 0.5);
        assert!(20_000.0 > 2.0 * share, "the attempt was too slow: {passed} s");
        assert!(came as f64 <= share && came > 20, "{came} packets of {share}");
        // The neighbour has its own.
        lab.guest(&pool, 1, Public).await.assert_reaches(PERMITTED);

        let bytes = Share { mb_per_s: 1, ..NO_SHARE };
        let pool = NetworkPool::open(small(&lab, "tbps", bytes)).await.expect("open");
        let guest = lab.guest(&pool, 0, Public).await;
        guest.assert_reaches(PERMITTED);
        let length = 8 + 1200_u16;
        let head: Vec<u8> = [40_000, PORT, length, 0].into_iter().flat_map(u16::to_be_bytes).collect();
        let large = frame.around(&[head, vec![7; 1200]].concat());
        let (came, passed) = flood(&lab, &guest, &large, 10_000).await;
        // A second of it may come at once.
        let share = f64::from(256 << 10) + f64::from(1 << 20) * (passed + 1.5);
        let (came, tried) = (came as f64 * large.len() as f64, 10_000.0 * large.len() as f64);
        assert!(tried > 2.0 * share, "the attempt was too slow: {passed} s");
        assert!(came <= share && came > 50_000.0, "{came} bytes of {share}");
    });
}

#[test]
fn a_sandbox_gets_no_more_than_its_share() {
    in_lab(async |lab| {
        let packets = Share { packets_per_s: 400, ..NO_SHARE };
        let pool = NetworkPool::open(small(&lab, "tinw", packets)).await.expect("open");
        let guest = lab.guest(&pool, 0, Public).await;
        let at = SocketAddr::from((TARGET, PORT + 1));
        let server = lab.world.run(move || UdpSocket::bind(at).expect("binds"));
        let sender = std::thread::Builder::new()
            .spawn(move || {
                let from = server.recv_from(&mut [0; 16]).expect("a question").1;
                for _ in 0..20_000 {
                    let _ = server.send_to(&[7; 100], from);
                }
            })
            .expect("spawn");
        let (came, passed) = guest.ns.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
            socket.set_read_timeout(Some(Duration::from_millis(500))).expect("set");
            let begun = tokio::time::Instant::now();
            socket.send_to(b"more", at).expect("sends");
            let came = std::iter::from_fn(|| socket.recv(&mut [0; 200]).ok()).count();
            (came, begun.elapsed().as_secs_f64())
        });
        sender.join().expect("sends all");
        let share = 100.0 + 400.0 * passed;
        assert!(20_000.0 > 2.0 * share, "the attempt was too slow: {passed} s");
        assert!(came as f64 <= share && came > 20, "{came} packets of {share}");
    });
}

#[test]
fn a_sandbox_opens_no_more_than_its_share_of_flows() {
    in_lab(async |lab| {
        watch(&lab);
        let pool = NetworkPool::open(small(&lab, "tflow", Share { flows: 64, ..NO_SHARE })).await.expect("open");
        let guest = lab.guest(&pool, 0, Public).await;
        let before = arrived(&lab)[1];
        for from_port in 20_000..20_128 {
            guest.inject(&Frame { from_port, ..Frame::good(&guest) }.bytes());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let came = arrived(&lab)[1] - before;
        assert!((32..=64).contains(&came), "{came} flows of 128");
    });
}

fn frame6(guest: &Guest, source: Ipv6Addr) -> Vec<u8> {
    let target: Ipv6Addr = "2001:db8:77::10".parse().expect("address");
    let mut udp = vec![0x9c, 0x40, 0x1b, 0x58, 0, 8, 0, 0];
    let pseudo = [source.octets().as_slice(), &target.octets(), &[0, 0, 0, 8, 0, 0, 0, 17], &udp].concat();
    udp[6..8].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let head = [0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64];
    [&GATEWAY_MAC, &guest.net.mac, head.as_slice(), &source.octets(), &target.octets(), &udp].concat()
}

#[test]
fn without_a_prefix_all_ipv6_is_dropped_and_with_one_the_source_is_pinned() {
    in_lab(async |lab| {
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("forwarding");
        let inner: Ipv6Addr = "fdae:7468:6572::2".parse().expect("address");
        let spoofed: Ipv6Addr = "2001:db8:5000::1".parse().expect("address");
        watch(&lab);

        let pool = NetworkPool::open(lab.config("tno6")).await.expect("open");
        let guest = lab.guest(&pool, 0, Public).await;
        guest.assert_reaches(PERMITTED);
        guest.inject(&frame6(&guest, inner));
        settle(&lab, &guest).await;
        assert_eq!(arrived(&lab)[3], 0, "no IPv6 without a prefix");
        let ruleset = run("ip", "-6 addr show dev tno6-0");
        assert_eq!(ruleset, "", "and none on the link");

        let mut cfg = lab.config("tdo6");
        cfg.ipv6_prefix = Some("2001:db8:5000::/112".parse().expect("prefix"));
        let with = NetworkPool::open(cfg).await.expect("open");
        let guest6 = lab.guest(&with, 0, Public).await;
        guest6.assert_reaches(PERMITTED);
        guest6.inject(&frame6(&guest6, spoofed));
        settle(&lab, &guest6).await;
        assert_eq!(arrived(&lab)[3], 0, "a foreign source is dropped");
        for n in 0..600 {
            // The first may be lost while neighbours are still being found.
            if n % 20 == 0 {
                guest6.inject(&frame6(&guest6, inner));
            }
            if arrived(&lab)[3] > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("its own source does not arrive");
    });
}

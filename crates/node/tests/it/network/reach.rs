//! Who can be reached, under which policy.

use super::lab::{self, DENIED, DENIED6, HOSTS_OWN, HOSTS_OWN6, PERMITTED, PERMITTED6, PORT, assert_alive, in_lab};
use aether_core::spec::NetworkPolicy::{None as Nothing, Public};
use aether_node::network::{NetworkError, NetworkPool};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[test]
fn a_public_sandbox_reaches_the_internet_and_nothing_else() {
    in_lab(async |lab| {
        let pool = NetworkPool::open(lab.config("tpub")).await.expect("open");
        let guest = lab.guest(&pool, 0, Public).await;
        guest.assert_reaches(PERMITTED);
        assert_alive(DENIED);
        assert_alive(HOSTS_OWN);
        let before = (lab.hits(), lab.host_hits.load(Ordering::SeqCst));
        guest.assert_denied(DENIED);
        guest.assert_denied(HOSTS_OWN);
        assert_eq!((lab.hits(), lab.host_hits.load(Ordering::SeqCst)), before, "nothing arrived");
        // The list did not grow so long that the permitted is shut as well.
        guest.assert_reaches(PERMITTED);
    });
}

#[test]
fn neither_the_gateway_nor_the_hosts_end_nor_another_sandbox_can_be_reached() {
    in_lab(async |lab| {
        let cfg = lab.config("tnb");
        let base = u32::from(cfg.uplink_net.network());
        let pool = NetworkPool::open(cfg).await.expect("open");
        let guest = lab.guest(&pool, 0, Public).await;
        let neighbour = lab.guest(&pool, 1, Public).await;
        let [own_host, own_inner, their_host, their_inner] = [0, 1, 2, 3].map(|i| Ipv4Addr::from(base + i).to_string());
        let hits = Arc::new(AtomicU64::new(0));
        // Servers at all of these addresses, on the host, in both namespaces
        // and in the neighbour itself; each is alive where it lives.
        lab::serve(&[&own_host, &their_host], &hits);
        assert_alive(&[&own_host, &their_host]);
        for (slot, inner) in [(0, own_inner.clone()), (1, their_inner.clone())] {
            let (ns, hits) = (lab.slot_ns("tnb", slot), hits.clone());
            ns.ip("link set lo up");
            ns.run(move || lab::serve(&[&inner, "10.200.0.1"], &hits));
        }
        neighbour.ns.run({
            let hits = hits.clone();
            move || lab::serve(&["10.200.0.2"], &hits)
        });
        let before = hits.load(Ordering::SeqCst);
        guest.assert_denied(&["10.200.0.1", &own_host, &own_inner, &their_host, &their_inner]);
        neighbour.assert_denied(&["10.200.0.1", &own_host, &own_inner, &their_host, &their_inner]);
        assert_eq!(hits.load(Ordering::SeqCst), before, "nothing arrived");
        guest.assert_reaches(PERMITTED);
        neighbour.assert_reaches(PERMITTED);
    });
}

#[test]
fn under_none_nothing_leaves_and_a_change_cuts_live_flows() {
    in_lab(async |lab| {
        let pool = NetworkPool::open(lab.config("tnone")).await.expect("open");
        let guest = lab.guest(&pool, 0, Nothing).await;
        let before = lab.hits();
        guest.assert_denied(&[PERMITTED, DENIED[0], HOSTS_OWN[0], "10.200.0.1"]);
        assert_eq!(lab.hits(), before, "nothing arrived");

        pool.set_policy(0, Public).await.expect("public");
        guest.assert_reaches(PERMITTED);
        let at = SocketAddr::new(PERMITTED.parse().expect("address"), PORT);
        let mut flow = guest.ns.run(move || TcpStream::connect_timeout(&at, Duration::from_secs(15))).expect("connect");
        flow.set_read_timeout(Some(Duration::from_secs(2))).expect("timeout");
        let mut speak = move || {
            let mut answer = [0; 4];
            flow.write_all(b"live").is_ok() && flow.read_exact(&mut answer).is_ok()
        };
        assert!(speak(), "the flow lives");
        let known = || std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").expect("connections");
        assert!(known().contains("dport=7000"), "the host knows the flow");
        pool.set_policy(0, Nothing).await.expect("none");
        let before = lab.hits();
        assert!(!speak(), "the flow is cut");
        guest.assert_denied(&[PERMITTED]);
        assert_eq!(lab.hits(), before, "nothing arrived");
        assert!(!known().contains("dport=7000"), "the host forgot the flow: {}", known());
    });
}

#[test]
fn the_operator_opens_what_he_names_and_no_more() {
    in_lab(async |lab| {
        let mut cfg = lab.config("tallow");
        cfg.allow = vec!["10.1.2.3/32".parse().expect("net"), "198.51.100.1/32".parse().expect("net")];
        cfg.deny = vec!["203.0.113.10/32".parse().expect("net")];
        let pool = NetworkPool::open(cfg).await.expect("open");
        let guest = lab.guest(&pool, 0, Public).await;
        guest.assert_reaches("10.1.2.3");
        guest.assert_reaches("198.51.100.1");
        let denied: Vec<&str> = DENIED.iter().copied().filter(|a| *a != "10.1.2.3").collect();
        guest.assert_denied(&denied);
        guest.assert_denied(&["203.0.113.99", "172.17.0.1"]);
        assert_alive(&[PERMITTED]);
        guest.assert_denied(&[PERMITTED]);
        pool.set_policy(0, Nothing).await.expect("none");
        guest.assert_denied(&["10.1.2.3", "198.51.100.1"]);
    });
}

#[test]
fn with_a_prefix_ipv6_obeys_the_same_rules() {
    in_lab(async |lab| {
        let mut cfg = lab.config("tsix");
        cfg.ipv6_prefix = Some("2001:db8:5000::/112".parse().expect("prefix"));
        let refused = NetworkPool::open(cfg.clone()).await;
        assert!(matches!(refused, Err(NetworkError::Config { key: "ipv6_prefix", .. })), "{refused:?}");

        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("forwarding");
        let pool = NetworkPool::open(cfg).await.expect("open");
        let guest = lab.guest(&pool, 0, Public).await;
        let neighbour = lab.guest(&pool, 1, Public).await;
        guest.assert_reaches(PERMITTED6);
        guest.assert_reaches(PERMITTED);
        neighbour.assert_reaches(PERMITTED6);
        assert_alive(DENIED6);
        assert_alive(HOSTS_OWN6);
        let hits = Arc::new(AtomicU64::new(0));
        let slot_ns = lab.slot_ns("tsix", 1);
        slot_ns.run({
            let hits = hits.clone();
            move || lab::serve(&["2001:db8:5000::2", "fdae:7468:6572::1"], &hits)
        });
        let before = (lab.hits(), lab.host_hits.load(Ordering::SeqCst));
        guest.assert_denied(DENIED6);
        guest.assert_denied(HOSTS_OWN6);
        guest.assert_denied(DENIED);
        guest.assert_denied(&["2001:db8:5000::2", "fdae:7468:6572::1"]);
        assert_eq!((lab.hits(), lab.host_hits.load(Ordering::SeqCst)), before, "nothing arrived");
        assert_eq!(hits.load(Ordering::SeqCst), 0, "nothing arrived at the neighbour");
        pool.set_policy(0, Nothing).await.expect("none");
        guest.assert_denied(&[PERMITTED6, PERMITTED, "fdae:7468:6572::1"]);
        neighbour.assert_reaches(PERMITTED6);
    });
}

#[test]
fn a_port_that_the_host_forwards_elsewhere_stays_shut() {
    in_lab(async |lab| {
        // As a container engine publishes ports: the host's own address leads,
        // by DNAT, to a server whose address is not denied.
        let publish = format!(
            "table ip published {{ chain pre {{ type nat hook prerouting priority dstnat; \
             ip daddr 203.0.113.99 tcp dport 8000 dnat to {PERMITTED}:{PORT}; }}\n\
             chain post {{ type nat hook postrouting priority srcnat; ct status dnat masquerade; }}\n}}\n"
        );
        let file = lab.dir.path().join("published.nft");
        std::fs::write(&file, publish).expect("write");
        lab::run("nft", &format!("-f {}", file.display()));
        let pool = NetworkPool::open(lab.config("tdnat")).await.expect("open");
        let at = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 99), 8000));
        assert!(lab.world.run(move || lab::tcp(at, Duration::from_secs(15))), "published to the world");
        let guest = lab.guest(&pool, 0, Public).await;
        guest.assert_reaches(PERMITTED);
        assert!(!guest.ns.run(move || lab::tcp(at, Duration::from_secs(2))), "not to sandboxes");
    });
}

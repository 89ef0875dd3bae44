//! Slots come, go, survive a daemon and leave nothing.

use super::lab::{self, PERMITTED, in_lab, run};
use aether_core::spec::NetworkPolicy::{None as Nothing, Public};
use aether_node::network::{NetworkConfig, NetworkError, NetworkPool};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// All that the network could leave on a host.
#[derive(Debug, PartialEq)]
struct Host {
    links: Vec<String>,
    rules: String,
    mounts: usize,
    forward: String,
    files: usize,
    sockets: usize,
}

fn host(dir: &Path) -> Host {
    let links = run("ip", "-o link");
    // The machine's own mounts are copied into the lab and may go at any time.
    let inside = dir.display().to_string();
    let text = |path: &str| std::fs::read_to_string(path).expect(path);
    Host {
        links: links.lines().filter_map(|l| Some(l.split(": ").nth(1)?.to_owned())).collect(),
        rules: run("nft", "list ruleset"),
        mounts: text("/proc/thread-self/mountinfo").lines().filter(|l| l.contains(&inside)).count(),
        forward: text("/proc/sys/net/ipv4/ip_forward"),
        files: std::fs::read_dir(dir.join("netns")).map(Iterator::count).unwrap_or(0),
        sockets: text("/proc/thread-self/net/unix").lines().filter(|l| l.contains("aether-network")).count(),
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..1200 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: waited a minute");
}

fn rules_of(table: &str) -> usize {
    run("nft", &format!("list table inet {table}_net")).lines().count()
}

#[test]
fn twenty_claims_and_releases_leave_the_host_as_it_was() {
    in_lab(async |lab| {
        let before = host(lab.dir.path());
        assert_eq!(before.forward, "0\n");
        let mut cfg = lab.config("tleak");
        cfg.spare = 3;
        let pool = NetworkPool::open(cfg).await.expect("open");
        until("spares", || pool.ready_slots().len() == 3).await;
        let with_spares = host(lab.dir.path());
        let lines = rules_of("tleak");
        for round in 0..20 {
            let slot = if round % 2 == 0 { pool.ready_slots().first().copied().unwrap_or(7) } else { 40 + round };
            let claimed = pool.claim(slot, if round % 3 == 0 { Nothing } else { Public }).await.expect("claim");
            assert!(claimed.tap.is_some());
            drop(claimed);
            pool.release(slot).await.expect("release");
            pool.release(slot).await.expect("again");
        }
        until("spares", || pool.ready_slots().len() == 3).await;
        pool.sweep(&BTreeSet::new()).await.expect("sweep");
        let after = host(lab.dir.path());
        assert_eq!(
            (after.links.len(), after.mounts, after.files),
            (with_spares.links.len(), with_spares.mounts, with_spares.files)
        );
        let mut taken = Vec::new();
        for slot in 100..120 {
            taken.push(pool.claim(slot, Public).await.expect("claim"));
        }
        assert_eq!(rules_of("tleak"), lines, "the host's rules do not grow with the slots");
        drop(taken);
        for slot in 100..120 {
            pool.release(slot).await.expect("release");
        }
        pool.close().await.expect("close");
        assert_eq!(host(lab.dir.path()), before);
        // And the comparison would see a leak.
        run("ip", "link add tleak-5 type veth peer name x");
        assert_ne!(host(lab.dir.path()), before);
    });
}

/// `rt0` is a header in nft's language, `ip` a protocol.
#[test]
fn a_prefix_may_be_a_word_of_nfts_language() {
    in_lab(async |lab| {
        for prefix in ["rt0", "ip", "table"] {
            let pool = NetworkPool::open(lab.config(prefix)).await.expect(prefix);
            assert!(rules_of(prefix) > 10, "{prefix}");
            pool.close().await.expect(prefix);
            assert!(!run("nft", "list tables").contains(&format!("{prefix}_net")), "{prefix}");
        }
    });
}

#[test]
fn orphans_are_swept_and_the_living_and_the_foreign_are_not() {
    in_lab(async |lab| {
        let pool = NetworkPool::open(lab.config("tswp")).await.expect("open");
        let other = NetworkPool::open(lab.config("tswx")).await.expect("a second daemon");
        let guest = lab.guest(&pool, 2, Public).await;
        let foreign = lab.guest(&other, 2, Public).await;
        let dir = lab.dir.path().join("netns");
        // A namespace with nothing in it, a bare file, a link, two mounts on one file.
        let bind = |name: &str| {
            let path = dir.join(name);
            std::fs::write(&path, "").expect("write");
            run("mount", &format!("--bind /proc/self/ns/net {}", path.display()));
        };
        bind("tswp-7");
        std::fs::write(dir.join("tswp-8"), "").expect("write");
        run("ip", "link add tswp-9 type veth peer name tswx9");
        run("ip", "link add tswp-lan type veth peer name tswpx9");
        bind("tswp-10");
        bind_again(&dir.join("tswp-10"));
        bind("tswp-300");
        std::fs::write(dir.join("tswp-11"), "").expect("write");
        // In our folder with our prefix, and nothing that we write; and names that only look like ours.
        for name in ["tswp-", "tswp-007", "tswp-x", "tswpx-7", "tsw-7"] {
            std::fs::write(dir.join(name), "").expect("write");
        }
        run("nft", "delete table inet tswp_net");

        let removed = pool.sweep(&BTreeSet::from([8])).await.expect("sweep");
        for what in ["namespace tswp-7", "interface tswp-9", "mount tswp-10", "namespace tswp-300", "namespace tswp-11"]
        {
            assert!(removed.iter().any(|r| r == what), "{what} is missing in {removed:?}");
        }
        assert!(
            removed.iter().all(|r| ["7", "9", "10", "11", "300", "", "007", "x"]
                .iter()
                .any(|n| r.ends_with(&format!("tswp-{n}")))),
            "{removed:?}"
        );
        assert!(dir.join("tswp-8").exists(), "what lives is spared");
        for name in ["tswp-", "tswp-007", "tswp-x"] {
            assert!(!dir.join(name).exists(), "{name} is of no slot");
        }
        for name in ["tswpx-7", "tsw-7"] {
            assert!(dir.join(name).exists(), "{name} is not ours");
        }
        assert!(run("ip", "-o link").contains("tswp-lan"), "an interface is ours by its whole name");
        run("ip", "link del tswp-lan");
        assert!(rules_of("tswp") > 10, "rules that were gone are back");
        guest.assert_reaches(PERMITTED);
        foreign.assert_reaches(PERMITTED);
        guest.assert_denied(&["10.1.2.3"]);
        assert_eq!(pool.sweep(&BTreeSet::from([8])).await.expect("again"), Vec::<String>::new());

        // Closing one daemon leaves the other's forwarding on.
        drop(guest);
        pool.release(2).await.expect("release");
        std::fs::remove_file(dir.join("tswp-8")).expect("remove");
        pool.close().await.expect("close");
        foreign.assert_reaches(PERMITTED);
        drop(foreign);
        other.release(2).await.expect("release");
        other.close().await.expect("close");
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").expect("read"), "0\n");
    });
}

fn bind_again(path: &Path) {
    run("mount", &format!("--bind /proc/self/ns/net {}", path.display()));
}

#[test]
fn a_sandbox_outlives_the_daemon_and_is_adopted() {
    in_lab(async |lab| {
        let mut cfg = lab.config("tadp");
        cfg.spare = 2;
        let pool = NetworkPool::open(cfg.clone()).await.expect("open");
        let guest = lab.guest(&pool, 5, Public).await;
        let quiet = lab.guest(&pool, 6, Nothing).await;
        until("spares", || pool.ready_slots().len() == 2).await;
        let second = NetworkPool::open(cfg.clone()).await;
        assert!(matches!(second, Err(NetworkError::PrefixTaken { .. })), "{second:?}");
        let at = SocketAddr::new(PERMITTED.parse().expect("address"), lab::PORT);
        let mut flow = guest.ns.run(move || TcpStream::connect_timeout(&at, Duration::from_secs(15))).expect("connect");
        flow.set_read_timeout(Some(Duration::from_secs(15))).expect("timeout");
        let mut speak = move || {
            let mut answer = [0; 4];
            flow.write_all(b"live").and_then(|()| flow.read_exact(&mut answer)).expect("the flow lives");
        };
        speak();
        // As if killed: nothing is undone.
        drop(pool);
        speak();
        guest.assert_reaches(PERMITTED);

        let pool = NetworkPool::open(cfg).await.expect("open again");
        assert!(pool.adopt(5, Public).await.expect("adopt"));
        assert!(pool.adopt(6, Nothing).await.expect("adopt"));
        assert!(!pool.adopt(77, Public).await.expect("adopt"), "there is none");
        speak();
        let removed = pool.sweep(&BTreeSet::from([5, 6])).await.expect("sweep");
        assert!(!removed.iter().any(|r| r.ends_with("-5") || r.ends_with("-6")), "{removed:?}");
        guest.assert_reaches(PERMITTED);
        guest.assert_denied(&["10.1.2.3", "198.51.100.1"]);
        quiet.assert_denied(&[PERMITTED]);
        assert!(matches!(pool.claim(5, Public).await, Err(NetworkError::InUse { slot: 5 })));
        assert!(pool.counters(5).await.expect("counters").tx_bytes > 0);

        // The VMM's descriptor is dead once the slot has gone to another.
        pool.release(5).await.expect("release");
        let next = lab.guest(&pool, 5, Public).await;
        next.assert_reaches(PERMITTED);
        guest.assert_denied(&[PERMITTED]);
        drop((guest, next, quiet));
        pool.release(5).await.expect("release");
        pool.release(6).await.expect("release");
        pool.close().await.expect("close");
        let forward = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").expect("read");
        assert_eq!(forward, "0\n", "as the first daemon found it");
    });
}

#[test]
fn wrong_calls_get_clear_errors_and_callers_may_give_up() {
    in_lab(async |lab| {
        let cfg = lab.config("tbad");
        let mut clash = cfg.clone();
        clash.uplink_net = "198.51.100.0/23".parse().expect("net");
        let refused = NetworkPool::open(clash).await;
        assert!(
            matches!(&refused, Err(NetworkError::UplinkTaken { interface, .. }) if interface == "w0"),
            "{refused:?}"
        );

        let pool = NetworkPool::open(cfg).await.expect("open");
        assert!(matches!(pool.claim(256, Public).await, Err(NetworkError::NoSuchSlot { slot: 256, slots: 256 })));
        assert!(matches!(pool.set_policy(1, Nothing).await, Err(NetworkError::NotClaimed { slot: 1 })));
        assert!(matches!(pool.counters(1).await, Err(NetworkError::NotClaimed { slot: 1 })));
        let (a, b) = tokio::join!(pool.claim(1, Public), pool.claim(1, Public));
        assert_eq!([&a, &b].iter().filter(|r| matches!(r, Err(NetworkError::InUse { slot: 1 }))).count(), 1);
        let many: Vec<_> = futures::future::join_all((10..18).map(|s| pool.claim(s, Public))).await;
        assert!(many.iter().all(Result::is_ok), "{many:?}");
        // A caller that gives up in the middle leaves a whole slot behind.
        let given_up = tokio::time::timeout(Duration::from_millis(3), pool.claim(30, Public)).await;
        assert!(given_up.is_err());
        pool.release(30).await.expect("release");
        assert!(!lab.dir.path().join("netns/tbad-30").exists());
        drop((a, b, many));
        let keep = pool.clone();
        for slot in (10..18).chain([1]) {
            pool.release(slot).await.expect("release");
        }
        pool.close().await.expect("close");
        assert!(matches!(keep.claim(1, Public).await, Err(NetworkError::Closed)));
        assert!(!run("nft", "list tables").contains("tbad"));
    });
}

/// The victim of the next test: a daemon that works until it is killed. As a
/// test of its own it has nothing to do.
#[test]
fn a_daemon_to_kill() {
    let Some(dir) = std::env::var_os("AETHER_TEST_NETWORK_VICTIM") else { return };
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut cfg = NetworkConfig::new(dir, "tkill");
        cfg.spare = 2;
        let pool = NetworkPool::open(cfg).await.expect("open");
        for round in 0_u32.. {
            let slot = round * 7 % 5;
            if pool.claim(slot, if round % 3 == 0 { Nothing } else { Public }).await.is_ok() {
                let _ = pool.set_policy(slot, if round % 2 == 0 { Nothing } else { Public }).await;
            }
            let _ = pool.release((round * 3) % 5).await;
        }
    });
}

#[test]
fn a_daemon_killed_at_any_moment_leaves_what_the_next_one_removes() {
    in_lab(async |lab| {
        let before = host(lab.dir.path());
        let this = std::env::current_exe().expect("this test");
        for round in 0_u64..24 {
            let mut victim = std::process::Command::new(&this)
                .args(["--exact", "network::life::a_daemon_to_kill"])
                .env("AETHER_TEST_NETWORK_VICTIM", lab.dir.path())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .expect("start a daemon");
            // Spread over its start, the filler's work and the rounds.
            tokio::time::sleep(Duration::from_millis(20 + round * 23 % 400)).await;
            assert!(victim.try_wait().expect("wait").is_none(), "it ended by itself");
            victim.kill().expect("kill");
            victim.wait().expect("wait");
            if round % 3 == 2 {
                let pool = NetworkPool::open(lab.config("tkill")).await.expect("open");
                pool.sweep(&BTreeSet::new()).await.expect("sweep");
                let guest = lab.guest(&pool, 1, Public).await;
                guest.assert_reaches(PERMITTED);
                drop(guest);
                pool.release(1).await.expect("release");
                pool.close().await.expect("close");
                assert_eq!(host(lab.dir.path()), before, "round {round}");
            }
        }
    });
}

#[test]
fn timings() {
    in_lab(async |lab| {
        let mut cfg = lab.config("ttime");
        cfg.spare = 10;
        #[allow(clippy::disallowed_methods, reason = "measures")]
        let now = Instant::now;
        let start = now();
        let pool = NetworkPool::open(cfg).await.expect("open");
        eprintln!("open: {:?}", start.elapsed());
        let start = now();
        until("spares", || pool.ready_slots().len() == 10).await;
        eprintln!("ten slots made: {:?}", start.elapsed());
        for (what, policy) in [("public", Public), ("none", Nothing)] {
            let start = now();
            let held = pool.claim(0, policy).await.expect("claim");
            eprintln!("claim of a ready slot, {what}: {:?}", start.elapsed());
            drop(held);
            until("spares", || pool.ready_slots().len() == 10).await;
            let start = now();
            pool.release(0).await.expect("release");
            eprintln!("release (removed): {:?}", start.elapsed());
            until("spares", || pool.ready_slots().len() == 10).await;
            let slot = pool.ready_slots()[0];
            assert!(slot < 16);
            let start = now();
            let held = pool.claim(200, policy).await.expect("claim");
            eprintln!("claim of a slot not made: {:?}", start.elapsed());
            drop(held);
            pool.release(200).await.expect("release");
            until("slot 0", || pool.ready_slots().contains(&0) || !lab::run("ip", "-o link").contains("ttime-0:"))
                .await;
            if !pool.ready_slots().contains(&0) {
                drop(pool.claim(0, Public).await.expect("claim"));
                let lowest = pool.ready_slots()[0];
                drop(pool.claim(lowest, Public).await.expect("claim"));
                let start = now();
                pool.release(0).await.expect("release");
                eprintln!("release: {:?}", start.elapsed());
                pool.release(lowest).await.expect("release");
                until("spares", || pool.ready_slots().len() >= 10).await;
            }
        }
        pool.close().await.expect("close");
    });
}

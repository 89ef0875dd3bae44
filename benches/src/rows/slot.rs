//! Row 14: the claim of a network slot that was made in advance, beside
//! making one on the way: namespace, tap, link and rules, by `ip` and `nft`.

use crate::Setup;
use crate::pairs::{Pairs, Side, order};
use crate::record::Record;
use crate::stats::bootstrap;
use aether_core::spec::NetworkPolicy;
use aether_node::network::{NetworkConfig, NetworkPool};
use anyhow::{Context, ensure};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

const PAIRS: usize = 30;
const WARM_UP: usize = 3;
const SPARE: u32 = 8;
const PREFIX: &str = "bnslot";
const PEER: &str = "bnpeer";
/// Slots at which the host's rules are counted.
const MANY: u32 = 32;

pub(crate) async fn run(_: &Setup) -> anyhow::Result<Vec<Record>> {
    let dir = tempfile::Builder::new().prefix("aether-bench-").tempdir()?;
    let mut config = NetworkConfig::new(dir.path().join("run"), PREFIX);
    config.spare = SPARE;
    config.uid_base = 1_500_900_000;
    let pool = NetworkPool::open(config).await?;
    let rules = slot_rules(&pool).await?;
    let mut pairs = Pairs::default();
    for n in 0..WARM_UP + PAIRS {
        for side in order(n) {
            let took = match side {
                Side::Ours | Side::Between => claim(&pool).await?,
                Side::Peer | Side::Again => make(&rules)?,
            };
            if n >= WARM_UP {
                pairs.push(side, took);
            }
        }
    }
    let grown = rules_per_slot(&pool).await?;
    pool.sweep(&std::collections::BTreeSet::new()).await?;
    pool.close().await?;
    Ok(vec![
        pairs.ratio("14", "claim of a network slot made in advance, over making one by ip and nft", "ms", 0.05),
        Record::amount(
            "14.rules",
            "rules that each further slot adds to the host",
            "rules",
            bootstrap(&grown),
            1,
            Some(0.0),
        ),
    ])
}

/// A slot that is ready; the claim in milliseconds. It is given back outside
/// the clock.
async fn claim(pool: &NetworkPool) -> anyhow::Result<f64> {
    let slot = ready(pool).await?;
    let began = Instant::now();
    let claimed = pool.claim(slot, NetworkPolicy::Public).await?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    ensure!(claimed.tap.is_some(), "a claim without a tap");
    drop(claimed);
    pool.release(slot).await?;
    settle(pool).await?;
    Ok(took)
}

async fn ready(pool: &NetworkPool) -> anyhow::Result<u32> {
    settle(pool).await?;
    pool.ready_slots().first().copied().context("no slot is ready")
}

/// Until the filler has nothing to do, so that it takes no turn of the peer's.
async fn settle(pool: &NetworkPool) -> anyhow::Result<()> {
    for _ in 0..600 {
        if pool.ready_slots().len() >= SPARE as usize {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("the spare slots were not made within 30 s")
}

/// The very rules of one of our namespaces.
async fn slot_rules(pool: &NetworkPool) -> anyhow::Result<String> {
    let slot = ready(pool).await?;
    let claimed = pool.claim(slot, NetworkPolicy::Public).await?;
    let file = std::fs::canonicalize(netns_file(slot)?)?;
    let rules =
        said(Command::new("nsenter").arg(format!("--net={}", file.display())).args(["nft", "list", "ruleset"]))?;
    drop(claimed);
    pool.release(slot).await?;
    ensure!(rules.lines().count() > 10, "a slot without rules: {rules}");
    Ok(rules)
}

/// Where the pool has bound the slot's namespace.
fn netns_file(slot: u32) -> anyhow::Result<std::path::PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let name = format!("{PREFIX}-{slot}");
    let found = mounts.lines().filter_map(|l| l.split(' ').nth(1)).find(|path| path.ends_with(&format!("/{name}")));
    found.map(Into::into).with_context(|| format!("no namespace {name} is bound"))
}

/// The peer, in milliseconds. It is removed outside the clock.
fn make(rules: &str) -> anyhow::Result<f64> {
    let began = Instant::now();
    for line in [
        format!("netns add {PEER}"),
        format!("-n {PEER} tuntap add dev tap0 mode tap"),
        format!("-n {PEER} address add 10.200.0.1/30 dev tap0"),
        format!("-n {PEER} link set tap0 up"),
        format!("link add {PEER} type veth peer name up0 netns {PEER}"),
        format!("address add 100.127.255.1/31 dev {PEER}"),
        format!("link set {PEER} up"),
        format!("-n {PEER} address add 100.127.255.0/31 dev up0"),
        format!("-n {PEER} link set up0 up"),
        format!("-n {PEER} route add default via 100.127.255.1"),
    ] {
        said(Command::new("ip").args(line.split(' ')))?;
    }
    let mut nft = Command::new("ip").args(["netns", "exec", PEER, "nft", "-f", "-"]).stdin(Stdio::piped()).spawn()?;
    nft.stdin.take().context("a pipe")?.write_all(rules.as_bytes())?;
    ensure!(nft.wait()?.success(), "nft refused the rules");
    let took = began.elapsed().as_secs_f64() * 1000.0;
    // First the link: the kernel ends a namespace's own at some later time.
    said(Command::new("ip").args(["link", "del", PEER]))?;
    said(Command::new("ip").args(["netns", "del", PEER]))?;
    Ok(took)
}

/// How many rules the host has more with many slots than with few, per slot.
async fn rules_per_slot(pool: &NetworkPool) -> anyhow::Result<Vec<f64>> {
    let few = host_rules()?;
    for slot in 0..MANY {
        drop(pool.claim(100 + slot, NetworkPolicy::Public).await?);
    }
    let many = host_rules()?;
    for slot in 0..MANY {
        pool.release(100 + slot).await?;
    }
    #[allow(clippy::cast_precision_loss, reason = "some dozens")]
    Ok(vec![(many as f64 - few as f64) / f64::from(MANY)])
}

fn host_rules() -> anyhow::Result<usize> {
    let table = format!("{PREFIX}_net");
    Ok(said(Command::new("nft").args(["list", "table", "inet", &table]))?.lines().count())
}

fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

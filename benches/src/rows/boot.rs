//! Row 5: what the control plane adds to a cold boot. Ours: `POST /v1/agents`
//! to the guest's ready message; the peer: the same QEMU line, started bare,
//! to the same message. A boot under emulation wanders by hundreds of
//! milliseconds, which the difference of two boots carries; so the same is
//! measured to QEMU's greeting too. From there on both sides are one and the
//! same process.

use super::{IMAGE, archive};
use crate::Setup;
use crate::bare::Bare;
use crate::pairs::{Pairs, Side, order};
use crate::record::Record;
use crate::server::{Server, wall_ms};
use crate::stats::{bootstrap, median};
use anyhow::Context;
use std::collections::BTreeMap;
use tokio::time::Instant;

const PAIRS: usize = 16;

pub(crate) async fn run(setup: &Setup) -> anyhow::Result<Vec<Record>> {
    let server = Server::start(setup, 1, None).await?;
    server.cli_ok(&["image", "import", &archive(setup)])?;
    let pattern = server.create("pattern", IMAGE).await?;
    let bare = Bare::of(setup, &server).await?;
    eprintln!("peer: {}", bare.line());
    server.destroy(&pattern).await?;
    let (mut ready, mut running, mut greeted) = (Pairs::default(), Pairs::default(), Pairs::default());
    let mut steps: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    // The first boot on each side meets cold caches: not counted.
    drop(bare.boot().await?);
    for n in 0..PAIRS {
        for side in order(n).into_iter().filter(|s| *s != Side::Between) {
            if side != Side::Ours {
                let vm = bare.boot().await?;
                ready.push(side, vm.ready_ms);
                running.push(side, vm.ready_ms);
                greeted.push(side, vm.greeted_ms);
                continue;
            }
            let (asked, began) = (wall_ms(), Instant::now());
            let id = server.create(&format!("boot-{n}"), IMAGE).await?;
            running.push(side, began.elapsed().as_secs_f64() * 1000.0);
            let (took, booted_at) = server.booted(&id).await?;
            let step = |wanted: &str| {
                let found = took.iter().find(|(name, _)| name == wanted);
                found.map(|(_, ms)| *ms).with_context(|| format!("the step `{wanted}`"))
            };
            let ready_at = booted_at - step("identity")?;
            ready.push(side, ready_at - asked);
            greeted.push(side, ready_at - step("guest")? - asked);
            let known: f64 = took.iter().map(|(_, ms)| ms).sum();
            steps.entry("before".into()).or_default().push(booted_at - asked - known);
            for (name, ms) in took {
                steps.entry(name).or_default().push(ms);
            }
            server.destroy(&id).await?;
        }
    }
    server.stop()?;
    let mut records = vec![
        ready.added("5", "added to a bare QEMU boot: create over HTTP → guest ready", "ms", 40.0),
        greeted.added("5.greeting", "the same, create over HTTP → QEMU's greeting", "ms", 40.0),
        ready.p99("5.p99", "the same at the 99th percentile", "ms"),
        running.added("5.running", "the same → answer that it runs, with its identity", "ms", 100.0),
    ];
    if let Some(record) = records.last_mut() {
        (record.target, record.met) = (None, None);
    }
    for (name, values) in &steps {
        eprintln!("   step {name:10} {:8.1} ms", median(values));
        let what = format!("of ours: the step `{name}`");
        records.push(Record::amount(&format!("5.{name}"), &what, "ms", bootstrap(values), values.len(), None));
    }
    Ok(records)
}

//! Row 7: what the API adds to an exec. Ours: `POST …/exec` of `true` through
//! HTTP and authentication; the peer: of the same exec, the time from the call
//! on the guest's channel to the exit on it, which is what a bare loop on the
//! channel takes. Two guests, and one guest a minute later, differ under
//! emulation by more than what is looked for; one exec does not from itself.

use super::{IMAGE, archive, synced_page};
use crate::Setup;
use crate::pairs::{Pairs, Side};
use crate::record::Record;
use crate::server::Server;
use crate::stats::bootstrap;
use anyhow::Context;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

const GUESTS: usize = 6;
const PAIRS: usize = 40;
const WARM_UP: usize = 10;
const PARTS: usize = 30;
const ARGV: [&str; 1] = ["true"];
/// The log's thread writes within milliseconds.
const LOGGED: Duration = Duration::from_millis(500);

pub(crate) async fn run(setup: &Setup) -> anyhow::Result<Vec<Record>> {
    let server = Server::start_telling(setup, 1).await?;
    server.cli_ok(&["image", "import", &archive(setup)])?;
    let mut pairs = Pairs::default();
    let (mut get, mut sync) = (Vec::new(), Vec::new());
    for n in 0..GUESTS {
        let id = server.create(&format!("exec-{n}"), IMAGE).await?;
        pairs.begin_group();
        execs(&server, &id, &mut pairs).await?;
        get.extend(reads(&server, &id).await?);
        sync.extend(syncs(&server)?);
        server.destroy(&id).await?;
    }
    server.stop()?;
    Ok(vec![
        pairs.added("7", "added to a bare spawn over the channel: exec of `true` over HTTP", "ms", 1.0),
        pairs.p99("7.p99", "the same at the 99th percentile", "ms"),
        Record::amount(
            "7.get",
            "a part of it: HTTP, key and row, as of `GET /v1/agents/ID`",
            "ms",
            bootstrap(&get),
            get.len(),
            None,
        ),
        Record::amount(
            "7.sync",
            "a part of it: 4 KiB written and synced beside the store",
            "ms",
            bootstrap(&sync),
            sync.len(),
            None,
        ),
    ])
}

/// Execs one after the other; every other one gives the control.
async fn execs(server: &Server, id: &str, pairs: &mut Pairs) -> anyhow::Result<()> {
    let mut took = Vec::new();
    for _ in 0..WARM_UP + 2 * PAIRS {
        let began = Instant::now();
        let exec = server.exec_id(id, &ARGV).await?;
        took.push((exec, began.elapsed().as_secs_f64() * 1000.0));
    }
    tokio::time::sleep(LOGGED).await;
    let on_channel = channel_times(&server.log());
    let channel = |exec: &str| on_channel.get(exec).copied().with_context(|| format!("the log's line of {exec}"));
    for (n, two) in took[WARM_UP..].chunks_exact(2).enumerate() {
        // Either of the two in turns: where every other one is slower, the control must not be.
        let (one, other) = if n % 2 == 0 { (&two[0], &two[1]) } else { (&two[1], &two[0]) };
        pairs.push(Side::Ours, one.1);
        pairs.push(Side::Peer, channel(&one.0)?);
        pairs.push(Side::Again, channel(&other.0)?);
    }
    Ok(())
}

/// Milliseconds on the channel by exec.
fn channel_times(log: &str) -> BTreeMap<String, f64> {
    let lines = log.lines().filter(|l| l.contains("\"exec ended\"")).filter_map(|l| serde_json::from_str(l).ok());
    let time = |line: Value| Some((line["exec"].as_str()?.to_owned(), line["channel_us"].as_f64()? / 1000.0));
    lines.filter_map(time).collect()
}

/// The way in and out again, without an exec.
async fn reads(server: &Server, id: &str) -> anyhow::Result<Vec<f64>> {
    let mut took = Vec::new();
    for _ in 0..PARTS {
        let began = Instant::now();
        server.get(id).await?;
        took.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(took)
}

/// What this machine's disk takes for one commit: a sync of a page in a file
/// that does not grow.
fn syncs(server: &Server) -> anyhow::Result<Vec<f64>> {
    let mut file = std::fs::File::create(server.dir.path().join("sync"))?;
    let mut took = Vec::new();
    for n in 0..=PARTS {
        let ms = synced_page(&mut file)? * 1000.0;
        // The first one makes the file.
        if n > 0 {
            took.push(ms);
        }
    }
    Ok(took)
}

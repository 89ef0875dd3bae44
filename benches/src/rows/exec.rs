//! Row 7: what the API adds to an exec. Ours: `POST …/exec` of `true` through
//! HTTP and authentication; the peer: a bare loop that asks a guest of the
//! same kind for the same spawn over the same kind of channel.

use super::{IMAGE, archive, synced_page};
use crate::Setup;
use crate::bare::{Bare, BareVm};
use crate::pairs::{Pairs, Side, order};
use crate::record::Record;
use crate::server::Server;
use crate::stats::bootstrap;
use tokio::time::Instant;

/// Each with new guests on both sides: under emulation one guest is faster
/// than the next by more than what is looked for.
const ROUNDS: usize = 8;
const PAIRS: usize = 30;
const WARM_UP: usize = 10;
const PARTS: usize = 30;
const ARGV: [&str; 1] = ["true"];

pub(crate) async fn run(setup: &Setup) -> anyhow::Result<Vec<Record>> {
    let server = Server::start(setup, 1, None).await?;
    server.cli_ok(&["image", "import", &archive(setup)])?;
    let mut pairs = Pairs::default();
    let (mut get, mut sync) = (Vec::new(), Vec::new());
    for n in 0..ROUNDS {
        let id = server.create(&format!("exec-{n}"), IMAGE).await?;
        let bare = Bare::of(setup, &server).await?;
        let vm = bare.boot().await?;
        vm.identify().await?;
        pairs.begin_group();
        round(&server, &id, &vm, &mut pairs).await?;
        get.extend(reads(&server, &id).await?);
        sync.extend(syncs(&server)?);
        drop(vm);
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

async fn round(server: &Server, id: &str, vm: &BareVm, pairs: &mut Pairs) -> anyhow::Result<()> {
    for n in 0..WARM_UP + PAIRS {
        for side in order(n) {
            let name = format!("{side:?}-{n}").to_lowercase();
            let began = Instant::now();
            match side {
                Side::Ours | Side::Between => drop(server.exec(id, &ARGV).await?),
                Side::Peer | Side::Again => drop(vm.exec(&name, &ARGV).await?),
            }
            if n >= WARM_UP {
                pairs.push(side, began.elapsed().as_secs_f64() * 1000.0);
            }
        }
    }
    Ok(())
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

//! Row 7: what the API adds to an exec. Ours: `POST …/exec` of `true` through
//! HTTP and authentication; the peer: a bare loop that asks the very same
//! guest for the same spawn over the same channel, while the server that owns
//! it is away (killed, and adopts the guest again afterwards).

use super::{IMAGE, archive, synced_page};
use crate::Setup;
use crate::bare::{channel_of, spawn};
use crate::pairs::{Pairs, Side};
use crate::record::Record;
use crate::server::Server;
use crate::stats::{bootstrap, median};
use aether_node::channel::GuestClient;
use std::time::Duration;
use tokio::time::Instant;

/// Each with a new guest: under emulation one is faster than the next by more
/// than what is looked for, so both sides ask the same one.
const GUESTS: usize = 6;
/// In each guest: half of ours, the peer's and the control's in turns, the
/// other half of ours.
const PAIRS: usize = 40;
const WARM_UP: usize = 10;
/// What a server does after it has begun (spare slots, disks, a first sweep)
/// is not of an exec.
const SETTLES: Duration = Duration::from_secs(5);
/// Each exec finds a guest that sleeps: one that was at work a millisecond ago
/// is faster under emulation, and the bare loop would always find it so.
const BETWEEN: Duration = Duration::from_millis(20);
const PARTS: usize = 30;
const ARGV: [&str; 1] = ["true"];

pub(crate) async fn run(setup: &Setup) -> anyhow::Result<Vec<Record>> {
    let mut server = Server::start(setup, 1, None).await?;
    server.cli_ok(&["image", "import", &archive(setup)])?;
    let mut pairs = Pairs::default();
    let (mut get, mut sync) = (Vec::new(), Vec::new());
    for n in 0..GUESTS {
        let id = server.create(&format!("exec-{n}"), IMAGE).await?;
        pairs.begin_group();
        ours(&server, &id, &mut pairs).await?;
        get.extend(reads(&server, &id).await?);
        sync.extend(syncs(&server)?);
        server.kill()?;
        peers(&channel_of(&server).await?, &mut pairs).await?;
        server.again()?;
        server.wait_ready().await?;
        ours(&server, &id, &mut pairs).await?;
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

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

async fn ours(server: &Server, id: &str, pairs: &mut Pairs) -> anyhow::Result<()> {
    tokio::time::sleep(SETTLES).await;
    let from = pairs.ours.len();
    for n in 0..WARM_UP + PAIRS / 2 {
        tokio::time::sleep(BETWEEN).await;
        let began = Instant::now();
        server.exec(id, &ARGV).await?;
        if n >= WARM_UP {
            pairs.push(Side::Ours, ms(began));
        }
    }
    eprintln!("   ours {:.2} ms", median(&pairs.ours[from..]));
    Ok(())
}

/// Closes the channel at its end.
async fn peers(client: &GuestClient, pairs: &mut Pairs) -> anyhow::Result<()> {
    tokio::time::sleep(SETTLES).await;
    let from = pairs.peer.len();
    for n in 0..WARM_UP + PAIRS {
        for side in [Side::Peer, Side::Again] {
            let name = format!("{side:?}-{n}").to_lowercase();
            tokio::time::sleep(BETWEEN).await;
            let began = Instant::now();
            spawn(client, &name, &ARGV).await?;
            if n >= WARM_UP {
                pairs.push(side, ms(began));
            }
        }
    }
    client.close();
    eprintln!("   bare {:.2} ms", median(&pairs.peer[from..]));
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

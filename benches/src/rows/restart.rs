//! Row 13: a server that starts over a store with 10,000 agents, to the first
//! list that is right and whole, beside the plain select of the same rows.

use crate::Setup;
use crate::bare_store::BareStore;
use crate::pairs::{Pairs, Side, order};
use crate::record::Record;
use crate::server::Server;
use anyhow::ensure;
use std::path::Path;
use std::process::{Command, Stdio};
use tokio::time::Instant;

const AGENTS: u64 = 10_000;
const PAIRS: usize = 15;
const PER_TRANSACTION: u32 = 500;

pub(crate) async fn run(setup: &Setup) -> anyhow::Result<Vec<Record>> {
    let mut server = Server::start(setup, 1, None).await?;
    let id = server.create_waiting("template").await?;
    let db = server.dir.path().join("state/aether.db");
    server.kill()?;
    let dir = server.dir.path().join("rows");
    let mut rows = BareStore::make(setup, &dir, &db, &id)?;
    for _ in 0..AGENTS / u64::from(PER_TRANSACTION) {
        rows.create(PER_TRANSACTION)?;
    }
    rows.check(&dir)?;
    let stored = dir.join("aether.db");
    settle(&stored, &db)?;
    for side in ["aether.db-wal", "aether.db-shm"] {
        let _ = std::fs::remove_file(db.with_file_name(side));
    }
    std::fs::copy(&stored, &db)?;
    let (mut first, mut whole) = (Pairs::default(), Pairs::default());
    for n in 0..PAIRS {
        for side in order(n) {
            match side {
                Side::Ours | Side::Between => {
                    let (page, all) = restart(&mut server).await?;
                    first.push(side, page);
                    whole.push(side, all);
                    server.kill()?;
                }
                Side::Peer | Side::Again => {
                    let took = select(&db)?;
                    first.push(side, took);
                    whole.push(side, took);
                }
            }
        }
    }
    Ok(vec![
        whole.ratio("13", "restart with 10,000 agents to their whole list, over the plain select", "ms", 3.0),
        first.ratio("13.first", "the same to the first page of 100", "ms", 3.0),
    ])
}

/// Stopped, so that the scheduler has nothing to do; with the server's keys; in one file.
fn settle(db: &Path, servers: &Path) -> anyhow::Result<()> {
    let connection = rusqlite::Connection::open(db)?;
    connection.execute("ATTACH ?1 AS servers", [servers.to_string_lossy()])?;
    connection.execute_batch("INSERT INTO api_keys SELECT * FROM servers.api_keys; DETACH servers")?;
    connection.execute("UPDATE agents SET desired = 'stopped', observed = 'stopped'", [])?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}

/// Milliseconds from the start to the first page, and to the last.
async fn restart(server: &mut Server) -> anyhow::Result<(f64, f64)> {
    let began = Instant::now();
    server.again()?;
    let ms = || began.elapsed().as_secs_f64() * 1000.0;
    let page = server.first_page().await?;
    let first = ms();
    let mut ids: Vec<String> = page.ids;
    let mut cursor = page.next;
    while let Some(at) = cursor {
        let page = server.page(&at).await?;
        ids.extend(page.ids);
        cursor = page.next;
    }
    let whole = ms();
    ids.sort();
    ids.dedup();
    ensure!(ids.len() as u64 == AGENTS, "{} agents listed of {AGENTS}", ids.len());
    Ok((first, whole))
}

/// `sqlite3 DB 'select * from agents'`, in milliseconds.
fn select(db: &Path) -> anyhow::Result<f64> {
    let began = Instant::now();
    let output = Command::new("sqlite3").arg(db).arg("select * from agents").stdin(Stdio::null()).output()?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    let lines = output.stdout.iter().filter(|b| **b == b'\n').count() as u64;
    ensure!(output.status.success() && lines == AGENTS, "sqlite3 gave {lines} rows of {AGENTS}");
    Ok(took)
}

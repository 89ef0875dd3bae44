//! Rows 2a and 2b: durable creates. One client beside the same transaction
//! made bare through rusqlite; 64 clients beside PostgreSQL with the same
//! rows, and how many creates one sync carries.

use super::{IMAGE, synced_page};
use crate::Setup;
use crate::bare_store::{BareStore, Template};
use crate::load::Wrk;
use crate::pairs::{Pairs, Side, order};
use crate::postgres::Postgres;
use crate::record::Record;
use crate::server::{NO_ROOM_MB, Server, signal};
use crate::stats::{bootstrap, median};
use anyhow::{Context, ensure};
use serde_json::json;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

const PAIRS: usize = 30;
/// Creates per turn; the turn counts as their median.
const PER_TURN: usize = 20;
const WARM_UP: usize = 3;

/// Row 2a. The client is a plain blocking one: what it costs is in our figure.
pub(crate) async fn one_client(setup: &Setup) -> anyhow::Result<Vec<Record>> {
    let server = Server::start(setup, 1, None).await?;
    let id = server.create_waiting("template").await?;
    let db = server.dir.path().join("state/aether.db");
    let dir = server.dir.path().join("peer");
    let mut bare = BareStore::make(setup, &dir, &db, &id)?;
    let client = Client::new(&server);
    let mut file = std::fs::File::create(server.dir.path().join("sync"))?;
    let (mut pairs, mut syncs, mut made) = (Pairs::default(), Vec::new(), 0);
    for n in 0..WARM_UP + PAIRS {
        for side in order(n) {
            let mut took = Vec::new();
            for _ in 0..PER_TURN {
                let began = Instant::now();
                match side {
                    Side::Ours | Side::Between => {
                        made += 1;
                        tokio::task::block_in_place(|| client.create(made))?;
                    }
                    Side::Peer | Side::Again => bare.create(1)?,
                }
                took.push(began.elapsed().as_secs_f64() * 1e6);
            }
            if n >= WARM_UP {
                pairs.push(side, median(&took));
            }
        }
        let took: Vec<f64> = (0..PER_TURN).map(|_| Ok(synced_page(&mut file)? * 1e6)).collect::<anyhow::Result<_>>()?;
        syncs.push(median(&took));
    }
    bare.check(&dir)?;
    ensure!(agents(&db)? == made + 1, "not every acknowledged create is in the store");
    server.abandon()?;
    Ok(vec![
        pairs.added("2a", "durable create over HTTP, one client, over the same transaction made bare", "µs", 150.0),
        Record::amount("2a.sync", "4 KiB written and synced in the same folder", "µs", bootstrap(&syncs), PAIRS, None),
    ])
}

fn agents(db: &Path) -> anyhow::Result<u64> {
    let connection = rusqlite::Connection::open(db)?;
    Ok(connection.query_row("SELECT count(*) FROM agents", [], |row| row.get(0))?)
}

pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    key: String,
}

impl Client {
    pub(super) fn new(server: &Server) -> Self {
        let url = format!("{}/v1/agents", server.url);
        Self { agent: ureq::Agent::new_with_defaults(), url, key: format!("Bearer {}", server.key) }
    }

    pub(super) fn create(&self, n: u64) -> anyhow::Result<()> {
        let body = body();
        let request = self.agent.post(&self.url).header("Authorization", &self.key);
        let request = request.header("Content-Type", "application/json").header("Idempotency-Key", format!("one-{n}"));
        let mut answer = request.send(body.as_str())?;
        let text = answer.body_mut().read_to_string()?;
        ensure!(answer.status() == 201, "{}: {text}", answer.status());
        Ok(())
    }
}

fn body() -> String {
    json!({ "image": IMAGE, "resources": { "memory_mb": NO_ROOM_MB } }).to_string()
}

const CLIENTS: u32 = 64;
const SECONDS: u32 = 2;
const ROUNDS: usize = 15;
/// PostgreSQL waits this long for company, in microseconds: about half a sync.
const COMMIT_DELAY: u32 = 50;

/// Row 2b.
pub(crate) async fn many_clients(setup: &Setup) -> anyhow::Result<Vec<Record>> {
    let server = Server::start(setup, 1, None).await?;
    let id = server.create_waiting("template").await?;
    let db = server.dir.path().join("state/aether.db");
    let postgres = Postgres::start(COMMIT_DELAY).await?;
    let script = server.dir.path().join("create.sql");
    std::fs::write(&script, Template::read(&db, &id)?.pgbench())?;
    open_to_all(server.dir.path(), &script)?;
    migrate(setup, &postgres)?;
    let wrk = Wrk {
        url: format!("{}/v1/agents", server.url),
        connections: CLIENTS,
        seconds: SECONDS,
        script: Some(lua(server.dir.path())?),
        key: Some(server.key.clone()),
    };
    let (mut pairs, mut ours, mut theirs) = (Pairs::default(), 1, 0);
    for n in 0..ROUNDS {
        for side in order(n) {
            let rate = match side {
                Side::Ours | Side::Between => {
                    let load = wrk.run()?;
                    ours += load.answered;
                    load.per_second
                }
                Side::Peer | Side::Again => {
                    let (rate, made) = postgres.pgbench(&script, CLIENTS, SECONDS)?;
                    theirs += made;
                    rate
                }
            };
            pairs.push(side, rate);
        }
    }
    let per_sync = creates_per_sync(&server, &wrk).await?;
    ours += per_sync.iter().map(|(made, _)| made).sum::<u64>();
    // The last requests of a run may have been served without being counted.
    let stored = agents(&db)?;
    ensure!(stored >= ours, "{stored} agents stored, {ours} acknowledged");
    let rows: u64 = postgres.ask("SELECT count(*) FROM agents")?.parse()?;
    ensure!(rows == theirs, "PostgreSQL holds {rows} rows of {theirs}");
    server.abandon()?;
    let ratios: Vec<f64> = per_sync.iter().map(|(made, syncs)| *made as f64 / *syncs as f64).collect();
    let what = "acknowledged creates per sync, counted by strace in runs of their own";
    Ok(vec![
        pairs.ratio_at_least("2b", "durable creates over HTTP, 64 clients, over pgbench's", "creates/s", 1.5),
        Record::amount("2b.sync", what, "creates", bootstrap(&ratios), ratios.len(), None).at_least(8.0),
    ])
}

/// The peer runs as another user.
fn open_to_all(dir: &Path, file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    Ok(std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644))?)
}

fn migrate(setup: &Setup, postgres: &Postgres) -> anyhow::Result<()> {
    let output = Command::new(&setup.aether).args(["migrate", "up"]).env("DATABASE_URL", postgres.url()).output()?;
    ensure!(output.status.success(), "migrate: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// One key per request: `wrk` runs it in one thread, anew for each run.
fn lua(dir: &Path) -> anyhow::Result<std::path::PathBuf> {
    let path = dir.join("create.lua");
    let script = format!(
        "local n, run = 0, tostring(os.time()) .. '-' .. tostring({{}}):sub(8)\n\
         request = function()\n  n = n + 1\n  return wrk.format('POST', nil, {{\n\
         ['Content-Type'] = 'application/json', ['Idempotency-Key'] = run .. '-' .. n,\n\
         ['Authorization'] = wrk.headers['Authorization']}}, '{}')\nend\n",
        body()
    );
    std::fs::write(&path, script)?;
    Ok(path)
}

/// Runs of their own under `strace`, which slows every system call down.
async fn creates_per_sync(server: &Server, wrk: &Wrk) -> anyhow::Result<Vec<(u64, u64)>> {
    let mut counts = Vec::new();
    for n in 0..5 {
        let log = server.dir.path().join(format!("syncs-{n}"));
        let mut strace = Command::new("strace")
            .args(["-f", "-q", "-e", "trace=fsync,fdatasync", "-o"])
            .arg(&log)
            .args(["-p", &server.pid().to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("run strace")?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let load = wrk.run()?;
        signal(strace.id(), libc::SIGINT)?;
        strace.wait()?;
        let text = std::fs::read_to_string(&log)?;
        let syncs = text.lines().filter(|l| l.contains("sync(")).count() as u64;
        ensure!(syncs > 0, "strace saw no sync");
        counts.push((load.answered, syncs));
    }
    Ok(counts)
}

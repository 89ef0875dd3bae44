//! Counted test 22, the store's part: the machine fails under every call that
//! SQLite makes to write, while a process creates, deletes and reads. What was
//! acknowledged is there afterwards, the file is sound, reads go on meanwhile,
//! and writes resume by themselves. `AETHER_FAULTS_N` says how many faults.
//!
//! The writing process is this test binary again, told by its environment.

use crate::fixture::{new_agent, scope, seal};
use aether_core::AgentId;
use aether_core::source::{OsRng, SystemClock};
use aether_core::state::Desired;
use aether_counted::{Counted, Dice, seed as dice_seed, trials};
use aether_faults::{Faults, How, Plan, calls};
use aether_store::*;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const FOLDER: &str = "AETHER_STORE_FAULTS_DIR";
const HEALS_WITHIN: Duration = Duration::from_secs(60);
const ERRNOS: [i32; 3] = [libc::ENOSPC, libc::EIO, libc::EDQUOT];

/// Not a test of its own: works until it is killed, and says what came of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_worker() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let config = StoreConfig::Sqlite { path: PathBuf::from(folder).join("aether.db") };
    let clock = Arc::new(SystemClock::default());
    let store = Store::connect(config, seal(), clock, Arc::new(OsRng)).await.expect("connects");
    store.migrate_up().await.expect("migrates");
    store.check_schema().await.expect("fits");
    let workers: Vec<_> = (0..4).map(|w| tokio::spawn(work(store.clone(), w))).collect();
    futures::future::join_all(workers).await;
}

/// One write: lines of several workers must not mix.
fn say(line: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes());
}

async fn work(store: Store, worker: u32) {
    let mut mine: Vec<AgentId> = Vec::new();
    for i in 0u64.. {
        // Rows large enough that the log is checkpointed now and then.
        let mut new = new_agent(&format!("{}-{worker}-{i}", std::process::id()));
        new.spec.metadata.insert("padding".to_owned(), "x".repeat(1000));
        match store.create_agent(&scope(), new).await {
            Ok(made) => {
                say(&format!("acknowledged {}", made.agent.id));
                mine.push(made.agent.id);
            }
            Err(error) => {
                say(&format!("refused {error:?}"));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        if i % 3 == 2
            && let Some(id) = mine.pop()
        {
            say(&format!("deleting {id}"));
            if store.set_desired(&scope(), &id, Desired::Gone, DesireOptions::default(), None).await.is_ok() {
                say(&format!("deleted {id}"));
            }
        }
        if i % 2 == 0 {
            let page = PageRequest { limit: 3, ..PageRequest::default() };
            match store.list_agents(&scope(), AgentFilter::default(), page).await {
                Ok(_) => say("read"),
                Err(error) => say(&format!("unread {error:?}")),
            }
        }
    }
}

/// What the child has said so far.
struct Worker {
    child: Child,
    lines: Receiver<String>,
    there: BTreeSet<AgentId>,
    /// Deletes that were asked for; acknowledged or not.
    doubtful: BTreeSet<AgentId>,
    gone: BTreeSet<AgentId>,
    writes: u64,
    reads: u64,
    refused: u64,
    unread: Vec<String>,
}

impl Worker {
    fn start(folder: &Path, faults: &Faults) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["faults::child_worker", "--exact", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder)
            .envs(faults.env())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the child starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let (tell, told) = mpsc::channel();
        #[allow(clippy::disallowed_methods, reason = "a test's reader of a pipe")]
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self {
            child,
            lines: told,
            there: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            gone: BTreeSet::new(),
            writes: 0,
            reads: 0,
            refused: 0,
            unread: Vec::new(),
        }
    }

    fn hear(&mut self, line: &str) {
        // The harness writes on the same stream, also in mid-line.
        let id = |word: &str| line.split_once(word).and_then(|(_, id)| id.trim().parse::<AgentId>().ok());
        if let Some(id) = id("acknowledged ") {
            self.writes += 1;
            self.there.insert(id);
        } else if let Some(id) = id("deleting ") {
            self.there.remove(&id);
            self.doubtful.insert(id);
        } else if let Some(id) = id("deleted ") {
            self.doubtful.remove(&id);
            self.gone.insert(id);
        } else if line.contains("refused ") {
            self.refused += 1;
        } else if line.contains("unread ") {
            self.unread.push(line.to_owned());
        } else if line.contains("read") {
            self.reads += 1;
        }
    }

    /// Until the condition holds; false: it did not within the limit.
    #[allow(clippy::disallowed_methods, reason = "a test waits for another process, on the real clock")]
    fn until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = Instant::now() + limit;
        while !done(self) {
            let now = Instant::now();
            if now >= end {
                return false;
            }
            match self.lines.recv_timeout((end - now).min(Duration::from_millis(20))) {
                Ok(line) => self.hear(&line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }

    fn kill(mut self) -> Self {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("is reaped");
        while let Ok(line) = self.lines.recv() {
            self.hear(&line);
        }
        self
    }
}

fn plan(dice: &mut Dice, folder: &Path) -> Plan {
    let calls = [calls::WRITE, calls::WRITE, calls::SYNC, calls::TRUNCATE | calls::CREATE, calls::ALL];
    let calls = calls[dice.roll(5) as usize];
    let how = match dice.roll(3) {
        0 if calls != calls::SYNC => How::Short,
        // A kernel that drops what it could not write.
        1 => How::Lose,
        _ => How::Error,
    };
    let times = [Some(1), Some(3), None, None][dice.roll(4) as usize];
    Plan { under: folder.to_owned(), calls, errno: ERRNOS[dice.roll(3) as usize], how, skip: dice.roll(30), times }
}

/// Without any fault any more: sound, and with all that was acknowledged.
fn check(folder: &Path, worker: &Worker, context: &str) {
    let db = rusqlite::Connection::open(folder.join("aether.db")).expect("opens");
    let verdict: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checks");
    assert_eq!(verdict, "ok", "{context}");
    let mut statement = db.prepare("SELECT id, desired FROM agents").expect("a query");
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).expect("reads");
    let rows: std::collections::BTreeMap<String, String> = rows.map(|row| row.expect("a row")).collect();
    for id in &worker.there {
        assert_eq!(rows.get(id.as_str()).map(String::as_str), Some("running"), "{id} was acknowledged; {context}");
    }
    for id in &worker.gone {
        assert_eq!(rows.get(id.as_str()).map(String::as_str), Some("gone"), "{id} was deleted; {context}");
    }
}

#[test]
fn whatever_fails_nothing_acknowledged_is_lost() {
    let seed = dice_seed();
    let mut dice = Dice::new(seed);
    let mut counted = Counted::new("faults", 22, "the store's writes under failing calls", seed);
    let faults = Faults::build();
    let dir = tempfile::tempdir().expect("a folder");
    let mut worker = Worker::start(dir.path(), &faults);
    assert!(worker.until(HEALS_WITHIN, |w| w.writes > 3), "the first writes");
    let (mut refused, mut met) = (0, 0);
    for n in 0..trials("AETHER_FAULTS_N", 60) {
        let plan = plan(&mut dice, dir.path());
        let context = format!("fault {n}: {plan:?}");
        let reads = worker.reads;
        faults.arm(&plan);
        let hit = worker.until(Duration::from_millis(300), |_| faults.hits() > 0);
        // A while of it, in which lists are read as ever: of what is open already.
        let lasting = if plan.times.is_none() && hit { 200 } else { 30 };
        let more = worker.until(Duration::from_millis(lasting), |_| false);
        assert!(!more && worker.child.try_wait().expect("waits").is_none(), "the worker died; {context}");
        if plan.times.is_none() && hit {
            assert!(worker.until(Duration::from_secs(20), |w| w.reads > reads), "nothing could be read; {context}");
        }
        faults.disarm();
        (counted.n, counted.faults) = (counted.n + 1, counted.faults + faults.hits());
        met += u64::from(hit);
        let (writes, reads) = (worker.writes, worker.reads);
        assert!(worker.until(HEALS_WITHIN, |w| w.writes > writes + 4 && w.reads > reads), "does not heal; {context}");
        if dice.roll(6) == 0 {
            let ended = worker.kill();
            refused += ended.refused;
            check(dir.path(), &ended, &context);
            worker = Worker::start(dir.path(), &faults);
            assert!(worker.until(HEALS_WITHIN, |w| w.writes > 3), "starts again; {context}");
        }
    }
    let ended = worker.kill();
    check(dir.path(), &ended, "the end");
    refused += ended.refused;
    println!("{} windows, {met} met a call, {} calls failed, {refused} writes refused", counted.n, counted.faults);
    assert!(refused > 0 && met * 3 > counted.n, "the faults must reach the store");
}

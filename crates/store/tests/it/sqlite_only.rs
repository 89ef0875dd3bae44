//! What only the embedded engine promises: group commit, its file, its disk.

use crate::fixture::{Fixture, new_agent, scope, seal};
use aether_core::source::{OsRng, SystemClock};
use aether_store::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn path(fx: &Fixture) -> &Path {
    match &fx.config {
        StoreConfig::Sqlite { path } => path,
        StoreConfig::Postgres { .. } => panic!("not SQLite"),
    }
}

/// While another process holds the database the operations pile up; then all
/// of them are one commit, in which a refused one refuses nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_operations_share_one_commit_and_fail_alone() {
    let fx = Fixture::sqlite().await;
    fx.agent("taken").await;
    let other = rusqlite::Connection::open(path(&fx)).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("holds the database");
    let mut changes = fx.store.changes();
    changes.mark_unchanged();
    let before = *changes.borrow();
    let create = |name: String| {
        let store = fx.store.clone();
        tokio::spawn(async move { store.create_agent(&scope(), new_agent(&name)).await })
    };
    // The first is taken by the writer and waits; the rest queue behind it.
    let first = create("first".to_owned());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let rest: Vec<_> = (0..20).map(|i| create(if i == 7 { "taken".to_owned() } else { format!("rest{i}") })).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!first.is_finished() && rest.iter().all(|t| !t.is_finished()), "nothing is answered before its commit");
    other.execute_batch("ROLLBACK").expect("lets go");
    first.await.expect("runs").expect("creates");
    for (i, task) in rest.into_iter().enumerate() {
        let result = task.await.expect("runs");
        assert_eq!(result.is_ok(), i != 7, "{i}: {result:?}");
    }
    let commits = *changes.borrow() - before;
    assert!(commits <= 3, "21 operations took {commits} commits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_held_too_long_is_locked_and_then_serves_again() {
    let fx = Fixture::sqlite().await;
    let agent = fx.agent("a").await;
    let other = rusqlite::Connection::open(path(&fx)).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("holds the database");
    let refused = fx.store.create_agent(&scope(), new_agent("b")).await;
    assert_eq!(refused.map(|_| ()), Err(StoreError::Locked));
    assert_eq!(fx.get(&agent.id).await, agent, "readers go on");
    other.execute_batch("ROLLBACK").expect("lets go");
    fx.agent("b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_is_private_and_holds_no_env_in_clear() {
    let fx = Fixture::sqlite().await;
    let mut new = new_agent("a");
    new.env.insert("CANARY".to_owned(), "canary-7d1f9a-value".to_owned());
    let id = fx.store.create_agent(&scope(), new).await.expect("creates").agent.id;
    let files: Vec<_> = std::fs::read_dir(fx.dir.path()).expect("lists").flatten().map(|e| e.path()).collect();
    assert!(files.len() >= 2, "the WAL is there");
    let hold = |needle: &[u8]| {
        files.iter().any(|f| std::fs::read(f).expect("reads").windows(needle.len()).any(|w| w == needle))
    };
    for file in &files {
        let mode = std::fs::metadata(file).expect("is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", file.display());
    }
    assert!(hold(id.as_str().as_bytes()), "the search finds what is there");
    assert!(!hold(b"canary-7d1f9a-value"));
    fx.store.close().await;
    // Another key opens nothing.
    let wrong = SealKey::from_bytes([1; 32]);
    let other = Store::open(fx.config.clone(), wrong, fx.clock.clone(), Arc::new(OsRng)).await.expect("opens");
    assert_eq!(other.agent_env(&scope(), &id).await, Err(StoreError::Unsealable));
}

/// A small tmpfs of this test's own, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let options = format!("size={size},mode=0700");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir.path())
            .status()
            .expect("mount runs");
        assert!(mounted.success(), "mounting a tmpfs needs root");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_acknowledged_and_heals() {
    let disk = SmallDisk::new("3m");
    let config = StoreConfig::Sqlite { path: disk.0.path().join("aether.db") };
    let (clock, rng) = (Arc::new(SystemClock::default()), Arc::new(OsRng));
    let store = Store::connect(config.clone(), seal(), clock.clone(), rng.clone()).await.expect("opens");
    store.migrate_up().await.expect("migrates");
    let filler = disk.0.path().join("filler");
    std::fs::write(&filler, vec![0u8; 512 * 1024]).expect("fills");
    let mut acknowledged = Vec::new();
    let full = loop {
        let mut new = new_agent(&format!("a{}", acknowledged.len()));
        new.spec.labels.insert("pad".to_owned(), "x".repeat(1000));
        match store.create_agent(&scope(), new).await {
            Ok(created) => acknowledged.push(created.agent.id),
            Err(e) => break e,
        }
        assert!(acknowledged.len() < 10_000, "the disk never filled");
    };
    assert_eq!(full, StoreError::Full);
    assert!(!acknowledged.is_empty());
    for id in &acknowledged {
        assert!(store.agent_by_id(id).await.expect("reading goes on").is_some());
    }
    std::fs::remove_file(&filler).expect("makes room");
    let healed = store.create_agent(&scope(), new_agent("healed")).await.expect("writes again").agent.id;
    store.close().await;
    let store = Store::open(config, seal(), clock, rng).await.expect("opens again");
    for id in acknowledged.iter().chain([&healed]) {
        assert!(store.agent_by_id(id).await.expect("reads").is_some());
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_database_is_refused_in_words() {
    let dir = tempfile::tempdir().expect("temp dir");
    let open = async |path: &Path| {
        let config = StoreConfig::Sqlite { path: path.to_owned() };
        Store::open(config, seal(), Arc::new(SystemClock::default()), Arc::new(OsRng)).await.map(|_| ())
    };
    let noise = dir.path().join("noise.db");
    std::fs::write(&noise, vec![7u8; 8192]).expect("writes");
    assert!(matches!(open(&noise).await, Err(StoreError::Corrupt { .. })));
    let nowhere = open(&dir.path().join("absent/aether.db")).await;
    assert!(matches!(nowhere, Err(StoreError::Unavailable { .. })), "{nowhere:?}");
    let fresh = dir.path().join("fresh.db");
    assert!(matches!(open(&fresh).await, Err(StoreError::SchemaTooOld { found: 0, .. })));
}

/// A page of 20 out of many agents stays far from the API's limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_many_thousands_is_quick() {
    let fx = Fixture::sqlite().await;
    let template = fx.agent("template").await;
    {
        let connection = rusqlite::Connection::open(path(&fx)).expect("opens");
        let columns =
            "tenant_id, spec, env_names, desired, observed, version, generation, assigned, restarts, unhealthy,
            updated_ms, stop_force";
        let fill = format!(
            "INSERT INTO agents (id, name, created_ms, {columns})
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
             SELECT printf('agtc0%016d', i), printf('n%d', i), created_ms + i, {columns} FROM n, agents WHERE id = ?1"
        );
        // Digits 0, 1, 8 and 9 are not of our alphabet, but well-formed ids.
        connection.execute(&fill, [template.id.as_str()]).expect("fills");
    }
    let start = tokio::time::Instant::now();
    let page = PageRequest { limit: 20, ..PageRequest::default() };
    let page = fx.store.list_agents(&scope(), AgentFilter::default(), page).await.expect("lists");
    let took = start.elapsed();
    assert_eq!((page.rows.len(), page.total), (20, 100_001));
    assert!(took < Duration::from_secs(2), "took {took:?}");
}

/// Rows that are kept in memory are never older than what was answered, and
/// never go back, however reads and writes fall together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_is_never_older_than_what_was_acknowledged() {
    use aether_core::state::Desired;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let fx = Fixture::sqlite().await;
    let agent = fx.agent("a").await;
    let (over, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(agent.version)));
    let read = |by: String| {
        let (store, over, acknowledged) = (fx.store.clone(), over.clone(), acknowledged.clone());
        tokio::spawn(async move {
            let (mut last, mut reads) = (0, 0_u64);
            while !over.load(Ordering::SeqCst) {
                let due = acknowledged.load(Ordering::SeqCst).max(last);
                let row = store.find_agent(&scope(), &by).await.expect("looks").expect("is there");
                assert!(row.version >= due, "version {} after {due}", row.version);
                last = row.version;
                reads += 1;
                tokio::task::yield_now().await;
            }
            reads
        })
    };
    let readers = [read("a".to_owned()), read(agent.id.to_string()), read("a".to_owned())];
    for n in 0..200 {
        let desired = if n % 2 == 0 { Desired::Stopped } else { Desired::Running };
        let row = fx.desire(&agent.id, desired).await.expect("asks");
        acknowledged.store(row.version, Ordering::SeqCst);
        // Another table's commits do not make anybody forget.
        fx.agent(&format!("other-{n}")).await;
    }
    over.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.expect("every read was new enough") > 100);
    }
}

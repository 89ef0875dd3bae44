//! The embedded engine: one file, one writer thread, a few readers.
//!
//! ```text
//! callers ──ops──► bounded channel ──► writer thread: BEGIN IMMEDIATE
//!    ▲                                   SAVEPOINT op … RELEASE (each)
//!    └────────── answers, after ──────── COMMIT (one fsync for all)
//! ```
//!
//! An operation that fails rolls back its own savepoint (one that is alone has
//! none, and the transaction is its own); a COMMIT that fails
//! fails every operation of its batch. WAL with `synchronous = FULL`: what
//! was answered is on disk. Readers have connections of their own and see the
//! last commit; each holds its snapshot for one short operation only, so that
//! the WAL can be checkpointed.

mod errors;
mod kept;
#[cfg(test)]
pub(crate) mod memory;
mod readers;
mod transaction;
mod writer;

use crate::error::StoreError;
use crate::tx::{Context, OpFuture, Tx};
use errors::of_rusqlite;
pub(crate) use kept::{Kept, Shelf};
use readers::Readers;
use rusqlite::{Connection, OpenFlags};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use writer::Writer;

/// How long a statement waits for another process that holds the database,
/// such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Sqlite {
    path: PathBuf,
    writer: Writer,
    readers: Readers,
    kept: Arc<Kept>,
}

impl Sqlite {
    pub(crate) async fn open(path: &Path, changes: watch::Sender<u64>) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let opening = tokio::task::spawn_blocking(move || {
            create_private(&path)?;
            let connection = connect(&path)?;
            aether_reserve::begin_the_log(&connection);
            let kept = Arc::new(Kept::new());
            let writer = Writer::start(connection, changes, kept.clone())?;
            Ok(Self { writer, readers: Readers::new(path.clone()), path, kept })
        });
        opening.await.map_err(|_| StoreError::internal("opening was cut off"))?
    }

    pub(crate) async fn write<P, T, F>(&self, cx: &Arc<Context>, params: P, op: F) -> Result<T, StoreError>
    where
        P: Send + Sync + 'static,
        T: Send + 'static,
        F: for<'a> Fn(&'a mut dyn Tx, &'a Context, &'a P) -> OpFuture<'a, T> + Send + Sync + 'static,
    {
        self.writer.submit(cx.clone(), params, op).await
    }

    pub(crate) async fn read<P, T, F>(&self, cx: &Arc<Context>, params: P, op: F) -> Result<T, StoreError>
    where
        P: Send + Sync + 'static,
        T: Send + 'static,
        F: for<'a> Fn(&'a mut dyn Tx, &'a Context, &'a P) -> OpFuture<'a, T> + Send + Sync + 'static,
    {
        self.readers.run(cx.clone(), params, op).await
    }

    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }

    pub(crate) async fn keep_reserve(&self) -> Result<bool, StoreError> {
        let path = self.path.clone();
        let keeping = tokio::task::spawn_blocking(move || {
            aether_reserve::keep(&connect(&path)?, aether_reserve::STORE_BYTES).map_err(of_rusqlite)
        });
        keeping.await.map_err(|_| StoreError::internal("making room was cut off"))?
    }

    pub(crate) async fn close(&self) {
        self.readers.close();
        self.writer.close().await;
    }
}

/// The file is nobody else's to read; SQLite gives its side files the same
/// mode.
fn create_private(path: &Path) -> Result<(), StoreError> {
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    // The name itself must survive a power cut as well.
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match made.and_then(|_| std::fs::File::open(dir)?.sync_all()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::StorageFull => Err(StoreError::Full),
        Err(e) => Err(StoreError::Unavailable { detail: format!("cannot make the database file: {}", e.kind()) }),
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(of_rusqlite)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(of_rusqlite)?;
    aether_reserve::leave_the_log(&connection).map_err(of_rusqlite)?;
    connection.set_prepared_statement_cache_capacity(128);
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
             PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY;
             PRAGMA journal_size_limit = 67108864;",
        )
        .map_err(of_rusqlite)?;
    Ok(connection)
}

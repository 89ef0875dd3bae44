//! The one thread that writes, with group commit.

use super::errors::of_rusqlite;
use super::kept::{Kept, Touched};
use super::transaction::SqliteTx;
use crate::error::StoreError;
use crate::tx::{Context, OpFuture, Tx};
use futures::FutureExt;
use parking_lot::Mutex;
use rusqlite::Connection;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Operations that may wait for the writer. Beyond it callers wait to be
/// taken in, at most [`QUEUE_TIMEOUT`].
const QUEUE: usize = 1024;
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// Operations in one commit: bounds the wait of the first for the last.
const MAX_BATCH: usize = 256;

pub(super) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    ended: tokio::sync::Mutex<Option<oneshot::Receiver<()>>>,
}

/// An operation on its way through a batch.
trait Job: Send {
    /// Runs it; `Ok(true)`: it wrote events.
    fn run(&mut self, connection: &mut Connection) -> Result<bool, StoreError>;
    /// Answers, after COMMIT: an error stands for every operation in it.
    fn answer(self: Box<Self>, commit: &Result<(), StoreError>);
}

struct OpJob<P, T, F> {
    cx: Arc<Context>,
    params: P,
    op: F,
    result: Option<Result<T, StoreError>>,
    caller: oneshot::Sender<Result<T, StoreError>>,
}

impl<P, T, F> Job for OpJob<P, T, F>
where
    P: Send + Sync,
    T: Send,
    F: for<'a> Fn(&'a mut dyn Tx, &'a Context, &'a P) -> OpFuture<'a, T> + Send + Sync,
{
    fn run(&mut self, connection: &mut Connection) -> Result<bool, StoreError> {
        let mut tx = SqliteTx::new(connection);
        // A panic in one operation must not take the writer, and with it all
        // the others, away.
        let ran =
            std::panic::catch_unwind(AssertUnwindSafe(|| (self.op)(&mut tx, &self.cx, &self.params).now_or_never()));
        let result = match ran {
            Ok(Some(result)) => result,
            Ok(None) => Err(StoreError::internal("an operation waited for something")),
            Err(_) => Err(StoreError::internal("an operation panicked")),
        };
        let state = result.as_ref().map(|_| tx.changed).map_err(StoreError::clone);
        self.result = Some(result);
        state
    }

    fn answer(self: Box<Self>, commit: &Result<(), StoreError>) {
        let result = match (self.result, commit) {
            // What failed by itself keeps its own reason.
            (Some(Err(e)), _) => Err(e),
            (Some(Ok(value)), Ok(())) => Ok(value),
            // Not run at all where the transaction did not even begin.
            (_, Err(e)) => Err(e.clone()),
            (None, Ok(())) => Err(StoreError::internal("an operation did not run")),
        };
        // The caller may be gone; the change stands.
        let _ = self.caller.send(result);
    }
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        changes: watch::Sender<u64>,
        kept: Arc<Kept>,
    ) -> Result<Self, StoreError> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (on_end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                let touched = Touched::watch(&connection, kept);
                run(connection, jobs, &changes, &touched);
                let _ = on_end.send(());
            })
            .map_err(|_| StoreError::Unavailable { detail: "cannot start the writer thread".to_owned() })?;
        Ok(Self { queue: Mutex::new(Some(queue)), ended: tokio::sync::Mutex::new(Some(ended)) })
    }

    pub(super) async fn submit<P, T, F>(&self, cx: Arc<Context>, params: P, op: F) -> Result<T, StoreError>
    where
        P: Send + Sync + 'static,
        T: Send + 'static,
        F: for<'a> Fn(&'a mut dyn Tx, &'a Context, &'a P) -> OpFuture<'a, T> + Send + Sync + 'static,
    {
        let closed = || StoreError::Unavailable { detail: "the store is closed".to_owned() };
        let queue = self.queue.lock().clone().ok_or_else(closed)?;
        let (caller, answer) = oneshot::channel();
        let job = Box::new(OpJob { cx, params, op, result: None, caller });
        match queue.send_timeout(job, QUEUE_TIMEOUT).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => return Err(StoreError::Locked),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(closed()),
        }
        drop(queue);
        answer.await.map_err(|_| closed())?
    }

    /// Takes nothing new; returns when what was taken is committed and the
    /// file is closed.
    pub(super) async fn close(&self) {
        drop(self.queue.lock().take());
        if let Some(ended) = self.ended.lock().await.take() {
            let _ = ended.await;
        }
    }
}

fn run(
    mut connection: Connection,
    mut jobs: mpsc::Receiver<Box<dyn Job>>,
    changes: &watch::Sender<u64>,
    touched: &Touched,
) {
    let mut batch = Vec::new();
    while let Some(first) = jobs.blocking_recv() {
        batch.push(first);
        while batch.len() < MAX_BATCH {
            match jobs.try_recv() {
                Ok(job) => batch.push(job),
                Err(_) => break,
            }
        }
        let (commit, changed) = run_batch(&mut connection, &mut batch, touched);
        if let Err(error) = &commit {
            tracing::error!(%error, operations = batch.len(), "a batch was not committed");
        }
        if changed && commit.is_ok() {
            changes.send_modify(|n| *n = n.wrapping_add(1));
        }
        for job in batch.drain(..) {
            job.answer(&commit);
        }
    }
    if let Err(error) = aether_reserve::end_the_log(&connection) {
        tracing::warn!(%error, "the database's log is left to the next start");
    }
    if let Err((_, error)) = connection.close() {
        tracing::warn!(%error, "closing the database");
    }
}

/// A statement that every batch has, compiled once.
fn run_cached(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    connection.prepare_cached(sql).and_then(|mut s| s.raw_execute()).map(drop).map_err(of_rusqlite)
}

/// Runs the operations in one transaction. An error means that none of them
/// is in the database.
fn run_batch(
    connection: &mut Connection,
    batch: &mut [Box<dyn Job>],
    touched: &Touched,
) -> (Result<(), StoreError>, bool) {
    let mut changed = false;
    // One that is alone needs no savepoint: the transaction is its own.
    let alone = batch.len() == 1;
    let result = (|| {
        run_cached(connection, "BEGIN IMMEDIATE")?;
        for job in batch.iter_mut() {
            if !alone {
                run_cached(connection, "SAVEPOINT op")?;
            }
            let ran = job.run(connection);
            if connection.is_autocommit() {
                // A full disk or an I/O error: SQLite has rolled back the
                // whole transaction by itself.
                return Err(ran.err().unwrap_or(StoreError::Full));
            }
            match (&ran, alone) {
                // It keeps its own error; nothing else is in here.
                (Err(_), true) => return run_cached(connection, "ROLLBACK"),
                (Err(_), false) => {
                    run_cached(connection, "ROLLBACK TO op")?;
                    run_cached(connection, "RELEASE op")?;
                }
                (Ok(_), true) => {}
                (Ok(_), false) => run_cached(connection, "RELEASE op")?,
            }
            changed |= ran.unwrap_or(false);
        }
        touched.around(|| run_cached(connection, "COMMIT"))
    })();
    if result.is_err() && !connection.is_autocommit() {
        // Nothing more can be done about a rollback that fails: the next
        // BEGIN says so again.
        let _ = connection.execute_batch("ROLLBACK");
    }
    (result, changed)
}

//! Connections for reading: opened when needed, at most a few, kept.

use super::errors::of_rusqlite;
use super::transaction::SqliteTx;
use crate::error::StoreError;
use crate::tx::{Context, OpFuture, Tx};
use futures::FutureExt;
use parking_lot::Mutex;
use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// More readers than cores of a small machine gain nothing.
const READERS: usize = 4;

pub(super) struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, permits: Arc::new(Semaphore::new(READERS)), idle: Arc::default() }
    }

    pub(super) async fn run<P, T, F>(&self, cx: Arc<Context>, params: P, op: F) -> Result<T, StoreError>
    where
        P: Send + Sync + 'static,
        T: Send + 'static,
        F: for<'a> Fn(&'a mut dyn Tx, &'a Context, &'a P) -> OpFuture<'a, T> + Send + Sync + 'static,
    {
        let closed = |_| StoreError::Unavailable { detail: "the store is closed".to_owned() };
        let permit = self.permits.clone().acquire_owned().await.map_err(closed)?;
        let (path, idle) = (self.path.clone(), self.idle.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let kept = idle.lock().pop();
            let mut connection = match kept {
                Some(connection) => connection,
                None => open(&path)?,
            };
            let result = in_snapshot(&mut connection, |tx| op(tx, &cx, &params).now_or_never());
            // A connection that may still hold a snapshot is not kept.
            if connection.is_autocommit() {
                idle.lock().push(connection);
            }
            result
        });
        reading.await.map_err(|_| StoreError::internal("a reader was cut off"))?
    }

    pub(super) fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
    }
}

fn open(path: &std::path::Path) -> Result<Connection, StoreError> {
    let connection = super::connect(path)?;
    connection.execute_batch("PRAGMA query_only = ON").map_err(of_rusqlite)?;
    Ok(connection)
}

/// One operation sees one state of the database.
fn in_snapshot<T>(
    connection: &mut Connection,
    op: impl FnOnce(&mut dyn Tx) -> Option<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    connection.execute_batch("BEGIN").map_err(of_rusqlite)?;
    let result = op(&mut SqliteTx::new(connection));
    connection.execute_batch("ROLLBACK").map_err(of_rusqlite)?;
    result.unwrap_or_else(|| Err(StoreError::internal("an operation waited for something")))
}

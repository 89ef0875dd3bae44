//! The configured engine: PostgreSQL 13 or later through a pool.
//!
//! Operations run in READ COMMITTED and lock the rows that they read for
//! writing (always in the order epoch, node, agent); uniqueness is left to
//! indexes. Deadlocks and lock time-outs are tried again a few times. A
//! connection that breaks at COMMIT leaves the outcome open and is reported,
//! never tried again: that is what idempotency keys are for.

mod errors;
mod listener;
mod transaction;

use crate::error::StoreError;
use crate::tx::{Context, OpFuture, Tx};
use aether_core::{Rng, Secret};
use errors::of_sqlx;
use listener::Listener;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Executor, PgPool};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use transaction::PgTx;

/// How often one operation is tried in all.
const ATTEMPTS: u32 = 8;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A lock is held for milliseconds; who waits longer waits for someone stuck.
const SESSION: &str = "SET lock_timeout = '2s'; SET statement_timeout = '10s';
    SET idle_in_transaction_session_timeout = '30s'; SET default_transaction_isolation = 'read committed'";
/// The channel of NOTIFY.
const CHANNEL: &str = "aether_events";

pub(crate) struct Postgres {
    pool: PgPool,
    listener: Listener,
}

impl Postgres {
    pub(crate) async fn open(
        url: &Secret,
        max_connections: u32,
        changes: watch::Sender<u64>,
    ) -> Result<Self, StoreError> {
        // The parser's own message may quote the URL, and so the password.
        let malformed = |_| StoreError::Unavailable { detail: "the database URL is malformed".to_owned() };
        let options = PgConnectOptions::from_str(url.expose()).map_err(malformed)?.application_name("aether");
        let pool = PgPoolOptions::new()
            // One more for the listener.
            .max_connections(max_connections.max(1) + 1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .max_lifetime(Duration::from_secs(1800))
            .after_connect(|connection, _| {
                Box::pin(async move {
                    connection.execute(SESSION).await?;
                    Ok(())
                })
            })
            .connect_with(options)
            .await
            .map_err(of_sqlx)?;
        let listener = Listener::start(pool.clone(), changes);
        Ok(Self { pool, listener })
    }

    pub(crate) async fn write<P, T, F>(&self, cx: &Arc<Context>, params: P, op: F) -> Result<T, StoreError>
    where
        F: for<'a> Fn(&'a mut dyn Tx, &'a Context, &'a P) -> OpFuture<'a, T>,
    {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.attempt(cx, &params, &op).await {
                Err(StoreError::Locked) if attempt < ATTEMPTS => tokio::time::sleep(backoff(attempt, &*cx.rng)).await,
                result => return result,
            }
        }
    }

    async fn attempt<P, T, F>(&self, cx: &Context, params: &P, op: &F) -> Result<T, StoreError>
    where
        F: for<'a> Fn(&'a mut dyn Tx, &'a Context, &'a P) -> OpFuture<'a, T>,
    {
        let mut transaction = self.pool.begin().await.map_err(of_sqlx)?;
        let mut tx = PgTx::new(&mut transaction);
        let result = op(&mut tx, cx, params).await;
        let changed = tx.changed;
        match result {
            Ok(value) => {
                if changed {
                    // Delivered by the server at COMMIT, once per transaction.
                    let notify = sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL);
                    notify.execute(&mut *transaction).await.map_err(of_sqlx)?;
                }
                transaction.commit().await.map_err(of_sqlx)?;
                Ok(value)
            }
            Err(error) => {
                // Where even this fails the connection is broken, and the
                // server rolls back by itself.
                let _ = transaction.rollback().await;
                Err(error)
            }
        }
    }

    pub(crate) async fn read<P, T, F>(&self, cx: &Arc<Context>, params: P, op: F) -> Result<T, StoreError>
    where
        F: for<'a> Fn(&'a mut dyn Tx, &'a Context, &'a P) -> OpFuture<'a, T>,
    {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        let mut transaction = self.pool.begin_with(begin).await.map_err(of_sqlx)?;
        let result = op(&mut PgTx::new(&mut transaction), cx, &params).await;
        let _ = transaction.rollback().await;
        result
    }

    pub(crate) async fn close(&self) {
        self.listener.stop();
        self.pool.close().await;
    }
}

/// 5 ms doubling to 320 ms, each between half and whole.
fn backoff(attempt: u32, rng: &dyn Rng) -> Duration {
    let mut byte = [0u8];
    rng.fill(&mut byte);
    let whole = 5u64 << attempt.min(6);
    Duration::from_millis(whole / 2 + whole / 2 * u64::from(byte[0]) / 255)
}

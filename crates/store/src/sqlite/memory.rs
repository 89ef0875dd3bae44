//! A migrated database in memory, for unit tests of operations.

use super::transaction::SqliteTx;
use crate::tx::{Context, Tx};
use aether_core::source::{OsRng, SystemClock};
use futures::FutureExt;
use rusqlite::Connection;
use std::sync::Arc;

pub(crate) fn context() -> Context {
    let seal = crate::SealKey::from_bytes([7; 32]).into();
    Context { clock: Arc::new(SystemClock::default()), rng: Arc::new(OsRng), seal }
}

pub(crate) fn migrated(cx: &Context) -> Connection {
    let mut connection = Connection::open_in_memory().expect("opens");
    while crate::migrate::step_up(&mut tx(&mut connection), cx)
        .now_or_never()
        .expect("never waits")
        .expect("migrates")
        .is_some()
    {}
    connection
}

pub(crate) fn tx(connection: &mut Connection) -> impl Tx + '_ {
    SqliteTx::new(connection)
}

//! A database that another program made.

use crate::fixture::{Fixture, seal};
use aether_core::source::OsRng;
use aether_store::*;
use std::sync::Arc;

crate::on_both![another_programs_tables_are_left_alone];

async fn another_programs_tables_are_left_alone(fx: Fixture) {
    let (_, newest) = fx.store.schema_version().await.expect("reads");
    fx.store.migrate_down(newest).await.expect("goes down");
    // As a migration tool of the earlier version keeps it; then tables without any.
    for table in ["CREATE TABLE schema_migrations (version BIGINT, dirty BOOLEAN)", "CREATE TABLE agents (id TEXT)"] {
        run(&fx, &format!("DROP TABLE schema_migrations; {table}")).await;
        assert_eq!(fx.store.migrate_up().await, Err(StoreError::SchemaForeign), "{table}");
        assert_eq!(fx.store.migrate_down(1).await, Err(StoreError::SchemaForeign), "{table}");
        let opened = Store::open(fx.config.clone(), seal(), fx.clock.clone(), Arc::new(OsRng)).await;
        assert_eq!(opened.map(|_| ()), Err(StoreError::SchemaForeign), "{table}");
    }
}

/// A statement past the store.
async fn run(fx: &Fixture, sql: &str) {
    match &fx.config {
        StoreConfig::Sqlite { path } => {
            rusqlite::Connection::open(path).and_then(|c| c.execute_batch(sql)).expect("runs");
        }
        StoreConfig::Postgres { url, .. } => {
            let mut connection = crate::postgres::connect(url.expose()).await;
            sqlx::Executor::execute(&mut connection, sql).await.expect("runs");
        }
    }
}

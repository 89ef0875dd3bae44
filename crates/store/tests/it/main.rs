//! The store's promises, each checked on SQLite and on a real PostgreSQL.

mod agents;
mod audit;
mod budgets;
mod crash;
mod events;
mod faults;
mod fixture;
mod foreign;
mod identity;
mod keyed;
mod keys;
mod logins;
mod master;
mod migrations;
mod model;
mod nodes;
mod placing;
mod postgres;
mod postgres_only;
mod quotas;
mod reach;
mod recovery;
mod reports;
mod secrets;
mod sqlite_only;
mod suspension;
mod tenancy;
mod updates;

/// Runs each function once per engine on a fresh store.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::fixture::Fixture::sqlite().await).await })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::fixture::Fixture::postgres().await).await })+
        }
    };
}
pub(crate) use on_both;

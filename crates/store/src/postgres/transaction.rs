//! [`Tx`] over a PostgreSQL connection inside a transaction.

use super::errors::of_sqlx;
use crate::error::StoreError;
use crate::tx::{Dialect, Row, Tx, Value};
use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Column, Executor, PgConnection, Postgres, Row as _, TypeInfo};
use std::sync::Arc;

pub(super) struct PgTx<'a> {
    connection: &'a mut PgConnection,
    pub(super) changed: bool,
}

impl<'a> PgTx<'a> {
    pub(super) fn new(connection: &'a mut PgConnection) -> Self {
        Self { connection, changed: false }
    }
}

fn bound(sql: &str, params: Vec<Value>) -> Query<'_, Postgres, PgArguments> {
    params.into_iter().fold(sqlx::query(sql), |query, value| match value {
        Value::Int(v) => query.bind(v),
        Value::Text(v) => query.bind(v),
        Value::Bytes(v) => query.bind(v),
    })
}

fn value_of(row: &PgRow, index: usize) -> Result<Value, StoreError> {
    match row.column(index).type_info().name() {
        "INT8" => row.try_get(index).map(Value::Int),
        "INT4" => row.try_get::<Option<i32>, _>(index).map(|v| Value::Int(v.map(i64::from))),
        "TEXT" | "VARCHAR" | "NAME" => row.try_get(index).map(Value::Text),
        "BYTEA" => row.try_get(index).map(Value::Bytes),
        "VOID" => Ok(Value::Text(None)),
        other => return Err(StoreError::internal(format!("a column has the type {other}"))),
    }
    .map_err(of_sqlx)
}

#[async_trait]
impl Tx for PgTx<'_> {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    async fn execute(&mut self, sql: &str, params: Vec<Value>) -> Result<u64, StoreError> {
        let done = bound(sql, params).execute(&mut *self.connection).await.map_err(of_sqlx)?;
        Ok(done.rows_affected())
    }

    async fn query(&mut self, sql: &str, params: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        let rows = bound(sql, params).fetch_all(&mut *self.connection).await.map_err(of_sqlx)?;
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let columns: Arc<[String]> = first.columns().iter().map(|c| c.name().to_owned()).collect();
        let read = |row: &PgRow| {
            let values = (0..columns.len()).map(|i| value_of(row, i)).collect::<Result<_, _>>()?;
            Ok(Row::new(columns.clone(), values))
        };
        rows.iter().map(read).collect()
    }

    async fn script(&mut self, sql: &str) -> Result<(), StoreError> {
        (&mut *self.connection).execute(sqlx::raw_sql(sql)).await.map_err(of_sqlx)?;
        Ok(())
    }

    fn mark_changed(&mut self) {
        self.changed = true;
    }
}

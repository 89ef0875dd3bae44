//! [`Tx`] over a SQLite connection. No method ever waits: each future is
//! ready at its first poll.

use super::errors::of_rusqlite;
use crate::error::StoreError;
use crate::tx::{Dialect, Row, Tx, Value};
use async_trait::async_trait;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement, ToSql};
use std::sync::Arc;

pub(super) struct SqliteTx<'a> {
    connection: &'a mut Connection,
    pub(super) changed: bool,
}

impl<'a> SqliteTx<'a> {
    pub(super) fn new(connection: &'a mut Connection) -> Self {
        Self { connection, changed: false }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Int(Some(v)) => ValueRef::Integer(*v),
            Value::Text(Some(v)) => ValueRef::Text(v.as_bytes()),
            Value::Bytes(Some(v)) => ValueRef::Blob(v),
            Value::Int(None) | Value::Text(None) | Value::Bytes(None) => ValueRef::Null,
        }))
    }
}

/// `$3` is a name to SQLite, numbered by first appearance and found by its
/// text; `?3` is the third parameter.
fn numbered(sql: &str) -> String {
    sql.replace('$', "?")
}

fn bind(statement: &mut Statement<'_>, params: &[Value]) -> Result<(), StoreError> {
    for (i, value) in params.iter().enumerate() {
        statement.raw_bind_parameter(i + 1, value).map_err(of_rusqlite)?;
    }
    Ok(())
}

fn value_of(value: ValueRef<'_>) -> Result<Value, StoreError> {
    match value {
        ValueRef::Null => Ok(Value::Text(None)),
        ValueRef::Integer(v) => Ok(Value::Int(Some(v))),
        ValueRef::Blob(v) => Ok(Value::Bytes(Some(v.to_vec()))),
        ValueRef::Text(v) => {
            let text = std::str::from_utf8(v).map_err(|_| StoreError::Corrupt { detail: "text is not UTF-8".into() });
            Ok(Value::Text(Some(text?.to_owned())))
        }
        ValueRef::Real(_) => Err(StoreError::internal("a column is fractional")),
    }
}

#[async_trait]
impl Tx for SqliteTx<'_> {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    async fn execute(&mut self, sql: &str, params: Vec<Value>) -> Result<u64, StoreError> {
        let mut statement = self.connection.prepare_cached(&numbered(sql)).map_err(of_rusqlite)?;
        bind(&mut statement, &params)?;
        statement.raw_execute().map(|n| n as u64).map_err(of_rusqlite)
    }

    async fn query(&mut self, sql: &str, params: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        let mut statement = self.connection.prepare_cached(&numbered(sql)).map_err(of_rusqlite)?;
        let columns: Arc<[String]> = statement.column_names().into_iter().map(str::to_owned).collect();
        bind(&mut statement, &params)?;
        let mut rows = statement.raw_query();
        let mut out = Vec::new();
        while let Some(row) = rows.next().map_err(of_rusqlite)? {
            let read = |i| row.get_ref(i).map_err(of_rusqlite).and_then(value_of);
            let values = (0..columns.len()).map(read).collect::<Result<_, _>>()?;
            out.push(Row::new(columns.clone(), values));
        }
        Ok(out)
    }

    async fn script(&mut self, sql: &str) -> Result<(), StoreError> {
        self.connection.execute_batch(sql).map_err(of_rusqlite)
    }

    fn mark_changed(&mut self) {
        self.changed = true;
    }
}

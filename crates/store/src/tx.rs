//! The one small door to a database: statements with positional parameters
//! inside a transaction. Both engines read the same SQL (`$1 … $n`, BIGINT,
//! TEXT and BYTEA/BLOB only), so that an operation is written once.

use crate::error::StoreError;
use crate::seal::SealKeys;
use aether_core::{Clock, Rng, Timestamp};
use async_trait::async_trait;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An operation's future. On SQLite it is ready at the first poll.
pub(crate) type OpFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// What operations need from outside.
pub(crate) struct Context {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
    pub(crate) seal: SealKeys,
}

impl Context {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// Locks the rows read for writing. SQLite's write transaction has the
    /// whole database already.
    pub(crate) fn for_update(self) -> &'static str {
        match self {
            Dialect::Sqlite => "",
            Dialect::Postgres => " FOR UPDATE",
        }
    }

    /// Holds off writers of the rows read until the end of the transaction.
    pub(crate) fn for_share(self) -> &'static str {
        match self {
            Dialect::Sqlite => "",
            Dialect::Postgres => " FOR SHARE",
        }
    }
}

/// A transaction of either engine.
#[async_trait]
pub(crate) trait Tx: Send {
    fn dialect(&self) -> Dialect;
    /// Runs one statement; returns the rows it changed.
    async fn execute(&mut self, sql: &str, params: Vec<Value>) -> Result<u64, StoreError>;
    async fn query(&mut self, sql: &str, params: Vec<Value>) -> Result<Vec<Row>, StoreError>;
    /// Several statements without parameters: migrations.
    async fn script(&mut self, sql: &str) -> Result<(), StoreError>;
    /// Wakes the listeners of `changes()` if this transaction commits.
    fn mark_changed(&mut self);
}

/// The first row, where there is one.
pub(crate) async fn query_one(tx: &mut dyn Tx, sql: &str, params: Vec<Value>) -> Result<Option<Row>, StoreError> {
    Ok(tx.query(sql, params).await?.into_iter().next())
}

/// A typed value; PostgreSQL wants to know the type of a NULL too.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

macro_rules! params {
    ($($value:expr),* $(,)?) => { vec![$($crate::tx::Value::from($value)),*] };
}
pub(crate) use params;

/// Numbers of ours stay far below 2^63; one that does not is cut there.
fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl From<i64> for Value {
    fn from(v: i64) -> Self {
        Value::Int(Some(v))
    }
}
impl From<u64> for Value {
    fn from(v: u64) -> Self {
        Value::Int(Some(int(v)))
    }
}
impl From<u32> for Value {
    fn from(v: u32) -> Self {
        Value::Int(Some(i64::from(v)))
    }
}
impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Value::Int(Some(i64::from(v)))
    }
}
impl From<Option<i32>> for Value {
    fn from(v: Option<i32>) -> Self {
        Value::Int(v.map(i64::from))
    }
}
impl From<Option<u32>> for Value {
    fn from(v: Option<u32>) -> Self {
        Value::Int(v.map(i64::from))
    }
}
impl From<Timestamp> for Value {
    fn from(v: Timestamp) -> Self {
        Value::Int(Some(int(v.unix_ms())))
    }
}
impl From<Option<Timestamp>> for Value {
    fn from(v: Option<Timestamp>) -> Self {
        Value::Int(v.map(|t| int(t.unix_ms())))
    }
}
impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Value::Text(Some(v.to_owned()))
    }
}
impl From<String> for Value {
    fn from(v: String) -> Self {
        Value::Text(Some(v))
    }
}
impl From<&String> for Value {
    fn from(v: &String) -> Self {
        Value::Text(Some(v.clone()))
    }
}
impl From<Option<&str>> for Value {
    fn from(v: Option<&str>) -> Self {
        Value::Text(v.map(str::to_owned))
    }
}
impl From<Option<String>> for Value {
    fn from(v: Option<String>) -> Self {
        Value::Text(v)
    }
}
impl From<&[u8]> for Value {
    fn from(v: &[u8]) -> Self {
        Value::Bytes(Some(v.to_vec()))
    }
}
impl From<Option<Vec<u8>>> for Value {
    fn from(v: Option<Vec<u8>>) -> Self {
        Value::Bytes(v)
    }
}

/// One row of an answer, read by column name.
#[derive(Debug)]
pub(crate) struct Row {
    columns: Arc<[String]>,
    values: Vec<Value>,
    /// After the column that was read last: mostly the next one asked for.
    next: AtomicUsize,
}

impl Row {
    pub(crate) fn new(columns: Arc<[String]>, values: Vec<Value>) -> Self {
        Self { columns, values, next: AtomicUsize::new(0) }
    }

    fn get(&self, column: &str) -> Result<&Value, StoreError> {
        let (before, after) = self.columns.split_at(self.next.load(Ordering::Relaxed).min(self.columns.len()));
        let is = |c: &String| c == column;
        let at = after.iter().position(is).map(|at| before.len() + at).or_else(|| before.iter().position(is));
        let missing = || StoreError::internal(format!("no column {column}"));
        let at = at.ok_or_else(missing)?;
        self.next.store(at + 1, Ordering::Relaxed);
        self.values.get(at).ok_or_else(missing)
    }

    pub(crate) fn int_opt(&self, column: &str) -> Result<Option<i64>, StoreError> {
        match self.get(column)? {
            Value::Int(v) => Ok(*v),
            Value::Text(None) | Value::Bytes(None) => Ok(None),
            _ => Err(StoreError::internal(format!("column {column} is not a number"))),
        }
    }

    fn str_opt(&self, column: &str) -> Result<Option<&str>, StoreError> {
        match self.get(column)? {
            Value::Text(v) => Ok(v.as_deref()),
            Value::Int(None) | Value::Bytes(None) => Ok(None),
            _ => Err(StoreError::internal(format!("column {column} is not a text"))),
        }
    }

    pub(crate) fn bytes_opt(&self, column: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self.get(column)? {
            Value::Bytes(v) => Ok(v.clone()),
            Value::Int(None) | Value::Text(None) => Ok(None),
            _ => Err(StoreError::internal(format!("column {column} is not bytes"))),
        }
    }

    fn str(&self, column: &str) -> Result<&str, StoreError> {
        self.str_opt(column)?.ok_or_else(|| StoreError::internal(format!("column {column} is null")))
    }

    pub(crate) fn text_opt(&self, column: &str) -> Result<Option<String>, StoreError> {
        Ok(self.str_opt(column)?.map(str::to_owned))
    }

    pub(crate) fn text(&self, column: &str) -> Result<String, StoreError> {
        self.str(column).map(str::to_owned)
    }

    /// A number of ours: never negative.
    pub(crate) fn uint(&self, column: &str) -> Result<u64, StoreError> {
        let value = self.int_opt(column)?.and_then(|v| u64::try_from(v).ok());
        value.ok_or_else(|| StoreError::internal(format!("column {column} is null or negative")))
    }

    pub(crate) fn small(&self, column: &str) -> Result<u32, StoreError> {
        u32::try_from(self.uint(column)?).map_err(|_| StoreError::internal(format!("column {column} is too large")))
    }

    pub(crate) fn small_opt(&self, column: &str) -> Result<Option<u32>, StoreError> {
        Ok(self.int_opt(column)?.and_then(|v| u32::try_from(v).ok()))
    }

    pub(crate) fn i32_opt(&self, column: &str) -> Result<Option<i32>, StoreError> {
        Ok(self.int_opt(column)?.and_then(|v| i32::try_from(v).ok()))
    }

    pub(crate) fn flag(&self, column: &str) -> Result<bool, StoreError> {
        Ok(self.uint(column)? != 0)
    }

    pub(crate) fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
        Ok(Timestamp::from_unix_ms(self.uint(column)?))
    }

    pub(crate) fn time_opt(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.int_opt(column)?.and_then(|v| u64::try_from(v).ok()).map(Timestamp::from_unix_ms))
    }

    /// A text that parses as one of our types.
    pub(crate) fn parse<T: std::str::FromStr>(&self, column: &str) -> Result<T, StoreError> {
        self.str(column)?.parse().map_err(|_| StoreError::internal(format!("column {column} is malformed")))
    }

    pub(crate) fn parse_opt<T: std::str::FromStr>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let malformed = |_| StoreError::internal(format!("column {column} is malformed"));
        self.str_opt(column)?.map(|text| text.parse().map_err(malformed)).transpose()
    }

    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        from_json(self.str(column)?, column)
    }
}

pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::internal("a value does not serialise"))
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(text: &str, what: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::internal(format!("{what} holds malformed JSON")))
}

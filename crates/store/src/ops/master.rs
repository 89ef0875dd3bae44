//! Which key seals, on every server, and sealing anew what an older one
//! sealed: a bounded part at a time, each row in the transaction that locks
//! it, so that writers go on and a crash loses nothing.

use super::audit;
use crate::error::StoreError;
use crate::tx::{Context, Row, Tx, Value, params, query_one};
use aether_core::TenantScope;
use serde_json::json;
use std::collections::BTreeSet;

/// Rows in one transaction.
const BATCH: u32 = 50;

/// A column that holds sealed values: where it is, and whom each is bound to.
struct Column {
    table: &'static str,
    column: &'static str,
    /// Of one row; ordered by them.
    key: &'static [&'static str],
    owner: fn(&Row) -> Result<Vec<String>, StoreError>,
    /// What else is read for the owner, from what.
    select: &'static str,
    only: &'static str,
}

/// Every one: what is sealed and not here is lost when its key is dropped.
const COLUMNS: &[Column] = &[
    Column {
        table: "agents",
        column: "env_sealed",
        key: &["id"],
        owner: |row| Ok(vec![row.text("tenant_id")?, row.text("id")?]),
        select: "r.tenant_id",
        only: "",
    },
    Column {
        table: "secret_versions",
        column: "wrapped_key",
        key: &["tenant_id", "name", "version"],
        owner: |row| {
            let (tenant, name) = (row.text("tenant_id")?, row.text("name")?);
            Ok(vec![tenant, "secret".to_owned(), name, row.text("mark")?, row.uint("version")?.to_string()])
        },
        select: "(SELECT s.mark FROM secrets s WHERE s.tenant_id = r.tenant_id AND s.name = r.name) AS mark",
        only: " AND r.backend = 'sealed'",
    },
];

pub(crate) async fn active(tx: &mut dyn Tx) -> Result<Option<String>, StoreError> {
    query_one(tx, "SELECT active FROM seal_keys WHERE id = 1", Vec::new())
        .await?
        .map(|row| row.text("active"))
        .transpose()
}

/// Says which key seals. `first`: only where nobody has said it.
pub(crate) async fn set_active(
    tx: &mut dyn Tx,
    cx: &Context,
    actor: &TenantScope,
    (fingerprint, first): (&str, bool),
) -> Result<(), StoreError> {
    let update = if first { "NOTHING" } else { "UPDATE SET active = $1, since_ms = $2" };
    let sql = format!("INSERT INTO seal_keys (id, active, since_ms) VALUES (1, $1, $2) ON CONFLICT (id) DO {update}");
    let written = tx.execute(&sql, params![fingerprint, cx.now()]).await?;
    if first || written == 0 {
        return Ok(());
    }
    audit::platform(tx, cx, actor.actor(), "activate", "master_key", fingerprint, json!({})).await
}

/// A key added to a file, or taken out of it.
pub(crate) async fn note(
    tx: &mut dyn Tx,
    cx: &Context,
    actor: &TenantScope,
    (action, keys): (&str, &[String]),
) -> Result<(), StoreError> {
    audit::platform(tx, cx, actor.actor(), action, "master_key", "file", json!({ "keys": keys })).await
}

/// How far a pass has come: which column, and after which row of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cursor {
    column: usize,
    after: Option<Vec<Value>>,
}

/// What one part of a pass did.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// None: the pass is over.
    pub(crate) next: Option<Cursor>,
    pub(crate) resealed: u64,
    /// Sealed with a key that this server does not have.
    pub(crate) shut: u64,
}

/// Seals the next rows with the active key.
pub(crate) async fn reseal(tx: &mut dyn Tx, cx: &Context, cursor: &Cursor) -> Result<Part, StoreError> {
    let Some(of) = COLUMNS.get(cursor.column) else { return Ok(Part { next: None, resealed: 0, shut: 0 }) };
    let rows = others(tx, cx, of, cursor.after.as_deref()).await?;
    let mut part = Part { next: Some(Cursor { column: cursor.column + 1, after: None }), resealed: 0, shut: 0 };
    for row in &rows {
        let key = key_of(of, row)?;
        let owner = (of.owner)(row)?;
        let owner: Vec<&str> = owner.iter().map(String::as_str).collect();
        let sealed = row.bytes_opt("sealed")?.ok_or(StoreError::Unsealable)?;
        match cx.seal.open(&owner, &sealed) {
            Ok(clear) => {
                let anew = cx.seal.seal(&owner, &clear, &*cx.rng)?;
                let places: Vec<String> = of.key.iter().enumerate().map(|(i, c)| format!("{c} = ${}", i + 2)).collect();
                let sql = format!("UPDATE {} SET {} = $1 WHERE {}", of.table, of.column, places.join(" AND "));
                let mut values = params![anew.as_slice()];
                values.extend(key.clone());
                part.resealed += tx.execute(&sql, values).await?;
            }
            Err(_) => part.shut += 1,
        }
        part.next = Some(Cursor { column: cursor.column, after: Some(key) });
    }
    Ok(part)
}

fn key_of(of: &Column, row: &Row) -> Result<Vec<Value>, StoreError> {
    of.key
        .iter()
        .map(|c| if *c == "version" { row.uint(c).map(Value::from) } else { row.text(c).map(Value::from) })
        .collect()
}

/// The next rows, locked, that another key than the active one sealed.
async fn others(tx: &mut dyn Tx, cx: &Context, of: &Column, after: Option<&[Value]>) -> Result<Vec<Row>, StoreError> {
    let mark = cx.seal.active().mark();
    let mut values = params![mark.as_slice()];
    let keys: Vec<String> = of.key.iter().map(|c| format!("r.{c}")).collect();
    let keys = keys.join(", ");
    let mut later = String::new();
    if let Some(after) = after {
        let places: Vec<String> = (0..after.len()).map(|i| format!("${}", i + 2)).collect();
        later = format!(" AND ({keys}) > ({})", places.join(", "));
        values.extend(after.iter().cloned());
    }
    let of_update = if tx.dialect().for_update().is_empty() { "" } else { " FOR UPDATE OF r" };
    let sql = format!(
        "SELECT {keys}, {}, r.{} AS sealed FROM {} r WHERE r.{} IS NOT NULL{} AND substr(r.{}, 1, 2) <> $1{later}
         ORDER BY {keys} LIMIT {BATCH}{of_update}",
        of.select, of.column, of.table, of.column, of.only, of.column
    );
    tx.query(&sql, values).await
}

/// Values that another key than the active one sealed.
pub(crate) async fn left(tx: &mut dyn Tx, cx: &Context) -> Result<u64, StoreError> {
    let mark = cx.seal.active().mark();
    let mut left = 0;
    for of in COLUMNS {
        let sql = format!(
            "SELECT count(*) AS n FROM {} r WHERE r.{} IS NOT NULL{} AND substr(r.{}, 1, 2) <> $1",
            of.table, of.column, of.only, of.column
        );
        left += query_one(tx, &sql, params![mark.as_slice()]).await?.map_or(Ok(0), |row| row.uint("n"))?;
    }
    Ok(left)
}

/// The marks of the keys that seal something.
pub(crate) async fn marks(tx: &mut dyn Tx) -> Result<BTreeSet<Vec<u8>>, StoreError> {
    let mut marks = BTreeSet::new();
    for of in COLUMNS {
        let sql = format!(
            "SELECT DISTINCT substr(r.{}, 1, 2) AS mark FROM {} r WHERE r.{} IS NOT NULL{}",
            of.column, of.table, of.column, of.only
        );
        for row in tx.query(&sql, Vec::new()).await? {
            marks.extend(row.bytes_opt("mark")?);
        }
    }
    Ok(marks)
}

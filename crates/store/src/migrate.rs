//! The schema, in numbered steps with their undo, written once.
//!
//! The files are PostgreSQL's SQL in a subset that a few replacements turn
//! into SQLite's (`render`). Each step runs in one transaction together with
//! its row in `schema_migrations`, so a crash leaves it whole or absent; on
//! PostgreSQL an advisory lock keeps several migrators in a queue. The row
//! holds a checksum: a step that was edited after it was applied is refused.

use crate::error::StoreError;
use crate::tx::{Context, Dialect, Tx, params, query_one};
use sha2::{Digest, Sha256};

pub(crate) struct Migration {
    version: u32,
    name: &'static str,
    up: &'static str,
    down: &'static str,
}

macro_rules! migrations {
    ($($version:literal $name:literal),+ $(,)?) => {
        &[$(Migration {
            version: $version,
            name: $name,
            up: include_str!(concat!("../migrations/", $name, ".up.sql")),
            down: include_str!(concat!("../migrations/", $name, ".down.sql")),
        }),+]
    };
}

/// Numbered from 1 without gaps.
pub(crate) const MIGRATIONS: &[Migration] = migrations![
    1 "0001_tenants",
    2 "0002_agents",
    3 "0003_scheduling",
    4 "0004_events",
    5 "0005_agent_updates",
    6 "0006_recovery",
    7 "0007_unhealthy_reason",
    8 "0008_agents_by_node",
    9 "0009_quotas",
    10 "0010_audit_chain",
    11 "0011_keys",
    12 "0012_users_and_sessions",
    13 "0013_secrets",
];

/// The newest step that this program knows.
pub(crate) fn newest() -> u32 {
    MIGRATIONS.last().map_or(0, |m| m.version)
}

fn render(sql: &str, dialect: Dialect) -> String {
    match dialect {
        Dialect::Postgres => sql.replace("--postgres ", "").replace("/*STRICT*/", ""),
        Dialect::Sqlite => sql
            .replace("--sqlite ", "")
            .replace("BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "INTEGER PRIMARY KEY AUTOINCREMENT")
            .replace("BIGINT", "INTEGER")
            .replace("BYTEA", "BLOB")
            .replace("/*STRICT*/", "STRICT"),
    }
}

impl Migration {
    /// Of the source, so that it is the same on both engines.
    fn checksum(&self) -> Vec<u8> {
        let mut hasher = Sha256::new();
        hasher.update(self.name);
        hasher.update([0]);
        hasher.update(self.up);
        hasher.finalize().to_vec()
    }
}

/// "aether" in ASCII: the key of the advisory lock.
const LOCK: i64 = 0x6165_7468_6572;

/// Waits for other migrators, and only for them as long as this: every other
/// lock keeps the session's short limit.
async fn lock(tx: &mut dyn Tx) -> Result<(), StoreError> {
    if tx.dialect() == Dialect::Postgres {
        tx.script("SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = '120s'").await?;
        tx.query("SELECT pg_advisory_xact_lock($1)", params![LOCK]).await?;
        tx.script("SET LOCAL lock_timeout = '2s'").await?;
    }
    Ok(())
}

/// Whether our own list of steps is there. One without checksums, or tables
/// without a list, are another program's: its rows are not ours to change.
async fn has_steps(tx: &mut dyn Tx) -> Result<bool, StoreError> {
    let columns = match tx.dialect() {
        Dialect::Sqlite => {
            "SELECT m.name AS tab, c.name AS col FROM sqlite_master m, pragma_table_info(m.name) c
             WHERE m.type = 'table' AND m.name IN ('schema_migrations', 'tenants', 'agents')"
        }
        Dialect::Postgres => {
            "SELECT table_name::text AS tab, column_name::text AS col FROM information_schema.columns
             WHERE table_schema = current_schema() AND table_name IN ('schema_migrations', 'tenants', 'agents')"
        }
    };
    let rows = tx.query(columns, Vec::new()).await?;
    for row in &rows {
        if row.text("tab")? == "schema_migrations" && row.text("col")? == "checksum" {
            return Ok(true);
        }
    }
    if rows.is_empty() { Ok(false) } else { Err(StoreError::SchemaForeign) }
}

/// The newest applied step, 0 for none. Checks every applied step that this
/// program knows.
pub(crate) async fn version(tx: &mut dyn Tx) -> Result<u32, StoreError> {
    if !has_steps(tx).await? {
        return Ok(0);
    }
    let mut current = 0;
    for row in tx.query("SELECT version, checksum FROM schema_migrations ORDER BY version", Vec::new()).await? {
        current = row.small("version")?;
        let known = MIGRATIONS.iter().find(|m| m.version == current);
        if known.is_some_and(|m| Some(m.checksum()) != row.bytes_opt("checksum").unwrap_or_default()) {
            return Err(StoreError::SchemaMismatch { version: current });
        }
    }
    Ok(current)
}

/// Applies the next step; `None`: nothing is missing.
pub(crate) async fn step_up(tx: &mut dyn Tx, cx: &Context) -> Result<Option<u32>, StoreError> {
    lock(tx).await?;
    let current = version(tx).await?;
    if current > newest() {
        return Err(StoreError::SchemaTooNew { found: current, known: newest() });
    }
    let Some(next) = MIGRATIONS.iter().find(|m| m.version > current) else { return Ok(None) };
    let table = "CREATE TABLE IF NOT EXISTS schema_migrations (version BIGINT NOT NULL PRIMARY KEY,
        name TEXT NOT NULL, checksum BYTEA NOT NULL, applied_ms BIGINT NOT NULL)/*STRICT*/";
    let dialect = tx.dialect();
    tx.script(&render(table, dialect)).await?;
    tx.script(&render(next.up, dialect)).await?;
    tx.execute(
        "INSERT INTO schema_migrations (version, name, checksum, applied_ms) VALUES ($1, $2, $3, $4)",
        params![next.version, next.name, next.checksum().as_slice(), cx.now()],
    )
    .await?;
    tracing::info!(version = next.version, name = next.name, "migrated up");
    Ok(Some(next.version))
}

/// Takes back the newest step; `None`: none is left.
pub(crate) async fn step_down(tx: &mut dyn Tx) -> Result<Option<u32>, StoreError> {
    lock(tx).await?;
    let current = version(tx).await?;
    if current == 0 {
        return Ok(None);
    }
    let Some(last) = MIGRATIONS.iter().find(|m| m.version == current) else {
        return Err(StoreError::SchemaTooNew { found: current, known: newest() });
    };
    let dialect = tx.dialect();
    tx.script(&render(last.down, dialect)).await?;
    tx.execute("DELETE FROM schema_migrations WHERE version = $1", params![current]).await?;
    tracing::info!(version = current, name = last.name, "migrated down");
    Ok(Some(current))
}

/// Refuses a schema that this program does not fit.
pub(crate) async fn check(tx: &mut dyn Tx) -> Result<(), StoreError> {
    let (found, known) = (version(tx).await?, newest());
    match found.cmp(&known) {
        std::cmp::Ordering::Less => Err(StoreError::SchemaTooOld { found, known }),
        std::cmp::Ordering::Greater => Err(StoreError::SchemaTooNew { found, known }),
        std::cmp::Ordering::Equal => Ok(()),
    }
}

pub(crate) async fn ping(tx: &mut dyn Tx) -> Result<(), StoreError> {
    query_one(tx, "SELECT 1 AS one", Vec::new()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbered_without_gaps() {
        for (i, m) in MIGRATIONS.iter().enumerate() {
            assert_eq!(m.version as usize, i + 1);
            assert!(m.name.starts_with(&format!("{:04}_", m.version)));
        }
    }

    #[test]
    fn rendering_leaves_no_mark_of_the_other_engine() {
        for m in MIGRATIONS {
            for sql in [m.up, m.down] {
                let sqlite = render(sql, Dialect::Sqlite);
                assert!(!sqlite.contains("BIGINT") && !sqlite.contains("BYTEA") && !sqlite.contains("IDENTITY"));
                let postgres = render(sql, Dialect::Postgres);
                assert!(!postgres.contains("STRICT") && !postgres.contains("--postgres"));
            }
        }
    }
}

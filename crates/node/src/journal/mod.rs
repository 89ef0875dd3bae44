//! The node's journal: a small SQLite that says before each side effect what
//! will be done, and after it what was.
//!
//! - `assignments`: what should be, as the control plane told it last; written
//!   by the supervisor before it acknowledges
//! - `sandboxes`: what is, one row per agent with a trace on this node;
//!   written by that agent's task alone
//! - `tombstones`: generations of agents that are gone, so that a late
//!   message cannot bring one back
//!
//! Every function that writes is durable when it returns (WAL, synchronous
//! FULL). Channel tokens and disk keys are sealed with the node's key file;
//! an agent's env is never here.
//!
//! Not here: what to do about any of it (`runtime::policy`).

mod row;
mod seal;
#[cfg(test)]
mod tests;

pub use row::{Assigned, DiskRecord, Ends, HeldImage, Outcome, SandboxRow, Secrets, Step};
pub use seal::NodeKey;

use aether_core::{AgentId, NodeId, Rng, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Raised when the tables change; an older journal is upgraded at open.
const SCHEMA: i64 = 1;
/// Tombstones beyond this many are forgotten, oldest first.
const MAX_TOMBSTONES: i64 = 10_000;

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal {path} cannot be opened: {detail}")]
    Open { path: PathBuf, detail: String },
    #[error("the journal was written by a newer version (schema {0}); run that version, or a newer one")]
    TooNew(i64),
    #[error("the node's key {path} {reason}")]
    Key { path: PathBuf, reason: String },
    #[error("the journal row of {agent} is damaged: {reason}")]
    Damaged { agent: String, reason: String },
    #[error("no space left for the journal")]
    NoSpace,
    #[error("the journal failed: {0}")]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for JournalError {
    fn from(e: rusqlite::Error) -> Self {
        match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => JournalError::NoSpace,
            _ => JournalError::Sqlite(e),
        }
    }
}

/// Cheap to clone; all clones are one connection behind a lock.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    connection: parking_lot::Mutex<Connection>,
    key: NodeKey,
    rng: Arc<dyn Rng>,
}

/// What a start finds.
#[derive(Debug, Default)]
pub struct Contents {
    pub assignments: BTreeMap<AgentId, Assigned>,
    pub sandboxes: BTreeMap<AgentId, SandboxRow>,
    /// Rows that could not be read: quarantined, never acted upon.
    pub damaged: Vec<String>,
    /// The slots of such rows: not to be used or swept.
    pub damaged_slots: BTreeSet<u32>,
}

impl Journal {
    /// Opens or makes journal and key.
    pub async fn open(path: PathBuf, key_path: PathBuf, rng: Arc<dyn Rng>) -> Result<Self, JournalError> {
        blocking(move || {
            let key = NodeKey::open_or_create(&key_path, &*rng)?;
            let connection = open_connection(&path)?;
            Ok(Self { shared: Arc::new(Shared { connection: parking_lot::Mutex::new(connection), key, rng }) })
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection, &Shared) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let shared = self.shared.clone();
        blocking(move || work(&mut shared.connection.lock(), &shared)).await
    }

    /// The node's id (the given one, the stored one, or a new one) and the
    /// epoch of this start, which is above all earlier ones.
    pub async fn start(&self, wanted: Option<NodeId>, cell: String) -> Result<(NodeId, u64), JournalError> {
        self.run(move |connection, shared| {
            let tx = connection.transaction()?;
            let get = |key: &str| {
                tx.query_row("SELECT value FROM meta WHERE key = ?1", [key], |r| r.get::<_, String>(0)).optional()
            };
            let stored = get("node_id")?.and_then(|text| text.parse().ok());
            let node_id: NodeId = wanted.or(stored).unwrap_or_else(|| NodeId::generate(&cell, &*shared.rng));
            let epoch = get("epoch")?.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) + 1;
            for (key, value) in [("node_id", node_id.as_str()), ("epoch", &epoch.to_string())] {
                tx.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", [key, value])?;
            }
            tx.commit()?;
            Ok((node_id, epoch))
        })
        .await
    }

    /// Everything, for the start.
    pub async fn load(&self) -> Result<Contents, JournalError> {
        self.run(|connection, shared| {
            let mut contents = Contents::default();
            let mut query = connection.prepare("SELECT agent_id, body FROM assignments")?;
            let rows = query.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
            for row in rows {
                let (agent, body) = row?;
                match serde_json::from_str::<Assigned>(&body) {
                    Ok(assigned) => drop(contents.assignments.insert(assigned.agent_id.clone(), assigned)),
                    Err(e) => contents.damaged.push(format!("assignment of {agent}: {e}")),
                }
            }
            let mut query = connection.prepare("SELECT agent_id, slot, body, secrets FROM sandboxes")?;
            let rows = query.query_map([], |r| {
                let body = (r.get::<_, String>(2)?, r.get::<_, Vec<u8>>(3)?);
                Ok((r.get::<_, String>(0)?, r.get::<_, Option<u32>>(1)?, body))
            })?;
            for row in rows {
                let (agent, slot, (body, secrets)) = row?;
                match SandboxRow::decode(&body, &secrets, &shared.key) {
                    Ok(row) => drop(contents.sandboxes.insert(row.agent_id.clone(), row)),
                    Err(e) => {
                        contents.damaged.push(format!("sandbox of {agent}: {e}"));
                        contents.damaged_slots.extend(slot);
                    }
                }
            }
            Ok(contents)
        })
        .await
    }

    /// Every agent that has a row, readable or not, as the rows name them.
    pub async fn agents(&self) -> Result<BTreeSet<String>, JournalError> {
        self.run(|connection, _| {
            let mut query =
                connection.prepare("SELECT agent_id FROM assignments UNION SELECT agent_id FROM sandboxes")?;
            let names = query.query_map([], |r| r.get::<_, String>(0))?;
            Ok(names.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Writes what should be; all or nothing.
    pub async fn assign(&self, revision: u64, changed: Vec<Assigned>) -> Result<(), JournalError> {
        self.run(move |connection, _| {
            let tx = connection.transaction()?;
            for assigned in &changed {
                let body = serde_json::to_string(assigned).map_err(|e| damaged(&assigned.agent_id, &e))?;
                tx.execute(
                    "INSERT OR REPLACE INTO assignments (agent_id, generation, body) VALUES (?1, ?2, ?3)",
                    params![assigned.agent_id.as_str(), to_i64(assigned.generation), body],
                )?;
            }
            tx.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('revision', ?1)", [revision.to_string()])?;
            tx.commit()?;
            Ok(())
        })
        .await
    }

    /// Writes what an agent's sandbox is or is about to be.
    pub async fn put(&self, row: &SandboxRow) -> Result<(), JournalError> {
        let row = row.clone();
        self.run(move |connection, shared| {
            let (body, secrets) = row.encode(&shared.key, &*shared.rng)?;
            // A unique index on the slot: no two sandboxes ever share one.
            connection.execute(
                "INSERT INTO sandboxes (agent_id, slot, body, secrets) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (agent_id) DO UPDATE SET slot = ?2, body = ?3, secrets = ?4",
                params![row.agent_id.as_str(), row.slot, body, secrets],
            )?;
            Ok(())
        })
        .await
    }

    /// The agent is gone from this node: its rows end, its generation stays.
    pub async fn bury(&self, agent: &AgentId, generation: u64, now: Timestamp) -> Result<(), JournalError> {
        let agent = agent.clone();
        self.run(move |connection, _| {
            let tx = connection.transaction()?;
            // A newer assignment may have come in while the old run was erased.
            tx.execute(
                "DELETE FROM assignments WHERE agent_id = ?1 AND generation <= ?2",
                params![agent.as_str(), to_i64(generation)],
            )?;
            tx.execute("DELETE FROM sandboxes WHERE agent_id = ?1", [agent.as_str()])?;
            tx.execute(
                "INSERT INTO tombstones (agent_id, generation, gone_at_ms) VALUES (?1, ?2, ?3)
                 ON CONFLICT (agent_id) DO UPDATE SET generation = max(generation, ?2), gone_at_ms = ?3",
                params![agent.as_str(), to_i64(generation), to_i64(now.unix_ms())],
            )?;
            tx.execute(
                "DELETE FROM tombstones WHERE agent_id IN
                 (SELECT agent_id FROM tombstones ORDER BY gone_at_ms DESC LIMIT -1 OFFSET ?1)",
                [MAX_TOMBSTONES],
            )?;
            tx.commit()?;
            Ok(())
        })
        .await
    }

    /// Sees to it that a full disk stops no delete: cheap where it need not.
    pub async fn keep_reserve(&self) -> Result<bool, JournalError> {
        self.run(|connection, _| Ok(aether_reserve::keep(connection, aether_reserve::NODE_BYTES)?)).await
    }

    /// The generation at which an agent became gone here, if it did.
    pub async fn tombstone(&self, agent: &AgentId) -> Result<Option<u64>, JournalError> {
        let agent = agent.clone();
        self.run(move |connection, _| {
            let found = connection
                .query_row("SELECT generation FROM tombstones WHERE agent_id = ?1", [agent.as_str()], |r| {
                    r.get::<_, i64>(0)
                })
                .optional()?;
            Ok(found.map(|g| u64::try_from(g).unwrap_or(0)))
        })
        .await
    }
}

fn damaged(agent: &AgentId, e: &serde_json::Error) -> JournalError {
    JournalError::Damaged { agent: agent.to_string(), reason: e.to_string() }
}

/// SQLite's integers are signed; generations never come near the edge.
fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JournalError> + Send + 'static,
) -> Result<T, JournalError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is ending; nobody reads this.
            Err(_) => Err(JournalError::NoSpace),
        },
    }
}

fn open_connection(path: &Path) -> Result<Connection, JournalError> {
    let failed = |e: rusqlite::Error| JournalError::Open { path: path.to_owned(), detail: e.to_string() };
    let mut connection = Connection::open(path).map_err(failed)?;
    // Tokens are sealed, but names and specs are nobody else's either.
    restrict(path)?;
    aether_reserve::leave_the_log(&connection).map_err(failed)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    let pages = aether_reserve::NODE_CHECKPOINT_PAGES;
    connection.pragma_update(None, "wal_autocheckpoint", pages).map_err(failed)?;
    // The key of an erased disk is overwritten, not merely unlinked.
    connection.pragma_update(None, "secure_delete", "ON").map_err(failed)?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
    aether_reserve::begin_the_log(&connection);
    let version: i64 = connection.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(failed)?;
    if version > SCHEMA {
        return Err(JournalError::TooNew(version));
    }
    if version < SCHEMA {
        let tx = connection.transaction().map_err(failed)?;
        tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
             CREATE TABLE IF NOT EXISTS assignments (
               agent_id TEXT PRIMARY KEY, generation INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
             CREATE TABLE IF NOT EXISTS sandboxes (
               agent_id TEXT PRIMARY KEY, slot INTEGER UNIQUE, body TEXT NOT NULL, secrets BLOB NOT NULL) STRICT;
             CREATE TABLE IF NOT EXISTS tombstones (
               agent_id TEXT PRIMARY KEY, generation INTEGER NOT NULL, gone_at_ms INTEGER NOT NULL) STRICT;",
        )
        .map_err(failed)?;
        tx.pragma_update(None, "user_version", SCHEMA).map_err(failed)?;
        tx.commit().map_err(failed)?;
    }
    Ok(connection)
}

fn restrict(path: &Path) -> Result<(), JournalError> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(|e| JournalError::Open { path: path.to_owned(), detail: e.to_string() })
}

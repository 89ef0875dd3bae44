//! What was read, kept in memory for as long as no commit touches the tables
//! it came from: the two rows that every request asks for, its key (with the
//! state of its tenant, its role and its service account) and its agent, and
//! how many agents a list has, which each page tells.
//!
//! It is exact, not merely soon right: the writer raises the versions of the
//! tables that a transaction touched just before it commits (odd: a commit is
//! under way) and just after, ahead of any answer. A kept row is given only
//! while its tables have the versions of before its snapshot. This holds
//! because one process writes the file, which a lock of the server sees to;
//! PostgreSQL has other writers, so nothing is kept there.

use crate::model::{AgentRow, KeyRow};
use parking_lot::Mutex;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tables whose rows are kept.
const TABLES: [&str; 8] =
    ["agents", "agent_names", "api_keys", "agent_labels", "tenants", "roles", "service_accounts", "api_key_secrets"];
/// Bits of [`TABLES`].
const AGENTS: u64 = 0b0000_0011;
/// Not `budgets`, which every agent changes: a change of a key's own is noted
/// in its row.
const KEYS: u64 = 0b1111_0100;
const LISTS: u64 = 0b0000_1001;

/// Rows per shelf, and their bytes in all.
const MOST: usize = 2048;
const MOST_BYTES: usize = 8 << 20;

pub(crate) struct Kept {
    /// Of each table: even, or odd while a commit is under way.
    versions: [AtomicU64; TABLES.len()],
    /// By tenant and what was asked for.
    pub(crate) agents: Shelf<String, AgentRow>,
    /// By hash.
    pub(crate) keys: Shelf<[u8; 32], KeyRow>,
    /// By tenant, filter and reach.
    pub(crate) totals: Shelf<String, u64>,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self {
            versions: Default::default(),
            agents: Shelf::new(AGENTS),
            keys: Shelf::new(KEYS),
            totals: Shelf::new(LISTS),
        }
    }

    /// The sum of the versions: each only rises, so an equal sum means that
    /// all are equal. `None`: a commit is under way.
    pub(crate) fn version<K, V>(&self, shelf: &Shelf<K, V>) -> Option<u64> {
        let mut sum = 0;
        for (bit, version) in self.versions.iter().enumerate() {
            if shelf.tables & (1 << bit) != 0 {
                let version = version.load(Ordering::SeqCst);
                if version % 2 == 1 {
                    return None;
                }
                sum += version;
            }
        }
        Some(sum)
    }

    fn raise(&self, touched: u64) {
        for (bit, version) in self.versions.iter().enumerate() {
            if touched & (1 << bit) != 0 {
                version.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

/// Which kept tables the running transaction has touched; SQLite says so by
/// itself for each row that it inserts, updates or deletes, cascades included.
/// (Not for a `DELETE` without `WHERE`, which no operation has: there is a test.)
pub(super) struct Touched {
    tables: Arc<AtomicU64>,
    kept: Arc<Kept>,
}

impl Touched {
    pub(super) fn watch(connection: &Connection, kept: Arc<Kept>) -> Self {
        let tables = Arc::new(AtomicU64::new(0));
        let seen = tables.clone();
        connection.update_hook(Some(move |_, _: &str, table: &str, _| {
            if let Some(bit) = TABLES.iter().position(|kept| *kept == table) {
                seen.fetch_or(1 << bit, Ordering::Relaxed);
            }
        }));
        Self { tables, kept }
    }

    /// Around `COMMIT`: what is read meanwhile is not kept, and what was kept
    /// before it is not given any more.
    pub(super) fn around<T>(&self, commit: impl FnOnce() -> T) -> T {
        let touched = self.tables.swap(0, Ordering::Relaxed);
        self.kept.raise(touched);
        let result = commit();
        self.kept.raise(touched);
        result
    }
}

/// Kept rows of one kind.
pub(crate) struct Shelf<K, V> {
    tables: u64,
    rows: Mutex<Rows<K, V>>,
}

struct Rows<K, V> {
    by_key: BTreeMap<K, Row<V>>,
    bytes: usize,
}

struct Row<V> {
    version: u64,
    bytes: usize,
    row: Arc<V>,
}

impl<K: Ord, V> Shelf<K, V> {
    fn new(tables: u64) -> Self {
        Self { tables, rows: Mutex::new(Rows { by_key: BTreeMap::new(), bytes: 0 }) }
    }

    pub(crate) fn get(&self, key: &K, version: u64) -> Option<Arc<V>> {
        let rows = self.rows.lock();
        rows.by_key.get(key).filter(|kept| kept.version == version).map(|kept| kept.row.clone())
    }

    /// `version` from before the row was read; `bytes`: about its size.
    pub(crate) fn put(&self, key: K, version: u64, row: Arc<V>, bytes: usize) {
        let mut rows = self.rows.lock();
        if let Some(old) = rows.by_key.remove(&key) {
            rows.bytes -= old.bytes;
        }
        if bytes > MOST_BYTES / 8 {
            return;
        }
        // Begun anew when full: what is asked for is soon there again.
        if rows.by_key.len() >= MOST || rows.bytes + bytes > MOST_BYTES {
            rows.by_key.clear();
            rows.bytes = 0;
        }
        rows.bytes += bytes;
        rows.by_key.insert(key, Row { version, bytes, row });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::StoreError;
    use crate::model::AgentFilter;
    use crate::ops::{agents, keys, listing};
    use crate::sqlite::memory;
    use crate::tx::{OpFuture, Tx};
    use aether_core::source::OsRng;
    use aether_core::{TenantId, TenantScope};
    use futures::FutureExt;
    use rusqlite::hooks::{AuthAction, Authorization};
    use std::collections::BTreeSet;

    fn row(of: &str) -> Arc<String> {
        Arc::new(of.to_owned())
    }

    #[test]
    fn a_row_is_given_until_its_tables_are_written_to() {
        let kept = Kept::new();
        let shelf: Shelf<u8, String> = Shelf::new(AGENTS);
        let before = kept.version(&shelf).expect("no commit");
        shelf.put(1, before, row("a"), 10);
        assert_eq!(shelf.get(&1, before), Some(row("a")));
        kept.raise(KEYS);
        kept.raise(KEYS);
        assert_eq!(kept.version(&shelf), Some(before), "another table's commit");
        kept.raise(AGENTS);
        assert_eq!(kept.version(&shelf), None, "a commit is under way");
        kept.raise(AGENTS);
        let after = kept.version(&shelf).expect("no commit");
        assert_eq!(shelf.get(&1, after), None);
    }

    #[test]
    fn a_shelf_is_bounded_in_rows_and_bytes() {
        let shelf: Shelf<usize, String> = Shelf::new(AGENTS);
        for n in 0..3 * MOST {
            shelf.put(n, 0, row("a"), 100);
            shelf.put(n, 0, row("b"), 100);
        }
        let rows = shelf.rows.lock();
        assert!(rows.by_key.len() <= MOST && rows.bytes == rows.by_key.len() * 100, "{}", rows.bytes);
        drop(rows);
        shelf.put(0, 0, row("large"), MOST_BYTES / 8 + 1);
        assert_eq!(shelf.get(&0, 0), None);
        for n in 0..100 {
            shelf.put(n, 0, row("middling"), MOST_BYTES / 10);
        }
        assert!(shelf.rows.lock().bytes <= MOST_BYTES);
    }

    /// The tables that an operation reads, as SQLite's compiler says.
    fn tables_read<P>(
        params: &P,
        op: impl for<'a> Fn(&'a mut dyn Tx, &'a P) -> OpFuture<'a, bool>,
    ) -> BTreeSet<String> {
        let mut connection = memory::migrated(&memory::context());
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let sink = seen.clone();
        connection.authorizer(Some(move |asked: rusqlite::hooks::AuthContext<'_>| {
            if let AuthAction::Read { table_name, .. } = asked.action {
                sink.lock().insert(table_name.to_owned());
            }
            Authorization::Allow
        }));
        let found: Result<bool, StoreError> =
            op(&mut memory::tx(&mut connection), params).now_or_never().expect("never waits");
        assert_eq!(found, Ok(false), "the store is empty");
        seen.lock().clone()
    }

    fn named(tables: u64) -> BTreeSet<String> {
        TABLES
            .iter()
            .enumerate()
            .filter(|(bit, _)| tables & (1 << bit) != 0)
            .map(|(_, name)| (*name).to_owned())
            .collect()
    }

    /// An operation that reads one table more would give old rows for ever.
    #[test]
    fn kept_rows_come_from_the_named_tables_alone() {
        let scope = TenantScope::system(TenantId::default_tenant(), "test");
        let id = aether_core::AgentId::generate(aether_core::id::DEFAULT_CELL, &OsRng);
        let find = |text: &str| {
            tables_read(&(scope.clone(), text.to_owned()), |tx, (scope, text)| {
                Box::pin(agents::find(tx, scope, text).map(|found| found.map(|row| row.is_some())))
            })
        };
        assert_eq!(find("a"), named(AGENTS));
        assert!(find(id.as_str()).is_subset(&named(AGENTS)), "{:?}", find(id.as_str()));
        let by_hash = tables_read(&[1; 32], |tx, hash| {
            Box::pin(keys::find_by_hash(tx, hash).map(|found| found.map(|row| row.is_some())))
        });
        assert_eq!(by_hash, named(KEYS));
        let pairs = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let images = vec!["i".to_owned()];
        let filter = AgentFilter { labels: pairs.clone(), metadata: pairs, images, ..AgentFilter::default() };
        let counted = tables_read(&(scope, filter), |tx, (scope, filter)| {
            Box::pin(listing::total(tx, scope, filter).map(|total| total.map(|n| n > 0)))
        });
        assert_eq!(counted, named(LISTS));
    }

    /// What the update hook does not tell of: a table emptied at once, rows
    /// that a conflict replaces, tables without row ids.
    #[test]
    fn no_operation_changes_a_kept_table_behind_the_hook() {
        let mut connection = memory::migrated(&memory::context());
        let touched = Touched::watch(&connection, Arc::new(Kept::new()));
        let schema = connection.query_row("SELECT group_concat(sql) FROM sqlite_schema", [], |r| r.get::<_, String>(0));
        assert!(!schema.expect("a schema").to_uppercase().contains("WITHOUT ROWID"));
        for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops")).expect("lists") {
            let path = file.expect("a file").path();
            if path.is_dir() {
                continue;
            }
            let text = std::fs::read_to_string(path).expect("reads");
            let words: Vec<&str> = text.split_whitespace().collect();
            assert!(!words.windows(2).any(|pair| pair == ["OR", "REPLACE"] || pair == ["REPLACE", "INTO"]));
            for at in words.windows(3).enumerate().filter(|(_, w)| w[0].ends_with("DELETE") && w[1] == "FROM") {
                assert_eq!(words.get(at.0 + 3), Some(&"WHERE"), "{:?}", at.1);
            }
        }
        // And the hook does tell of what operations do.
        let tx = connection.transaction().expect("begins");
        tx.execute("INSERT INTO tenants (id, name, created_ms) VALUES ('t', 't', 0)", []).expect("inserts");
        assert_eq!(touched.tables.swap(0, Ordering::Relaxed), 0b10000);
        let insert = "INSERT INTO api_keys (id, tenant_id, name, hash, prefix, role, created_ms)
                      VALUES ('k', 't', 'n', x'00', 'p', 'admin', 0)";
        tx.execute(insert, []).expect("inserts");
        assert_eq!(touched.tables.swap(0, Ordering::Relaxed), 0b00100);
        tx.execute("DELETE FROM api_keys WHERE id = 'k'", []).expect("deletes");
        assert_eq!(touched.tables.load(Ordering::Relaxed), 0b00100);
    }
}

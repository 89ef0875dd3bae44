//! What is left to work with when a disk is full.
//!
//! Two lines of defence. Below the low water mark ([`Space::above_low_water`])
//! nothing new is begun that takes room. What guests and other programs take
//! all the same does not stop a delete: each database keeps free pages in its
//! file and a log that was written at full length once ([`keep`]), both of
//! which SQLite uses before it asks the file system for anything.
//!
//! Not here: who begins what, and what is removed when space is short.

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::path::Path;

/// Room of a database for what a full disk must not stop: some thousand
/// changes of a row.
pub const STORE_BYTES: u64 = 6 << 20;
/// As above, for a database of one node.
pub const NODE_BYTES: u64 = 1 << 20;
/// Pages of a log after which a database with `NODE_BYTES` writes it back:
/// well within them.
pub const NODE_CHECKPOINT_PAGES: u32 = 200;

/// https://www.sqlite.org/fileformat2.html#walformat
const LOG_HEADER: usize = 32;
/// Not made where it would take more than this part of what is free.
const PART_OF_FREE: u64 = 8;

/// Space of the file system that holds a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total_mb: u64,
    pub free_mb: u64,
}

/// How much of a disk is kept free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// Of the filesystem's size.
    pub percent: u64,
    /// At most this, however large the filesystem is.
    pub max_mb: u64,
}

impl Default for Reserve {
    fn default() -> Self {
        Self { percent: 5, max_mb: 10_240 }
    }
}

impl Space {
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let stat = rustix::fs::statvfs(path)?;
        let mb = |blocks: u64| blocks.saturating_mul(stat.f_frsize) >> 20;
        Ok(Self { total_mb: mb(stat.f_blocks), free_mb: mb(stat.f_bavail) })
    }

    /// What is kept free on a disk of this size.
    pub fn reserve_mb(&self, reserve: Reserve) -> u64 {
        (self.total_mb.saturating_mul(reserve.percent) / 100).min(reserve.max_mb)
    }

    /// Whether what takes room may be begun.
    pub fn above_low_water(&self, reserve: Reserve) -> bool {
        self.free_mb > self.reserve_mb(reserve)
    }
}

/// Lets the log be when the last connection goes: what [`keep`] made is there
/// for the next start, whatever came to lie on the disk meanwhile. For each
/// connection to the file, when it is opened. The next one to open it reads
/// the log, as after a crash.
pub fn leave_the_log(db: &Connection) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(|_| ())
}

/// What an earlier process left in the log goes into the file, so that the log
/// begins anew in its room: left as it is, the first write comes after it, and
/// may need a block. For the first connection to the file. Where it fails the
/// first write will say why.
pub fn begin_the_log(db: &Connection) {
    let _ = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
}

/// At a clean end: all of the log goes into the file, and its header is
/// cleared, so that nothing of it is read again. Whoever puts an older copy in
/// the file's place would else find it changed by the log that lies beside it.
/// The log's room stays. False: somebody still reads or the header cannot be
/// written, and the log is left whole.
pub fn end_the_log(db: &Connection) -> rusqlite::Result<bool> {
    let row = |r: &rusqlite::Row<'_>| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?, r.get::<_, i64>(2)?));
    let (busy, frames, done) = db.query_row("PRAGMA wal_checkpoint(RESTART)", [], row)?;
    let Some(path) = db.path().filter(|_| busy == 0 && frames == done) else { return Ok(false) };
    // A header without its magic number is that of an empty log.
    let cleared = std::fs::OpenOptions::new().write(true).open(format!("{path}-wal")).and_then(|log| {
        std::os::unix::fs::FileExt::write_all_at(&log, &[0; LOG_HEADER], 0)?;
        log.sync_data()
    });
    Ok(cleared.is_ok())
}

/// Sees to it that a database in WAL mode can write about `bytes` with no free
/// block on its disk. Cheap where that is so; else it writes them a few times.
/// True: it had to. Nothing is made where the disk is nearly full.
///
/// The log keeps its length only where `journal_size_limit` allows it.
pub fn keep(db: &Connection, bytes: u64) -> rusqlite::Result<bool> {
    let pragma = |name: &str| db.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, i64>(0));
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    let free = number(pragma("freelist_count")?) * number(pragma("page_size")?);
    let Some(path) = db.path().map(str::to_owned) else { return Ok(false) };
    let log = std::fs::metadata(format!("{path}-wal")).map_or(0, |m| m.len());
    // Not at each page that is used: making it costs some milliseconds.
    if free >= bytes / 2 && log >= bytes / 2 {
        return Ok(false);
    }
    let left_mb = Space::of(Path::new(&path)).map_or(0, |space| space.free_mb);
    if left_mb << 20 < bytes * PART_OF_FREE {
        return Ok(false);
    }
    // Two transactions: pages that are freed in the one that filled them are
    // never written. Random, so that no file system makes holes of them.
    let made = db
        .execute_batch(&format!(
            "BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS reserve_filler (bytes BLOB) STRICT;
             INSERT INTO reserve_filler VALUES (randomblob({bytes})); COMMIT"
        ))
        .and_then(|()| db.execute_batch("BEGIN IMMEDIATE; DROP TABLE reserve_filler; COMMIT"));
    if made.is_err() && !db.is_autocommit() {
        // The error that is answered says more than this one could.
        let _ = db.execute_batch("ROLLBACK");
    }
    made?;
    // Into the file, as far as readers let it; and out of the cache, whose pages nobody will ask for.
    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
    db.execute_batch("PRAGMA shrink_memory")?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn small_disks_keep_a_small_reserve() {
        let reserve = Reserve::default();
        let small = Space { total_mb: 1000, free_mb: 51 };
        assert!(small.above_low_water(reserve));
        assert!(!Space { free_mb: 50, ..small }.above_low_water(reserve));
        let large = Space { total_mb: 1 << 24, free_mb: 10_241 };
        assert!(large.above_low_water(reserve));
        assert!(!Space { free_mb: 10_240, ..large }.above_low_water(reserve));
    }

    /// Blocks that file and log hold.
    fn blocks(path: &Path) -> u64 {
        let of = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.blocks());
        of(path) + of(&path.with_extension("db-wal"))
    }

    #[test]
    fn writes_need_no_new_block_once_it_is_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("some.db");
        let db = Connection::open(&path).expect("opens");
        db.pragma_update(None, "journal_mode", "WAL").expect("WAL");
        db.pragma_update(None, "wal_autocheckpoint", NODE_CHECKPOINT_PAGES).expect("sets");
        db.execute_batch("CREATE TABLE t (x BLOB) STRICT").expect("creates");
        assert!(keep(&db, NODE_BYTES).expect("makes it"));
        assert!(!keep(&db, NODE_BYTES).expect("looks"), "once");
        let before = blocks(&path);
        for _ in 0..400 {
            db.execute("INSERT INTO t VALUES (randomblob(1500))", []).expect("writes");
        }
        assert_eq!(blocks(&path), before, "600 kB of rows took blocks");
        assert!(keep(&db, NODE_BYTES).expect("makes it again"), "most of it was used");
        let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_master", [], |r| r.get(0)).expect("counts");
        assert_eq!(tables, 1, "nothing of it is seen");
        // What fills the log to its end, and is left there.
        let held = blocks(&path);
        leave_the_log(&db).expect("sets");
        drop(db);
        let db = Connection::open(&path).expect("opens again");
        db.pragma_update(None, "wal_autocheckpoint", NODE_CHECKPOINT_PAGES).expect("sets");
        begin_the_log(&db);
        assert!(!keep(&db, NODE_BYTES).expect("looks"), "the log was left");
        for _ in 0..400 {
            db.execute("INSERT INTO t VALUES (randomblob(1500))", []).expect("writes");
        }
        assert_eq!(blocks(&path), held);
        assert_eq!(db.query_row("SELECT count(*) FROM t", [], |r| r.get(0)), Ok(800));
        // One that was ended says nothing to an older copy of the file, and keeps its room.
        let older = dir.path().join("older");
        db.execute("VACUUM INTO ?1", [older.to_string_lossy()]).expect("copies");
        db.execute("DELETE FROM t", []).expect("writes");
        assert!(end_the_log(&db).expect("ends"));
        let log = std::fs::metadata(path.with_extension("db-wal")).expect("it is there").len();
        leave_the_log(&db).expect("sets");
        drop(db);
        std::fs::copy(&older, &path).expect("restores");
        let db = Connection::open(&path).expect("opens again");
        assert_eq!(db.query_row("SELECT count(*) FROM t", [], |r| r.get(0)), Ok(800));
        assert_eq!(db.query_row("PRAGMA integrity_check", [], |r| r.get::<_, String>(0)), Ok("ok".to_owned()));
        assert_eq!(std::fs::metadata(path.with_extension("db-wal")).expect("it is there").len(), log);
        // One that went with its last connection is made anew.
        drop(db);
        let db = Connection::open(&path).expect("opens again");
        assert!(keep(&db, NODE_BYTES).expect("makes the log"));
    }
}

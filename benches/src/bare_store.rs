//! The rows of one create, made bare: the same tables, the same rows, the
//! same durability, through rusqlite; and as a script for pgbench.

use crate::Setup;
use anyhow::{Context, ensure};
use rusqlite::{Connection, params};
use std::path::Path;
use std::process::Command;

/// What a real create leaves behind, to be written again under other names.
pub(crate) struct Template {
    spec: String,
    env_names: String,
    image: String,
    recovery: String,
    event: String,
    audit: String,
}

/// A database with our schema and nothing around it.
pub(crate) struct BareStore {
    connection: Connection,
    template: Template,
    made: u64,
}

/// As the store itself opens its file.
const PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
    PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = 67108864;";

const INSERT_AGENT: &str = "INSERT INTO agents (id, tenant_id, name, spec, env_names, desired, observed, version,
    generation, assigned, restarts, unhealthy, created_ms, updated_ms, stop_force, image, recovery)
    VALUES (?1, 'default', ?2, ?3, ?4, 'running', 'pending', 1, 1, 0, 0, 0, ?5, ?5, 0, ?6, ?7) ON CONFLICT DO NOTHING";

impl BareStore {
    /// In `dir`, with what the server's database shows of its agent `id`.
    pub(crate) fn make(setup: &Setup, dir: &Path, server_db: &Path, id: &str) -> anyhow::Result<Self> {
        std::fs::create_dir(dir)?;
        let output = Command::new(&setup.aether)
            .args(["migrate", "--state-dir"])
            .arg(dir)
            .arg("--run-dir")
            .arg(dir.join("run"))
            .arg("up")
            .output()?;
        ensure!(output.status.success(), "migrate: {}", String::from_utf8_lossy(&output.stderr));
        let connection = Connection::open(dir.join("aether.db"))?;
        connection.execute_batch(PRAGMAS)?;
        connection.set_prepared_statement_cache_capacity(32);
        let template = Template::read(server_db, id)?;
        Ok(Self { connection, template, made: 0 })
    }

    /// One create per transaction, or several.
    pub(crate) fn create(&mut self, rows: u32) -> anyhow::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        for _ in 0..rows {
            self.made += 1;
            self.one(self.made)?;
        }
        self.connection.execute_batch("COMMIT")?;
        Ok(())
    }

    fn one(&self, n: u64) -> anyhow::Result<()> {
        let (id, name, at) = (format!("agtc{n:017}"), format!("bare-agent-{n}"), 1_800_000_000_000_i64);
        let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| -> anyhow::Result<()> {
            let rows = self.connection.prepare_cached(sql)?.execute(values)?;
            ensure!(rows == 1, "{rows} rows instead of one");
            Ok(())
        };
        run(
            "INSERT INTO idempotency_keys (tenant_id, key, kind, request_hash, resource_id, created_ms)
             VALUES ('default', ?1, 'agent', ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            params![format!("key-{n}"), [7_u8; 32].as_slice(), id, at],
        )?;
        let Template { spec, env_names, image, recovery, .. } = &self.template;
        run(INSERT_AGENT, params![id, name, spec, env_names, at, image, recovery])?;
        run(
            "INSERT INTO agent_names (tenant_id, name, agent_id) VALUES ('default', ?1, ?2) ON CONFLICT DO NOTHING",
            params![name, id],
        )?;
        run(
            "INSERT INTO events (at_ms, tenant_id, kind, agent_id, version, generation, desired, observed, data)
             VALUES (?1, 'default', 'agent.created', ?2, 1, 1, 'running', 'pending', ?3)",
            params![at, id, self.template.event],
        )?;
        run(
            "INSERT INTO audit_logs (at_ms, tenant_id, actor, action, resource, resource_id, result, address, details)
             VALUES (?1, 'default', 'key:bench', 'create', 'agent', ?2, 'success', '127.0.0.1', ?3)",
            params![at, id, self.template.audit],
        )
    }

    /// After reopening: what is there must be what was made.
    pub(crate) fn check(self, dir: &Path) -> anyhow::Result<()> {
        drop(self.connection);
        let again = Connection::open(dir.join("aether.db"))?;
        for table in ["agents", "agent_names", "events", "audit_logs", "idempotency_keys"] {
            let rows: u64 = again.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0))?;
            ensure!(rows == self.made, "{rows} rows in {table} instead of {}", self.made);
        }
        Ok(())
    }
}

impl Template {
    pub(crate) fn read(server_db: &Path, id: &str) -> anyhow::Result<Self> {
        let theirs = Connection::open(server_db)?;
        let text = |sql: &str| {
            theirs.query_row(sql, [id], |row| row.get::<_, String>(0)).with_context(|| format!("nothing by {sql}"))
        };
        Ok(Self {
            spec: text("SELECT spec FROM agents WHERE id = ?1")?,
            env_names: text("SELECT env_names FROM agents WHERE id = ?1")?,
            image: text("SELECT image FROM agents WHERE id = ?1")?,
            recovery: text("SELECT recovery FROM agents WHERE id = ?1")?,
            event: text("SELECT data FROM events WHERE agent_id = ?1 AND kind = 'agent.created'")?,
            audit: text("SELECT details FROM audit_logs WHERE resource_id = ?1 AND action = 'create'")?,
        })
    }

    /// The same rows for `pgbench -f`, under random names.
    pub(crate) fn pgbench(&self) -> String {
        // pgbench would take a colon for the start of a variable.
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''").replace(':', "'||chr(58)||'"));
        let (spec, event, audit) = (quoted(&self.spec), quoted(&self.event), quoted(&self.audit));
        let (names, image, recovery) = (quoted(&self.env_names), quoted(&self.image), quoted(&self.recovery));
        format!(
            "\\set n random(1, 9000000000000000)\n\
             BEGIN;\n\
             INSERT INTO idempotency_keys (tenant_id, key, kind, request_hash, resource_id, created_ms) VALUES \
             ('default', 'key-' || :n, 'agent', decode(repeat('07', 32), 'hex'), 'agtc' || :n, 1800000000000) ON CONFLICT DO NOTHING;\n\
             INSERT INTO agents (id, tenant_id, name, spec, env_names, desired, observed, version, generation, assigned, \
             restarts, unhealthy, created_ms, updated_ms, stop_force, image, recovery) VALUES ('agtc' || :n, 'default', \
             'bare-agent-' || :n, {spec}, {names}, 'running', 'pending', 1, 1, 0, 0, 0, 1800000000000, 1800000000000, 0, \
             {image}, {recovery}) ON CONFLICT DO NOTHING;\n\
             INSERT INTO agent_names (tenant_id, name, agent_id) VALUES ('default', 'bare-agent-' || :n, 'agtc' || :n) \
             ON CONFLICT DO NOTHING;\n\
             INSERT INTO events (at_ms, tenant_id, kind, agent_id, version, generation, desired, observed, data) VALUES \
             (1800000000000, 'default', 'agent.created', 'agtc' || :n, 1, 1, 'running', 'pending', {event});\n\
             INSERT INTO audit_logs (at_ms, tenant_id, actor, action, resource, resource_id, result, address, details) VALUES \
             (1800000000000, 'default', 'key', 'create', 'agent', 'agtc' || :n, 'success', '127.0.0.1', {audit});\n\
             COMMIT;\n"
        )
    }
}

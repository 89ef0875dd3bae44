//! The catalogue: what is here, what it is called, and who uses it.
//!
//! One SQLite file in the images' folder. A row in `images` is written only
//! after its device is in place and synced, so what the catalogue says is
//! there is there, whenever the process dies. Files without a row are
//! leftovers and may be removed.

use super::record::{ImageConfig, ImageRecord};
use super::{ImageError, manifest::Resolved};
use aether_core::{AgentId, TenantId, Timestamp};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SCHEMA: &str = "
CREATE TABLE devices (
  key TEXT PRIMARY KEY,
  size_bytes INTEGER NOT NULL,
  converter TEXT NOT NULL,
  diff_ids TEXT NOT NULL
) STRICT;
CREATE TABLE images (
  digest TEXT PRIMARY KEY,
  device TEXT NOT NULL REFERENCES devices(key),
  os TEXT NOT NULL,
  architecture TEXT NOT NULL,
  config TEXT NOT NULL,
  layers TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  unused_since_ms INTEGER
) STRICT;
CREATE TABLE names (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  digest TEXT NOT NULL REFERENCES images(digest),
  PRIMARY KEY (tenant, name)
) STRICT;
CREATE INDEX names_by_digest ON names(digest);
CREATE TABLE holds (
  digest TEXT NOT NULL REFERENCES images(digest),
  agent TEXT NOT NULL,
  tenant TEXT NOT NULL,
  PRIMARY KEY (digest, agent)
) STRICT;
";
const SCHEMA_VERSION: i64 = 1;

pub(super) const UNUSED: &str = "NOT EXISTS (SELECT 1 FROM names n WHERE n.digest = images.digest)
  AND NOT EXISTS (SELECT 1 FROM holds h WHERE h.digest = images.digest)";

/// A finished device, by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceRow {
    pub key: String,
    pub size_bytes: u64,
    pub converter: String,
    pub diff_ids: Vec<String>,
}

/// Calls are short and block: from async code, through `spawn_blocking`.
pub(super) struct Catalogue {
    db: Mutex<Connection>,
    devices: PathBuf,
}

impl Catalogue {
    pub(super) fn open(file: &Path, devices: PathBuf) -> Result<Self, ImageError> {
        let db = Connection::open(file)?;
        db.busy_timeout(Duration::from_secs(10))?;
        aether_reserve::leave_the_log(&db)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.pragma_update(None, "foreign_keys", "ON")?;
        db.pragma_update(None, "wal_autocheckpoint", aether_reserve::NODE_CHECKPOINT_PAGES)?;
        aether_reserve::begin_the_log(&db);
        let version: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0))?;
        match version {
            0 => db.execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"))?,
            SCHEMA_VERSION => {}
            other => {
                return Err(ImageError::Catalogue(format!(
                    "it has schema version {other}; this program knows {SCHEMA_VERSION}"
                )));
            }
        }
        Ok(Self { db: Mutex::new(db), devices })
    }

    pub(super) fn write<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T, ImageError>) -> Result<T, ImageError> {
        let mut db = self.db.lock();
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let out = f(&tx)?;
        tx.commit()?;
        Ok(out)
    }

    /// Sees to it that a full disk stops no release and no removal.
    pub(super) fn keep_reserve(&self) -> Result<bool, ImageError> {
        Ok(aether_reserve::keep(&self.db.lock(), aether_reserve::NODE_BYTES)?)
    }

    pub(super) fn device(&self, key: &str) -> Result<Option<DeviceRow>, ImageError> {
        let row = self
            .db
            .lock()
            .query_row("SELECT size_bytes, converter, diff_ids FROM devices WHERE key = ?1", [key], |r| {
                Ok((r.get::<_, u64>(0)?, r.get::<_, String>(1)?, r.get::<_, String>(2)?))
            })
            .optional()?;
        row.map(|(size_bytes, converter, diff_ids)| {
            Ok(DeviceRow { key: key.to_owned(), size_bytes, converter, diff_ids: from_json(&diff_ids)? })
        })
        .transpose()
    }

    pub(super) fn add_device(&self, row: &DeviceRow) -> Result<(), ImageError> {
        self.db.lock().execute(
            "INSERT INTO devices (key, size_bytes, converter, diff_ids) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (key) DO UPDATE SET size_bytes = ?2, converter = ?3, diff_ids = ?4",
            params![row.key, row.size_bytes, row.converter, to_json(&row.diff_ids)],
        )?;
        Ok(())
    }

    /// Records the image and gives it to the tenant under these names; an
    /// existing name moves. Without a name it is known by its digest.
    pub(super) fn add_image(
        &self,
        tenant: &TenantId,
        names: &[String],
        image: &Resolved,
        device: &str,
        now: Timestamp,
    ) -> Result<ImageRecord, ImageError> {
        self.write(|tx| {
            tx.execute(
                "INSERT INTO images (digest, device, os, architecture, config, layers, created_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (digest) DO UPDATE SET device = ?2, unused_since_ms = NULL",
                params![
                    image.digest,
                    device,
                    image.os,
                    image.architecture,
                    image.config.to_string(),
                    to_json(&image.layer_digests()),
                    now.unix_ms()
                ],
            )?;
            let by_digest = [image.digest.clone()];
            for name in if names.is_empty() { &by_digest } else { names } {
                let old: Option<String> = tx
                    .query_row(
                        "SELECT digest FROM names WHERE tenant = ?1 AND name = ?2",
                        [tenant.as_str(), name],
                        |r| r.get(0),
                    )
                    .optional()?;
                tx.execute(
                    "INSERT INTO names (tenant, name, digest) VALUES (?1, ?2, ?3)
                     ON CONFLICT (tenant, name) DO UPDATE SET digest = ?3",
                    params![tenant.as_str(), name, image.digest],
                )?;
                if let Some(old) = old {
                    mark_if_unused(tx, &old, now)?;
                }
            }
            Ok(())
        })?;
        self.by_digest(tenant, &image.digest)?.ok_or_else(|| ImageError::Catalogue("an image vanished".into()))
    }

    /// The digest a tenant's name stands for; a digest stands for itself if
    /// the tenant may see it.
    pub(super) fn find(&self, tenant: &TenantId, name: &str) -> Result<Option<String>, ImageError> {
        let db = self.db.lock();
        if aether_core::image::is_digest(name) {
            return visible(&db, tenant, name).map(|yes| yes.then(|| name.to_owned()));
        }
        let found =
            db.query_row("SELECT digest FROM names WHERE tenant = ?1 AND name = ?2", [tenant.as_str(), name], |r| {
                r.get(0)
            });
        Ok(found.optional()?)
    }

    pub(super) fn by_digest(&self, tenant: &TenantId, digest: &str) -> Result<Option<ImageRecord>, ImageError> {
        let db = self.db.lock();
        let row = db
            .query_row(
                "SELECT i.device, d.size_bytes, d.converter, i.os, i.architecture, i.config, i.layers, i.created_ms
                 FROM images i JOIN devices d ON d.key = i.device WHERE i.digest = ?1",
                [digest],
                |r| {
                    Ok((
                        r.get::<_, String>(0)?,
                        r.get::<_, u64>(1)?,
                        r.get::<_, String>(2)?,
                        r.get::<_, String>(3)?,
                        r.get::<_, String>(4)?,
                        r.get::<_, String>(5)?,
                        r.get::<_, String>(6)?,
                        r.get::<_, u64>(7)?,
                    ))
                },
            )
            .optional()?;
        let Some((device, size_bytes, converter, os, architecture, config, layers, created_ms)) = row else {
            return Ok(None);
        };
        let mut names = db.prepare_cached("SELECT name FROM names WHERE tenant = ?1 AND digest = ?2 ORDER BY name")?;
        let names = names
            .query_map([tenant.as_str(), digest], |r| r.get::<_, String>(0))?
            .filter(|n| !matches!(n, Ok(n) if aether_core::image::is_digest(n)))
            .collect::<Result<Vec<_>, _>>()?;
        let config_json: serde_json::Value = from_json(&config)?;
        Ok(Some(ImageRecord {
            digest: digest.to_owned(),
            names,
            state: "ready".to_owned(),
            device: self.devices.join(&device),
            size_bytes,
            created_at: Timestamp::from_unix_ms(created_ms),
            os,
            architecture,
            config: serde_json::from_value::<ImageConfig>(config_json.clone()).unwrap_or_default(),
            config_json,
            layers: from_json(&layers)?,
            converter,
            agents: agents_of(&db, tenant, digest)?,
        }))
    }

    /// The digests that the tenant has a name for.
    pub(super) fn digests_of(&self, tenant: &TenantId) -> Result<Vec<String>, ImageError> {
        let db = self.db.lock();
        let mut query = db.prepare_cached("SELECT DISTINCT digest FROM names WHERE tenant = ?1 ORDER BY digest")?;
        let rows = query.query_map([tenant.as_str()], |r| r.get(0))?.collect::<Result<Vec<_>, _>>()?;
        Ok(rows)
    }

    /// Takes one name away, or by digest all of the tenant's names for it.
    /// False when there is none.
    pub(super) fn remove(&self, tenant: &TenantId, name: &str, now: Timestamp) -> Result<bool, ImageError> {
        let Some(digest) = self.find(tenant, name)? else { return Ok(false) };
        self.write(|tx| {
            let whole = aether_core::image::is_digest(name);
            let removed = match whole {
                true => {
                    tx.execute("DELETE FROM names WHERE tenant = ?1 AND digest = ?2", [tenant.as_str(), &digest])?
                }
                false => tx.execute(
                    "DELETE FROM names WHERE tenant = ?1 AND name = ?2 AND digest = ?3",
                    [tenant.as_str(), name, &digest],
                )?,
            };
            let left: u32 = tx.query_row(
                "SELECT count(*) FROM names WHERE tenant = ?1 AND digest = ?2",
                [tenant.as_str(), &digest],
                |r| r.get(0),
            )?;
            let agents = agents_of(tx, tenant, &digest)?;
            if left == 0 && agents > 0 {
                // Returning an error rolls the deletion back.
                return Err(ImageError::InUse { image: name.to_owned(), agents });
            }
            mark_if_unused(tx, &digest, now)?;
            Ok(removed > 0)
        })
    }

    /// The device of the image that the agent holds from now on.
    pub(super) fn hold(&self, tenant: &TenantId, digest: &str, agent: &AgentId) -> Result<PathBuf, ImageError> {
        self.write(|tx| {
            if !visible(tx, tenant, digest)? {
                return Err(ImageError::NotFound(digest.to_owned()));
            }
            tx.execute(
                "INSERT INTO holds (digest, agent, tenant) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                [digest, agent.as_str(), tenant.as_str()],
            )?;
            tx.execute("UPDATE images SET unused_since_ms = NULL WHERE digest = ?1", [digest])?;
            let device: String = tx.query_row("SELECT device FROM images WHERE digest = ?1", [digest], |r| r.get(0))?;
            Ok(self.devices.join(device))
        })
    }

    pub(super) fn release(&self, digest: &str, agent: &AgentId, now: Timestamp) -> Result<(), ImageError> {
        self.write(|tx| {
            tx.execute("DELETE FROM holds WHERE digest = ?1 AND agent = ?2", [digest, agent.as_str()])?;
            mark_if_unused(tx, digest, now)
        })
    }

    /// Drops the holds of agents that are not in the list.
    pub(super) fn retain_holds(&self, agents: &BTreeSet<AgentId>, now: Timestamp) -> Result<u32, ImageError> {
        self.write(|tx| {
            let mut query = tx.prepare("SELECT digest, agent FROM holds")?;
            let all = query
                .query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?
                .collect::<Result<Vec<_>, _>>()?;
            let mut dropped = 0;
            for (digest, agent) in all {
                if !agents.iter().any(|a| a.as_str() == agent) {
                    tx.execute("DELETE FROM holds WHERE digest = ?1 AND agent = ?2", [&digest, &agent])?;
                    mark_if_unused(tx, &digest, now)?;
                    dropped += 1;
                }
            }
            Ok(dropped)
        })
    }

    /// Forgets images that have been without name and hold for the grace.
    pub(super) fn forget_unused(&self, now: Timestamp, grace: Duration) -> Result<u32, ImageError> {
        let limit = now.unix_ms().saturating_sub(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        self.write(|tx| {
            tx.execute(
                &format!("UPDATE images SET unused_since_ms = ?1 WHERE unused_since_ms IS NULL AND {UNUSED}"),
                [now.unix_ms()],
            )?;
            let forgotten =
                tx.execute(&format!("DELETE FROM images WHERE unused_since_ms <= ?1 AND {UNUSED}"), [limit])?;
            Ok(forgotten as u32)
        })
    }

    /// Devices that no image has.
    pub(super) fn spare_devices(&self) -> Result<Vec<String>, ImageError> {
        let db = self.db.lock();
        let mut query = db.prepare("SELECT key FROM devices WHERE key NOT IN (SELECT device FROM images)")?;
        let keys = query.query_map([], |r| r.get(0))?.collect::<Result<Vec<_>, _>>()?;
        Ok(keys)
    }

    /// Its file is for the caller to remove.
    pub(super) fn forget_device(&self, key: &str) -> Result<(), ImageError> {
        let sql = "DELETE FROM devices WHERE key = ?1 AND key NOT IN (SELECT device FROM images)";
        self.db.lock().execute(sql, [key])?;
        Ok(())
    }

    /// Forgets images whose device is not in place any more; their digests.
    pub(super) fn forget_missing(&self) -> Result<Vec<String>, ImageError> {
        self.write(|tx| {
            let mut query = tx.prepare("SELECT key, size_bytes FROM devices")?;
            let all = query
                .query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, u64>(1)?)))?
                .collect::<Result<Vec<_>, _>>()?;
            let mut lost = Vec::new();
            for (key, size) in all {
                if std::fs::metadata(self.devices.join(&key)).is_ok_and(|m| m.len() == size) {
                    continue;
                }
                let mut query = tx.prepare("SELECT digest FROM images WHERE device = ?1")?;
                let digests = query.query_map([&key], |r| r.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
                for digest in digests {
                    tx.execute("DELETE FROM holds WHERE digest = ?1", [&digest])?;
                    tx.execute("DELETE FROM names WHERE digest = ?1", [&digest])?;
                    tx.execute("DELETE FROM images WHERE digest = ?1", [&digest])?;
                    lost.push(digest);
                }
                tx.execute("DELETE FROM devices WHERE key = ?1", [&key])?;
            }
            Ok(lost)
        })
    }

    pub(super) fn has_device(&self, key: &str) -> Result<bool, ImageError> {
        let db = self.db.lock();
        Ok(db.query_row("SELECT EXISTS (SELECT 1 FROM devices WHERE key = ?1)", [key], |r| r.get(0))?)
    }

    /// Layers of any image.
    pub(super) fn needs_blob(&self, digest: &str) -> Result<bool, ImageError> {
        let db = self.db.lock();
        let sql = "SELECT EXISTS (SELECT 1 FROM images, json_each(images.layers) l WHERE l.value = ?1)";
        Ok(db.query_row(sql, [digest], |r| r.get(0))?)
    }
}

/// A tenant sees a digest that it has a name for, or that its agents hold.
fn visible(db: &Connection, tenant: &TenantId, digest: &str) -> Result<bool, ImageError> {
    Ok(db.query_row(
        "SELECT EXISTS (SELECT 1 FROM names WHERE tenant = ?1 AND digest = ?2)
             OR EXISTS (SELECT 1 FROM holds WHERE tenant = ?1 AND digest = ?2)",
        [tenant.as_str(), digest],
        |r| r.get(0),
    )?)
}

pub(super) fn agents_of(db: &Connection, tenant: &TenantId, digest: &str) -> Result<u32, ImageError> {
    let sql = "SELECT count(*) FROM holds WHERE tenant = ?1 AND digest = ?2";
    Ok(db.query_row(sql, [tenant.as_str(), digest], |r| r.get(0))?)
}

pub(super) fn mark_if_unused(tx: &Transaction<'_>, digest: &str, now: Timestamp) -> Result<(), ImageError> {
    let sql =
        format!("UPDATE images SET unused_since_ms = ?2 WHERE digest = ?1 AND unused_since_ms IS NULL AND {UNUSED}");
    tx.execute(&sql, params![digest, now.unix_ms()])?;
    Ok(())
}

fn to_json(list: &[String]) -> String {
    serde_json::Value::from(list).to_string()
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, ImageError> {
    serde_json::from_str(text).map_err(|e| ImageError::Catalogue(format!("a row does not hold JSON: {e}")))
}

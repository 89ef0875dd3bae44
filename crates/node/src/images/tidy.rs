//! Names given anew, images that nobody uses given back, and what a converter
//! left removed.

use super::catalogue::{Catalogue, UNUSED, agents_of, mark_if_unused};
use super::{GcReport, ImageError, ImageRecord, Images, blocking, catalogue_name, gc, text};
use aether_core::image::ImageRef;
use aether_core::{TenantId, Timestamp};
use rusqlite::{OptionalExtension, params};
use std::path::PathBuf;
use std::time::Duration;

/// What a tenant's prune took away.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    pub images: Vec<ImageRecord>,
    /// Less than the images' sizes where others use the same layers.
    pub freed_bytes: u64,
}

impl Images {
    /// Removes what a converter left, unless one works; says what there was.
    pub async fn sweep(&self) -> Result<Vec<String>, ImageError> {
        let converter = self.inner.converter.clone();
        let Some(idle) = converter.idle() else { return Ok(Vec::new()) };
        blocking(move || {
            let left = converter.left()?;
            if !left.is_empty() {
                converter.sweep()?;
            }
            drop(idle);
            Ok(left)
        })
        .await
    }

    /// Where everything of the store lies.
    pub fn folder(&self) -> PathBuf {
        self.inner.folders.root.clone()
    }

    /// Gives an image of the tenant one more name; a name that is taken moves.
    pub async fn tag(&self, tenant: &TenantId, source: &str, name: ImageRef) -> Result<ImageRecord, ImageError> {
        let source = catalogue_name(source)?;
        let now = self.inner.clock.now();
        self.with_catalogue(tenant, move |catalogue, tenant| {
            let missing = || ImageError::NotFound(text::clip(&source, 200));
            let digest = catalogue.find(tenant, &source)?.ok_or_else(missing)?;
            catalogue.add_name(tenant, &name.to_string(), &digest, now)?;
            catalogue.by_digest(tenant, &digest)?.ok_or_else(missing)
        })
        .await
    }

    /// Takes away the tenant's images that no agent of the tenant holds and
    /// that have been here for at least `age`, and frees what nothing else
    /// needs. `dry`: only tells them.
    pub async fn prune(&self, tenant: &TenantId, age: Duration, dry: bool) -> Result<Pruned, ImageError> {
        let now = self.inner.clock.now();
        let images = self
            .with_catalogue(tenant, move |catalogue, tenant| {
                let mut unused = Vec::new();
                for digest in catalogue.digests_of(tenant)? {
                    let record = catalogue.by_digest(tenant, &digest)?;
                    unused.extend(record.filter(|r| r.agents == 0 && now.since(r.created_at) >= age));
                }
                let mut pruned = Vec::new();
                for record in unused {
                    // Asked again inside: an agent may have come meanwhile.
                    if dry || catalogue.drop_unheld(tenant, &record.digest, now)? {
                        pruned.push(record);
                    }
                }
                Ok(pruned)
            })
            .await?;
        if dry || images.is_empty() {
            return Ok(Pruned { images, freed_bytes: 0 });
        }
        let inner = self.inner.clone();
        let grace = inner.config.get().gc_grace;
        let report: GcReport =
            blocking(move || gc::collect(&inner.folders, &inner.catalogue, &inner.pins, now, grace)).await?;
        Ok(Pruned { images, freed_bytes: report.freed_bytes })
    }
}

impl Catalogue {
    fn add_name(&self, tenant: &TenantId, name: &str, digest: &str, now: Timestamp) -> Result<(), ImageError> {
        self.write(|tx| {
            let old: Option<String> = tx
                .query_row("SELECT digest FROM names WHERE tenant = ?1 AND name = ?2", [tenant.as_str(), name], |r| {
                    r.get(0)
                })
                .optional()?;
            tx.execute(
                "INSERT INTO names (tenant, name, digest) VALUES (?1, ?2, ?3)
                 ON CONFLICT (tenant, name) DO UPDATE SET digest = ?3",
                params![tenant.as_str(), name, digest],
            )?;
            tx.execute("UPDATE images SET unused_since_ms = NULL WHERE digest = ?1", [digest])?;
            match old {
                Some(old) => mark_if_unused(tx, &old, now),
                None => Ok(()),
            }
        })
    }

    /// Takes all the tenant's names for it away, unless an agent of the
    /// tenant holds it; without the grace that else protects what is between
    /// two names. False: it is held.
    fn drop_unheld(&self, tenant: &TenantId, digest: &str, now: Timestamp) -> Result<bool, ImageError> {
        self.write(|tx| {
            if agents_of(tx, tenant, digest)? > 0 {
                return Ok(false);
            }
            tx.execute("DELETE FROM names WHERE tenant = ?1 AND digest = ?2", [tenant.as_str(), digest])?;
            mark_if_unused(tx, digest, now)?;
            tx.execute(&format!("DELETE FROM images WHERE digest = ?1 AND {UNUSED}"), [digest])?;
            Ok(true)
        })
    }
}

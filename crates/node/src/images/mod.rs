//! Images: from a reference in a registry, or from an archive, to a read-only
//! device that sandboxes boot from.
//!
//! ```text
//! registry ──pull──┐                       jail: no network, own uid, quota
//!                  ├─> blobs (verified) ─> merge layers │ squashfs ─> device
//! archive ─import──┘        catalogue: images, names per tenant, holds
//! ```
//!
//! - Blobs and devices are shared by digest; names belong to tenants, and a
//!   tenant sees a digest only through a name of its own.
//! - An image is in the catalogue only once its device is in place. A crash
//!   leaves temporary files at worst, which the next `open` removes.
//! - Nothing of an image is ever unpacked on the host, and its layers are
//!   parsed only in the jailed converter.
//!
//! Not here: which agent needs which image (the runtime says so by holds).

mod archive;
mod blobs;
mod catalogue;
pub mod convert;
mod device;
mod error;
mod flight;
mod gc;
mod import;
mod manifest;
mod record;
mod registry;
mod text;
mod tidy;

pub use error::ImageError;
pub use record::{
    Credentials, GcReport, ImageConfig, ImageHold, ImageRecord, Phase, Progress, ProgressEvent, PullSpec,
    parse_reference,
};
pub use tidy::Pruned;

use crate::config::DiskReserve;
use crate::failpoint::step;
use aether_core::image::ImageRef;
use aether_core::{AgentId, Clock, Live, Rng, TenantId};
use blobs::{Folders, Pins};
use catalogue::{Catalogue, DeviceRow};
use device::Converter;
use flight::{Flights, Reporter};
use import::Imported;
use manifest::Resolved;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::io::SyncIoBridge;

/// Where images lie and what they may cost.
#[derive(Clone, Debug)]
pub struct ImagesConfig {
    /// Owned by this node alone.
    pub dir: PathBuf,
    /// What is re-executed as `aether jail …`.
    pub aether_exe: PathBuf,
    /// User and group of the jailed converter; no other process runs as it.
    pub converter_uid: u32,
    /// Limit of a whole image, compressed and again uncompressed.
    pub max_image_bytes: u64,
    /// Limit of one image's files, folders and links.
    pub max_files: u64,
    /// `host[:port]` of registries that may be asked over plain HTTP.
    pub allow_insecure_hosts: Vec<String>,
    /// `host[:port]` of registries (and of what they redirect to) that may
    /// lie at private addresses. Loopback needs no entry when a user of the
    /// tenant `default` names it.
    pub allow_hosts: Vec<String>,
    /// How long an image without a name and without a hold is kept.
    pub gc_grace: Duration,
    /// Below it nothing is pulled, imported or converted.
    pub disk_reserve: DiskReserve,
    pub timeouts: Timeouts,
}

/// How long a registry may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// Without a single byte.
    pub idle: Duration,
    /// Of a whole pull.
    pub whole: Duration,
    /// Requests are repeated this often after 429, 5xx and cut connections.
    pub retries: u32,
    /// Before the first repetition; doubles each time.
    pub backoff: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            whole: Duration::from_secs(30 * 60),
            retries: 4,
            backoff: Duration::from_millis(500),
        }
    }
}

impl ImagesConfig {
    pub fn new(dir: impl Into<PathBuf>, aether_exe: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            aether_exe: aether_exe.into(),
            converter_uid: 699_999,
            max_image_bytes: 16 << 30,
            max_files: 2_000_000,
            allow_insecure_hosts: Vec::new(),
            allow_hosts: Vec::new(),
            gc_grace: Duration::from_secs(3600),
            disk_reserve: DiskReserve::default(),
            timeouts: Timeouts::default(),
        }
    }
}

/// The images of one node. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    config: Live<ImagesConfig>,
    clock: Arc<dyn Clock>,
    folders: Folders,
    catalogue: Catalogue,
    pins: Pins,
    converter: Converter,
    registry: registry::Registry,
    pulls: Flights<Arc<registry::Pulled>>,
    conversions: Flights<DeviceRow>,
}

/// How much of an archive is in flight between its reader and its parser.
const ARCHIVE_PIPE: usize = 1 << 20;

impl Images {
    /// Opens the folder, and removes what a crash may have left.
    pub async fn open(config: ImagesConfig, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Result<Self, ImageError> {
        let inner = blocking(move || {
            let folders = Folders::create(&config.dir, config.disk_reserve)?;
            let config = Live::new(config);
            let converter = Converter::new(folders.clone(), &config);
            converter.sweep()?;
            let removed = folders.clean_tmp()?;
            let catalogue = Catalogue::open(&folders.root.join("catalogue.db"), folders.devices.clone())?;
            let lost = catalogue.forget_missing()?;
            if removed > 0 || !lost.is_empty() {
                tracing::info!(unfinished = removed, lost = ?lost, "repaired the image store");
            }
            let registry = registry::Registry::new(&config, folders.clone(), rng)?;
            Ok(Inner {
                config,
                clock,
                folders,
                catalogue,
                pins: Pins::default(),
                converter,
                registry,
                pulls: Flights::default(),
                conversions: Flights::default(),
            })
        })
        .await?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Takes what may change while it runs: the limit of an image, the hosts
    /// that are open, the grace of collections. Work that has begun goes on
    /// by the old settings.
    pub fn reload(&self, new: ImagesConfig) {
        let mut config = ImagesConfig::clone(&self.inner.config.get());
        config.max_image_bytes = new.max_image_bytes;
        config.allow_insecure_hosts = new.allow_insecure_hosts;
        config.allow_hosts = new.allow_hosts;
        config.gc_grace = new.gc_grace;
        self.inner.config.set(config);
    }

    /// Asks the registry what the reference means now, gets what is missing,
    /// and makes the device. Equal requests share one download.
    pub async fn pull(&self, tenant: &TenantId, spec: PullSpec, progress: Progress) -> Result<ImageRecord, ImageError> {
        self.inner.registry.check_tenant(tenant, &spec)?;
        self.inner.folders.check_room()?;
        let name = spec.reference.to_string();
        let key = registry::flight_key(&spec);
        let inner = self.inner.clone();
        let work = move |reporter: Reporter| async move {
            step!("image.fetch", inner.registry.pull(&spec, &inner.pins, &reporter)).await
        };
        let began = Instant::now();
        let pulled = self.inner.pulls.run(&key, &progress, work).await?;
        let converting = Instant::now();
        let device = self.device(&pulled.image, &progress).await?;
        let convert_ms = converting.elapsed().as_millis();
        let record = self.record(tenant, vec![name], pulled.image.clone(), device).await?;
        let (digest, download_ms) = (&record.digest, converting.duration_since(began).as_millis());
        tracing::info!(digest, download_ms, convert_ms, "pulled");
        progress.report(Phase::Done, record.size_bytes, record.size_bytes);
        Ok(record)
    }

    /// Takes an OCI or docker archive (a tar, plain, gzip or zstd). Without a
    /// name, those that the archive carries are used. An archive of several
    /// images gives them all their own names; the answer is the first.
    pub async fn import(
        &self,
        tenant: &TenantId,
        name: Option<ImageRef>,
        mut archive: impl AsyncRead + Send + Unpin,
        progress: Progress,
    ) -> Result<ImageRecord, ImageError> {
        self.inner.folders.check_room()?;
        let imported = step!("image.read", self.read_archive(&mut archive, &progress)).await?;
        if name.is_some() && imported.len() > 1 {
            return Err(ImageError::invalid(format!(
                "the archive holds {} images: import it without a name to take them all",
                imported.len()
            )));
        }
        let mut first = None;
        for Imported { image, names, pins } in imported {
            let device = self.device(&image, &progress).await?;
            let names = name.iter().chain(if name.is_some() { &[] } else { names.as_slice() });
            let record = self.record(tenant, names.map(ImageRef::to_string).collect(), image, device).await?;
            drop(pins);
            first.get_or_insert(record);
        }
        let first = first.ok_or_else(|| ImageError::invalid("the archive holds no image"))?;
        progress.report(Phase::Done, first.size_bytes, first.size_bytes);
        Ok(first)
    }

    /// Looks only here, never in a registry. By name, or by digest where one
    /// of the tenant's names or agents leads to it.
    pub async fn resolve(
        &self,
        tenant: &TenantId,
        reference_or_digest: &str,
    ) -> Result<Option<ImageRecord>, ImageError> {
        let name = catalogue_name(reference_or_digest)?;
        self.with_catalogue(tenant, move |catalogue, tenant| match catalogue.find(tenant, &name)? {
            Some(digest) => catalogue.by_digest(tenant, &digest),
            None => Ok(None),
        })
        .await
    }

    /// The tenant's images, by digest.
    pub async fn list(&self, tenant: &TenantId) -> Result<Vec<ImageRecord>, ImageError> {
        self.with_catalogue(tenant, |catalogue, tenant| {
            let digests = catalogue.digests_of(tenant)?;
            digests.iter().filter_map(|d| catalogue.by_digest(tenant, d).transpose()).collect()
        })
        .await
    }

    /// Takes a name away (by digest: all the tenant's names for it).
    /// `InUse` when it is the last one and agents of the tenant hold the image.
    pub async fn remove(&self, tenant: &TenantId, name_or_digest: &str) -> Result<(), ImageError> {
        let name = catalogue_name(name_or_digest)?;
        let now = self.inner.clock.now();
        self.with_catalogue(tenant, move |catalogue, tenant| match catalogue.remove(tenant, &name, now)? {
            true => Ok(()),
            false => Err(ImageError::NotFound(text::clip(&name, 200))),
        })
        .await
    }

    /// The tenant's agent uses the image from now on; durable when this
    /// returns. Safe to repeat. A few milliseconds of local disk.
    pub fn hold(&self, tenant: &TenantId, digest: &str, agent: &AgentId) -> Result<ImageHold, ImageError> {
        let device = self.inner.catalogue.hold(tenant, digest, agent)?;
        Ok(ImageHold { digest: digest.to_owned(), device })
    }

    /// The agent no longer uses it. Safe to repeat. A failure is logged: the
    /// hold stays until [`Images::retain_holds`].
    pub fn release(&self, digest: &str, agent: &AgentId) {
        if let Err(e) = self.inner.catalogue.release(digest, agent, self.inner.clock.now()) {
            tracing::warn!(%digest, %agent, "an image's hold could not be released: {e}");
        }
    }

    /// Drops the holds of all agents but these: for the start, when the
    /// journal says who lives. Returns how many were dropped.
    pub async fn retain_holds(&self, agents: &BTreeSet<AgentId>) -> Result<u32, ImageError> {
        let (inner, agents, now) = (self.inner.clone(), agents.clone(), self.inner.clock.now());
        blocking(move || inner.catalogue.retain_holds(&agents, now)).await
    }

    /// Removes images that have had neither name nor hold for the grace, and
    /// the devices and blobs that nothing needs.
    pub async fn gc(&self) -> Result<GcReport, ImageError> {
        let (inner, now) = (self.inner.clone(), self.inner.clock.now());
        blocking(move || gc::collect(&inner.folders, &inner.catalogue, &inner.pins, now, inner.config.get().gc_grace))
            .await
    }

    /// Room for releases and removals on a full disk: cheap where it is there.
    pub async fn keep_reserve(&self) -> Result<bool, ImageError> {
        let inner = self.inner.clone();
        blocking(move || inner.catalogue.keep_reserve()).await
    }

    async fn with_catalogue<T: Send + 'static>(
        &self,
        tenant: &TenantId,
        f: impl FnOnce(&Catalogue, &TenantId) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let (inner, tenant) = (self.inner.clone(), tenant.clone());
        blocking(move || f(&inner.catalogue, &tenant)).await
    }

    /// Pumps the archive to a thread that may block.
    async fn read_archive(
        &self,
        mut archive: impl AsyncRead + Send + Unpin,
        progress: &Progress,
    ) -> Result<Vec<Imported>, ImageError> {
        let (mut ours, theirs) = tokio::io::duplex(ARCHIVE_PIPE);
        let (inner, progress) = (self.inner.clone(), progress.clone());
        let bridge = SyncIoBridge::new(theirs);
        let parser = blocking(move || {
            let report = |done| progress.report(Phase::Download, done, 0);
            import::read_archive(bridge, &inner.folders, &inner.pins, inner.config.get().max_image_bytes, report)
        });
        let pump = async {
            let mut buf = vec![0u8; 256 << 10];
            loop {
                let n = archive.read(&mut buf).await.map_err(|e| {
                    ImageError::invalid(format!("the archive broke off: {}", text::clip(&e.to_string(), 200)))
                })?;
                // The parser may stop early: its verdict counts.
                if n == 0 || ours.write_all(&buf[..n]).await.is_err() {
                    break;
                }
            }
            drop(ours);
            Ok::<_, ImageError>(())
        };
        let (pumped, parsed) = tokio::join!(pump, parser);
        pumped.and(parsed)
    }

    /// The device of an image whose layers are here and pinned.
    async fn device(&self, image: &Resolved, progress: &Progress) -> Result<Device, ImageError> {
        let key = image.device_key();
        let pin = self.inner.pins.pin(&key);
        // Different claims about the same layers are judged apart.
        let flight = format!("{key} {}", image.diff_ids.join(" "));
        let (inner, image) = (self.inner.clone(), image.clone());
        let work = move |reporter: Reporter| async move { inner.make_device(image, reporter).await };
        let row = self.inner.conversions.run(&flight, progress, work).await?;
        Ok(Device { row, _pin: pin })
    }

    async fn record(
        &self,
        tenant: &TenantId,
        names: Vec<String>,
        image: Resolved,
        device: Device,
    ) -> Result<ImageRecord, ImageError> {
        let now = self.inner.clock.now();
        step!("image.commit", {
            let (names, image, key) = (names.clone(), image.clone(), device.row.key.clone());
            self.with_catalogue(tenant, move |catalogue, tenant| catalogue.add_image(tenant, &names, &image, &key, now))
        })
        .await
    }
}

/// A device in place, spared by collections until it is recorded.
struct Device {
    row: DeviceRow,
    _pin: blobs::Pin,
}

impl Inner {
    async fn make_device(self: Arc<Self>, image: Resolved, reporter: Reporter) -> Result<DeviceRow, ImageError> {
        let (this, key) = (self.clone(), image.device_key());
        if let Some(row) = blocking(move || this.catalogue.device(&key)).await? {
            if row.diff_ids == image.diff_ids {
                return Ok(row);
            }
            return Err(ImageError::invalid("its config names other layer contents than its layers have"));
        }
        let total = image.layers.iter().map(|l| l.size).sum();
        let report = move |done| reporter.report(Phase::Convert, done, total);
        let row = step!("image.convert", self.converter.make(&image, report.clone())).await?;
        step!("image.note_device", {
            let (this, made) = (self.clone(), row.clone());
            blocking(move || this.catalogue.add_device(&made))
        })
        .await?;
        Ok(row)
    }
}

/// What a name is under in the catalogue.
fn catalogue_name(text: &str) -> Result<String, ImageError> {
    if aether_core::image::is_digest(text) { Ok(text.to_owned()) } else { Ok(parse_reference(text)?.to_string()) }
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(e) => Err(ImageError::Io { doing: "run a task".into(), detail: e.to_string() }),
    }
}

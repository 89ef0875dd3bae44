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

mod error;
mod record;
mod text;

pub use error::ImageError;
pub use record::{
    Credentials, GcReport, ImageConfig, ImageHold, ImageRecord, Phase, Progress, ProgressEvent, PullSpec,
    parse_reference,
};

use aether_core::image::ImageRef;
use aether_core::{AgentId, Clock, Rng, TenantId};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncRead;

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
    /// `host[:port]` of registries that may be asked over plain HTTP.
    pub allow_insecure_hosts: Vec<String>,
    /// `host[:port]` of registries (and of what they redirect to) that may
    /// lie at private addresses. Loopback needs no entry when a user names it.
    pub allow_hosts: Vec<String>,
    /// How long an image without a name and without a hold is kept.
    pub gc_grace: Duration,
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
            allow_insecure_hosts: Vec::new(),
            allow_hosts: Vec::new(),
            gc_grace: Duration::from_secs(3600),
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
    config: ImagesConfig,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
}

impl Images {
    /// Opens the folder, and removes what a crash may have left.
    pub async fn open(config: ImagesConfig, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Result<Self, ImageError> {
        Ok(Self { inner: Arc::new(Inner { config, clock, rng }) })
    }

    /// Asks the registry what the reference means now, gets what is missing,
    /// and makes the device. Equal requests share one download.
    pub async fn pull(&self, tenant: &TenantId, spec: PullSpec, progress: Progress) -> Result<ImageRecord, ImageError> {
        let _ = (tenant, spec, progress, &self.inner.config, &self.inner.clock, &self.inner.rng);
        Err(ImageError::Cancelled)
    }

    /// Takes an OCI or docker archive (a tar, plain, gzip or zstd). Without a
    /// name, those that the archive carries are used.
    pub async fn import(
        &self,
        tenant: &TenantId,
        name: Option<ImageRef>,
        archive: impl AsyncRead + Send + Unpin,
        progress: Progress,
    ) -> Result<ImageRecord, ImageError> {
        let _ = (tenant, name, archive, progress);
        Err(ImageError::Cancelled)
    }

    /// Looks only here, never in a registry. By name, or by digest where one
    /// of the tenant's names leads to it.
    pub async fn resolve(
        &self,
        tenant: &TenantId,
        reference_or_digest: &str,
    ) -> Result<Option<ImageRecord>, ImageError> {
        let _ = (tenant, reference_or_digest);
        Err(ImageError::Cancelled)
    }

    pub async fn list(&self, tenant: &TenantId) -> Result<Vec<ImageRecord>, ImageError> {
        let _ = tenant;
        Err(ImageError::Cancelled)
    }

    /// Takes a name away (by digest: all the tenant's names for it).
    /// `InUse` when it is the last one and agents of the tenant hold the image.
    pub async fn remove(&self, tenant: &TenantId, name_or_digest: &str) -> Result<(), ImageError> {
        let _ = (tenant, name_or_digest);
        Err(ImageError::Cancelled)
    }

    /// The tenant's agent uses the image from now on; durable when this
    /// returns. Safe to repeat. A few milliseconds of local disk.
    pub fn hold(&self, tenant: &TenantId, digest: &str, agent: &AgentId) -> Result<ImageHold, ImageError> {
        let _ = (tenant, digest, agent);
        Err(ImageError::Cancelled)
    }

    /// The agent no longer uses it. Safe to repeat. A failure is logged: the
    /// hold stays until [`Images::retain_holds`].
    pub fn release(&self, digest: &str, agent: &AgentId) {
        let _ = (digest, agent);
    }

    /// Drops the holds of all agents but these: for the start, when the
    /// journal says who lives.
    pub async fn retain_holds(&self, agents: &std::collections::BTreeSet<AgentId>) -> Result<u32, ImageError> {
        let _ = agents;
        Err(ImageError::Cancelled)
    }

    /// Removes images without name and hold that are older than the grace,
    /// and the devices and blobs that nothing needs.
    pub async fn gc(&self) -> Result<GcReport, ImageError> {
        Err(ImageError::Cancelled)
    }
}

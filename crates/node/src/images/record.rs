//! What callers see of an image, and how they follow the work on one.

use super::ImageError;
use aether_core::Timestamp;
use aether_core::image::ImageRef;
use aether_core::secret::Secret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// An image that is ready to boot from.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRecord {
    /// Of the manifest: `sha256:` and 64 hex digits.
    pub digest: String,
    /// The asking tenant's names for it, canonical, sorted.
    pub names: Vec<String>,
    /// Always `ready`: an image is recorded once its device is in place.
    pub state: String,
    /// The read-only squashfs. Stays while the image has a name or a hold.
    pub device: PathBuf,
    /// Of the device.
    pub size_bytes: u64,
    /// When this node got it first.
    pub created_at: Timestamp,
    pub os: String,
    pub architecture: String,
    pub config: ImageConfig,
    /// The OCI image config's `config` object, as it came.
    pub config_json: serde_json::Value,
    /// Digests of the layer blobs, lowest first.
    pub layers: Vec<String>,
    /// Converter version that made the device.
    pub converter: String,
    /// Agents of the asking tenant that hold it now.
    pub agents: u32,
}

/// The part of an image's config that starting a process needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    /// `NAME=value`.
    #[serde(deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    #[serde(rename = "WorkingDir", deserialize_with = "null_is_empty")]
    pub workdir: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub user: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub stop_signal: String,
}

/// Go writes absent lists as `null`.
fn null_is_empty<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

/// What to pull.
#[derive(Clone, Debug)]
pub struct PullSpec {
    pub reference: ImageRef,
    /// `os/architecture[/variant]`; none: linux on the node's architecture.
    pub platform: Option<String>,
    pub credentials: Option<Credentials>,
    /// Plain HTTP. Only for loopback registries and hosts that the operator
    /// lists.
    pub insecure: bool,
}

impl PullSpec {
    /// From what a user typed.
    pub fn parse(reference: &str) -> Result<Self, ImageError> {
        let parsed = parse_reference(reference)?;
        Ok(Self { reference: parsed, platform: None, credentials: None, insecure: false })
    }
}

/// Parses a reference into the error users see.
pub fn parse_reference(text: &str) -> Result<ImageRef, ImageError> {
    text.parse::<ImageRef>().map_err(|e| ImageError::BadReference {
        reference: super::text::clip(text, 200),
        reason: e.to_string().trim_start_matches("not an image reference: ").to_owned(),
    })
}

/// For a registry. Never logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: Secret,
}

/// Where the work on an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Resolve,
    Download,
    Convert,
    Done,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Resolve => "resolve",
            Phase::Download => "download",
            Phase::Convert => "convert",
            Phase::Done => "done",
        }
    }
}

/// One step. `total_bytes` is 0 where it is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgressEvent {
    pub phase: Phase,
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// Where progress goes. Called often, and never from two places at once for
/// one request: it must not block.
#[derive(Clone)]
pub struct Progress(Option<Arc<dyn Fn(ProgressEvent) + Send + Sync>>);

impl Progress {
    /// To nowhere.
    pub fn none() -> Self {
        Self(None)
    }

    pub fn new(f: impl Fn(ProgressEvent) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(f)))
    }

    pub fn report(&self, phase: Phase, done_bytes: u64, total_bytes: u64) {
        if let Some(f) = &self.0 {
            f(ProgressEvent { phase, done_bytes, total_bytes });
        }
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Progress(..)" } else { "Progress(none)" })
    }
}

/// An agent's claim on an image's device. It is in the catalogue, not in
/// this value: dropping it releases nothing, [`super::Images::release`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageHold {
    pub digest: String,
    pub device: PathBuf,
}

/// What a collection removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    pub images: u32,
    pub devices: u32,
    pub blobs: u32,
    pub freed_bytes: u64,
}

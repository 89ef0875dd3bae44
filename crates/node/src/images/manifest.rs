//! Manifests, indexes and configs: what an image is made of. Bounded and
//! checked before anything they name is fetched.

use super::{ImageError, text};
use aether_core::image::is_digest;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

pub(super) const MAX_MANIFEST: u64 = 4 << 20;
pub(super) const MAX_CONFIG: u64 = 4 << 20;
pub(super) const MAX_LAYERS: usize = 127;

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

const LAYER_TYPES: [&str; 7] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default)]
    pub platform: Option<PlatformDoc>,
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct PlatformDoc {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub variant: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Index {
    pub manifests: Vec<Descriptor>,
}

pub(super) enum Document {
    Manifest(Manifest),
    Index(Index),
}

#[derive(Deserialize)]
struct ConfigDoc {
    architecture: String,
    os: String,
    rootfs: RootFs,
    #[serde(default)]
    config: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// An image whose manifest and config have been read and agree.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Resolved {
    /// Of the manifest.
    pub digest: String,
    pub os: String,
    pub architecture: String,
    /// The `config` object.
    pub config: serde_json::Value,
    pub layers: Vec<Descriptor>,
    pub diff_ids: Vec<String>,
}

impl Resolved {
    pub(super) fn layer_digests(&self) -> Vec<String> {
        self.layers.iter().map(|l| l.digest.clone()).collect()
    }

    /// A single manifest is for one platform, and its config says which.
    pub(super) fn check_platform(&self, platform: &Platform, reference: &str) -> Result<(), ImageError> {
        if self.architecture == platform.architecture {
            return Ok(());
        }
        Err(ImageError::NoPlatform {
            reference: reference.to_owned(),
            wanted: platform.to_string(),
            available: format!("{}/{}", self.os, self.architecture),
        })
    }

    /// Names the device: the verified inputs and the converter, not what the
    /// image says of itself. So an image can only spoil its own device.
    pub(super) fn device_key(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("aether device\n{}\n", super::convert::VERSION));
        for layer in &self.layers {
            hash.update(format!("{}\n", layer.digest));
        }
        format!("{}.sqfs", hex::encode(hash.finalize()))
    }
}

pub(super) fn sha256(data: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(data)))
}

fn json<'a, T: Deserialize<'a>>(what: &str, data: &'a [u8]) -> Result<T, ImageError> {
    serde_json::from_slice(data).map_err(|e| {
        ImageError::invalid(format!("its {what} is not as specified: {}", text::clip(&e.to_string(), 200)))
    })
}

/// Reads a manifest or an index; which of them, its own fields say, and its
/// `mediaType` must not contradict.
pub(super) fn parse_document(data: &[u8]) -> Result<Document, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        schema_version: u32,
        #[serde(default)]
        media_type: Option<String>,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        layers: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = json("manifest", data)?;
    if shape.schema_version != 2 {
        return Err(ImageError::invalid(format!("manifest schema {} is not supported", shape.schema_version)));
    }
    let kind = shape.media_type.as_deref();
    match (shape.manifests.is_some(), shape.layers.is_some()) {
        (true, false) if matches!(kind, None | Some(OCI_INDEX | DOCKER_LIST)) => {
            let index: Index = json("index", data)?;
            if index.manifests.len() > 1000 {
                return Err(ImageError::invalid("its index names more than 1000 manifests"));
            }
            index.manifests.iter().try_for_each(check_descriptor)?;
            Ok(Document::Index(index))
        }
        (false, true) if matches!(kind, None | Some(OCI_MANIFEST | DOCKER_MANIFEST)) => {
            let manifest: Manifest = json("manifest", data)?;
            check_manifest(&manifest)?;
            Ok(Document::Manifest(manifest))
        }
        _ => Err(ImageError::invalid(format!(
            "its manifest is neither an image manifest nor an index ({})",
            text::clip(kind.unwrap_or("without mediaType"), 100)
        ))),
    }
}

fn check_descriptor(d: &Descriptor) -> Result<(), ImageError> {
    if !is_digest(&d.digest) {
        return Err(ImageError::invalid(format!("{:?} is not a sha256 digest", text::clip(&d.digest, 100))));
    }
    Ok(())
}

impl Descriptor {
    /// What it calls an index must not be a manifest, nor the other way round.
    pub(super) fn check_kind(&self, document: &Document) -> Result<(), ImageError> {
        let is_index = matches!(document, Document::Index(_));
        match self.media_type.as_str() {
            OCI_INDEX | DOCKER_LIST if !is_index => {}
            OCI_MANIFEST | DOCKER_MANIFEST if is_index => {}
            _ => return Ok(()),
        }
        Err(ImageError::invalid(format!("what it calls {} is something else", self.media_type)))
    }
}

fn check_manifest(m: &Manifest) -> Result<(), ImageError> {
    check_descriptor(&m.config)?;
    m.layers.iter().try_for_each(check_descriptor)?;
    if !CONFIG_TYPES.contains(&m.config.media_type.as_str()) {
        return Err(ImageError::invalid(format!(
            "it is not a container image, its config is {:?}",
            text::clip(&m.config.media_type, 100)
        )));
    }
    if m.config.size > MAX_CONFIG {
        return Err(ImageError::TooLarge { what: "the image's config".into(), limit: MAX_CONFIG });
    }
    if m.layers.is_empty() {
        return Err(ImageError::invalid("it has no layers"));
    }
    if m.layers.len() > MAX_LAYERS {
        return Err(ImageError::TooLarge { what: "the number of layers".into(), limit: MAX_LAYERS as u64 });
    }
    if let Some(odd) = m.layers.iter().find(|l| !LAYER_TYPES.contains(&l.media_type.as_str())) {
        return Err(ImageError::invalid(format!("a layer is of the type {:?}", text::clip(&odd.media_type, 100))));
    }
    Ok(())
}

impl Manifest {
    /// The layers' total, if it is within the limit.
    pub(super) fn check_total(layers: &[Descriptor], limit: u64) -> Result<u64, ImageError> {
        let total = layers.iter().try_fold(0u64, |sum, l| sum.checked_add(l.size));
        total.filter(|t| *t <= limit).ok_or(ImageError::TooLarge { what: "the compressed size".into(), limit })
    }

    /// Joins the manifest with its config, which must agree.
    pub(super) fn resolve(self, digest: String, config: &[u8]) -> Result<Resolved, ImageError> {
        let doc: ConfigDoc = json("config", config)?;
        if doc.rootfs.diff_ids.len() != self.layers.len() {
            return Err(ImageError::invalid("its config and its manifest disagree about the number of layers"));
        }
        if let Some(bad) = doc.rootfs.diff_ids.iter().find(|d| !is_digest(d)) {
            return Err(ImageError::invalid(format!("{:?} is not a sha256 digest", text::clip(bad, 100))));
        }
        if doc.os != "linux" {
            return Err(ImageError::invalid(format!("it is made for {:?}, not for linux", text::clip(&doc.os, 40))));
        }
        let config = doc.config.filter(|c| !c.is_null()).unwrap_or_else(|| serde_json::json!({}));
        if !config.is_object() {
            return Err(ImageError::invalid("its config is not as specified: its config object is none"));
        }
        serde_json::from_value::<super::ImageConfig>(config.clone()).map_err(|e| {
            ImageError::invalid(format!("its config is not as specified: {}", text::clip(&e.to_string(), 200)))
        })?;
        Ok(Resolved {
            digest,
            os: doc.os,
            architecture: text::clip(&doc.architecture, 40),
            config,
            layers: self.layers,
            diff_ids: doc.rootfs.diff_ids,
        })
    }
}

/// `os/architecture[/variant]` as Go names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Platform {
    pub architecture: String,
    pub variant: Option<String>,
}

impl Platform {
    /// The node's own.
    pub(super) fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { architecture: architecture.to_owned(), variant: None }
    }

    pub(super) fn parse(text: Option<&str>) -> Result<Self, ImageError> {
        let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok(Self::host()) };
        let bad = || ImageError::BadPlatform(text::clip(text, 60));
        let plain = |s: &&str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric());
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 3 || parts.first() != Some(&"linux") || !parts.iter().all(plain) {
            return Err(bad());
        }
        let architecture = parts.get(1).ok_or_else(bad)?;
        Ok(Self { architecture: (*architecture).to_owned(), variant: parts.get(2).map(|v| (*v).to_owned()) })
    }

    /// Chooses from an index. Entries without a platform are taken only when
    /// they are alone (an OCI layout's index often is so).
    pub(super) fn choose<'a>(&self, index: &'a Index, reference: &str) -> Result<&'a Descriptor, ImageError> {
        if let [only] = index.manifests.as_slice()
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let fits = |d: &&Descriptor| {
            d.platform.as_ref().is_some_and(|p| {
                let variant = match (&self.variant, &p.variant) {
                    (Some(want), Some(have)) => want == have,
                    _ => true,
                };
                p.os == "linux" && p.architecture == self.architecture && variant
            })
        };
        index.manifests.iter().find(fits).ok_or_else(|| {
            let shown = |p: &PlatformDoc| format!("{}/{}", p.os, p.architecture);
            let all: Vec<String> = index.manifests.iter().filter_map(|d| d.platform.as_ref().map(shown)).collect();
            ImageError::NoPlatform {
                reference: reference.to_owned(),
                wanted: self.to_string(),
                available: text::clip(&if all.is_empty() { "none named".into() } else { all.join(", ") }, 300),
            }
        })
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "linux/{}", self.architecture)?;
        self.variant.iter().try_for_each(|v| write!(f, "/{v}"))
    }
}

#[cfg(test)]
mod fuzz;

//! Archives: OCI layouts and docker archives as tar, plain, gzip or zstd.
//!
//! Entries may come in any order. Only names that an image needs are read;
//! each body goes, hashed and bounded, into the blob store under its own
//! digest or, while small, into memory. Nothing is written to a path that the
//! archive names, and no link in it is followed on the host.

use super::archive::{decompressed, read_error};
use super::blobs::{BlobWriter, Folders, Pin, Pins, Written};
use super::convert::archive::{Kind, Members};
use super::manifest::{self, Descriptor, Document, Manifest, Platform, Resolved};
use super::{ImageError, text};
use aether_core::image::{ImageRef, is_digest};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read;

/// More entries than any image has blobs, twice.
const MAX_ENTRIES: u32 = 20_000;
const MAX_NAME: usize = 512;
/// Images of one archive, and names of one image in it: each costs a
/// conversion or a row.
const MAX_IMAGES: usize = 100;
const MAX_NAMES: usize = 100;
/// Small documents (indexes, manifests, configs) are kept in memory.
const MAX_DOCUMENT: u64 = manifest::MAX_MANIFEST;
const MAX_DOCUMENTS: usize = 4_000;
const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

/// One image of the archive, its layers in the blob store and pinned.
pub(super) struct Imported {
    pub image: Resolved,
    pub names: Vec<ImageRef>,
    pub pins: Vec<Pin>,
}

/// What an archive held.
#[derive(Default)]
struct Contents {
    /// By normalised name.
    files: BTreeMap<String, Held>,
    /// Hard links and symlinks: old docker archives use them for layers that
    /// occur twice. Name to name, inside the archive only.
    links: BTreeMap<String, String>,
    document_bytes: u64,
}

enum Held {
    Small { digest: String, data: Vec<u8> },
    Large(Written),
}

impl Held {
    fn digest(&self) -> &str {
        match self {
            Held::Small { digest, .. } => digest,
            Held::Large(written) => &written.digest,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Held::Small { data, .. } => data.len() as u64,
            Held::Large(written) => written.size,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Reads the archive to its end. Blocks.
pub(super) fn read_archive(
    input: impl Read + Send + 'static,
    folders: &Folders,
    pins: &Pins,
    max_bytes: u64,
    progress: impl Fn(u64),
) -> Result<Vec<Imported>, ImageError> {
    let contents = Contents::read(input, folders, max_bytes, progress)?;
    let found = if contents.files.contains_key("index.json") {
        contents.oci_images()?
    } else if contents.files.contains_key("manifest.json") {
        contents.docker_images()?
    } else {
        return Err(ImageError::invalid(
            "the archive is neither an OCI layout (no index.json) nor a docker archive (no manifest.json)",
        ));
    };
    contents.keep(found, folders, pins, max_bytes)
}

type Found = (Resolved, Vec<ImageRef>);

impl Contents {
    fn read(
        input: impl Read + Send + 'static,
        folders: &Folders,
        max_bytes: u64,
        progress: impl Fn(u64),
    ) -> Result<Self, ImageError> {
        let mut contents = Self::default();
        let mut left = max_bytes;
        let input = decompressed(input, max_bytes).map_err(ImageError::io("read the archive"))?;
        let mut members = Members::new(input);
        let mut entries = 0;
        while let Some(member) = members.next().map_err(archive_error)? {
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(ImageError::TooLarge {
                    what: "the number of entries in the archive".into(),
                    limit: MAX_ENTRIES.into(),
                });
            }
            let Some(name) = wanted(&member.path) else { continue };
            match &member.kind {
                Kind::File => {
                    let held = contents.take(&mut members.body(), &name, member.size, folders, left)?;
                    left = left.checked_sub(held.size()).ok_or_else(|| too_large(max_bytes))?;
                    contents.files.insert(name, held);
                    progress(max_bytes - left);
                }
                Kind::Symlink(target) => contents.add_link(&name, target, true),
                Kind::Link(target) => contents.add_link(&name, target, false),
                _ => {}
            }
        }
        Ok(contents)
    }

    fn take(
        &mut self,
        body: &mut impl Read,
        name: &str,
        size: u64,
        folders: &Folders,
        left: u64,
    ) -> Result<Held, ImageError> {
        if size > left {
            return Err(too_large(left));
        }
        let small = size <= MAX_DOCUMENT
            && self.document_bytes + size <= MAX_DOCUMENT_BYTES
            && self.files.len() < MAX_DOCUMENTS;
        let held = if small {
            let mut data = Vec::new();
            body.read_to_end(&mut data).map_err(read_error)?;
            self.document_bytes += size;
            Held::Small { digest: manifest::sha256(&data), data }
        } else {
            let mut writer = BlobWriter::create(folders, left)?;
            copy(body, &mut writer)?;
            Held::Large(writer.finish())
        };
        if let Some(hex) = name.strip_prefix("blobs/sha256/")
            && held.digest().strip_prefix("sha256:") != Some(hex)
        {
            return Err(ImageError::invalid(format!("the blob {hex} has another digest: {}", held.digest())));
        }
        Ok(held)
    }

    fn add_link(&mut self, name: &str, target: &[u8], relative: bool) {
        let target = String::from_utf8_lossy(target);
        let base = if relative { name.rsplit_once('/').map_or("", |(dir, _)| dir) } else { "" };
        if let Some(target) = normalise(&format!("{base}/{target}")) {
            self.links.insert(name.to_owned(), target);
        }
    }

    fn file(&self, name: &str) -> Result<&Held, ImageError> {
        let missing = || ImageError::invalid(format!("the archive has no {}", text::clip(name, 120)));
        let mut name = normalise(name).ok_or_else(missing)?;
        for _ in 0..4 {
            if let Some(held) = self.files.get(&name) {
                return Ok(held);
            }
            name = self.links.get(&name).ok_or_else(missing)?.clone();
        }
        Err(missing())
    }

    fn document(&self, name: &str) -> Result<&[u8], ImageError> {
        match self.file(name)? {
            Held::Small { data, .. } => Ok(data),
            Held::Large(_) => Err(ImageError::TooLarge { what: text::clip(name, 120), limit: MAX_DOCUMENT }),
        }
    }

    /// By contents, not by name: a link in the archive may give any blob the
    /// name of another.
    fn blob(&self, d: &Descriptor) -> Result<&[u8], ImageError> {
        let data = self.document(&blob_name(&d.digest))?;
        if manifest::sha256(data) != d.digest {
            return Err(ImageError::invalid(format!("the blob {} has another digest", d.digest)));
        }
        if data.len() as u64 != d.size {
            return Err(ImageError::invalid(format!("the blob {} has another size than is said of it", d.digest)));
        }
        Ok(data)
    }

    fn oci_images(&self) -> Result<Vec<Found>, ImageError> {
        let Document::Index(index) = manifest::parse_document(self.document("index.json")?)? else {
            return Err(ImageError::invalid("its index.json is not an index"));
        };
        let here = Platform::host();
        let (fits, others): (Vec<_>, Vec<_>) = index.manifests.iter().partition(|d| {
            d.platform.as_ref().is_none_or(|p| p.architecture.is_empty() || p.architecture == here.architecture)
        });
        if fits.is_empty() && !others.is_empty() {
            here.choose(&index, "the archive")?;
        }
        check_number(fits.len(), MAX_IMAGES, "images")?;
        let mut found: Vec<Found> = Vec::new();
        for descriptor in fits {
            let names = names_of(descriptor);
            let image = self.follow(descriptor, 0)?;
            match found.iter_mut().find(|(known, _)| known.digest == image.digest) {
                Some((_, known)) => known.extend(names),
                None => found.push((image, names)),
            }
        }
        Ok(found)
    }

    /// From a descriptor to an image, through indexes.
    fn follow(&self, descriptor: &Descriptor, depth: u32) -> Result<Resolved, ImageError> {
        let data = self.blob(descriptor)?;
        let document = manifest::parse_document(data)?;
        descriptor.check_kind(&document)?;
        match document {
            Document::Manifest(m) => {
                let config = self.blob(&m.config)?;
                m.clone().resolve(descriptor.digest.clone(), config)
            }
            Document::Index(index) if depth < 3 => {
                self.follow(Platform::host().choose(&index, "the archive")?, depth + 1)
            }
            Document::Index(_) => Err(ImageError::invalid("its indexes are nested too deep")),
        }
    }

    fn docker_images(&self) -> Result<Vec<Found>, ImageError> {
        let entries: Vec<DockerEntry> = serde_json::from_slice(self.document("manifest.json")?)
            .map_err(|e| ImageError::invalid(format!("its manifest.json: {}", text::clip(&e.to_string(), 200))))?;
        check_number(entries.len(), MAX_IMAGES, "images")?;
        entries.iter().map(|e| self.docker_image(e)).collect()
    }

    /// A docker archive has no manifest: the one that describes the same
    /// image in OCI's words is made, so that the digest depends on contents
    /// alone.
    fn docker_image(&self, entry: &DockerEntry) -> Result<Found, ImageError> {
        check_number(entry.repo_tags.as_ref().map_or(0, Vec::len), MAX_NAMES, "names of an image")?;
        let config = self.file(&entry.config)?;
        let describe = |kind: &str, held: &Held| serde_json::json!({"mediaType": kind, "digest": held.digest(), "size": held.size()});
        let layers = entry.layers.iter().map(|name| self.file(name)).collect::<Result<Vec<_>, _>>()?;
        let made = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": manifest::OCI_MANIFEST,
            "config": describe("application/vnd.oci.image.config.v1+json", config),
            "layers": layers.iter().map(|l| describe("application/vnd.oci.image.layer.v1.tar", l)).collect::<Vec<_>>(),
        })
        .to_string();
        let Document::Manifest(m) = manifest::parse_document(made.as_bytes())? else {
            return Err(ImageError::invalid("its manifest.json describes no image"));
        };
        let image = m.resolve(manifest::sha256(made.as_bytes()), self.document(&entry.config)?)?;
        let names = entry.repo_tags.iter().flatten().filter_map(|t| t.parse().ok()).collect();
        Ok((image, names))
    }

    /// Moves the layers of what was found into the store; the rest goes.
    fn keep(
        mut self,
        found: Vec<Found>,
        folders: &Folders,
        pins: &Pins,
        max_bytes: u64,
    ) -> Result<Vec<Imported>, ImageError> {
        let mut by_digest: BTreeMap<String, Held> = BTreeMap::new();
        for (_, held) in std::mem::take(&mut self.files) {
            by_digest.entry(held.digest().to_owned()).or_insert(held);
        }
        let mut out = Vec::new();
        for (image, names) in found {
            Manifest::check_total(&image.layers, max_bytes)?;
            image.check_platform(&Platform::host(), "the archive's image")?;
            let pinned = image.layers.iter().map(|l| pins.pin(&l.digest)).collect();
            for layer in &image.layers {
                if folders.has_blob(&layer.digest, layer.size) {
                    continue;
                }
                let held = by_digest
                    .remove(&layer.digest)
                    .ok_or_else(|| ImageError::invalid(format!("the archive has no layer {}", layer.digest)))?;
                if held.size() != layer.size {
                    return Err(ImageError::invalid(format!(
                        "the layer {} has another size than its manifest says",
                        layer.digest
                    )));
                }
                keep_blob(held, folders)?;
            }
            out.push(Imported { image, names, pins: pinned });
        }
        Ok(out)
    }
}

fn check_number(n: usize, limit: usize, what: &str) -> Result<(), ImageError> {
    if n > limit {
        let what = format!("the number of {what} in the archive");
        return Err(ImageError::TooLarge { what, limit: limit as u64 });
    }
    Ok(())
}

fn keep_blob(held: Held, folders: &Folders) -> Result<(), ImageError> {
    match held {
        Held::Large(written) => written.keep(folders),
        Held::Small { data, .. } => {
            let mut writer = BlobWriter::create(folders, u64::MAX)?;
            writer.write(&data)?;
            writer.finish().keep(folders)
        }
    }
}

/// The annotations under which tools keep an image's name. A `ref.name` that
/// is a bare tag names nothing.
fn names_of(descriptor: &Descriptor) -> Vec<ImageRef> {
    let annotations = descriptor.annotations.iter().flatten();
    let named = |key: &str| matches!(key, "io.containerd.image.name" | "org.opencontainers.image.ref.name");
    let mut names: Vec<(bool, ImageRef)> = annotations
        .filter(|(key, name)| named(key) && name.contains(['/', ':']))
        .filter_map(|(key, name)| Some((key.starts_with("org."), name.parse::<ImageRef>().ok()?)))
        .collect();
    // containerd's is the full name; the other may be shortened.
    names.sort();
    if names.first().is_some_and(|(short, _)| !short) {
        names.retain(|(short, _)| !short);
    }
    names.into_iter().map(|(_, name)| name).collect()
}

fn blob_name(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// The normalised name, if images need entries so named.
fn wanted(path: &[u8]) -> Option<String> {
    let name = normalise(std::str::from_utf8(path).ok()?)?;
    let blob = name.strip_prefix("blobs/sha256/").is_some_and(|hex| is_digest(&format!("sha256:{hex}")));
    let layer = name.ends_with("/layer.tar") && name.matches('/').count() == 1;
    let flat_layer = name.ends_with(".tar") && !name.contains('/');
    let document = name.ends_with(".json") && !name.contains('/');
    (blob || layer || flat_layer || document).then_some(name)
}

/// Without `.` and empty parts; `..` only as far as it stays inside.
fn normalise(name: &str) -> Option<String> {
    if name.len() > MAX_NAME {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            other => parts.push(other),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn copy(body: &mut impl Read, writer: &mut BlobWriter) -> Result<(), ImageError> {
    let mut buf = vec![0u8; 256 << 10];
    loop {
        match body.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(n) => writer.write(&buf[..n])?,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(read_error(e)),
        }
    }
}

fn too_large(limit: u64) -> ImageError {
    ImageError::TooLarge { what: "the archive".into(), limit }
}

fn archive_error(e: super::convert::ConvertError) -> ImageError {
    match e {
        super::convert::ConvertError::Io(e) => read_error(e),
        super::convert::ConvertError::TooLarge { what, limit } => ImageError::TooLarge { what, limit },
        super::convert::ConvertError::Invalid(reason) => {
            ImageError::invalid(format!("the archive: {reason}").replace("the layer", "it"))
        }
    }
}

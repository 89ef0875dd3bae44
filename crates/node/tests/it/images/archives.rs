//! Layers and archives written by hand.

use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;
use tar::{EntryType, Header};

/// A layer in the making.
pub(super) struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub(super) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, mode: u32) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        header
    }

    pub(super) fn file(mut self, path: &str, data: impl AsRef<[u8]>) -> Self {
        let mut header = Self::header(EntryType::Regular, 0o644);
        header.set_size(data.as_ref().len() as u64);
        self.0.append_data(&mut header, path, data.as_ref()).expect("append");
        self
    }

    pub(super) fn file_as(mut self, path: &str, data: &str, mode: u32, uid: u64, gid: u64) -> Self {
        let mut header = Self::header(EntryType::Regular, mode);
        header.set_size(data.len() as u64);
        header.set_uid(uid);
        header.set_gid(gid);
        self.0.append_data(&mut header, path, data.as_bytes()).expect("append");
        self
    }

    /// With one extended attribute.
    pub(super) fn file_with(mut self, path: &str, data: &str, name: &str, value: &[u8]) -> Self {
        self.0.append_pax_extensions([(format!("SCHILY.xattr.{name}").as_str(), value)]).expect("append");
        self.file(path, data)
    }

    pub(super) fn dir(mut self, path: &str, mode: u32) -> Self {
        let mut header = Self::header(EntryType::Directory, mode);
        self.0.append_data(&mut header, path, std::io::empty()).expect("append");
        self
    }

    pub(super) fn symlink(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(EntryType::Symlink, 0o777);
        self.0.append_link(&mut header, path, target).expect("append");
        self
    }

    pub(super) fn link(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(EntryType::Link, 0o644);
        self.0.append_link(&mut header, path, target).expect("append");
        self
    }

    pub(super) fn device(mut self, path: &str, major: u32, minor: u32) -> Self {
        let mut header = Self::header(EntryType::Char, 0o600);
        header.set_device_major(major).expect("device");
        header.set_device_minor(minor).expect("device");
        self.0.append_data(&mut header, path, std::io::empty()).expect("append");
        self
    }

    pub(super) fn tar(self) -> Vec<u8> {
        self.0.into_inner().expect("finish")
    }

    pub(super) fn gzip(self) -> Blob {
        Blob::gzip(&self.tar())
    }
}

/// A layer blob and the digest of what is in it.
#[derive(Clone)]
pub(super) struct Blob {
    pub data: Vec<u8>,
    pub diff_id: String,
    pub media_type: &'static str,
}

impl Blob {
    pub(super) fn plain(tar: Vec<u8>) -> Self {
        let diff_id = sha256(&tar);
        Self { data: tar, diff_id, media_type: "application/vnd.oci.image.layer.v1.tar" }
    }

    pub(super) fn gzip(tar: &[u8]) -> Self {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(tar).expect("gzip");
        let data = out.finish().expect("gzip");
        Self { data, diff_id: sha256(tar), media_type: "application/vnd.oci.image.layer.v1.tar+gzip" }
    }

    pub(super) fn zstd(tar: &[u8]) -> Self {
        let data = zstd::encode_all(tar, 1).expect("zstd");
        Self { data, diff_id: sha256(tar), media_type: "application/vnd.oci.image.layer.v1.tar+zstd" }
    }
}

pub(super) fn sha256(data: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(data)))
}

/// An image in memory: its documents and blobs.
#[derive(Clone)]
pub(super) struct Image {
    pub layers: Vec<Blob>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

impl Image {
    pub(super) fn new(layers: Vec<Blob>) -> Self {
        Self::for_platform(layers, if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" })
    }

    pub(super) fn for_platform(layers: Vec<Blob>, architecture: &str) -> Self {
        let diff_ids: Vec<&str> = layers.iter().map(|l| l.diff_id.as_str()).collect();
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux",
            "config": {"Env": ["PATH=/bin", "A=b"], "WorkingDir": "/w", "User": "u", "Cmd": ["sh"], "Entrypoint": null},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self::with_config(layers, config.to_string().into_bytes())
    }

    pub(super) fn with_config(layers: Vec<Blob>, config: Vec<u8>) -> Self {
        let describe = |kind: &str, data: &[u8]| serde_json::json!({"mediaType": kind, "digest": sha256(data), "size": data.len()});
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": describe("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|l| describe(l.media_type, &l.data)).collect::<Vec<_>>(),
        });
        Self { layers, config, manifest: manifest.to_string().into_bytes() }
    }

    pub(super) fn digest(&self) -> String {
        sha256(&self.manifest)
    }

    /// Everything by digest.
    pub(super) fn blobs(&self) -> Vec<(String, Vec<u8>)> {
        let documents = [&self.config, &self.manifest].into_iter().map(|d| (sha256(d), d.clone()));
        documents.chain(self.layers.iter().map(|l| (sha256(&l.data), l.data.clone()))).collect()
    }

    /// An OCI layout as tar.
    pub(super) fn oci_archive(&self, name: Option<&str>) -> Vec<u8> {
        oci_archive(&[(self.clone(), name)])
    }

    /// As `docker save` wrote it before it knew OCI.
    pub(super) fn docker_archive(&self, tag: &str) -> Vec<u8> {
        let mut tar = Layer::new();
        let mut names = Vec::new();
        for (n, layer) in self.layers.iter().enumerate() {
            names.push(format!("layer{n}/layer.tar"));
            tar = tar.file(&names[n], &layer.data);
        }
        let config = format!("{}.json", sha256(&self.config).trim_start_matches("sha256:"));
        let manifest = serde_json::json!([{"Config": config, "RepoTags": [tag], "Layers": names}]);
        tar.file(&config, &self.config).file("manifest.json", manifest.to_string()).file("repositories", "{}").tar()
    }
}

pub(super) fn oci_archive(images: &[(Image, Option<&str>)]) -> Vec<u8> {
    let mut tar = Layer::new().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    let mut manifests = Vec::new();
    for (image, name) in images {
        for (digest, data) in image.blobs() {
            tar = tar.file(&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")), data);
        }
        let mut descriptor = serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image.digest(), "size": image.manifest.len(),
        });
        if let Some(name) = name {
            descriptor["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": name});
        }
        manifests.push(descriptor);
    }
    let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
    tar.file("index.json", index.to_string()).tar()
}

/// What the device holds, line by line as `unsquashfs` shows it.
pub(super) fn listing(device: &Path) -> String {
    let out = std::process::Command::new("unsquashfs").arg("-lln").arg(device).output().expect("unsquashfs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The paths in the device, sorted, without the root.
pub(super) fn paths(device: &Path) -> Vec<String> {
    let all = listing(device);
    let mut paths: Vec<String> = all
        .lines()
        .filter_map(|l| l.split_once("squashfs-root/").map(|(_, p)| p.split(" -> ").next().unwrap_or(p).to_owned()))
        .collect();
    paths.sort();
    paths
}

pub(super) fn content(device: &Path, path: &str) -> String {
    let out = std::process::Command::new("unsquashfs").arg("-cat").arg(device).arg(path).output().expect("unsquashfs");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

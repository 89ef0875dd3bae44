//! A tiny image: a static busybox under the names of its applets. It boots in
//! a second or two even where machines are emulated.
#![allow(clippy::expect_used, reason = "a test harness: a failed expectation is a failed test")]

use sha2::{Digest, Sha256};
use std::process::Command;

fn tar_of(entries: &[(&str, Vec<u8>, u32)], links: &[String]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, data, mode) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(*mode);
        owned_by_root(&mut header);
        tar.append_data(&mut header, path, data.as_slice()).expect("appends");
    }
    for link in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        owned_by_root(&mut header);
        tar.append_link(&mut header, format!("bin/{link}"), "busybox").expect("appends");
    }
    tar.into_inner().expect("ends")
}

fn owned_by_root(header: &mut tar::Header) {
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
}

fn busybox() -> Vec<u8> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .expect("busybox-static is installed (scripts/deps.sh test)")
}

/// An OCI archive whose /etc/os-release says `id`, and so with its own digest.
pub fn archive(id: &str) -> Vec<u8> {
    let list = Command::new("busybox").arg("--list").output().expect("busybox runs").stdout;
    let applets: Vec<String> =
        String::from_utf8(list).expect("text").lines().filter(|l| *l != "busybox").map(str::to_owned).collect();
    let layer = tar_of(
        &[
            ("bin/busybox", busybox(), 0o755),
            ("etc/os-release", format!("ID={id}\n").into_bytes(), 0o644),
            ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n".to_vec(), 0o644),
            ("etc/group", b"root:x:0:\nuser:x:1000:\n".to_vec(), 0o644),
        ],
        &applets,
    );
    let mut blobs = Vec::new();
    let mut blob = |data: Vec<u8>| {
        let digest = hex::encode(Sha256::digest(&data));
        let size = data.len();
        blobs.push((format!("blobs/sha256/{digest}"), data));
        (format!("sha256:{digest}"), size)
    };
    let (layer_digest, layer_size) = blob(layer);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Env": ["PATH=/bin", format!("IMAGE={id}")], "Cmd": ["sh", "-c", "exit 3"] },
        "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
    });
    let (config_digest, config_size) = blob(config.to_string().into_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config_size },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer_size }],
    });
    let (digest, size) = blob(manifest.to_string().into_bytes());
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size }],
    });
    let mut entries = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), index.to_string().into_bytes()),
    ];
    entries.extend(blobs);
    let entries: Vec<(&str, Vec<u8>, u32)> = entries.iter().map(|(p, d)| (p.as_str(), d.clone(), 0o644)).collect();
    tar_of(&entries, &[])
}

//! Indexes, manifests and configs that lie, contradict themselves, or are no
//! such thing.

use super::layouts::{INDEX, MANIFEST, blob, describe, good, index_of, x};
use super::liar::*;
use super::{Case, Expect, refused};
use crate::images::archives::{Image, sha256};
use serde_json::{Value, json};

pub(super) const NOT_SPECIFIED: &str = "is not as specified";
const NO_DIGEST: &str = "is not a sha256 digest";
pub(super) const NEITHER: &str = "its manifest is neither an image manifest nor an index";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub(super) fn cases() -> Vec<Case> {
    let mut all = json_itself();
    all.extend(digests());
    all.extend(indexes());
    all
}

/// The good image's blobs and this index.
fn with_index(index: impl AsRef<[u8]>) -> Vec<u8> {
    let blobs: Vec<Entry> = good().blobs().iter().map(|(_, data)| blob(data)).collect();
    tar(blobs.into_iter().chain([file("index.json", index)]))
}

/// The good image's other blobs, this manifest, and an index that names it.
pub(super) fn with_manifest(manifest: impl AsRef<[u8]>, more: &[&[u8]]) -> Vec<u8> {
    let (image, manifest) = (good(), manifest.as_ref());
    let own = [blob(&image.config), blob(&image.layers[0].data), blob(manifest)];
    let index = index_of(&[describe(MANIFEST, manifest)]);
    tar(own.into_iter().chain(more.iter().map(|d| blob(d))).chain([file("index.json", index)]))
}

/// The good image's manifest, changed.
pub(super) fn manifest(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut doc: Value = serde_json::from_slice(&good().manifest).expect("json");
    change(&mut doc);
    with_manifest(doc.to_string(), &[])
}

/// The good image's config, changed; the manifest agrees with it.
pub(super) fn config(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut doc: Value = serde_json::from_slice(&good().config).expect("json");
    change(&mut doc);
    raw_config(doc.to_string())
}

fn raw_config(config: impl Into<Vec<u8>>) -> Vec<u8> {
    Image::with_config(good().layers, config.into()).oci_archive(None)
}

pub(super) fn index(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut doc: Value = serde_json::from_slice(&index_of(&[describe(MANIFEST, &good().manifest)])).expect("json");
    change(&mut doc);
    with_index(doc.to_string())
}

/// Bad as JSON, wherever it comes.
fn json_itself() -> Vec<Case> {
    let deep = |open: &str, n: usize| open.repeat(n);
    let texts: [(&str, Vec<u8>); 14] = [
        ("nothing", vec![]),
        ("a word", b"hello".to_vec()),
        ("null", b"null".to_vec()),
        ("a number", b"2".to_vec()),
        ("a list", b"[]".to_vec()),
        ("cut off", br#"{"schemaVersion": 2, "#.to_vec()),
        ("lists, 100,000 deep", deep("[", 100_000).into_bytes()),
        ("objects, 100,000 deep", deep("{\"a\":", 100_000).into_bytes()),
        ("not UTF-8", b"{\"schemaVersion\": 2, \"mediaType\": \"\xff\"}".to_vec()),
        ("UTF-16", "{}".encode_utf16().flat_map(u16::to_be_bytes).collect()),
        ("after a BOM", "\u{feff}{\"schemaVersion\":2}".as_bytes().to_vec()),
        ("zeros", vec![0; 64]),
        ("a web page", b"<html></html>".to_vec()),
        ("a number beyond all numbers", br#"{"schemaVersion": 1e999999}"#.to_vec()),
    ];
    let mut all = Vec::new();
    for (what, text) in texts {
        all.push(Case::archive(format!("an index that is {what}"), with_index(&text), refused(NOT_SPECIFIED)));
        all.push(Case::archive(
            format!("a manifest that is {what}"),
            with_manifest(&text, &[]),
            refused(NOT_SPECIFIED),
        ));
        all.push(Case::archive(format!("a config that is {what}"), raw_config(text), refused(NOT_SPECIFIED)));
    }
    let twice = |doc: &[u8], key: &str, value: &str| {
        let text = String::from_utf8(doc.to_vec()).expect("text");
        format!("{{{key}:{value},{}", &text[1..])
    };
    let image = good();
    all.push(Case::archive(
        "a manifest with two lists of layers",
        with_manifest(twice(&image.manifest, "\"layers\"", "[]"), &[]),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "a manifest with two configs",
        with_manifest(twice(&image.manifest, "\"config\"", "{}"), &[]),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "a config with two roots",
        raw_config(twice(&image.config, "\"rootfs\"", r#"{"diff_ids":[]}"#)),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "a manifest with something after it",
        with_manifest([image.manifest.clone(), b"{}".to_vec()].concat(), &[]),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "an unknown field, 100,000 deep",
        with_manifest(
            twice(&image.manifest, "\"junk\"", &format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
            &[],
        ),
        x(),
    ));
    all.push(Case::archive(
        "an unknown field of 3 MiB",
        with_manifest(twice(&image.manifest, "\"junk\"", &format!("\"{}\"", "x".repeat(3 << 20))), &[]),
        x(),
    ));
    all
}

fn digests() -> Vec<Case> {
    let real = sha256(&good().manifest);
    let hex = real.trim_start_matches("sha256:");
    let bad = [
        "".to_owned(),
        hex.to_owned(),
        "sha256:".into(),
        format!("sha256:{}", &hex[1..]),
        format!("{real}0"),
        real.to_uppercase(),
        format!("sha512:{hex}{hex}"),
        format!("sha384:{hex}"),
        format!("md5:{}", &hex[..32]),
        format!("SHA256:{hex}"),
        format!("sha256:{}g", &hex[1..]),
        "sha256:../../../../etc/passwd".into(),
        format!("sha256:../{}", &hex[3..]),
        format!(" {real}"),
        format!("{real}\n"),
        format!("sha256:{}\0", &hex[1..]),
        format!("sha256+b64:{hex}"),
        format!("sha256:sha256:{hex}"),
    ];
    let mut all = Vec::new();
    for digest in bad {
        let shown = digest.replace(hex, "HEX").escape_default().to_string();
        let set = |doc: &mut Value| *doc = json!(digest);
        all.push(Case::archive(
            format!("a manifest's digest of {shown:?}"),
            index(|doc| set(&mut doc["manifests"][0]["digest"])),
            refused(NO_DIGEST),
        ));
        if shown.len() > 30 || shown.contains("HEX") {
            continue;
        }
        all.push(Case::archive(
            format!("a config's digest of {shown:?}"),
            manifest(|doc| set(&mut doc["config"]["digest"])),
            refused(NO_DIGEST),
        ));
        all.push(Case::archive(
            format!("a layer's digest of {shown:?}"),
            manifest(|doc| set(&mut doc["layers"][0]["digest"])),
            refused(NO_DIGEST),
        ));
        all.push(Case::archive(
            format!("a diff_id of {shown:?}"),
            config(|doc| set(&mut doc["rootfs"]["diff_ids"][0])),
            refused(NO_DIGEST),
        ));
    }
    let foreign = sha256(b"somebody else's");
    all.push(Case::archive(
        "a foreign digest for a manifest",
        index(|doc| doc["manifests"][0]["digest"] = json!(foreign)),
        refused("the archive has no"),
    ));
    all.push(Case::archive(
        "a foreign digest for a config",
        manifest(|doc| doc["config"]["digest"] = json!(foreign)),
        refused("the archive has no"),
    ));
    all.push(Case::archive(
        "a foreign digest for a layer",
        manifest(|doc| doc["layers"][0]["digest"] = json!(foreign)),
        refused("the archive has no layer"),
    ));
    all.push(Case::archive(
        "a foreign diff_id",
        config(|doc| doc["rootfs"]["diff_ids"][0] = json!(foreign)),
        refused("and the image's config says"),
    ));
    all.push(Case::archive(
        "a digest that is a number",
        index(|doc| doc["manifests"][0]["digest"] = json!(7)),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "a descriptor without a digest",
        manifest(|doc| drop(doc["config"].as_object_mut().expect("object").remove("digest"))),
        refused(NOT_SPECIFIED),
    ));
    all
}

fn indexes() -> Vec<Case> {
    let image = good();
    let entry = describe(MANIFEST, &image.manifest);
    let sized = |size: Value| index(|doc| doc["manifests"][0]["size"] = size);
    let nested = |depth: usize| {
        let mut inner = index_of(std::slice::from_ref(&entry));
        let mut blobs = vec![];
        for _ in 0..depth {
            blobs.push(blob(&inner));
            inner = index_of(&[describe(INDEX, &inner)]);
        }
        let own: Vec<Entry> = image.blobs().iter().map(|(_, data)| blob(data)).collect();
        tar(own.into_iter().chain(blobs).chain([file("index.json", inner)]))
    };
    let mut all: Vec<Case> = [json!(0), json!(1), json!(image.manifest.len() + 1), json!(1u64 << 40), json!(u64::MAX)]
        .into_iter()
        .map(|size| {
            Case::archive(
                format!("a manifest's size of {size}"),
                sized(size),
                refused("has another size than is said of it"),
            )
        })
        .collect();
    for size in [json!(-1), json!(1.5), json!("12"), json!(null), json!([1])] {
        all.push(Case::archive(format!("a manifest's size of {size}, no number"), sized(size), refused(NOT_SPECIFIED)));
    }
    let raw = |size: &str| {
        String::from_utf8(index_of(std::slice::from_ref(&entry)))
            .expect("text")
            .replace(&format!("\"size\":{}", image.manifest.len()), &format!("\"size\":{size}"))
    };
    all.push(Case::archive(
        "a manifest's size of 2^64",
        with_index(raw("18446744073709551616")),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "an index without images",
        index(|doc| doc["manifests"] = json!([])),
        refused("the archive holds no image"),
    ));
    all.push(Case::archive(
        "an index of 101 images",
        index(|doc| doc["manifests"] = json!(vec![entry.clone(); 101])),
        Expect::TooLarge("the number of images"),
    ));
    all.push(Case::archive(
        "an index of 1,001 images",
        index(|doc| doc["manifests"] = json!(vec![entry.clone(); 1001])),
        refused("its index names more than 1000 manifests"),
    ));
    all.push(Case::archive(
        "an index that names one image 50 times",
        index(|doc| doc["manifests"] = json!(vec![entry.clone(); 50])),
        x(),
    ));
    all.push(Case::archive("an index in an index", nested(1), x()));
    all.push(Case::archive("four indexes within each other", nested(4), refused("its indexes are nested too deep")));
    all.push(Case::archive("forty indexes within each other", nested(40), refused("its indexes are nested too deep")));
    all.push(Case::archive(
        "a manifest for an index",
        with_index(&image.manifest),
        refused("its index.json is not an index"),
    ));
    all.push(Case::archive(
        "an index of schema 1",
        index(|doc| doc["schemaVersion"] = json!(1)),
        refused("is not supported"),
    ));
    all.push(Case::archive(
        "an index that calls itself a manifest",
        index(|doc| doc["mediaType"] = json!(MANIFEST)),
        refused(NEITHER),
    ));
    all.push(Case::archive(
        "an index of an unknown type",
        index(|doc| doc["mediaType"] = json!("text/html")),
        refused(NEITHER),
    ));
    all.push(Case::archive(
        "an index that calls a manifest an index",
        index(|doc| doc["manifests"][0]["mediaType"] = json!(INDEX)),
        refused("is something else"),
    ));
    all.push(Case::archive(
        "an index that calls an index a manifest",
        {
            let inner = index_of(std::slice::from_ref(&entry));
            let own: Vec<Entry> = image.blobs().iter().map(|(_, data)| blob(data)).collect();
            let outer = index_of(&[describe(MANIFEST, &inner)]);
            tar(own.into_iter().chain([blob(&inner), file("index.json", outer)]))
        },
        refused("is something else"),
    ));
    all.push(Case::archive(
        "an index whose image is the config",
        index(|doc| doc["manifests"][0] = describe(MANIFEST, &image.config)),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "an index whose image is the layer",
        index(|doc| doc["manifests"][0] = describe(MANIFEST, &image.layers[0].data)),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "annotations that are no names",
        index(|doc| {
            doc["manifests"][0]["annotations"] =
                json!({"io.containerd.image.name": "../../x:1", "org.opencontainers.image.ref.name": "\u{1b}[2J/:"})
        }),
        x(),
    ));
    all.push(Case::archive(
        "annotations that are no text",
        index(|doc| doc["manifests"][0]["annotations"] = json!({"io.containerd.image.name": 1})),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "URLs for a manifest",
        index(|doc| doc["manifests"][0]["urls"] = json!(["http://169.254.169.254/"])),
        x(),
    ));
    all.push(Case::archive(
        "data in place of a manifest",
        index(|doc| doc["manifests"][0]["data"] = json!("e30=")),
        x(),
    ));
    all
}

//! Manifests, their layers, and configs: what they may not say of themselves.

use super::documents::{CONFIG, LAYER, NEITHER, NOT_SPECIFIED, config, index, manifest, with_manifest};
use super::layouts::{INDEX, MANIFEST, blob, describe, good, index_of, x};
use super::liar::*;
use super::{Case, Expect, refused};
use crate::images::archives::{Blob, Image, sha256};
use serde_json::{Value, json};

pub(super) fn cases() -> Vec<Case> {
    let mut all = manifests();
    all.extend(layers());
    all.extend(configs());
    all.extend(platforms());
    all
}

fn manifests() -> Vec<Case> {
    let version = |v: Value| manifest(|doc| doc["schemaVersion"] = v);
    let mut all = vec![
        Case::archive("a manifest of schema 1", version(json!(1)), refused("is not supported")),
        Case::archive("a manifest of schema 3", version(json!(3)), refused("is not supported")),
    ];
    for v in [json!("2"), json!(2.5), json!(-2), json!(null), json!(1u64 << 40)] {
        all.push(Case::archive(format!("a manifest of schema {v}"), version(v), refused(NOT_SPECIFIED)));
    }
    all.push(Case::archive(
        "a manifest without schema",
        manifest(|doc| drop(doc.as_object_mut().expect("object").remove("schemaVersion"))),
        refused(NOT_SPECIFIED),
    ));
    for kind in [
        "text/html",
        INDEX,
        "",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.oci.artifact.manifest.v1+json",
    ] {
        all.push(Case::archive(
            format!("a manifest that calls itself {kind:?}"),
            manifest(|doc| doc["mediaType"] = json!(kind)),
            refused(NEITHER),
        ));
    }
    let own = describe(MANIFEST, &good().manifest);
    all.push(Case::archive(
        "a manifest that is an index too",
        manifest(|doc| doc["manifests"] = json!([own])),
        refused(NEITHER),
    ));
    all.push(Case::archive(
        "a manifest without layers or images",
        manifest(|doc| drop(doc.as_object_mut().expect("object").remove("layers"))),
        refused(NEITHER),
    ));
    all.push(Case::archive(
        "a manifest without a config",
        manifest(|doc| drop(doc.as_object_mut().expect("object").remove("config"))),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "a manifest whose config is null",
        manifest(|doc| doc["config"] = json!(null)),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "a manifest whose layers are an object",
        manifest(|doc| doc["layers"] = json!({})),
        refused(NOT_SPECIFIED),
    ));
    for kind in [
        "application/vnd.cncf.helm.config.v1+json",
        "application/vnd.oci.empty.v1+json",
        "application/vnd.wasm.config.v0+json",
        "",
        LAYER,
    ] {
        all.push(Case::archive(
            format!("a config of the type {kind:?}"),
            manifest(|doc| doc["config"]["mediaType"] = json!(kind)),
            refused("it is not a container image"),
        ));
    }
    for size in [0u64, 1, 4 << 20] {
        all.push(Case::archive(
            format!("a config's size of {size}"),
            manifest(|doc| doc["config"]["size"] = json!(size)),
            refused("has another size than is said of it"),
        ));
    }
    for size in [(4u64 << 20) + 1, u64::MAX] {
        all.push(Case::archive(
            format!("a config's size of {size}"),
            manifest(|doc| doc["config"]["size"] = json!(size)),
            Expect::TooLarge("the image's config"),
        ));
    }
    all.push(Case::archive(
        "a subject that is not there",
        manifest(|doc| doc["subject"] = describe(MANIFEST, b"none")),
        x(),
    ));
    all.push(Case::archive(
        "a manifest whose config is the layer",
        manifest(|doc| doc["config"] = describe(CONFIG, &good().layers[0].data)),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "a manifest whose layer is the config",
        manifest(|doc| doc["layers"][0] = describe(LAYER, &good().config)),
        refused("is truncated"),
    ));
    all
}

fn layers() -> Vec<Case> {
    let layer = good().layers[0].data.clone();
    let one = describe(LAYER, &layer);
    let sized = |size: Value| manifest(|doc| doc["layers"][0]["size"] = size);
    let of_type = |kind: &str| manifest(|doc| doc["layers"][0]["mediaType"] = json!(kind));
    let mut all = vec![
        Case::archive("no layers", manifest(|doc| doc["layers"] = json!([])), refused("it has no layers")),
        Case::archive(
            "128 layers",
            manifest(|doc| doc["layers"] = json!(vec![one.clone(); 128])),
            Expect::TooLarge("the number of layers"),
        ),
        Case::archive(
            "20,000 layers",
            manifest(|doc| doc["layers"] = json!(vec![one.clone(); 20_000])),
            Expect::TooLarge("the number of layers"),
        ),
        Case::blobs("127 times the same layer", vec![Blob::plain(layer.clone()); 127], x()),
        Case::archive(
            "one layer more than the config knows",
            manifest(|doc| doc["layers"] = json!([one, one])),
            refused("disagree about the number of layers"),
        ),
        Case::archive(
            "one layer less than the config knows",
            config(|doc| {
                let id = doc["rootfs"]["diff_ids"][0].clone();
                doc["rootfs"]["diff_ids"] = json!([id, id])
            }),
            refused("disagree about the number of layers"),
        ),
        Case::archive(
            "a layer's size that is too small",
            sized(json!(layer.len() - 1)),
            refused("has another size than its manifest says"),
        ),
        Case::archive(
            "a layer's size that is too large",
            sized(json!(layer.len() + 1)),
            refused("has another size than its manifest says"),
        ),
        Case::archive("a layer's size of 0", sized(json!(0)), refused("has another size than its manifest says")),
        Case::archive(
            "a layer's size above the limit",
            sized(json!(1u64 << 40)),
            Expect::TooLarge("the compressed size"),
        ),
        Case::archive("a layer's size of 2^64-1", sized(json!(u64::MAX)), Expect::TooLarge("the compressed size")),
        Case::archive(
            "layers whose sizes overflow together",
            {
                let big = json!({"mediaType": LAYER, "digest": sha256(&layer), "size": u64::MAX / 2 + 1});
                let id = sha256(&layer);
                let config =
                    json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [id, id]}})
                        .to_string();
                let doc = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": describe(CONFIG, config.as_bytes()), "layers": [big, big]});
                with_manifest(doc.to_string(), &[config.as_bytes()])
            },
            Expect::TooLarge("the compressed size"),
        ),
        Case::archive("a negative layer size", sized(json!(-1)), refused(NOT_SPECIFIED)),
        Case::archive(
            "one layer with two sizes",
            {
                let id = sha256(&layer);
                let config =
                    json!({"architecture": arch(), "os": "linux", "rootfs": {"type": "layers", "diff_ids": [id, id]}})
                        .to_string();
                let other = json!({"mediaType": LAYER, "digest": id, "size": 9});
                let doc = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": describe(CONFIG, config.as_bytes()), "layers": [one, other]});
                with_manifest(doc.to_string(), &[config.as_bytes()])
            },
            refused("the archive has no layer"),
        ),
        Case::archive(
            "a foreign layer whose URLs lead inside",
            manifest(|doc| {
                doc["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar");
                doc["layers"][0]["urls"] = json!(["http://169.254.169.254/", "file:///etc/passwd"]);
            }),
            x(),
        ),
        Case::archive(
            "a foreign layer that is not there, with URLs",
            manifest(|doc| {
                doc["layers"][0] = json!({"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "digest": sha256(b"far"), "size": 3, "urls": ["http://127.0.0.1/far"]});
            }),
            refused("the archive has no layer"),
        ),
    ];
    for kind in [
        "",
        "application/vnd.oci.image.layer.v1.tar+bzip2",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/octet-stream",
        "text/plain",
        CONFIG,
        MANIFEST,
    ] {
        all.push(Case::archive(
            format!("a layer of the type {kind:?}"),
            of_type(kind),
            refused("a layer is of the type"),
        ));
    }
    all
}

fn arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn configs() -> Vec<Case> {
    let set = |key: &'static str, value: Value| config(|doc| doc["config"][key] = value);
    let mut all = Vec::new();
    for (key, value) in [
        ("Env", json!("A=b")),
        ("Env", json!([1])),
        ("Env", json!({"A": "b"})),
        ("Cmd", json!("sh")),
        ("Cmd", json!([["sh"]])),
        ("Entrypoint", json!(1)),
        ("Entrypoint", json!({})),
        ("WorkingDir", json!(["/"])),
        ("WorkingDir", json!(0)),
        ("User", json!(0)),
        ("User", json!({"uid": 0})),
        ("Labels", json!(["a"])),
        ("Labels", json!({"a": 1})),
        ("StopSignal", json!(9)),
    ] {
        all.push(Case::archive(format!("a config whose {key} is {value}"), set(key, value), refused(NOT_SPECIFIED)));
    }
    // What these mean is the guest's business: no path or user of the node's.
    for (key, value) in [
        ("User", json!("0:0")),
        ("User", json!("../../etc/passwd")),
        ("WorkingDir", json!("../../../../etc")),
        ("Env", json!(["LD_PRELOAD=/x", "=", "no equals sign"])),
        ("Entrypoint", json!(["/proc/self/exe"])),
        ("Env", json!(null)),
        ("Volumes", json!({"/etc": {}, "../..": {}})),
        ("ExposedPorts", json!({"99999/tcp": {}})),
        ("Healthcheck", json!({"Test": ["CMD", "x"]})),
        ("OnBuild", json!(["RUN x"])),
        ("StopSignal", json!("SIGNOTHING")),
    ] {
        all.push(Case::archive(format!("a config whose {key} is {value}, kept"), set(key, value), x()));
    }
    all.push(Case::archive(
        "a config without a root",
        config(|doc| drop(doc.as_object_mut().expect("object").remove("rootfs"))),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "a config without diff_ids",
        config(|doc| doc["rootfs"] = json!({"type": "layers"})),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "a config whose diff_ids are numbers",
        config(|doc| doc["rootfs"]["diff_ids"] = json!([1])),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "a config's config that is a list",
        config(|doc| doc["config"] = json!([])),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "a config's config that is text",
        config(|doc| doc["config"] = json!("x")),
        refused(NOT_SPECIFIED),
    ));
    all.push(Case::archive(
        "a config's config of 120 objects within each other",
        config(|doc| doc["config"]["x"] = (0..120).fold(json!(1), |v, _| json!({"a": v}))),
        x(),
    ));
    all.push(Case::archive(
        "a history of 100,000 lies",
        config(|doc| doc["history"] = json!(vec![json!({"empty_layer": true}); 100_000])),
        x(),
    ));
    all
}

fn platforms() -> Vec<Case> {
    let image = good();
    let on = |platform: Value| index(|doc| doc["manifests"][0]["platform"] = platform);
    let mut all = vec![
        Case::archive(
            "an index for another architecture",
            on(json!({"os": "linux", "architecture": "s390x"})),
            Expect::OtherPlatform,
        ),
        Case::archive(
            "a platform of noise",
            on(json!({"os": "\u{1b}[2J", "architecture": "../../etc"})),
            Expect::OtherPlatform,
        ),
        Case::archive("a platform that is text", on(json!("linux/amd64")), refused(NOT_SPECIFIED)),
        Case::archive("a platform of numbers", on(json!({"os": 1, "architecture": 2})), refused(NOT_SPECIFIED)),
        Case::archive("a platform with nothing in it", on(json!({})), x()),
        Case::archive(
            "an index that lies about the architecture",
            {
                let other = Image::for_platform(image.layers.clone(), "s390x");
                let entry = |i: &Image| {
                    let mut d = describe(MANIFEST, &i.manifest);
                    d["platform"] = json!({"os": "linux", "architecture": arch()});
                    d
                };
                let blobs: Vec<Entry> = other.blobs().iter().map(|(_, data)| blob(data)).collect();
                tar(blobs.into_iter().chain([file("index.json", index_of(&[entry(&other)]))]))
            },
            Expect::OtherPlatform,
        ),
    ];
    for os in ["windows", "darwin", "Linux", "", "linux ", "freebsd"] {
        all.push(Case::archive(
            format!("a config for the system {os:?}"),
            config(|doc| doc["os"] = json!(os)),
            refused("not for linux"),
        ));
    }
    for architecture in ["arm", "", "AMD64", "../../x", "\u{1b}[2J"] {
        all.push(Case::archive(
            format!("a config for the architecture {:?}", architecture.escape_default().to_string()),
            config(|doc| doc["architecture"] = json!(architecture)),
            Expect::OtherPlatform,
        ));
    }
    all.push(Case::archive(
        "a config without a system",
        config(|doc| drop(doc.as_object_mut().expect("object").remove("os"))),
        refused(NOT_SPECIFIED),
    ));
    all
}

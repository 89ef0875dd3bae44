//! Archives whose own members are hostile: OCI layouts and docker archives.

use super::audit::MARK;
use super::liar::*;
use super::{Case, Expect, MAX_BYTES, Site, holds, refused};
use crate::images::archives::{Blob, Image, sha256};
use serde_json::{Value, json};

const NEITHER: &str = "the archive is neither an OCI layout";
const ABSENT: &str = "the archive has no";
const OTHER_DIGEST: &str = "has another digest";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(super) fn cases(site: &Site) -> Vec<Case> {
    let mut all = links(site);
    all.extend(beside(site));
    all.extend(broken());
    all.extend(docker(site));
    all.extend(docker_lists());
    all
}

pub(super) fn good() -> Image {
    Image::new(vec![Blob::plain(tar([file("x", "x")]))])
}

pub(super) fn x() -> Expect {
    holds(&["-rw-r--r-- x =1"])
}

pub(super) fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

pub(super) fn blob(data: &[u8]) -> Entry {
    file(blob_path(&sha256(data)), data)
}

pub(super) fn describe(kind: &str, data: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": sha256(data), "size": data.len()})
}

pub(super) fn index_of(manifests: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).to_string().into_bytes()
}

/// The image's blobs and an index that names it.
fn members(image: &Image) -> Vec<Entry> {
    let index = index_of(&[describe(MANIFEST, &image.manifest)]);
    let blobs = image.blobs().into_iter().map(|(_, data)| blob(&data));
    blobs.chain([file("index.json", index)]).collect()
}

/// One blob of the good image is a link to something else.
fn swapped(which: &[u8], link: Entry, more: Vec<Entry>) -> Vec<u8> {
    let name = sha256(which);
    let rest = members(&good()).into_iter().filter(|e| !e.is_named(&blob_path(&name)));
    tar(more.into_iter().chain(rest).chain([link]))
}

fn links(site: &Site) -> Vec<Case> {
    let image = good();
    let canary = site.path("canary");
    let evil = Image::new(vec![Blob::plain(tar([file("evil", "x")]))]);
    let at = |data: &[u8]| blob_path(&sha256(data));
    let parts = [("manifest", &image.manifest), ("config", &image.config), ("layer", &image.layers[0].data)];
    let mut all = Vec::new();
    for (what, data) in parts {
        for target in ["/etc/passwd", "../../../../../../etc/passwd", &canary, "../../../index.json", "."] {
            let name = format!("the {what} as a symlink to {}", if target == canary { "the canary" } else { target });
            all.push(Case::archive(name, swapped(data, symlink(at(data), target), vec![]), refused(ABSENT)));
        }
        let hard_link = swapped(data, hard(at(data), "../../etc/passwd"), vec![]);
        all.push(Case::archive(format!("the {what} as a hard link out"), hard_link, refused(ABSENT)));
        let circle = swapped(
            data,
            symlink(at(data), "a.json"),
            vec![symlink("blobs/sha256/a.json", "b.json"), symlink("a.json", "b.json"), symlink("b.json", "a.json")],
        );
        all.push(Case::archive(format!("the {what} as a circle of symlinks"), circle, refused(ABSENT)));
    }
    // A link may not give contents another digest than they have: the image
    // would be known by the digest of one that others trust.
    let more = || evil.blobs().into_iter().map(|(_, data)| blob(&data)).collect::<Vec<_>>();
    let to = |data: &[u8]| sha256(data).trim_start_matches("sha256:").to_owned();
    all.push(Case::archive(
        "the manifest as a symlink to another manifest",
        swapped(&image.manifest, symlink(at(&image.manifest), to(&evil.manifest)), more()),
        refused(OTHER_DIGEST),
    ));
    all.push(Case::archive(
        "the manifest as a hard link to another manifest",
        swapped(&image.manifest, hard(at(&image.manifest), at(&evil.manifest)), more()),
        refused(OTHER_DIGEST),
    ));
    all.push(Case::archive(
        "the config as a symlink to another config",
        swapped(&image.config, symlink(at(&image.config), to(&evil.config)), more()),
        refused(OTHER_DIGEST),
    ));
    all.push(Case::archive(
        "the layer as a symlink to another layer",
        swapped(&image.layers[0].data, symlink(at(&image.layers[0].data), to(&evil.layers[0].data)), more()),
        refused("the archive has no layer"),
    ));
    all.push(Case::archive(
        "an index that a symlink leads back to itself",
        {
            let digest = sha256(b"no such index");
            let index = index_of(&[json!({"mediaType": INDEX, "digest": digest, "size": 1})]);
            tar([symlink(blob_path(&digest), "../../index.json"), file("index.json", index)])
        },
        refused(OTHER_DIGEST),
    ));
    all.push(Case::archive(
        "index.json as a symlink to /etc/passwd",
        tar([symlink("index.json", "/etc/passwd")]),
        refused(NEITHER),
    ));
    all.push(Case::archive(
        "index.json as a symlink to a blob",
        tar([symlink("index.json", "blobs/sha256/x")]),
        refused(NEITHER),
    ));
    all.push(Case::archive("index.json as a folder", tar([dir("index.json")]), refused(NEITHER)));
    all.push(Case::archive(
        "index.json as a device",
        tar([Entry::new(b'3', "index.json").device(1, 5)]),
        refused(NEITHER),
    ));
    all.push(Case::archive("index.json as a fifo", tar([Entry::new(b'6', "index.json")]), refused(NEITHER)));
    all.push(Case::archive(
        "blobs as a symlink out",
        tar([symlink("blobs", "/etc"), symlink("blobs/sha256", site.path(""))].into_iter().chain(members(&image))),
        x(),
    ));
    all
}

/// What lies beside a good image in its archive is left out.
fn beside(site: &Site) -> Vec<Case> {
    let canary = site.path("canary");
    let with = |entry: Entry| tar([entry].into_iter().chain(members(&good())));
    let hex = "0".repeat(64);
    let mut all = Vec::new();
    for name in [
        format!("../../{MARK}"),
        format!("/tmp/{MARK}"),
        format!("/etc/cron.d/{MARK}"),
        canary.clone(),
        format!("blobs/sha256/../../../{MARK}"),
        format!("blobs/sha256/../../../../../../../../tmp/{MARK}"),
        format!("blobs/sha256/{MARK}"),
        format!("blobs/sha256/{hex}/../../{MARK}"),
        format!("blobs/sha512/{hex}{hex}"),
        format!("BLOBS/sha256/{hex}"),
        format!("blobs/sha256/{hex}.json"),
        "catalogue.db".into(),
        "tmp/x".into(),
        "devices/x.sqfs".into(),
        "../catalogue.db".into(),
        "\u{1b}[2J".into(),
        "a\nb".into(),
        "..".into(),
        "/".into(),
    ] {
        let shown = name.escape_default().to_string();
        let shown = if name == canary { "the canary's path".into() } else { shown };
        all.push(Case::archive(format!("{shown:?} beside an image"), with(file(name, "evil").mode(0o6777)), x()));
    }
    for (what, entry) in [
        ("a device", Entry::new(b'4', MARK).device(8, 0)),
        ("a fifo", Entry::new(b'6', MARK)),
        ("a symlink out", symlink(MARK, "/etc")),
        ("a file through a symlink out", file(format!("a/{MARK}"), "x").after(symlink("a", "/tmp").bytes())),
        ("a hard link out", hard(MARK, "/etc/shadow")),
        ("a name that is not UTF-8", file(b"\xff\xfe", "x")),
        ("a global header", file("y", "").after(extension(b'g', record("path", "index.json")))),
    ] {
        all.push(Case::archive(format!("{what} beside an image"), with(entry), x()));
    }
    all.push(Case::archive("a blob twice", tar(members(&good()).into_iter().chain(members(&good()))), x()));
    all.push(Case::archive(
        "two different index.json, the later one counts",
        tar([file("index.json", "{}")].into_iter().chain(members(&good()))),
        x(),
    ));
    all.push(Case::archive(
        "an index.json by another spelling",
        tar(members(&good()).into_iter().chain([file("./a/..//index.json", "[]")])),
        refused("is not as specified"),
    ));
    all
}

fn broken() -> Vec<Case> {
    let image = good();
    let archive = tar(members(&image));
    let gzip = Blob::gzip(&archive).data;
    let huge = MAX_BYTES + (80 << 20);
    let bomb = |name: &str, pack: fn(&[u8]) -> Blob| {
        pack(&[open_tar([file(name, "").size(huge)]), vec![0; huge as usize]].concat()).data
    };
    let wrong = |data: &[u8]| {
        let entries = members(&image).into_iter().filter(|e| !e.is_named(&blob_path(&sha256(data))));
        tar(entries.chain([file(blob_path(&sha256(data)), [data, b"!"].concat())]))
    };
    let long = file(blob_path(&sha256(b"z")), vec![b'z'; 6 << 20]);
    vec![
        Case::archive("an archive of nothing", vec![], refused(NEITHER)),
        Case::archive("an archive of zeros", vec![0; 10_240], refused(NEITHER)),
        Case::archive("an archive of noise", vec![0xa5; 4096], refused("a wrong checksum")),
        Case::archive("an archive shorter than a header", b"hello".to_vec(), refused("is truncated")),
        Case::archive("an archive cut in a blob", archive[..700].to_vec(), refused("the archive cannot be read")),
        Case::archive("an archive cut in a header", archive[..300].to_vec(), refused("is truncated")),
        Case::archive("an archive cut between members", archive[..1024].to_vec(), refused(NEITHER)),
        Case::archive(
            "a gzip archive cut in the middle",
            gzip[..gzip.len() / 2].to_vec(),
            refused("the archive cannot be read"),
        ),
        Case::archive(
            "a gzip archive with a broken stream",
            {
                let mut g = gzip.clone();
                let n = g.len() / 2;
                g[n..n + 8].fill(0xff);
                g
            },
            refused("a wrong checksum"),
        ),
        Case::archive(
            "a zstd archive cut in the middle",
            {
                let z = Blob::zstd(&archive).data;
                z[..z.len() / 2].to_vec()
            },
            refused("the archive cannot be read"),
        ),
        Case::archive("a gzip archive packed twice", Blob::gzip(&gzip).data, refused("the archive: ")),
        Case::archive(
            "a gzip bomb of what nobody needs",
            bomb("junk", Blob::gzip),
            Expect::TooLarge("the archive, uncompressed,"),
        ),
        Case::archive(
            "a zstd bomb of what nobody needs",
            bomb("junk", Blob::zstd),
            Expect::TooLarge("the archive, uncompressed,"),
        ),
        Case::archive("a gzip bomb for an index", bomb("index.json", Blob::gzip), Expect::TooLarge("the archive")),
        Case::archive(
            "an archive that claims a terabyte",
            tar([file("index.json", "").size(1 << 40)]),
            Expect::TooLarge("the archive"),
        ),
        Case::archive(
            "an archive that claims a negative size",
            tar([file("index.json", "").field(SIZE, base256(-1, 12))]),
            refused("is not a number"),
        ),
        Case::archive(
            "an archive's sparse file",
            tar([Entry::new(b'S', "index.json").field(MAGIC, "ustar  \0")]),
            refused("sparse files"),
        ),
        Case::archive(
            "more members than an archive may have",
            tar((0..20_001).map(|_| file("junk", ""))),
            Expect::TooLarge("the number of entries"),
        ),
        Case::archive("a manifest with another content", wrong(&image.manifest), refused(OTHER_DIGEST)),
        Case::archive("a config with another content", wrong(&image.config), refused(OTHER_DIGEST)),
        Case::archive("a layer with another content", wrong(&image.layers[0].data), refused(OTHER_DIGEST)),
        Case::archive(
            "a blob above 4 MiB with another content",
            tar(members(&image).into_iter().chain([long])),
            refused(OTHER_DIGEST),
        ),
        Case::archive(
            "a layer that is not there",
            tar(members(&image).into_iter().filter(|e| !e.is_named(&blob_path(&sha256(&image.layers[0].data))))),
            refused("the archive has no layer"),
        ),
        Case::archive(
            "a config that is not there",
            tar(members(&image).into_iter().filter(|e| !e.is_named(&blob_path(&sha256(&image.config))))),
            refused(ABSENT),
        ),
        Case::archive(
            "an index.json of 5 MiB",
            tar([file("index.json", vec![b' '; 5 << 20])]),
            Expect::TooLarge("index.json"),
        ),
        Case::archive(
            "a manifest.json of 5 MiB",
            tar([file("manifest.json", vec![b' '; 5 << 20])]),
            Expect::TooLarge("manifest.json"),
        ),
        Case::archive(
            "a manifest of 5 MiB",
            {
                let data = vec![b' '; 5 << 20];
                let index = index_of(&[describe(MANIFEST, &data)]);
                tar([blob(&data), file("index.json", index)])
            },
            Expect::TooLarge("blobs/sha256/"),
        ),
    ]
}

/// A docker archive of these parts.
fn saved(list: &Value, more: Vec<Entry>) -> Vec<u8> {
    let image = good();
    let own = [file("config.json", &image.config), file("a/layer.tar", &image.layers[0].data)];
    tar(own.into_iter().chain(more).chain([file("manifest.json", list.to_string())]))
}

fn docker(site: &Site) -> Vec<Case> {
    let canary = site.path("canary");
    let one = |config: &str, layers: &[&str]| json!([{"Config": config, "RepoTags": null, "Layers": layers}]);
    let fine = || one("config.json", &["a/layer.tar"]);
    let mut all = vec![Case::archive("a docker archive as it should be", saved(&fine(), vec![]), x())];
    for path in [
        "../../../../etc/passwd",
        "/etc/passwd",
        &canary,
        "../config.json/..",
        "",
        ".",
        "/",
        "a/layer.tar/../../..",
        "nowhere.json",
        "\0",
        "a\nb",
    ] {
        let what = if path == canary { "the canary".into() } else { format!("{path:?}") };
        all.push(Case::archive(
            format!("docker's config at {what}"),
            saved(&one(path, &["a/layer.tar"]), vec![]),
            refused(ABSENT),
        ));
        all.push(Case::archive(
            format!("docker's layer at {what}"),
            saved(&one("config.json", &[path]), vec![]),
            refused(ABSENT),
        ));
    }
    let link = |target: &str| vec![symlink("b/layer.tar", target)];
    let by_link = one("config.json", &["b/layer.tar"]);
    all.push(Case::archive("docker's layer as a symlink to another", saved(&by_link, link("../a/layer.tar")), x()));
    all.push(Case::archive(
        "docker's layer as a hard link to another",
        saved(&by_link, vec![hard("b/layer.tar", "a/layer.tar")]),
        x(),
    ));
    for target in [
        "/etc/passwd",
        "../../etc/passwd",
        "../../../../../etc/passwd",
        &canary,
        "b/layer.tar",
        "layer.tar",
        "../c/layer.tar",
    ] {
        let what = if target == canary { "the canary" } else { target };
        all.push(Case::archive(
            format!("docker's layer as a symlink to {what}"),
            saved(&by_link, link(target)),
            refused(ABSENT),
        ));
    }
    all.push(Case::archive(
        "docker's layers in a circle of symlinks",
        saved(&by_link, vec![symlink("b/layer.tar", "../c/layer.tar"), symlink("c/layer.tar", "../b/layer.tar")]),
        refused(ABSENT),
    ));
    all.push(Case::archive(
        "docker's layer through a chain of five symlinks",
        saved(
            &one("config.json", &["l5/layer.tar"]),
            (1..6)
                .map(|n| {
                    symlink(
                        format!("l{n}/layer.tar"),
                        if n == 1 { "../a/layer.tar".into() } else { format!("../l{}/layer.tar", n - 1) },
                    )
                })
                .collect(),
        ),
        refused(ABSENT),
    ));
    all.push(Case::archive(
        "docker's config is the layer",
        saved(&one("a/layer.tar", &["a/layer.tar"]), vec![]),
        refused("is not as specified"),
    ));
    all.push(Case::archive(
        "docker's layer is the config",
        saved(&one("config.json", &["config.json"]), vec![]),
        refused("is truncated"),
    ));
    all.push(Case::archive(
        "docker's layer twice",
        saved(&one("config.json", &["a/layer.tar", "a/layer.tar"]), vec![]),
        refused("disagree about the number of layers"),
    ));
    all.push(Case::archive(
        "docker's image without layers",
        saved(&one("config.json", &[]), vec![]),
        refused("it has no layers"),
    ));
    all.push(Case::archive(
        "docker's image of 128 layers",
        saved(&one("config.json", &["a/layer.tar"; 128]), vec![]),
        Expect::TooLarge("the number of layers"),
    ));
    all
}

fn docker_lists() -> Vec<Case> {
    let tagged = |tags: Value| json!([{"Config": "config.json", "RepoTags": tags, "Layers": ["a/layer.tar"]}]);
    let entry = json!({"Config": "config.json", "Layers": ["a/layer.tar"]});
    let list = |text: &str| tar([file("manifest.json", text)]);
    let mut all: Vec<Case> = [
        ("an object", "{}"),
        ("a number", "1"),
        ("null", "null"),
        ("text", "\"x\""),
        ("nothing", ""),
        ("no JSON", "{["),
        ("lists in lists", "[[]]"),
        ("an entry without a config", r#"[{"Layers":[]}]"#),
        ("an entry without layers", r#"[{"Config":"config.json"}]"#),
        ("layers as text", r#"[{"Config":"c","Layers":"a"}]"#),
        ("layers of numbers", r#"[{"Config":"c","Layers":[1]}]"#),
        ("two configs in one entry", r#"[{"Config":"a","Config":"b","Layers":[]}]"#),
        ("something after it", "[] x"),
        ("a config as an object", r#"[{"Config":{},"Layers":[]}]"#),
        ("a BOM", "\u{feff}[]"),
        ("a cut escape", r#"[{"Config":"\u12"#),
        ("a lone surrogate", r#"[{"Config":"\ud800","Layers":[]}]"#),
    ]
    .into_iter()
    .map(|(what, text)| {
        Case::archive(format!("a manifest.json that is {what}"), list(text), refused("its manifest.json:"))
    })
    .collect();
    all.push(Case::archive(
        "a manifest.json of lists, 100,000 deep",
        list(&"[".repeat(100_000)),
        refused("its manifest.json:"),
    ));
    all.push(Case::archive("a manifest.json without images", list("[]"), refused("the archive holds no image")));
    all.push(Case::archive(
        "docker's names that are none",
        saved(
            &tagged(json!([
                "../../x:1",
                "A:b",
                "",
                "x@sha256:zz",
                "-",
                "a b",
                "\u{1b}[2J",
                "x:../..",
                &"x".repeat(600)
            ])),
            vec![],
        ),
        x(),
    ));
    all.push(Case::archive(
        "docker's names that are no text",
        saved(&tagged(json!([1, 2])), vec![]),
        refused("its manifest.json:"),
    ));
    all.push(Case::archive(
        "101 names for docker's image",
        saved(&tagged((0..101).map(|n| json!(format!("x:{n}"))).collect()), vec![]),
        Expect::TooLarge("the number of names of an image"),
    ));
    all.push(Case::archive(
        "101 of docker's images",
        saved(&Value::Array(vec![entry; 101]), vec![]),
        Expect::TooLarge("the number of images"),
    ));
    all
}

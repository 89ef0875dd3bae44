use super::archives::{Blob, Image, Layer, content, listing, oci_archive, paths};
use super::{agent, config, open, quiet, tenant};
use crate::jail::Scratch;
use aether_core::Code;
use aether_node::images::ImageError;

fn small() -> Image {
    let lower = Layer::new().dir("bin", 0o755).file_as("bin/su", "#!su", 0o4755, 0, 42).file("gone", "x").gzip();
    let upper = Layer::new().file(".wh.gone", "").file("etc/os-release", "ID=test\n").tar();
    Image::new(vec![lower, Blob::zstd(&upper)])
}

#[tokio::test]
async fn an_oci_archive_becomes_a_device() {
    let scratch = Scratch::new("import");
    let images = open(config(&scratch.0)).await;
    let archive = small().oci_archive(Some("example.org/tool:1"));
    let record = images.import(&tenant("default"), None, archive.as_slice(), quiet()).await.expect("import");
    assert_eq!(record.digest, small().digest());
    assert_eq!(record.names, ["example.org/tool:1"]);
    assert_eq!((record.config.workdir.as_str(), record.config.env.len()), ("/w", 2));
    assert_eq!(
        paths(&record.device),
        ["bin", "bin/su", "dev", "etc", "etc/os-release", "proc", "run", "sys", "tmp"]
    );
    let listing = listing(&record.device);
    assert!(listing.contains("-rwsr-xr-x 0/42"), "{listing}");
    let root = listing.lines().find(|l| l.ends_with(" squashfs-root")).expect("a root");
    assert!(root.starts_with("drwxr-xr-x 0/0"), "{root}");
    assert_eq!(content(&record.device, "etc/os-release"), "ID=test\n");
}

#[tokio::test]
async fn a_docker_archive_is_the_same_device() {
    let scratch = Scratch::new("docker");
    let images = open(config(&scratch.0)).await;
    let tenant = tenant("default");
    let oci = images.import(&tenant, None, small().oci_archive(None).as_slice(), quiet()).await.expect("oci");
    let gz = Blob::gzip(&small().docker_archive("tool:2")).data;
    let docker = images.import(&tenant, None, gz.as_slice(), quiet()).await.expect("docker");
    assert_eq!(docker.names, ["docker.io/library/tool:2"]);
    assert_eq!((docker.device, docker.layers), (oci.device, oci.layers));
    assert!(oci.names.is_empty() && oci.digest != docker.digest);
}

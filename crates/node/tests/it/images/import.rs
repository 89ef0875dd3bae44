use super::archives::{Blob, Image, Layer, content, listing, paths};
use super::{agent, config, open, quiet, tenant};
use crate::jail::Scratch;
use aether_core::Code;
use aether_core::source::OsRng;
use aether_node::config::DiskReserve;
use aether_node::images::{ImageError, PullSpec};
use std::path::PathBuf;
use std::process::Command;

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
    assert_eq!(paths(&record.device), ["bin", "bin/su", "dev", "etc", "etc/os-release", "proc", "run", "sys", "tmp"]);
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

#[tokio::test]
async fn owners_links_devices_and_attributes_survive() {
    let scratch = Scratch::new("kept");
    let images = open(config(&scratch.0)).await;
    let long = format!("d/{}/{}", "a".repeat(120), "b".repeat(120));
    let capability = b"\x01\x00\x00\x02\x00\x20\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let lower = Layer::new()
        .file("a", "same")
        .symlink("lib", "usr/lib")
        .device("dev/null", 1, 3)
        .file_with("cap", "x", "security.capability", capability)
        .file(&long, "long");
    // The link's target lies below, and is then removed: the file stays.
    let middle = Layer::new().link("b", "a").file("lib/x", "through the symlink");
    let upper = Layer::new().file(".wh.a", "").file("usr/.wh..wh..opq", "").file("usr/new", "");
    let image = Image::new(vec![lower.gzip(), middle.gzip(), upper.gzip()]);
    let record =
        images.import(&tenant("default"), None, image.oci_archive(None).as_slice(), quiet()).await.expect("import");
    let all = paths(&record.device);
    for there in ["b", "cap", "dev/null", "lib", "usr/new", long.as_str()] {
        assert!(all.contains(&there.to_owned()), "{there} is missing of {all:?}");
    }
    for gone in ["a", "usr/lib", "usr/lib/x"] {
        assert!(!all.contains(&gone.to_owned()), "{gone} is there");
    }
    assert_eq!((content(&record.device, "b"), content(&record.device, &long)), ("same".into(), "long".into()));
    let out = scratch.0.join("unpacked");
    let status =
        std::process::Command::new("unsquashfs").args(["-q", "-n", "-d"]).arg(&out).arg(&record.device).status();
    assert!(status.expect("unsquashfs").success());
    let kept = std::process::Command::new("getcap").arg(out.join("cap")).output().expect("getcap").stdout;
    assert!(String::from_utf8_lossy(&kept).contains("cap_"), "{}", String::from_utf8_lossy(&kept));
}

#[tokio::test]
async fn hostile_layers_are_refused_and_leave_nothing() {
    let scratch = Scratch::new("hostile");
    let images = open(config(&scratch.0)).await;
    let truncated = {
        let tar = Layer::new().file("a", "x".repeat(5000)).tar();
        Blob::plain(tar[..3000].to_vec())
    };
    let mut lying = Layer::new().file("a", "").gzip();
    lying.diff_id = super::archives::sha256(b"something else");
    let cases = [
        ("a link to nowhere", Layer::new().link("a", "b").gzip()),
        ("a file as a folder", Layer::new().file("a", "").file("a/b", "").gzip()),
        ("a loop", Layer::new().symlink("a", "b").symlink("b", "a").file("a/c", "").gzip()),
        ("truncated", truncated),
        ("another content than claimed", lying),
    ];
    for (what, layer) in cases {
        let archive = Image::new(vec![layer]).oci_archive(None);
        let error = images.import(&tenant("default"), None, archive.as_slice(), quiet()).await.expect_err(what);
        assert!(matches!(error, ImageError::Invalid(_)), "{what}: {error:?}");
        assert_eq!(error.code(), Code::BadRequest);
    }
    assert_eq!(std::fs::read_dir(scratch.0.join("tmp")).expect("tmp").count(), 0);
    assert_eq!(std::fs::read_dir(scratch.0.join("devices")).expect("devices").count(), 0);
    images.gc().await.expect("gc");
    assert_eq!(std::fs::read_dir(scratch.0.join("blobs/sha256")).expect("blobs").count(), 0, "orphans stay");
}

#[tokio::test]
async fn tenants_share_devices_and_see_only_their_own() {
    let scratch = Scratch::new("tenants");
    let images = open(config(&scratch.0)).await;
    let (one, two) = (tenant("one"), tenant("two"));
    let archive = small().oci_archive(Some("tool:1"));
    let record = images.import(&one, None, archive.as_slice(), quiet()).await.expect("import");
    assert_eq!(images.resolve(&two, "tool:1").await, Ok(None));
    assert_eq!(images.resolve(&two, &record.digest).await, Ok(None));
    assert!(images.hold(&two, &record.digest, &agent()).is_err());
    images.import(&two, None, archive.as_slice(), quiet()).await.expect("import");
    let holder = agent();
    images.hold(&one, &record.digest, &holder).expect("hold");
    let error = images.remove(&one, "tool:1").await.expect_err("in use");
    assert!(matches!(error, ImageError::InUse { agents: 1, .. }), "{error}");
    images.remove(&two, "tool:1").await.expect("the other's agents do not count");
    assert_eq!(images.gc().await.expect("gc").devices, 0);
    images.release(&record.digest, &holder);
    images.remove(&one, "tool:1").await.expect("free now");
    let report = images.gc().await.expect("gc");
    assert_eq!((report.images, report.devices, report.blobs), (1, 1, 2));
    assert!(!record.device.exists());
}

#[tokio::test]
async fn open_repairs_what_a_crash_left() {
    let scratch = Scratch::new("crash");
    let config = config(&scratch.0);
    let images = open(config.clone()).await;
    let tenant = tenant("default");
    let record = images.import(&tenant, None, small().oci_archive(None).as_slice(), quiet()).await.expect("import");
    let holder = agent();
    images.hold(&tenant, &record.digest, &holder).expect("hold");
    drop(images);
    std::fs::write(scratch.0.join("tmp/blob-partial"), "x").expect("plant");
    std::fs::create_dir_all(scratch.0.join("jail/merge/root")).expect("plant");
    let images = open(config.clone()).await;
    assert!(!scratch.0.join("tmp/blob-partial").exists() && !scratch.0.join("jail/merge").exists());
    images.remove(&tenant, &record.digest).await.expect_err("the hold is durable");
    assert_eq!(images.retain_holds(&Default::default()).await, Ok(1));
    drop(images);
    std::fs::remove_file(&record.device).expect("lose the device");
    let images = open(config).await;
    assert_eq!(images.list(&tenant).await, Ok(vec![]), "an image without its device is not offered");
}

/// A disk that fills up; it goes with this.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(scratch: &Scratch, size: &str) -> Self {
        let dir = scratch.0.join("small");
        std::fs::create_dir(&dir).expect("create");
        let options = format!("size={size},mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&dir);
        assert!(mount.status().expect("mount runs").success());
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg("-l").arg(&self.0).status().is_ok_and(|status| status.success());
        assert!(gone || std::thread::panicking(), "the small disk is still mounted");
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_partial_stays() {
    let scratch = Scratch::new("full");
    let disk = SmallDisk::mount(&scratch, "14m");
    let dir = &disk.0;
    let images = open(config(dir)).await;
    // Incompressible, so that the layer alone fills the disk.
    let mut noise = vec![0u8; 16 << 20];
    aether_core::Rng::fill(&OsRng, &mut noise);
    let big = Image::new(vec![Blob::plain(Layer::new().file("noise", &noise).tar())]);
    let error =
        images.import(&tenant("default"), None, big.oci_archive(None).as_slice(), quiet()).await.expect_err("full");
    // The layer fits, its device does not.
    let half = Image::new(vec![Blob::plain(Layer::new().file("noise", &noise[..8 << 20]).tar())]);
    let later =
        images.import(&tenant("default"), None, half.oci_archive(None).as_slice(), quiet()).await.expect_err("full");
    let left = std::fs::read_dir(dir.join("tmp")).expect("tmp").count();
    let fine = images.import(&tenant("default"), None, small().oci_archive(None).as_slice(), quiet()).await;
    drop(images);
    drop(disk);
    for error in [&error, &later] {
        // Whichever is seen first: the write that failed, or the room that was left.
        assert!(matches!(error, ImageError::DiskFull(_) | ImageError::DiskNearlyFull { .. }), "{error:?}");
    }
    assert_eq!((error.agent_code(), error.code(), left), ("DISK_FULL", Code::InsufficientStorage, 0));
    fine.expect("small ones still fit");
}

#[tokio::test]
async fn what_takes_room_stops_at_the_low_water_mark() {
    let scratch = Scratch::new("low");
    let disk = SmallDisk::mount(&scratch, "60m");
    let dir = &disk.0;
    let mut config = config(dir);
    config.disk_reserve = DiskReserve { percent: 50, max_mb: 1000 };
    let images = open(config.clone()).await;
    // It would fit, and is given up on the way.
    let mut noise = vec![0u8; 40 << 20];
    aether_core::Rng::fill(&OsRng, &mut noise);
    let big = Image::new(vec![Blob::plain(Layer::new().file("noise", &noise).tar())]);
    let given_up = images.import(&tenant("default"), None, big.oci_archive(None).as_slice(), quiet()).await;
    let left = std::fs::read_dir(dir.join("tmp")).expect("tmp").count();
    let fine = images.import(&tenant("default"), None, small().oci_archive(None).as_slice(), quiet()).await;
    // Nothing is begun there.
    std::fs::write(dir.join("others"), &noise[..32 << 20]).expect("others fill the disk");
    let refused = images.import(&tenant("default"), None, small().oci_archive(None).as_slice(), quiet()).await;
    let spec = PullSpec::parse("127.0.0.1:9/x/y:1").expect("a reference");
    let pulled = images.pull(&tenant("default"), spec, quiet()).await;
    let removed = images.remove(&tenant("default"), &small().digest()).await;
    drop(images);
    drop(disk);
    for refused in [given_up, refused, pulled] {
        let error = refused.expect_err("takes room");
        assert!(matches!(error, ImageError::DiskNearlyFull { kept_mb: 30, .. }), "{error:?}");
        assert_eq!((error.agent_code(), error.code()), ("DISK_FULL", Code::InsufficientStorage));
    }
    assert_eq!(left, 0);
    fine.expect("small ones still fit");
    removed.expect("removing needs no room");
}

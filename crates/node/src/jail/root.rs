//! The private root: an empty tmpfs with only the named files in it.

use super::JailError;
use super::plan::{Bind, JailPlan};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The root itself holds mount points and nothing else.
const ROOT_OPTIONS: &str = "mode=0755,size=256k,nr_inodes=512";
const DEV_OPTIONS: &str = "mode=0755,size=64k,nr_inodes=32";

fn errno(doing: impl Into<String>) -> impl FnOnce(nix::Error) -> JailError {
    let doing = doing.into();
    move |e| JailError::Io { doing, source: e.into() }
}

/// Makes the jail folder. An existing one is refused whatever it holds: a
/// planted symlink or hard link in it would be followed as root
/// (CVE-2026-1386). So is one whose parents somebody else could change.
pub(super) fn make_dir(dir: &Path) -> Result<(), JailError> {
    let parent = dir.parent().ok_or_else(|| JailError::Plan("the jail folder has no parent".into()))?;
    for ancestor in parent.ancestors() {
        let meta =
            std::fs::symlink_metadata(ancestor).map_err(JailError::io(format!("look at {}", ancestor.display())))?;
        let writable = meta.mode() & 0o022 != 0;
        // In a sticky folder nobody can replace what root made in it.
        let sticky = meta.mode() & 0o1000 != 0 && ancestor != parent;
        if !meta.is_dir() || meta.uid() != 0 || (writable && !sticky) {
            return Err(JailError::Refused(format!(
                "{} must be a folder of root that nobody else can write to",
                ancestor.display()
            )));
        }
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o700);
    match builder.create(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(JailError::Refused(format!("the jail folder {} exists already", dir.display())))
        }
        Err(e) => Err(JailError::io(format!("make {}", dir.display()))(e)),
    }
}

/// Builds the root and makes it this process's. Afterwards nothing of the
/// host's file system can be reached.
pub(super) fn build(plan: &JailPlan) -> Result<(), JailError> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(errno("make mounts private"))?;
    let root = plan.dir.join("root");
    std::fs::DirBuilder::new().mode(0o700).create(&root).map_err(JailError::io("make the mount point"))?;
    let bare = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("aether"), &root, Some("tmpfs"), bare, Some(ROOT_OPTIONS)).map_err(errno("mount the private root"))?;
    make_devices(&root, plan.kvm)?;
    if plan.tmp_mb > 0 {
        let tmp = root.join("tmp");
        std::fs::create_dir(&tmp).map_err(JailError::io("make /tmp"))?;
        let options = format!("mode=1777,size={}m,nr_inodes=4096", plan.tmp_mb);
        mount(Some("aether"), &tmp, Some("tmpfs"), bare, Some(options.as_str())).map_err(errno("mount /tmp"))?;
    }
    for bind in &plan.binds {
        show(&root, bind)?;
    }
    for file in &plan.files {
        let target = root.join(file.target.strip_prefix("/").unwrap_or(&file.target));
        let mut out = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(&target)
            .map_err(JailError::io(format!("make {}", file.target.display())))?;
        out.write_all(&file.content).map_err(JailError::io(format!("write {}", file.target.display())))?;
        std::os::unix::fs::fchown(&out, Some(plan.uid), Some(plan.gid))
            .map_err(JailError::io(format!("own {}", file.target.display())))?;
    }
    mount(none, &root, none, bare | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none)
        .map_err(errno("make the root read-only"))?;
    enter(&root)
}

fn make_devices(root: &Path, kvm: bool) -> Result<(), JailError> {
    let dev = root.join("dev");
    std::fs::create_dir(&dev).map_err(JailError::io("make /dev"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("aether"), &dev, Some("tmpfs"), flags, Some(DEV_OPTIONS)).map_err(errno("mount /dev"))?;
    let mut devices = vec![("null", 1, 3), ("urandom", 1, 9)];
    if kvm {
        let number = std::fs::metadata("/dev/kvm").map_err(JailError::io("look at /dev/kvm"))?.rdev();
        devices.push(("kvm", nix::sys::stat::major(number), nix::sys::stat::minor(number)));
    }
    // Without this the nodes would lose bits to the daemon's umask.
    let before = nix::sys::stat::umask(Mode::empty());
    for (name, major, minor) in devices {
        mknod(&dev.join(name), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))
            .map_err(errno(format!("make /dev/{name}")))?;
    }
    nix::sys::stat::umask(before);
    let none: Option<&str> = None;
    mount(none, &dev, none, flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none)
        .map_err(errno("make /dev read-only"))
}

fn show(root: &Path, bind: &Bind) -> Result<(), JailError> {
    let doing = || format!("show {} in the jail", bind.source.display());
    let target: PathBuf = root.join(bind.target.strip_prefix("/").unwrap_or(&bind.target));
    let meta = std::fs::symlink_metadata(&bind.source).map_err(JailError::io(doing()))?;
    if meta.is_dir() {
        std::fs::create_dir_all(&target).map_err(JailError::io(doing()))?;
    } else if meta.is_file() {
        let parent = target.parent().unwrap_or(root);
        std::fs::create_dir_all(parent).map_err(JailError::io(doing()))?;
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&target)
            .map_err(JailError::io(doing()))?;
    } else {
        return Err(JailError::Refused(format!("{} is neither a file nor a folder", bind.source.display())));
    }
    let none: Option<&str> = None;
    mount(Some(&bind.source), &target, none, MsFlags::MS_BIND, none).map_err(errno(doing()))?;
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    flags.set(MsFlags::MS_NOEXEC, !bind.exec);
    flags.set(MsFlags::MS_RDONLY, !bind.writable);
    mount(none, &target, none, flags, none).map_err(errno(doing()))
}

/// The new root is stacked over the old one, which is then let go: no folder
/// for the old root is needed, so none is left.
fn enter(root: &Path) -> Result<(), JailError> {
    nix::unistd::chdir(root).map_err(errno("enter the private root"))?;
    nix::unistd::pivot_root(".", ".").map_err(errno("change the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(errno("let the host's root go"))?;
    nix::unistd::chdir("/").map_err(errno("enter the private root"))
}

//! The mounts of a sandbox: the image below, the disk above, both hidden
//! under the root that they make.

use nix::mount::{MsFlags, mount};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::OnceLock;

/// The writable disk's root, kept open: nothing names it after the move.
static DISK: OnceLock<File> = OnceLock::new();

fn attach(source: &str, target: &str, kind: &str, flags: MsFlags, options: &str) -> io::Result<()> {
    match mount(Some(source), target, Some(kind), flags, Some(options)) {
        Ok(()) => Ok(()),
        Err(error) => Err(io::Error::new(io::Error::from(error).kind(), format!("{kind} on {target}: {error}"))),
    }
}

pub fn early() -> io::Result<()> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    for folder in ["/proc", "/sys", "/dev", "/image", "/disk", "/root"] {
        fs::create_dir_all(folder)?;
    }
    attach("proc", "/proc", "proc", plain, "")?;
    attach("sysfs", "/sys", "sysfs", plain, "")?;
    // The kernel may have mounted it already.
    match attach("devtmpfs", "/dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755") {
        Err(error) if error.kind() != io::ErrorKind::ResourceBusy => Err(error),
        _ => Ok(()),
    }
}

/// Mounts image and disk, makes the overlay and moves into it.
pub fn root(image: &Path, disk: &Path) -> io::Result<()> {
    let image = image.to_string_lossy();
    let read_only = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    attach(&image, "/image", "squashfs", read_only, "")
        .or_else(|first| attach(&image, "/image", "erofs", read_only, "").map_err(|_| first))?;
    // noatime: reading must not write to the tenant's disk.
    attach(&disk.to_string_lossy(), "/disk", "ext4", MsFlags::MS_NODEV | MsFlags::MS_NOATIME, "")?;
    fs::create_dir_all("/disk/upper")?;
    fs::create_dir_all("/disk/work")?;
    fs::set_permissions("/disk/upper", fs::Permissions::from_mode(0o755))?;
    let layers = "lowerdir=/image,upperdir=/disk/upper,workdir=/disk/work";
    attach("overlay", "/root", "overlay", MsFlags::empty(), layers)?;
    let _ = DISK.set(File::open("/disk")?);
    forget_initramfs();
    std::env::set_current_dir("/root")?;
    mount(Some("/root"), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    nix::unistd::chroot(".")?;
    std::env::set_current_dir("/")?;
    inner()
}

/// The initramfs is memory: modules and this executable's name go.
fn forget_initramfs() {
    let _ = fs::remove_dir_all("/modules");
    let _ = fs::remove_file("/init");
}

/// A folder that the image may lack. A file or link in its place is the
/// image's own doing and stays.
fn folder(path: &str, mode: u32) -> io::Result<()> {
    if fs::symlink_metadata(path).is_err() {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn inner() -> io::Result<()> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    for (path, mode) in [("/proc", 0o555), ("/sys", 0o555), ("/dev", 0o755), ("/run", 0o755), ("/tmp", 0o1777)] {
        folder(path, mode)?;
    }
    attach("proc", "/proc", "proc", plain, "")?;
    attach("sysfs", "/sys", "sysfs", plain, "")?;
    attach("devtmpfs", "/dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755")?;
    folder("/dev/pts", 0o755)?;
    folder("/dev/shm", 0o1777)?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    attach("devpts", "/dev/pts", "devpts", quiet, "newinstance,gid=5,mode=620,ptmxmode=666")?;
    attach("tmpfs", "/dev/shm", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=1777")?;
    attach("tmpfs", "/run", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=755,size=25%")?;
    for (target, name) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        match symlink(target, name) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    // Without control groups everything but their users works.
    if let Err(error) = attach("cgroup2", "/sys/fs/cgroup", "cgroup2", plain, "") {
        super::say(&error.to_string());
    }
    Ok(())
}

/// The writable disk, for freezing.
pub fn disk() -> Option<&'static File> {
    DISK.get()
}

/// Everything to disk, then the disk read-only: the next boot finds it clean.
pub fn settle() {
    nix::unistd::sync();
    let again = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let _ = mount(None::<&str>, "/", None::<&str>, again, None::<&str>);
    if let Some(disk) = DISK.get() {
        let path = format!("/proc/self/fd/{}", disk.as_raw_fd());
        let _ = mount(None::<&str>, path.as_str(), None::<&str>, again, None::<&str>);
    }
    nix::unistd::sync();
}

//! Network namespaces: made, entered and bound to a file. A thread that has
//! entered one never comes back, so no failed return can leave a runtime
//! thread in a sandbox's namespace.

use super::NetworkError;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A mount entry per step; more than one only after a crash between two binds.
const MAX_STACKED: usize = 16;

/// Runs `work` on its own thread inside the namespace.
pub(crate) async fn inside<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    on_thread(move || {
        let ns = File::open(&path).map_err(NetworkError::io(format!("open namespace {}", path.display())))?;
        setns(&ns, CloneFlags::CLONE_NEWNET)
            .map_err(|e| NetworkError::io(format!("enter namespace {}", path.display()))(e.into()))?;
        work()
    })
    .await
}

/// Makes a namespace, binds it to `path`, and runs `work` in it.
pub(crate) async fn create<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    on_thread(move || {
        let doing = || format!("make namespace {}", path.display());
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(NetworkError::io(doing()))?;
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetworkError::io(doing())(e.into()))?;
        mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|e| NetworkError::io(doing())(e.into()))?;
        work()
    })
    .await
}

/// Unbinds and removes the file; says what there was. The namespace ends when
/// its last user does.
pub(crate) fn remove(path: &Path) -> Result<Vec<&'static str>, NetworkError> {
    let doing = || format!("remove namespace {}", path.display());
    let mut found = Vec::new();
    for _ in 0..MAX_STACKED {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => found.push("mount"),
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
            Err(e) => return Err(NetworkError::io(doing())(e.into())),
        }
    }
    if path.symlink_metadata().is_ok() {
        // A file as we make it, or whatever else lies there.
        crate::jail::remove_dir(path).map_err(|e| NetworkError::io(doing())(std::io::Error::other(e)))?;
        found.push("namespace");
    }
    Ok(found)
}

/// Whether a namespace is bound there (a file without a mount is a crash's rest).
pub(crate) fn exists(path: &Path) -> bool {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type().0 == NSFS_MAGIC)
}

#[allow(clippy::disallowed_methods, reason = "a namespace belongs to a thread: this one must not be the runtime's")]
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let (tx, rx) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            // The caller may have given up; then the result has no taker.
            let _ = tx.send(work());
        })
        .map_err(NetworkError::io("start a thread"))?;
    rx.await.unwrap_or_else(|_| {
        Err(NetworkError::Io { doing: "work in a namespace".to_owned(), source: std::io::Error::other("it panicked") })
    })
}

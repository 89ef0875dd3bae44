//! What happens in a folder, or in all folders beneath it, by inotify.
//!
//! ```text
//! kernel's queue ──► Tree::take (a blocking thread, as the user) ──► Watcher::ready ──► service
//!   overflow: Lost      adds watches to new folders
//! ```
//!
//! A folder that is made is watched as soon as its event is read; what was
//! made in it before that is found by looking and told as made. The user
//! must be able to read a folder to watch it: the kernel checks that.
//!
//! Not here: who asks, and how many may (`service::watching`).

use crate::process::users::Account;
use crate::service::access::blocking_as;
use crate::service::filesystem::describe;
use crate::sys;
use aether_proto::guest::filesystem::{EventType, FilesystemEvent};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags as Mask, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Of one watcher: each costs the kernel about a kilobyte.
const FOLDERS: usize = 8192;
const DEPTH: usize = 256;
/// Taken from the kernel's queue before they are passed on.
const BATCH: usize = 1024;

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub recursive: bool,
    /// With each event what is at its path, if anything is.
    pub include_entry: bool,
}

/// Why no more events come.
#[derive(Debug)]
pub enum Ended {
    /// The folder was removed.
    Gone,
    /// More happened than could be kept.
    Lost,
    Failed(io::Error),
}

#[derive(Clone)]
struct Handle(Arc<Inotify>);

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl sys::OwnsDescriptor for Handle {}

/// The watched folders, by the kernel's numbers for them.
struct Tree {
    inotify: Handle,
    root: PathBuf,
    options: Options,
    /// Relative to the root, whose own is empty.
    folders: BTreeMap<WatchDescriptor, PathBuf>,
    /// Found by looking: the kernel may tell of them too.
    told: BTreeSet<PathBuf>,
    ready: VecDeque<FilesystemEvent>,
    gone: bool,
}

fn mask() -> Mask {
    Mask::IN_CREATE
        | Mask::IN_MODIFY
        | Mask::IN_DELETE
        | Mask::IN_MOVED_FROM
        | Mask::IN_MOVED_TO
        | Mask::IN_ATTRIB
        | Mask::IN_ONLYDIR
}

impl Tree {
    fn open(root: PathBuf, options: Options) -> io::Result<Self> {
        // Through a link, as a list does.
        if !fs::metadata(&root)?.is_dir() {
            return Err(io::Error::new(ErrorKind::NotADirectory, "not a directory"));
        }
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let watched = inotify.add_watch(&root, mask() | Mask::IN_DELETE_SELF | Mask::IN_MOVE_SELF).map_err(too_many)?;
        let mut tree = Self {
            inotify: Handle(Arc::new(inotify)),
            root,
            options,
            folders: BTreeMap::from([(watched, PathBuf::new())]),
            told: BTreeSet::new(),
            ready: VecDeque::new(),
            gone: false,
        };
        if options.recursive {
            tree.inside(Path::new(""), false)?;
        }
        Ok(tree)
    }

    /// Watches a folder below the root and all in it; `new`: tells what is in it as made.
    fn below(&mut self, folder: &Path, new: bool) -> io::Result<()> {
        if self.folders.len() >= FOLDERS {
            return Err(io::Error::new(ErrorKind::QuotaExceeded, format!("more than {FOLDERS} folders to watch")));
        }
        match self.inotify.0.add_watch(&self.root.join(folder), mask() | Mask::IN_DONT_FOLLOW) {
            Ok(watched) => self.folders.insert(watched, folder.to_owned()),
            // Gone again, replaced, or another's.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES) => return Ok(()),
            Err(error) => return Err(too_many(error)),
        };
        self.inside(folder, new)
    }

    fn inside(&mut self, folder: &Path, new: bool) -> io::Result<()> {
        if folder.components().count() >= DEPTH {
            return Ok(());
        }
        let Ok(entries) = fs::read_dir(self.root.join(folder)) else { return Ok(()) };
        for entry in entries.flatten() {
            let path = folder.join(entry.file_name());
            if new {
                self.told.insert(path.clone());
                self.tell(&path, EventType::EVENT_TYPE_CREATE);
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.below(&path, new)?;
            }
        }
        Ok(())
    }

    /// A folder was moved away: whatever happens in it is not ours any more.
    fn forget(&mut self, folder: &Path) {
        let left: Vec<_> =
            self.folders.iter().filter(|(_, path)| path.starts_with(folder)).map(|(wd, _)| *wd).collect();
        for watched in left {
            self.folders.remove(&watched);
            let _ = self.inotify.0.rm_watch(watched);
        }
    }

    fn tell(&mut self, path: &Path, kind: EventType) {
        let there = !matches!(kind, EventType::EVENT_TYPE_REMOVE | EventType::EVENT_TYPE_RENAME);
        let entry = (there && self.options.include_entry).then(|| describe(&self.root.join(path)).ok()).flatten();
        let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        self.ready.push_back(FilesystemEvent {
            name: name.to_string_lossy().into_owned(),
            r#type: kind.into(),
            entry: entry.into(),
            ..Default::default()
        });
    }

    /// Reads what the kernel has; whether that was all.
    fn take(&mut self) -> Result<bool, Ended> {
        while self.ready.len() < BATCH && !self.gone {
            match self.inotify.0.read_events() {
                Ok(events) => events.iter().try_for_each(|event| self.understand(event))?,
                Err(Errno::EAGAIN) => {
                    // All that could have been told twice has been read.
                    self.told.clear();
                    return Ok(true);
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(Ended::Failed(error.into())),
            }
        }
        Ok(false)
    }

    fn understand(&mut self, event: &InotifyEvent) -> Result<(), Ended> {
        if event.mask.contains(Mask::IN_Q_OVERFLOW) {
            return Err(Ended::Lost);
        }
        let Some(folder) = self.folders.get(&event.wd).cloned() else { return Ok(()) };
        let root = folder.as_os_str().is_empty();
        if event.mask.contains(Mask::IN_IGNORED) {
            self.folders.remove(&event.wd);
            self.gone |= root;
            return Ok(());
        }
        let path = match &event.name {
            Some(name) => folder.join(name),
            None if root => folder,
            // Its parent's event tells the same.
            None => return Ok(()),
        };
        let is = |mask: Mask| event.mask.intersects(mask);
        let kind = match () {
            () if is(Mask::IN_CREATE | Mask::IN_MOVED_TO) => EventType::EVENT_TYPE_CREATE,
            () if is(Mask::IN_MODIFY) => EventType::EVENT_TYPE_WRITE,
            () if is(Mask::IN_DELETE | Mask::IN_DELETE_SELF) => EventType::EVENT_TYPE_REMOVE,
            () if is(Mask::IN_MOVED_FROM | Mask::IN_MOVE_SELF) => EventType::EVENT_TYPE_RENAME,
            () if is(Mask::IN_ATTRIB) => EventType::EVENT_TYPE_CHMOD,
            () => return Ok(()),
        };
        if self.told.remove(&path) && is(Mask::IN_CREATE) {
            return Ok(());
        }
        self.tell(&path, kind);
        if self.options.recursive && is(Mask::IN_ISDIR) {
            if is(Mask::IN_MOVED_FROM) {
                self.forget(&path);
            } else if is(Mask::IN_CREATE | Mask::IN_MOVED_TO) {
                self.below(&path, is(Mask::IN_CREATE)).map_err(Ended::Failed)?;
            }
        }
        Ok(())
    }
}

/// The kernel's limits, which it calls a full disk and open files.
fn too_many(error: Errno) -> io::Error {
    match error {
        Errno::ENOSPC | Errno::EMFILE => io::Error::new(ErrorKind::QuotaExceeded, "the kernel's limit of watches"),
        other => other.into(),
    }
}

/// One folder's events, as one user.
pub struct Watcher {
    descriptor: AsyncFd<Handle>,
    account: Account,
    /// None: while a thread has it, and after that thread's failure.
    tree: Option<Tree>,
}

impl Watcher {
    pub async fn open(account: Account, root: PathBuf, options: Options) -> io::Result<Self> {
        let tree = blocking_as(account.clone(), move |_| Tree::open(root, options)).await?;
        let descriptor = sys::watch(tree.inotify.clone(), Interest::READABLE)?;
        Ok(Self { descriptor, account, tree: Some(tree) })
    }

    /// Waits until something happened. May be given up and called again.
    pub async fn ready(&self) {
        // An error here is met again by whoever takes.
        let _ = self.descriptor.readable().await;
    }

    /// What happened, without waiting for more. Not to be given up half-way.
    pub async fn take(&mut self) -> Result<VecDeque<FilesystemEvent>, Ended> {
        let mut guard = self.descriptor.readable().await.map_err(Ended::Failed)?;
        let lost = || Ended::Failed(io::Error::other("the watch was interrupted"));
        let mut tree = self.tree.take().ok_or_else(lost)?;
        if tree.gone && tree.ready.is_empty() {
            return Err(Ended::Gone);
        }
        let work = move |_: &Account| {
            let taken = tree.take();
            Ok((tree, taken))
        };
        let (mut tree, taken) = blocking_as(self.account.clone(), work).await.map_err(Ended::Failed)?;
        let drained = taken?;
        let ready = std::mem::take(&mut tree.ready);
        // Once it is gone nothing wakes: the next call says so.
        if drained && !tree.gone {
            guard.clear_ready();
        }
        self.tree = Some(tree);
        Ok(ready)
    }
}

#[cfg(test)]
mod tests;

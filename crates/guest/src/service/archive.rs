//! `GET` and `PUT /archive`: a tar of a path out, and a tar beneath a folder
//! in, streamed both ways.
//!
//! Unpacking trusts nothing of the archive. Every name is resolved beneath the
//! folder by the kernel (`openat2` with `RESOLVE_BENEATH`), so neither `..`,
//! nor an absolute name, nor a link met on the way leads out. A symbolic
//! link's target is data: it is kept whatever it says, but no later entry
//! goes through a link that the archive itself has placed.

use super::Body;
use super::access;
use super::http::{Fed, Refused, Target, asker, empty, feed, streamed, target};
use crate::Guest;
use crate::process::users::Account;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{LinkatFlags, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use tar::EntryType;
use tokio::sync::mpsc;

/// More entries than any folder that is worth copying.
const ENTRIES: usize = 2_000_000;
const DEPTH: usize = 256;

/// The archive's root is the path's own name; or `.`, when the path ends in
/// `/.`: then it is what is in the folder, whatever that is called.
pub async fn read(guest: &Arc<Guest>, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let (_, query) = asker(guest, &request)?;
    let Target { account, path } = target(guest, &request)?;
    let content = query.iter().any(|(key, path)| key == "path" && path.ends_with("/."));
    let (path, name) = if content { (path.join("."), ".".into()) } else { (path.clone(), root_name(&path)) };
    let checked = path.clone();
    // What is missing or forbidden is said before the body begins.
    access::blocking_as(account.clone(), move |_| match fs::symlink_metadata(&checked)? {
        found if found.is_dir() => fs::read_dir(&checked).map(drop),
        found if found.is_file() => File::open(&checked).map(drop),
        _ => Ok(()),
    })
    .await?;
    let (sender, body) = streamed();
    tokio::task::spawn_blocking(move || {
        let packed = access::act_as(&account, || pack(&path, &name, &sender));
        if let Err(error) = packed {
            let _ = sender.blocking_send(Err(error));
        }
    });
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/x-tar"));
    Ok(response)
}

pub async fn write(guest: &Arc<Guest>, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let found = target(guest, &request)?;
    let body = Fed::new(feed(request.into_body()));
    let path = found.path;
    access::blocking_as(found.account, move |account| {
        fs::create_dir_all(&path)?;
        unpack(&path, account, body)
    })
    .await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Gathers what the archive's writer writes into pieces of the body.
struct Pieces<'a> {
    sender: &'a mpsc::Sender<io::Result<Bytes>>,
    held: Vec<u8>,
}

impl Write for Pieces<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(data);
        if self.held.len() >= 64 * 1024 {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.held));
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::Error::from(ErrorKind::BrokenPipe))
    }
}

fn root_name(path: &Path) -> PathBuf {
    path.file_name().map_or_else(|| PathBuf::from("."), PathBuf::from)
}

fn pack(path: &Path, name: &Path, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut builder = tar::Builder::new(Pieces { sender, held: Vec::new() });
    let device = fs::symlink_metadata(path)?.dev();
    add(&mut builder, path, name, device, 0)?;
    builder.into_inner()?.flush()
}

fn add<W: Write>(builder: &mut tar::Builder<W>, path: &Path, name: &Path, device: u64, depth: usize) -> io::Result<()> {
    if depth > DEPTH {
        return Err(io::Error::new(ErrorKind::InvalidInput, "folders are nested too deep"));
    }
    let metadata = match fs::symlink_metadata(path) {
        // Gone since its folder was read.
        Err(error) if error.kind() == ErrorKind::NotFound && depth > 0 => return Ok(()),
        found => found?,
    };
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&metadata);
    let kind = metadata.file_type();
    if kind.is_symlink() {
        header.set_size(0);
        builder.append_link(&mut header, name, fs::read_link(path)?)
    } else if kind.is_file() {
        let size = metadata.len();
        header.set_size(size);
        // A file that shrinks meanwhile is filled up, one that grows is cut.
        let file = File::open(path)?.chain(io::repeat(0)).take(size);
        builder.append_data(&mut header, name, file)
    } else if kind.is_dir() {
        header.set_size(0);
        builder.append_data(&mut header, name, io::empty())?;
        // Other file systems (/proc, /sys) are not part of the folder.
        if metadata.dev() != device {
            return Ok(());
        }
        let mut entries: Vec<_> = fs::read_dir(path)?.collect::<io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            add(builder, &entry.path(), &name.join(entry.file_name()), device, depth + 1)?;
        }
        Ok(())
    } else {
        // Sockets, FIFOs and devices mean nothing elsewhere.
        Ok(())
    }
}

/// A folder's mode and owner, set last: it may forbid writing into it.
struct Finish {
    path: PathBuf,
    mode: u32,
    owner: (u32, u32),
}

fn refused(name: &Path, why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, format!("{}: {why}", name.display()))
}

/// The name's parts; none for the root itself.
fn inside(name: &Path) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            _ => return Err(refused(name, "names with .. or from the root are refused")),
        }
    }
    Ok(clean)
}

pub fn unpack(root: &Path, account: &Account, body: impl Read) -> io::Result<()> {
    let tree = Tree { root: File::open(root)?.into(), owners: account.uid == 0 && nix::unistd::geteuid().is_root() };
    let mut archive = tar::Archive::new(body);
    let mut folders: Vec<Finish> = Vec::new();
    let mut links = Links::default();
    for (count, entry) in archive.entries()?.enumerate() {
        if count >= ENTRIES {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the archive has too many entries"));
        }
        let mut entry = entry?;
        let name = inside(&entry.path()?)?;
        links.check(&entry, &name)?;
        folders.extend(tree.unpack_entry(&mut entry, &name)?);
        links.placed(entry.header().entry_type(), name);
    }
    for folder in folders.iter().rev() {
        tree.finish(folder)?;
    }
    // What follows the end of the archive is read, or the sender would wait.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
}

/// The symbolic links that this archive has placed.
#[derive(Default)]
struct Links(BTreeSet<PathBuf>);

impl Links {
    /// Refuses an entry that would be placed, or linked, through one of them.
    fn check<R: Read>(&self, entry: &tar::Entry<'_, R>, name: &Path) -> io::Result<()> {
        let through = |path: &Path, skipped: usize| path.ancestors().skip(skipped).any(|above| self.0.contains(above));
        // A folder is entered by its own name too: a link in its place would be followed.
        let itself = entry.header().entry_type() == EntryType::Directory;
        if through(name, usize::from(!itself)) {
            return Err(refused(name, "a link of the archive is on the way"));
        }
        if entry.header().entry_type() == EntryType::Link
            && let Some(to) = entry.link_name()?
            && through(&inside(&to)?, 1)
        {
            return Err(refused(name, "a link of the archive is on the way to its target"));
        }
        Ok(())
    }

    fn placed(&mut self, kind: EntryType, name: PathBuf) {
        match kind {
            // A hard link may be one to a symbolic link; nothing else is ever below it.
            EntryType::Symlink | EntryType::Link => self.0.insert(name),
            _ => self.0.remove(&name),
        };
    }
}

struct Tree {
    root: OwnedFd,
    /// Owners are kept as the archive says: only root can.
    owners: bool,
}

impl Tree {
    fn open(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.root, path, how).map_err(|error| match error {
            nix::errno::Errno::EXDEV => refused(path, "a link on the way leads out"),
            other => io::Error::new(io::Error::from(other).kind(), format!("{}: {other}", path.display())),
        })
    }

    /// The folder at `path`, made with its parents where missing.
    fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY;
        match self.open(path, flags) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => return opened,
        }
        let (parent, name) = self.place(path)?;
        match mkdirat(&parent, &name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => self.open(path, flags),
            Err(error) => Err(error.into()),
        }
    }

    /// The parent folder and the last name.
    fn place(&self, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
        if path.components().count() > DEPTH {
            return Err(refused(path, "nested too deep"));
        }
        let name = path.file_name().ok_or_else(|| refused(path, "no name"))?;
        let parent = self.folder(path.parent().unwrap_or(Path::new("")))?;
        Ok((parent, name.into()))
    }

    /// Removes what is in the way, unless it is a folder.
    fn clear(parent: &OwnedFd, name: &Path) -> io::Result<()> {
        match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
            Err(nix::errno::Errno::EISDIR) => Err(refused(name, "a folder is in the way")),
            Err(error) => Err(error.into()),
        }
    }

    fn unpack_entry<R: Read>(&self, entry: &mut tar::Entry<'_, R>, name: &Path) -> io::Result<Option<Finish>> {
        let header = entry.header();
        let mode = header.mode()? & 0o7777;
        let owner = (id(header.uid()?)?, id(header.gid()?)?);
        match header.entry_type() {
            EntryType::Directory => {
                self.folder(name)?;
                // The root's own mode is the caller's business.
                let own = !name.as_os_str().is_empty();
                return Ok(own.then(|| Finish { path: name.to_owned(), mode, owner }));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.file(entry, name, mode, owner)?,
            EntryType::Symlink => self.symlink(entry, name, owner)?,
            EntryType::Link => self.hard_link(entry, name)?,
            EntryType::XGlobalHeader => {}
            _ => return Err(refused(name, "devices and FIFOs are refused")),
        }
        Ok(None)
    }

    fn file<R: Read>(
        &self,
        entry: &mut tar::Entry<'_, R>,
        name: &Path,
        mode: u32,
        owner: (u32, u32),
    ) -> io::Result<()> {
        let (parent, last) = self.place(name)?;
        Self::clear(&parent, &last)?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&parent, &last, flags, Mode::from_bits_truncate(0o600))?);
        io::copy(entry, &mut file)?;
        if self.owners {
            fchown(&file, Some(owner.0), Some(owner.1))?;
        }
        // After the owner: changing that clears setuid.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        if let Ok(seconds) = entry.header().mtime() {
            let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds));
            if let Some(time) = time {
                let _ = file.set_modified(time);
            }
        }
        Ok(())
    }

    fn symlink<R: Read>(&self, entry: &tar::Entry<'_, R>, name: &Path, owner: (u32, u32)) -> io::Result<()> {
        let to = entry.link_name()?.ok_or_else(|| refused(name, "a link without a target"))?;
        let (parent, last) = self.place(name)?;
        Self::clear(&parent, &last)?;
        symlinkat(to.as_ref(), &parent, &last)?;
        if self.owners {
            let (uid, gid) = (Some(owner.0.into()), Some(owner.1.into()));
            fchownat(&parent, &last, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    fn hard_link<R: Read>(&self, entry: &tar::Entry<'_, R>, name: &Path) -> io::Result<()> {
        let to = entry.link_name()?.ok_or_else(|| refused(name, "a link without a target"))?;
        let to = inside(&to)?;
        let (from_parent, from) = self.place(&to)?;
        let (parent, last) = self.place(name)?;
        Self::clear(&parent, &last)?;
        // No follow: a hard link to a link is one to the link itself.
        linkat(&from_parent, &from, &parent, &last, LinkatFlags::empty()).map_err(io::Error::from)
    }

    fn finish(&self, folder: &Finish) -> io::Result<()> {
        let opened = File::from(self.open(&folder.path, OFlag::O_DIRECTORY | OFlag::O_RDONLY)?);
        if self.owners {
            fchown(&opened, Some(folder.owner.0), Some(folder.owner.1))?;
        }
        match opened.set_permissions(fs::Permissions::from_mode(folder.mode)) {
            // Not ours: it was there before and belongs to someone else.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            done => done,
        }
    }
}

fn id(value: u64) -> io::Result<u32> {
    u32::try_from(value).map_err(|_| io::Error::new(ErrorKind::InvalidData, "an owner's number is too large"))
}

#[cfg(test)]
mod tests;

//! E2B's `filesystem.Filesystem`.

use super::access;
use super::watching::{self, Asked};
use crate::process::users::{Account, group_name, user_name};
use crate::watch::Options;
use crate::{Guest, lock};
use aether_proto::guest::filesystem::{self as wire, Filesystem as Rpc};
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub struct Service(pub Arc<Guest>);

/// An answer must fit into one message.
const ENTRIES: usize = 10_000;
const DEPTH: u32 = 64;
/// Where E2B's metadata lives.
const METADATA: &str = "user.e2b.";
/// Of all of one file's metadata.
const METADATA_LIMIT: usize = 4096;

/// What a failure is called, path included.
pub(super) fn failed(path: &Path, error: &io::Error) -> ConnectError {
    super::io_error(&path.display().to_string(), error)
}

impl Service {
    fn account(&self, context: &RequestContext) -> Result<Account, ConnectError> {
        let user = access::basic_user(context.header(http::header::AUTHORIZATION));
        let identity = lock(&self.0.identity);
        access::account(&identity, user.as_deref()).map_err(|error| ConnectError::unauthenticated(error.to_string()))
    }

    fn place(&self, context: &RequestContext, path: &str) -> Result<(Account, PathBuf), ConnectError> {
        let account = self.account(context)?;
        let resolved = access::resolve(&lock(&self.0.identity), &account, path);
        let path = resolved.map_err(|error| super::io_error("path", &error))?;
        Ok((account, path))
    }
}

async fn run<T: Send + 'static>(
    account: Account,
    path: PathBuf,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, ConnectError> {
    let inner = path.clone();
    let done = access::blocking_as(account, move |_| work(&inner)).await;
    done.map_err(|error| failed(&path, &error))
}

#[allow(refining_impl_trait, reason = "the answers are owned messages")]
impl Rpc for Service {
    async fn stat(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::StatRequest>,
    ) -> ServiceResult<wire::StatResponse> {
        let (account, path) = self.place(&context, request.path)?;
        let entry = run(account, path, describe).await?;
        Response::ok(wire::StatResponse { entry: Some(entry).into(), ..Default::default() })
    }

    async fn make_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::MakeDirRequest>,
    ) -> ServiceResult<wire::MakeDirResponse> {
        let (account, path) = self.place(&context, request.path)?;
        let entry = run(account, path, make_dir).await?;
        Response::ok(wire::MakeDirResponse { entry: Some(entry).into(), ..Default::default() })
    }

    async fn r#move(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::MoveRequest>,
    ) -> ServiceResult<wire::MoveResponse> {
        let (account, source) = self.place(&context, request.source)?;
        let (_, destination) = self.place(&context, request.destination)?;
        let entry = run(account, source, move |source| {
            fs::symlink_metadata(source)?;
            if let Some(parent) = destination.parent() {
                fs::create_dir_all(parent)?;
            }
            super::transfer::rename(source, &destination)?;
            describe(&destination)
        })
        .await?;
        Response::ok(wire::MoveResponse { entry: Some(entry).into(), ..Default::default() })
    }

    async fn list_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ListDirRequest>,
    ) -> ServiceResult<wire::ListDirResponse> {
        let (account, path) = self.place(&context, request.path)?;
        let depth = request.depth.clamp(1, DEPTH);
        let entries = run(account, path, move |path| {
            // Follows a link at the root, and says so when it is no folder.
            if !fs::metadata(path)?.is_dir() {
                return Err(io::Error::new(ErrorKind::NotADirectory, "not a directory"));
            }
            let mut entries = Vec::new();
            list(path, depth, &mut entries)?;
            Ok(entries)
        })
        .await?;
        Response::ok(wire::ListDirResponse { entries, ..Default::default() })
    }

    async fn remove(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::RemoveRequest>,
    ) -> ServiceResult<wire::RemoveResponse> {
        let (account, path) = self.place(&context, request.path)?;
        run(account, path, remove).await?;
        Response::ok(wire::RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<wire::WatchDirResponse>> {
        let options = Options { recursive: request.recursive, include_entry: request.include_entry };
        let (account, path) = self.place(&context, request.path)?;
        let asked = Asked { account, path, options, network_mounts: request.allow_network_mounts };
        let every = super::process::keep_alive(&context);
        Response::stream_ok(watching::stream(&self.0.watchers, asked, every).await?)
    }

    async fn create_watcher(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::CreateWatcherRequest>,
    ) -> ServiceResult<wire::CreateWatcherResponse> {
        let options = Options { recursive: request.recursive, include_entry: request.include_entry };
        let (account, path) = self.place(&context, request.path)?;
        let asked = Asked { account, path, options, network_mounts: request.allow_network_mounts };
        let watcher_id = self.0.watchers.create(&self.0, asked).await?;
        Response::ok(wire::CreateWatcherResponse { watcher_id, ..Default::default() })
    }

    async fn get_watcher_events(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::GetWatcherEventsRequest>,
    ) -> ServiceResult<wire::GetWatcherEventsResponse> {
        let events = self.0.watchers.events(request.watcher_id)?;
        Response::ok(wire::GetWatcherEventsResponse { events, ..Default::default() })
    }

    async fn remove_watcher(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::RemoveWatcherRequest>,
    ) -> ServiceResult<wire::RemoveWatcherResponse> {
        self.0.watchers.remove(request.watcher_id)?;
        Response::ok(wire::RemoveWatcherResponse::default())
    }
}

fn make_dir(path: &Path) -> io::Result<wire::EntryInfo> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Err(io::Error::new(ErrorKind::AlreadyExists, "it exists already")),
        Ok(_) => return Err(io::Error::new(ErrorKind::NotADirectory, "a file is in the way")),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    describe(path)
}

fn is_root(path: &Path) -> bool {
    path.components().all(|part| !matches!(part, std::path::Component::Normal(_)))
}

fn remove(path: &Path) -> io::Result<()> {
    if is_root(path) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the root cannot be removed"));
    }
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn list(folder: &Path, depth: u32, entries: &mut Vec<wire::EntryInfo>) -> io::Result<()> {
    let mut found: Vec<_> = fs::read_dir(folder)?.collect::<io::Result<_>>()?;
    found.sort_by_key(fs::DirEntry::file_name);
    for entry in found {
        if entries.len() >= ENTRIES {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("more than {ENTRIES} entries: ask for less")));
        }
        match describe(&entry.path()) {
            Ok(described) => entries.push(described),
            // Gone since the folder was read.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        if depth > 1 && entry.file_type()?.is_dir() {
            list(&entry.path(), depth - 1, entries)?;
        }
    }
    Ok(())
}

pub(crate) fn describe(path: &Path) -> io::Result<wire::EntryInfo> {
    let metadata = fs::symlink_metadata(path)?;
    let root = Path::new("/");
    let link = metadata.is_symlink();
    // A link is shown with its target's kind, if it has one.
    let kind = if link {
        fs::metadata(path).map_or(wire::FileType::FILE_TYPE_SYMLINK, |it| kind_of(&it))
    } else {
        kind_of(&metadata)
    };
    let nanos = i32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    Ok(wire::EntryInfo {
        name: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
        r#type: kind.into(),
        path: path.to_string_lossy().into_owned(),
        size: i64::try_from(metadata.len()).unwrap_or(i64::MAX),
        mode: metadata.mode() & 0o777,
        permissions: permissions(&metadata),
        owner: user_name(root, metadata.uid()),
        group: group_name(root, metadata.gid()),
        modified_time: Some(buffa_types::google::protobuf::Timestamp {
            seconds: metadata.mtime(),
            nanos,
            ..Default::default()
        })
        .into(),
        symlink_target: if link { fs::read_link(path).ok().map(|to| to.to_string_lossy().into_owned()) } else { None },
        metadata: extended(path).into_iter().collect(),
        ..Default::default()
    })
}

fn kind_of(metadata: &Metadata) -> wire::FileType {
    if metadata.is_dir() {
        wire::FileType::FILE_TYPE_DIRECTORY
    } else if metadata.is_file() {
        wire::FileType::FILE_TYPE_FILE
    } else {
        wire::FileType::FILE_TYPE_UNSPECIFIED
    }
}

fn extended(path: &Path) -> Vec<(String, String)> {
    let Ok(names) = xattr::list(path) else { return Vec::new() };
    let mut room = METADATA_LIMIT;
    let ours = names.filter_map(|name| Some(name.to_str()?.strip_prefix(METADATA)?.to_owned()));
    ours.filter_map(|key| {
        let value = xattr::get(path, format!("{METADATA}{key}")).ok()??;
        let value = String::from_utf8(value).ok()?;
        room = room.checked_sub(key.len() + value.len())?;
        Some((key, value))
    })
    .collect()
}

/// As Go prints a mode, which is what E2B's clients show.
fn permissions(metadata: &Metadata) -> String {
    let mode = metadata.mode();
    let mut text = String::new();
    for (set, letter) in [
        (metadata.is_dir(), 'd'),
        (metadata.is_symlink(), 'L'),
        (mode & 0o4000 != 0, 'u'),
        (mode & 0o2000 != 0, 'g'),
        (mode & 0o1000 != 0, 't'),
    ] {
        if set {
            text.push(letter);
        }
    }
    if text.is_empty() {
        text.push('-');
    }
    for (shift, letter) in (0..9).rev().zip("rwxrwxrwx".chars()) {
        text.push(if mode & (1 << shift) != 0 { letter } else { '-' });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn entries_are_described() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("file");
        fs::write(&file, b"abc").expect("write");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("chmod");
        std::os::unix::fs::symlink("file", dir.path().join("link")).expect("symlink");
        std::os::unix::fs::symlink("nowhere", dir.path().join("broken")).expect("symlink");
        let entry = describe(&file).expect("described");
        assert_eq!((entry.size, entry.mode, entry.permissions.as_str()), (3, 0o640, "-rw-r-----"));
        let link = describe(&dir.path().join("link")).expect("described");
        assert_eq!(link.symlink_target.as_deref(), Some("file"));
        assert_eq!(link.r#type, wire::FileType::FILE_TYPE_FILE);
        let broken = describe(&dir.path().join("broken")).expect("described");
        assert_eq!(broken.r#type, wire::FileType::FILE_TYPE_SYMLINK);
        assert!(describe(dir.path()).expect("described").permissions.starts_with('d'));
    }

    #[test]
    fn folders_are_made_listed_and_removed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let deep = dir.path().join("a/b/c");
        make_dir(&deep).expect("made");
        assert_eq!(make_dir(&deep).map_err(|error| error.kind()), Err(ErrorKind::AlreadyExists));
        fs::write(deep.join("file"), b"").expect("write");
        assert_eq!(make_dir(&deep.join("file")).map_err(|error| error.kind()), Err(ErrorKind::NotADirectory));
        for (depth, count) in [(1, 1), (2, 2), (9, 4)] {
            let mut entries = Vec::new();
            list(dir.path(), depth, &mut entries).expect("listed");
            assert_eq!(entries.len(), count);
        }
        remove(&dir.path().join("a")).expect("removed");
        remove(&dir.path().join("a")).expect("a missing path is success");
        // Never try this one with the real function.
        assert!(is_root(Path::new("/")) && !is_root(dir.path()));
    }
}

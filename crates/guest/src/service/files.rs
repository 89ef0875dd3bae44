//! `GET` and `POST /files`: files, streamed, as their user.

use super::Body;
use super::access;
use super::http::{Fed, Refused, Target, asker, feed, json, streamed, target};
use super::multipart::{self, Multipart};
use crate::process::users::Account;
use crate::{Guest, lock};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Read at once from a file.
const PIECE: usize = 64 * 1024;
/// Of one form.
const PARTS: usize = 10_000;

pub async fn read(guest: &Arc<Guest>, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let Target { account, path } = target(guest, &request)?;
    let open = move |_: &Account| open_regular(&path);
    let (file, metadata) = access::blocking_as(account, open).await?;
    let size = metadata.len();
    let range = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
    let range = range.map(|text| parse_range(text, size)).transpose()?;
    let (from, length) = range.map_or((0, size), |(first, last)| (first, last - first + 1));
    let (sender, body) = streamed();
    // Files of /proc say 0 and hold more: their end is found by reading.
    let limit = if size == 0 { u64::MAX } else { length };
    tokio::task::spawn_blocking(move || pour(file, from, limit, &sender));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let mut set = |name: header::HeaderName, text: String| {
        if let Ok(value) = header::HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, "application/octet-stream".into());
    set(header::ACCEPT_RANGES, "bytes".into());
    set(header::HeaderName::from_static("x-aether-mode"), format!("{:o}", metadata.mode() & 0o7777));
    if size > 0 {
        set(header::CONTENT_LENGTH, length.to_string());
    }
    if let Some((first, last)) = range {
        set(header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}"));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    // A FIFO without a writer would hold the thread.
    let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::new(ErrorKind::IsADirectory, "it is a directory"));
    }
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok((file, metadata))
}

fn pour(mut file: File, from: u64, mut left: u64, sender: &mpsc::Sender<io::Result<Bytes>>) {
    if from > 0
        && let Err(error) = file.seek(SeekFrom::Start(from))
    {
        let _ = sender.blocking_send(Err(error));
        return;
    }
    while left > 0 {
        let mut piece = vec![0; usize::try_from(left).map_or(PIECE, |left| left.min(PIECE))];
        let sent = match file.read(&mut piece) {
            Ok(0) => return,
            Ok(count) => {
                piece.truncate(count);
                left -= count as u64;
                sender.blocking_send(Ok(piece.into()))
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => {
                let _ = sender.blocking_send(Err(error));
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// First and last byte of `bytes=a-b`, `bytes=a-` or `bytes=-n`.
fn parse_range(text: &str, size: u64) -> Result<(u64, u64), Refused> {
    let unsatisfiable = || Refused::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("the file has {size} bytes"));
    let malformed = || Refused::new(StatusCode::BAD_REQUEST, "a range is bytes=FIRST-LAST, one only");
    let (first, last) = text.strip_prefix("bytes=").and_then(|rest| rest.split_once('-')).ok_or_else(malformed)?;
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| malformed());
    let (first, last) = match (first.is_empty(), last.is_empty()) {
        (true, true) => return Err(malformed()),
        (true, false) => (size.saturating_sub(number(last)?), size.saturating_sub(1)),
        (false, true) => (number(first)?, size.saturating_sub(1)),
        (false, false) => (number(first)?, number(last)?.min(size.saturating_sub(1))),
    };
    if first > last || first >= size { Err(unsatisfiable()) } else { Ok((first, last)) }
}

/// One file as the body, or several as the parts of a form; either gzipped.
pub async fn write(guest: &Arc<Guest>, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let header = |name: header::HeaderName| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let (kind, coding) = (header(header::CONTENT_TYPE), header(header::CONTENT_ENCODING));
    let unsupported = |message: &str| Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    let zipped = match coding.to_ascii_lowercase().as_str() {
        "" | "identity" => false,
        "gzip" => true,
        _ => return Err(unsupported("of content encodings gzip is understood")),
    };
    let form = multipart::boundary(&kind);
    if form.is_none() && !kind.starts_with("application/octet-stream") {
        return Err(unsupported("send the bytes as application/octet-stream, or files as multipart/form-data"));
    }
    let (account, query) = asker(guest, &request)?;
    let value = |key: &str| query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let mode = value("mode").map(parse_mode).transpose()?;
    let path = if form.is_none() || value("path").is_some_and(|path| !path.is_empty()) {
        Some(target(guest, &request)?.path)
    } else {
        None
    };
    let body = Fed::new(feed(request.into_body()));
    let guest = guest.clone();
    let stored = access::blocking_as(account, move |account| {
        let body: Box<dyn Read> = if zipped { Box::new(MultiGzDecoder::new(body)) } else { Box::new(body) };
        match (form, path) {
            (Some(boundary), path) => store_parts(&guest, account, mode, path, Multipart::new(body, &boundary)),
            (None, Some(path)) => store(&path, account, mode, body).map(|()| vec![path]),
            (None, None) => Err(io::Error::new(ErrorKind::InvalidInput, "path is missing")),
        }
    });
    let entry = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        serde_json::json!({ "name": name, "path": path.to_string_lossy(), "type": "file" })
    };
    let entries: Vec<_> = stored.await?.iter().map(entry).collect();
    Ok(json(StatusCode::OK, serde_json::Value::from(entries).to_string()))
}

fn parse_mode(text: &str) -> Result<u32, Refused> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| Refused::new(StatusCode::BAD_REQUEST, "mode is octal, up to 7777"))
}

/// Each part called `file` under its file name, or the only one at `path`.
fn store_parts<R: Read>(
    guest: &Guest,
    account: &Account,
    mode: Option<u32>,
    path: Option<PathBuf>,
    mut parts: Multipart<R>,
) -> io::Result<Vec<PathBuf>> {
    let invalid = |message: &str| io::Error::new(ErrorKind::InvalidInput, message);
    let mut stored: Vec<PathBuf> = Vec::new();
    let mut seen = BTreeSet::new();
    while let Some(part) = parts.part()? {
        if part.name != "file" {
            continue;
        }
        let to = match (&path, part.filename.filter(|name| !name.is_empty())) {
            (Some(path), _) => path.clone(),
            (None, Some(name)) => access::resolve(&lock(&guest.identity), account, &name)?,
            (None, None) => return Err(invalid("a file without a name, and no path")),
        };
        if !seen.insert(to.clone()) {
            return Err(invalid(&format!("two files for {}", to.display())));
        }
        if seen.len() > PARTS {
            return Err(invalid(&format!("more than {PARTS} files")));
        }
        store(&to, account, mode, &mut parts)?;
        stored.push(to);
    }
    if stored.is_empty() { Err(invalid("the form holds no file")) } else { Ok(stored) }
}

/// A file beside the target, removed unless it took the target's place.
struct Temporary {
    path: PathBuf,
    kept: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn store(path: &Path, account: &Account, mode: Option<u32>, mut body: impl Read) -> io::Result<()> {
    // Through links, so that the link stays and its target is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let old = match fs::metadata(&path) {
        Ok(old) if old.is_dir() => return Err(io::Error::new(ErrorKind::IsADirectory, "it is a directory")),
        Ok(old) if !old.is_file() => {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Ok(old) => Some(old),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let folder = path.parent().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "no file name"))?;
    let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "no file name"))?;
    fs::create_dir_all(folder)?;
    // Who may not write the old file may not replace it either.
    if old.is_some() {
        File::options().write(true).open(&path)?;
    }
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    // A long name would not leave room for more letters.
    let short: String = name.to_string_lossy().chars().take(40).collect();
    let temporary = folder.join(format!(".{short}.{}-{number}.aether", std::process::id()));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let mut guard = Temporary { path: temporary, kept: false };
    io::copy(&mut body, &mut file)?;
    file.flush()?;
    let mode = mode.or_else(|| old.as_ref().map(|old| old.mode() & 0o7777)).unwrap_or(0o644);
    if let (0, Some(old)) = (account.uid, &old) {
        // Root overwrites another's file: it stays that other's.
        fchown(&file, Some(old.uid()), Some(old.gid()))?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    fs::rename(&guard.path, &path)?;
    guard.kept = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let good = [("bytes=0-9", (0, 9)), ("bytes=5-", (5, 99)), ("bytes=-10", (90, 99)), ("bytes=90-500", (90, 99))];
        for (text, expected) in good {
            assert_eq!(parse_range(text, 100).ok(), Some(expected), "{text}");
        }
        for text in ["bytes=100-", "bytes=9-5", "bytes=-0"] {
            let refused = parse_range(text, 100).err().map(|refused| refused.status);
            assert_eq!(refused, Some(StatusCode::RANGE_NOT_SATISFIABLE), "{text}");
        }
        for text in ["bytes=-", "lines=0-1", "bytes=0-1,5-6", "bytes=x-"] {
            assert_eq!(parse_range(text, 100).err().map(|refused| refused.status), Some(StatusCode::BAD_REQUEST));
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(ErrorKind::UnexpectedEof.into())
            }
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("deep/er/file");
        let account = Account::root();
        store(&path, &account, Some(0o640), &b"old"[..]).expect("written");
        assert!(store(&path, &account, None, Broken).is_err());
        assert_eq!(fs::read(&path).expect("read"), b"old");
        assert_eq!(fs::read_dir(path.parent().expect("parent")).expect("list").count(), 1);
        store(&path, &account, None, &b"new"[..]).expect("overwritten");
        assert_eq!(fs::metadata(&path).expect("stat").mode() & 0o777, 0o640);
        assert!(store(dir.path(), &account, None, &b""[..]).is_err());
    }
}

//! Tar streams made from folders and unpacked into them, without holding
//! them in memory. What comes out of a sandbox is hostile: it is unpacked
//! inside its target only, as files, folders and links, without owners and
//! without set-id bits.

use crate::client::Body;
use crate::error::CliError;
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// Chunks between the blocking side and the network.
const QUEUE: usize = 8;
const CHUNK: usize = 64 * 1024;

type Piece = std::io::Result<Bytes>;

/// The folder's content as a tar stream, relative to the folder.
pub(crate) fn folder_body(folder: &Path) -> Body {
    let folder = folder.to_owned();
    tar_body(move |builder| builder.append_dir_all(".", &folder))
}

fn tar_body(fill: impl FnOnce(&mut tar::Builder<&mut dyn Write>) -> std::io::Result<()> + Send + 'static) -> Body {
    let (tx, rx) = mpsc::channel::<Piece>(QUEUE);
    tokio::task::spawn_blocking(move || {
        let mut sink = std::io::BufWriter::with_capacity(CHUNK, ChannelWriter(tx.clone()));
        let result = {
            let mut builder = tar::Builder::new(&mut sink as &mut dyn Write);
            builder.follow_symlinks(false);
            fill(&mut builder).and_then(|()| builder.finish())
        };
        // A body that ends in an error is cut off, and the server takes no
        // half archive for a whole one.
        if let Err(e) = result.and_then(|()| sink.flush()) {
            let _ = tx.blocking_send(Err(e));
        }
    });
    let frames = ReceiverStream::new(rx).map(|piece| piece.map(Frame::data));
    StreamBody::new(frames).boxed_unsync()
}

struct ChannelWriter(mpsc::Sender<Piece>);

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reads an answer's body from blocking code.
struct ChannelReader {
    channel: mpsc::Receiver<Piece>,
    rest: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.channel.blocking_recv() {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let count = out.len().min(self.rest.len());
        out[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

/// Unpacks a tar stream into `folder`, which exists.
pub(crate) async fn unpack(body: Incoming, folder: PathBuf) -> Result<(), CliError> {
    let (tx, rx) = mpsc::channel::<Piece>(QUEUE);
    let feeder = tokio::spawn(feed(body, tx));
    let reader = ChannelReader { channel: rx, rest: Bytes::new() };
    let shown = folder.display().to_string();
    let unpacked = tokio::task::spawn_blocking(move || unpack_from(reader, &folder)).await;
    feeder.abort();
    match unpacked {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(CliError::failed(format!("cannot unpack into {shown}: {e}"))),
        Err(e) => Err(CliError::failed(format!("cannot unpack into {shown}: {e}"))),
    }
}

async fn feed(mut body: Incoming, tx: mpsc::Sender<Piece>) {
    while let Some(frame) = body.frame().await {
        let piece = match frame {
            Ok(frame) => match frame.into_data() {
                Ok(data) => Ok(data),
                Err(_) => continue,
            },
            Err(e) => Err(std::io::Error::other(format!("the stream broke off: {e}"))),
        };
        let failed = piece.is_err();
        if tx.send(piece).await.is_err() || failed {
            return;
        }
    }
}

fn unpack_from(reader: impl Read, folder: &Path) -> std::io::Result<()> {
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(false);
    archive.set_preserve_ownerships(false);
    archive.set_unpack_xattrs(false);
    // Folders are made writable last, as tar does, so that their content fits.
    let mut folders = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            folders.push(entry);
        } else if kind.is_file() || kind.is_symlink() || kind.is_hard_link() || kind.is_contiguous() {
            if !entry.unpack_in(folder)? {
                return Err(refused(&entry.path()?));
            }
        } else if !kind.is_pax_global_extensions() {
            eprintln!(
                "warning: {} is neither file, folder nor link: left out",
                crate::error::printable(&entry.path()?.to_string_lossy())
            );
        }
    }
    for mut dir in folders {
        if !dir.unpack_in(folder)? {
            return Err(refused(&dir.path()?));
        }
    }
    Ok(())
}

fn refused(path: &Path) -> std::io::Error {
    std::io::Error::other(format!("the archive has an entry outside of its folder: {:?}", path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            let name_field = &mut header.as_gnu_mut().expect("gnu").name;
            name_field[..name.len()].copy_from_slice(name.as_bytes());
            let link = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
            if link {
                header.set_link_name_literal(content).expect("fits");
            }
            let data = if link { &[][..] } else { content.as_bytes() };
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data).expect("appends");
        }
        builder.into_inner().expect("finishes")
    }

    #[test]
    fn files_folders_and_links_arrive_without_set_id_bits() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("tempdir");
        let bytes = archive(&[
            ("./", tar::EntryType::Directory, ""),
            ("./sub/", tar::EntryType::Directory, ""),
            ("./sub/a", tar::EntryType::Regular, "hello"),
            ("./link", tar::EntryType::Symlink, "sub/a"),
            ("./python", tar::EntryType::Symlink, "/usr/bin/python3"),
        ]);
        unpack_from(&bytes[..], dir.path()).expect("unpacks");
        assert_eq!(std::fs::read_to_string(dir.path().join("link")).expect("reads"), "hello");
        let target = std::fs::read_link(dir.path().join("python")).expect("a link");
        assert_eq!(target, Path::new("/usr/bin/python3"), "a target is data");
        let mode = std::fs::metadata(dir.path().join("sub/a")).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o7000, 0);
    }

    #[test]
    fn nothing_lands_outside() {
        for entries in [
            vec![("../evil", tar::EntryType::Regular, "x")],
            vec![("out", tar::EntryType::Symlink, ".."), ("out/evil", tar::EntryType::Regular, "x")],
            vec![("out", tar::EntryType::Symlink, "/"), ("out/tmp/evil", tar::EntryType::Regular, "x")],
            vec![("a/../../evil", tar::EntryType::Regular, "x")],
        ] {
            let outer = tempfile::tempdir().expect("tempdir");
            let inner = outer.path().join("inner");
            std::fs::create_dir(&inner).expect("creates");
            assert!(unpack_from(&archive(&entries)[..], &inner).is_err(), "{entries:?}");
            assert!(!outer.path().join("evil").exists(), "{entries:?}");
        }
    }

    #[test]
    fn devices_are_left_out_and_garbage_is_an_error() {
        let dir = tempfile::tempdir().expect("tempdir");
        unpack_from(&archive(&[("null", tar::EntryType::Char, "")])[..], dir.path()).expect("unpacks");
        assert!(!dir.path().join("null").exists());
        assert!(unpack_from(&[0xffu8; 2048][..], dir.path()).is_err());
    }
}

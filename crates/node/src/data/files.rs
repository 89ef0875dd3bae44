//! Files and folders of a sandbox. The guest does the work, beneath its own
//! root; the node passes bytes on, piece by piece.

use super::{ANSWERS, Answers, DataService, PIECE, check, error};
use crate::channel::{ByteStream, filesystem as fs};
use aether_proto::node as wire;
use aether_proto::node::file_read_response::Message as Read;
use aether_proto::node::file_write_request::Message as Write;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status as Refusal, Streaming};

const FIRST: Duration = Duration::from_secs(10);
/// Pieces of an upload on their way to the guest.
const UPLOAD: usize = 4;

impl DataService {
    pub(super) async fn stat_file(&self, request: wire::FilePathRequest) -> Result<wire::FileEntry, Refusal> {
        let (path, user) = (check::path("path", &request.path)?, check::user(&request.user)?);
        let up = self.up(&request.agent_id)?;
        up.client.fs_stat(path, user).await.map(entry).map_err(error::channel)
    }

    pub(super) async fn list_files(&self, request: wire::FileListRequest) -> Result<wire::FileListResponse, Refusal> {
        let (path, user) = (check::path("path", &request.path)?, check::user(&request.user)?);
        let depth = check::depth(request.depth)?;
        let up = self.up(&request.agent_id)?;
        let entries = up.client.fs_list(path, depth, user).await.map_err(error::channel)?;
        Ok(wire::FileListResponse { entries: entries.into_iter().map(entry).collect() })
    }

    pub(super) async fn make_dir(&self, request: wire::FilePathRequest) -> Result<wire::FileEntry, Refusal> {
        let (path, user) = (check::path("path", &request.path)?, check::user(&request.user)?);
        let up = self.up(&request.agent_id)?;
        up.client.fs_mkdir(path, user).await.map(entry).map_err(error::channel)
    }

    pub(super) async fn remove_file(&self, request: wire::FilePathRequest) -> Result<wire::Empty, Refusal> {
        let (path, user) = (check::path("path", &request.path)?, check::user(&request.user)?);
        let up = self.up(&request.agent_id)?;
        up.client.fs_remove(path, user).await.map_err(error::channel)?;
        Ok(wire::Empty {})
    }

    pub(super) async fn move_file(&self, request: wire::FileMoveRequest) -> Result<wire::FileEntry, Refusal> {
        let source = check::path("source", &request.source)?;
        let destination = check::path("destination", &request.destination)?;
        let user = check::user(&request.user)?;
        let up = self.up(&request.agent_id)?;
        up.client.fs_move(source, destination, user).await.map(entry).map_err(error::channel)
    }

    pub(super) async fn read_file(
        &self,
        request: wire::FileReadRequest,
    ) -> Result<Answers<wire::FileReadResponse>, Refusal> {
        let (path, user) = (check::path("path", &request.path)?, check::user(&request.user)?);
        let range = range_header(request.range_start, request.range_end)?;
        let up = self.up(&request.agent_id)?;
        let found = entry(up.client.fs_stat(path, user).await.map_err(error::channel)?);
        let size = found.size;
        let (total_size, body) = if request.archive {
            (0, up.client.archive_read(path, user).await.map_err(error::channel)?)
        } else {
            if found.kind == "directory" {
                return Err(Refusal::failed_precondition("the path is a folder: ask for an archive"));
            }
            let (head, body) = up.client.file_read(path, user, range.as_deref()).await.map_err(error::channel)?;
            (head.content_range.and_then(|r| r.rsplit('/').next()?.parse().ok()).or(head.length).unwrap_or(size), body)
        };
        let head = wire::FileReadHead { entry: Some(found), total_size, archive: request.archive };
        let (sender, receiver) = mpsc::channel(ANSWERS);
        tokio::spawn(send_body(head, body, sender));
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    pub(super) async fn write_file(
        &self,
        mut requests: Streaming<wire::FileWriteRequest>,
    ) -> Result<wire::FileEntry, Refusal> {
        let first = tokio::time::timeout(FIRST, requests.message())
            .await
            .map_err(|_| Refusal::deadline_exceeded("no first message came"))??;
        let Some(Write::Head(head)) = first.and_then(|m| m.message) else {
            return Err(Refusal::invalid_argument("the first message must be the head"));
        };
        let (path, user) = (check::path("path", &head.path)?, check::user(&head.user)?);
        if head.mode.is_some_and(|mode| mode > 0o7777) {
            return Err(Refusal::invalid_argument("mode must be at most 07777"));
        }
        let up = self.up(&head.agent_id)?;
        let (sender, body) = upload();
        let pump = pump_upload(requests, sender);
        let written = async {
            if head.archive {
                up.client.archive_write(path, user, body).await
            } else {
                up.client.file_write(path, user, head.mode, body).await.map(drop)
            }
            .map_err(error::channel)
        };
        tokio::pin!(pump, written);
        // The guest may refuse before it has read all.
        tokio::select! {
            done = &mut written => done?,
            pumped = &mut pump => {
                let done = written.await;
                pumped?;
                done?;
            }
        }
        up.client.fs_stat(path, user).await.map(entry).map_err(error::channel)
    }
}

/// A piece of an upload, or its end. A body whose sender vanished without an
/// end was cut, and must not look whole.
enum Piece {
    Bytes(Bytes),
    End,
}

fn upload() -> (mpsc::Sender<Piece>, impl Stream<Item = Result<Bytes, &'static str>> + Send + Sync + 'static) {
    let (sender, receiver) = mpsc::channel(UPLOAD);
    let body = futures::stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Piece::Bytes(bytes)) => Some((Ok(bytes), Some(receiver))),
            Some(Piece::End) => None,
            None => Some((Err("the upload was cut"), None)),
        }
    });
    (sender, body)
}

async fn pump_upload(
    mut requests: Streaming<wire::FileWriteRequest>,
    sender: mpsc::Sender<Piece>,
) -> Result<(), Refusal> {
    loop {
        let piece = match requests.message().await?.map(|m| m.message) {
            None => Piece::End,
            Some(Some(Write::Chunk(bytes))) => Piece::Bytes(bytes),
            Some(_) => return Err(Refusal::invalid_argument("after the head only chunks may come")),
        };
        let last = matches!(piece, Piece::End);
        // Nobody listens: the guest has answered already.
        if sender.send(piece).await.is_err() || last {
            return Ok(());
        }
    }
}

async fn send_body(
    head: wire::FileReadHead,
    mut body: ByteStream,
    sender: mpsc::Sender<Result<wire::FileReadResponse, Refusal>>,
) {
    let say = |message| Ok(wire::FileReadResponse { message: Some(message) });
    if sender.send(say(Read::Head(head))).await.is_err() {
        return;
    }
    while let Some(piece) = body.next().await {
        match piece {
            Ok(mut bytes) => {
                while !bytes.is_empty() {
                    let part = bytes.split_to(bytes.len().min(PIECE));
                    if sender.send(say(Read::Chunk(part))).await.is_err() {
                        return;
                    }
                }
            }
            Err(e) => return drop(sender.send(Err(error::channel(e))).await),
        }
    }
}

fn range_header(start: u64, end: Option<u64>) -> Result<Option<String>, Refusal> {
    match (start, end) {
        (0, None) => Ok(None),
        (start, None) => Ok(Some(format!("bytes={start}-"))),
        (start, Some(end)) if end >= start => Ok(Some(format!("bytes={start}-{end}"))),
        _ => Err(Refusal::invalid_argument("range_end must not be before range_start")),
    }
}

fn entry(e: fs::EntryInfo) -> wire::FileEntry {
    let kind = match e.r#type.as_known() {
        Some(fs::FileType::FILE_TYPE_FILE) => "file",
        Some(fs::FileType::FILE_TYPE_DIRECTORY) => "directory",
        Some(fs::FileType::FILE_TYPE_SYMLINK) => "symlink",
        _ => "other",
    };
    let modified_ms = e.modified_time.as_option().map_or(0, |t| {
        let seconds = u64::try_from(t.seconds).unwrap_or(0);
        seconds.saturating_mul(1000).saturating_add(u64::try_from(t.nanos).unwrap_or(0) / 1_000_000)
    });
    wire::FileEntry {
        name: e.name,
        path: e.path,
        kind: kind.to_owned(),
        size: u64::try_from(e.size).unwrap_or(0),
        mode: e.mode & 0o7777,
        owner: e.owner,
        group: e.group,
        modified_ms,
        symlink_target: e.symlink_target.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cut_upload_never_looks_whole() {
        let (sender, body) = upload();
        assert!(sender.send(Piece::Bytes(Bytes::from_static(b"half"))).await.is_ok());
        drop(sender);
        let all: Vec<_> = body.collect().await;
        assert_eq!(all, [Ok(Bytes::from_static(b"half")), Err("the upload was cut")]);
        let (sender, body) = upload();
        assert!(sender.send(Piece::End).await.is_ok());
        assert!(body.collect::<Vec<_>>().await.is_empty());
    }

    #[test]
    fn ranges() {
        let of = |start, end| range_header(start, end).ok().flatten();
        assert_eq!(of(0, None), None);
        assert_eq!(of(5, None).as_deref(), Some("bytes=5-"));
        assert_eq!(of(0, Some(0)).as_deref(), Some("bytes=0-0"));
        assert!(range_header(5, Some(4)).is_err());
    }
}

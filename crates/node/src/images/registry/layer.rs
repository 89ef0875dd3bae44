//! One layer: streamed to disk, hashed on the way, resumed where it broke.

use super::super::blobs::{BlobWriter, Folders};
use super::super::manifest::Descriptor;
use super::super::{ImageError, blocking};
use super::session::{Failure, Session};
use bytes::Bytes;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;

/// Chunks between the network and the disk.
const IN_FLIGHT: usize = 16;

/// Gets the layer unless it is here. `advance` is told of each byte once.
pub(super) async fn fetch(
    session: &Session,
    folders: &Folders,
    layer: Descriptor,
    advance: &(impl Fn(u64) + Sync),
) -> Result<(), ImageError> {
    if folders.has_blob(&layer.digest, layer.size) {
        advance(layer.size);
        return Ok(());
    }
    let path = format!("blobs/{}", layer.digest);
    let mut writer = BlobWriter::create(folders, layer.size)?;
    let mut counted = 0;
    // Attempts in a row that brought nothing.
    let mut barren = 0;
    while writer.written() < layer.size || layer.size == 0 {
        let before = writer.written();
        let failure = match session.get(&path, before).await {
            Ok(response) => {
                writer = restart_unless_resumed(session, folders, &layer, writer, &response)?;
                let count = |at: u64| {
                    if at > counted {
                        advance(at - counted);
                        counted = at;
                    }
                };
                let (back, failure) = stream(session, &layer, writer, response, count).await?;
                writer = back;
                failure
            }
            Err(failure) => Some(failure),
        };
        match failure {
            None if writer.written() == layer.size => break,
            None => barren = next(session, before, writer.written(), barren, cut(session), None).await?,
            Some(Failure::Final(e)) => return Err(missing(session, e, &layer.digest)),
            Some(Failure::Again(e, wish)) => barren = next(session, before, writer.written(), barren, e, wish).await?,
        }
    }
    let written = writer.finish();
    if written.digest != layer.digest {
        return Err(session.lying(&format!("what it sent as {} has the digest {}", layer.digest, written.digest)));
    }
    let folders = folders.clone();
    blocking(move || written.keep(&folders)).await
}

/// Pauses before the next attempt; gives up after too many barren ones.
async fn next(
    session: &Session,
    before: u64,
    after: u64,
    barren: u32,
    e: ImageError,
    wish: Option<std::time::Duration>,
) -> Result<u32, ImageError> {
    let barren = if after > before { 0 } else { barren };
    if barren >= session.timeouts.retries {
        return Err(e);
    }
    session.pause(barren, wish).await;
    Ok(barren + 1)
}

fn cut(session: &Session) -> ImageError {
    ImageError::Unreachable { registry: session.registry.clone(), detail: "the connection was cut".into() }
}

/// A registry that does not know ranges sends everything again.
fn restart_unless_resumed(
    session: &Session,
    folders: &Folders,
    layer: &Descriptor,
    writer: BlobWriter,
    response: &Response,
) -> Result<BlobWriter, ImageError> {
    let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
    let start = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
    let expected = format!("bytes {}-", writer.written());
    let from = match resumed {
        true if start.is_some_and(|s| s.starts_with(&expected)) => writer.written(),
        true => return Err(session.lying("it resumes at another place than asked")),
        false => 0,
    };
    if response.content_length().is_some_and(|n| n != layer.size - from) {
        return Err(session.lying(&format!("the layer {} has another size than the manifest says", layer.digest)));
    }
    if from == writer.written() { Ok(writer) } else { BlobWriter::create(folders, layer.size) }
}

/// Writes what comes on a thread that may block, and gives the writer back
/// with the reason why no more came.
async fn stream(
    session: &Session,
    layer: &Descriptor,
    mut writer: BlobWriter,
    mut response: Response,
    mut count: impl FnMut(u64),
) -> Result<(BlobWriter, Option<Failure>), ImageError> {
    let mut at = writer.written();
    let (chunks, mut incoming) = mpsc::channel::<Bytes>(IN_FLIGHT);
    let disk = tokio::spawn(blocking(move || {
        while let Some(chunk) = incoming.blocking_recv() {
            writer.write(&chunk)?;
        }
        Ok(writer)
    }));
    let failure = loop {
        match session.chunk(&mut response).await {
            Ok(Some(chunk)) => {
                at += chunk.len() as u64;
                if at > layer.size {
                    break Some(Failure::Final(session.lying("a layer is larger than the manifest says")));
                }
                count(at);
                // The disk's own error is the answer then.
                if chunks.send(chunk).await.is_err() {
                    break None;
                }
            }
            Ok(None) => break None,
            Err(failure) => break Some(failure),
        }
    };
    drop(chunks);
    let writer = disk.await.map_err(|e| ImageError::Io { doing: "store a layer".into(), detail: e.to_string() })??;
    Ok((writer, failure))
}

/// A blob that the manifest names must be there.
pub(super) fn missing(session: &Session, e: ImageError, digest: &str) -> ImageError {
    match e {
        ImageError::NotInRegistry(_) => session.lying(&format!("it does not have {digest}, which the manifest names")),
        other => other,
    }
}

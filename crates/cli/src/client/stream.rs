//! Bodies that are not held in memory: lines of an answer as they come, and
//! files and pipes as requests.

use super::Body;
use crate::error::CliError;
use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::de::DeserializeOwned;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

/// The longest line of NDJSON we take.
const MAX_LINE: usize = 4 * 1024 * 1024;
const CHUNK: usize = 64 * 1024;

/// One JSON document per line of an answer.
pub(crate) struct LineStream {
    body: Incoming,
    buffer: BytesMut,
    ended: bool,
}

impl LineStream {
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), ended: false }
    }

    /// The next document, or none at the end.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CliError> {
        loop {
            if let Some(line) = take_line(&mut self.buffer, self.ended) {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                let parsed = serde_json::from_slice(&line);
                return parsed
                    .map(Some)
                    .map_err(|e| CliError::failed(format!("a line of the answer cannot be read: {e}")));
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(e)) => return Err(CliError::failed(format!("the answer broke off: {e}"))),
            }
            if self.buffer.len() > MAX_LINE && !self.buffer.contains(&b'\n') {
                return Err(CliError::failed("a line of the answer is too long"));
            }
        }
    }
}

fn take_line(buffer: &mut BytesMut, ended: bool) -> Option<Bytes> {
    match buffer.iter().position(|b| *b == b'\n') {
        Some(at) => {
            let line = buffer.split_to(at).freeze();
            buffer.advance(1);
            Some(line)
        }
        None if ended && !buffer.is_empty() => Some(buffer.split().freeze()),
        None => None,
    }
}

/// A request body that is read as it is sent.
pub(crate) fn reader_body(reader: impl AsyncRead + Send + 'static) -> Body {
    let frames = ReaderStream::with_capacity(reader, CHUNK).map(|chunk| chunk.map(Frame::data));
    StreamBody::new(frames).boxed_unsync()
}

/// The same of a file, with `seen` told how many bytes were sent.
pub(crate) fn file_body(file: tokio::fs::File, seen: impl Fn(u64) + Send + 'static) -> Body {
    let frames = ReaderStream::with_capacity(file, CHUNK).map(move |chunk| {
        chunk.map(|bytes| {
            seen(bytes.len() as u64);
            Frame::data(bytes)
        })
    });
    StreamBody::new(frames).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_apart_and_the_last_needs_no_newline() {
        let mut buffer = BytesMut::from(&b"{}\n{\"a\":1}"[..]);
        assert_eq!(take_line(&mut buffer, false).as_deref(), Some(&b"{}"[..]));
        assert_eq!(take_line(&mut buffer, false), None);
        assert_eq!(take_line(&mut buffer, true).as_deref(), Some(&b"{\"a\":1}"[..]));
        assert_eq!(take_line(&mut buffer, true), None);
    }
}

//! Files on the data lane: E2B's `Filesystem`, `/files` and `/archive`.
//! Bodies stream both ways; nothing is held whole.

use super::lane::{GuestBody, Transport};
use super::{CALL_LIMIT, ChannelError, GuestClient, Repeat, bounds, filesystem as fs};
use bytes::Bytes;
use connectrpc::client::{CallOptions, ClientBody, ClientTransport};
use connectrpc::{ConnectError, ErrorCode};
use futures::{Stream, StreamExt, TryStreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Frame;
use std::pin::Pin;
use std::time::Duration;

/// The answer's head must come within this; bodies have no deadline.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// Without a byte for this long in either direction a transfer is given up.
const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// An error's or a report's body.
const SMALL_BODY: usize = 64 * 1024;

/// A body, as it comes.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, ChannelError>> + Send>>;

/// What is known of a file before its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileHead {
    /// Bytes that follow.
    pub length: Option<u64>,
    /// `bytes 0-9/100` when a range was asked and given.
    pub content_range: Option<String>,
    /// Permission bits.
    pub mode: Option<u32>,
}

/// What a write answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct WrittenFile {
    pub name: String,
    pub path: String,
}

/// Ours act as root unless a user is named.
fn as_user(user: Option<&str>) -> CallOptions {
    let basic = data_encoding::BASE64.encode(format!("{}:", user.unwrap_or("root")).as_bytes());
    CallOptions::default().with_header("authorization", format!("Basic {basic}"))
}

fn entry(mut entry: fs::EntryInfo) -> fs::EntryInfo {
    for text in [&mut entry.permissions, &mut entry.owner, &mut entry.group] {
        *text = bounds::bounded_text(text, bounds::TEXT);
    }
    entry
}

fn required(found: Option<fs::EntryInfo>) -> Result<fs::EntryInfo, ChannelError> {
    found.map(entry).ok_or_else(|| ChannelError::protocol("no entry in the answer"))
}

impl GuestClient {
    pub async fn fs_stat(&self, path: &str, user: Option<&str>) -> Result<fs::EntryInfo, ChannelError> {
        let client = &self.inner.filesystem;
        let request = fs::StatRequest { path: path.to_owned(), ..Default::default() };
        let call = || client.stat_with_options(request.clone(), as_user(user));
        let answer = self.within(&self.inner.data, CALL_LIMIT, Repeat::Yes, call).await?;
        self.noted(required(answer.into_owned().entry.into_option()))
    }

    /// `depth` 0 means 1.
    pub async fn fs_list(
        &self,
        path: &str,
        depth: u32,
        user: Option<&str>,
    ) -> Result<Vec<fs::EntryInfo>, ChannelError> {
        let client = &self.inner.filesystem;
        let request = fs::ListDirRequest { path: path.to_owned(), depth, ..Default::default() };
        let call = || client.list_dir_with_options(request.clone(), as_user(user));
        let answer = self.within(&self.inner.data, CALL_LIMIT, Repeat::Yes, call).await?;
        Ok(answer.into_owned().entries.into_iter().map(entry).collect())
    }

    /// Parents too. An existing directory is `already_exists`.
    pub async fn fs_mkdir(&self, path: &str, user: Option<&str>) -> Result<fs::EntryInfo, ChannelError> {
        let client = &self.inner.filesystem;
        let request = fs::MakeDirRequest { path: path.to_owned(), ..Default::default() };
        let call = || client.make_dir_with_options(request.clone(), as_user(user));
        let answer = self.within(&self.inner.data, CALL_LIMIT, Repeat::No, call).await?;
        self.noted(required(answer.into_owned().entry.into_option()))
    }

    /// Recursive; a missing path is success.
    pub async fn fs_remove(&self, path: &str, user: Option<&str>) -> Result<(), ChannelError> {
        let client = &self.inner.filesystem;
        let request = fs::RemoveRequest { path: path.to_owned(), ..Default::default() };
        let call = || client.remove_with_options(request.clone(), as_user(user));
        self.within(&self.inner.data, HEAD_LIMIT, Repeat::Yes, call).await.map(drop)
    }

    pub async fn fs_move(
        &self,
        source: &str,
        destination: &str,
        user: Option<&str>,
    ) -> Result<fs::EntryInfo, ChannelError> {
        let client = &self.inner.filesystem;
        let request =
            fs::MoveRequest { source: source.to_owned(), destination: destination.to_owned(), ..Default::default() };
        let call = || client.move_with_options(request.clone(), as_user(user));
        let answer = self.within(&self.inner.data, CALL_LIMIT, Repeat::No, call).await?;
        self.noted(required(answer.into_owned().entry.into_option()))
    }

    /// `range` is a Range header's value, such as `bytes=0-9`.
    pub async fn file_read(
        &self,
        path: &str,
        user: Option<&str>,
        range: Option<&str>,
    ) -> Result<(FileHead, ByteStream), ChannelError> {
        let mut request = Request::get(uri("/files", path, user, &[]));
        if let Some(range) = range {
            request = request.header(http::header::RANGE, range);
        }
        let answer = self.exchange(request, connectrpc::client::full_body(Bytes::new())).await?;
        let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let head = FileHead {
            length: text("content-length").and_then(|value| value.parse().ok()),
            content_range: text("content-range").map(|value| bounds::bounded_text(value, 128)),
            mode: text("x-aether-mode").and_then(|value| u32::from_str_radix(value, 8).ok()).map(|mode| mode & 0o7777),
        };
        Ok((head, self.incoming(answer.into_body())))
    }

    /// Replaces the file whole or not at all: an error in `body` leaves the
    /// old one. Parents are made, owned by the user.
    pub async fn file_write<S, E>(
        &self,
        path: &str,
        user: Option<&str>,
        mode: Option<u32>,
        body: S,
    ) -> Result<WrittenFile, ChannelError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Sync + 'static,
        E: std::fmt::Display + 'static,
    {
        let mode = mode.map(|mode| format!("{:o}", mode & 0o7777));
        let more: Vec<(&str, &str)> = mode.iter().map(|mode| ("mode", mode.as_str())).collect();
        let request = Request::post(uri("/files", path, user, &more))
            .header(http::header::CONTENT_TYPE, "application/octet-stream");
        let answer = self.exchange(request, outgoing(body)).await?;
        let text = self.noted(small_body(answer.into_body()).await)?;
        let written = serde_json::from_slice(&text).map_err(|_| ChannelError::protocol("not a file report"));
        let mut written: Vec<WrittenFile> = self.noted(written)?;
        let written = self.noted(written.pop().ok_or_else(|| ChannelError::protocol("empty file report")))?;
        Ok(WrittenFile {
            name: bounds::bounded_text(&written.name, bounds::TEXT),
            path: bounds::bounded_text(&written.path, bounds::TEXT),
        })
    }

    /// A tar of the path: its own last name is the archive's root.
    pub async fn archive_read(&self, path: &str, user: Option<&str>) -> Result<ByteStream, ChannelError> {
        let request = Request::get(uri("/archive", path, user, &[]));
        let answer = self.exchange(request, connectrpc::client::full_body(Bytes::new())).await?;
        Ok(self.incoming(answer.into_body()))
    }

    /// Unpacks a tar beneath the folder `path`, which is made if missing.
    pub async fn archive_write<S, E>(&self, path: &str, user: Option<&str>, body: S) -> Result<(), ChannelError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Sync + 'static,
        E: std::fmt::Display + 'static,
    {
        let request = Request::builder()
            .method(Method::PUT)
            .uri(uri("/archive", path, user, &[]))
            .header(http::header::CONTENT_TYPE, "application/x-tar");
        let answer = self.exchange(request, outgoing(body)).await?;
        self.noted(small_body(answer.into_body()).await).map(drop)
    }

    /// Sends to the guest's data lane as it is (E2B's routes); the answer's
    /// status and body are the guest's own and must be treated so.
    pub async fn forward(&self, request: Request<ClientBody>) -> Result<Response<GuestBody>, ChannelError> {
        Transport(self.inner.data.clone()).send(request).await
    }

    async fn exchange(
        &self,
        request: http::request::Builder,
        body: ClientBody,
    ) -> Result<Response<GuestBody>, ChannelError> {
        let request = request.body(body).map_err(|error| ChannelError::Remote {
            code: ErrorCode::InvalidArgument,
            message: bounds::bounded_text(&error.to_string(), 200),
        })?;
        // The head of an upload's answer comes when the upload is done, so its
        // deadline is the idle limit of the body, applied in `outgoing`.
        let upload = matches!(*request.method(), Method::POST | Method::PUT);
        let sent = self.forward(request);
        let answer = if upload {
            sent.await?
        } else {
            self.noted(tokio::time::timeout(HEAD_LIMIT, sent).await.map_err(|_| ChannelError::Timeout))??
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let text = small_body(answer.into_body()).await.unwrap_or_default();
        Err(refusal(status, &text))
    }

    fn incoming(&self, body: GuestBody) -> ByteStream {
        let frames = body.into_data_stream().map_err(|_| ChannelError::Gone);
        let timed =
            tokio_stream::StreamExt::timeout(frames, IDLE_LIMIT).map(|item| item.unwrap_or(Err(ChannelError::Timeout)));
        // Ends at the first error.
        let client = self.clone();
        Box::pin(timed.scan(false, move |failed, item| {
            let _alive = &client;
            let out = (!*failed).then_some(item);
            *failed = matches!(out, Some(Err(_)));
            futures::future::ready(out)
        }))
    }
}

pub(super) fn outgoing<S, E>(body: S) -> ClientBody
where
    S: Stream<Item = Result<Bytes, E>> + Send + Sync + 'static,
    E: std::fmt::Display + 'static,
{
    let frames = body.map(|item| match item {
        Ok(bytes) => Ok(Frame::data(bytes)),
        Err(error) => Err(ConnectError::aborted(bounds::bounded_text(&error.to_string(), 200))),
    });
    BodyExt::boxed(StreamBody::new(frames))
}

pub(super) async fn small_body(body: GuestBody) -> Result<Bytes, ChannelError> {
    let collected = tokio::time::timeout(HEAD_LIMIT, Limited::new(body, SMALL_BODY).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(ChannelError::protocol("the answer is too long or was cut")),
        Err(_) => Err(ChannelError::Timeout),
    }
}

pub(super) fn refusal(status: StatusCode, text: &[u8]) -> ChannelError {
    #[derive(serde::Deserialize)]
    struct Report {
        message: String,
    }
    let code = match status.as_u16() {
        400 => ErrorCode::InvalidArgument,
        401 => ErrorCode::Unauthenticated,
        403 => ErrorCode::PermissionDenied,
        404 => ErrorCode::NotFound,
        409 => ErrorCode::AlreadyExists,
        416 => ErrorCode::OutOfRange,
        413 | 429 | 507 => ErrorCode::ResourceExhausted,
        503 => ErrorCode::Unavailable,
        _ => ErrorCode::Internal,
    };
    let message = serde_json::from_slice::<Report>(text).map(|report| report.message).unwrap_or_default();
    ChannelError::remote(code, &message)
}

fn uri(route: &str, path: &str, user: Option<&str>, more: &[(&str, &str)]) -> String {
    let mut out = format!("http://guest{route}?path={}", percent(path));
    out.push_str("&username=");
    out.push_str(&percent(user.unwrap_or("root")));
    for (key, value) in more {
        out.push('&');
        out.push_str(key);
        out.push('=');
        out.push_str(&percent(value));
    }
    out
}

fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => out.push(byte as char),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

//! `/v1/agents/{id}/files?path=`: one file, or a folder as a tar, streamed
//! both ways. Paths are resolved inside the guest and nowhere else.

use super::Caller;
use super::extract::{Params, chunks, content_length, media_type};
use crate::app::App;
use crate::dialer::DataClient;
use crate::problem::{ApiError, clean};
use aether_core::api::FileInfo;
use aether_core::spec::valid_user;
use aether_core::{Code, Problem, Timestamp};
use aether_proto::node::file_read_response::Message as Read;
use aether_proto::node::file_write_request::Message as Write;
use aether_proto::node::{
    FileEntry, FileListRequest, FilePathRequest, FileReadRequest, FileReadResponse, FileWriteHead, FileWriteRequest,
};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::header::{ACCEPT, ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

const TAR: &str = "application/x-tar";
const MAX_PATH: usize = 4096;
const MAX_DEPTH: u64 = 32;
/// Chunks on the way to the node; with their size, all that one upload holds.
const IN_FLIGHT: usize = 4;
const CHUNK: usize = 64 * 1024;

/// What each request names.
struct Target {
    path: String,
    user: String,
}

impl Target {
    fn of(params: &mut Params) -> Self {
        let path = params.text("path").unwrap_or_default();
        if !path.starts_with('/') || path.len() > MAX_PATH || path.contains('\0') {
            params.bad("path", format!("must be an absolute path of at most {MAX_PATH} bytes"));
        }
        let user = params.text("user").unwrap_or_default();
        if !user.is_empty() && !valid_user(&user) {
            params.bad("user", "must be a name or number, optionally :group");
        }
        Self { path, user }
    }

    fn request(&self, agent_id: &str) -> FilePathRequest {
        FilePathRequest { agent_id: agent_id.to_owned(), path: self.path.clone(), user: self.user.clone() }
    }
}

async fn reach(app: &App, caller: &Caller, id: &str) -> Result<(DataClient, String), ApiError> {
    let agent = app.agent(caller, id).await?;
    Ok((app.live_client(&agent).await?, agent.id.to_string()))
}

/// Read a file, or a folder as a tar; or look at it.
#[utoipa::path(
    get, path = "/v1/agents/{id}/files", operation_id = "read_file", tag = "files",
    params(
        ("id" = String, Path, description = "Id, name or alias"),
        ("path" = String, Query, description = "Absolute path in the sandbox"),
        ("user" = Option<String>, Query, description = "Read as this user"),
        ("stat" = Option<bool>, Query, description = "Answer with what it is, as JSON"),
        ("list" = Option<bool>, Query, description = "Answer with the folder's entries, as JSON"),
        ("depth" = Option<u32>, Query, description = "With list: levels, default 1"),
        ("Range" = Option<String>, Header, description = "One range of bytes; files only"),
        ("Accept" = Option<String>, Header, description = "`application/x-tar`: a tar, of a file too"),
    ),
    responses(
        (status = 200, description = "Bytes; `application/x-tar` for a folder", content_type = "application/octet-stream"),
        (status = 206, description = "The range"), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 416, body = Problem),
    )
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let target = Target::of(&mut params);
    let (stat, list) = (params.flag("stat"), params.flag("list"));
    let depth = params.number("depth", 1..=MAX_DEPTH);
    if depth.is_some() && !list {
        params.bad("depth", "goes with list");
    }
    params.done()?;
    let (mut client, agent_id) = reach(&app, &caller, &id).await?;
    if list {
        let depth = depth.map_or(1, |d| u32::try_from(d).unwrap_or(u32::MAX));
        let request = FileListRequest { agent_id, path: target.path, depth, user: target.user };
        let listed = within(&app, client.file_list(request)).await?.into_inner();
        return Ok(axum::Json(listed.entries.into_iter().map(info).collect::<Vec<_>>()).into_response());
    }
    let tar = headers.get_all(ACCEPT).iter().any(|v| v.to_str().is_ok_and(|t| t.contains(TAR)));
    let entry = within(&app, client.file_stat(target.request(&agent_id))).await?.into_inner();
    if stat {
        return Ok(axum::Json(info(entry)).into_response());
    }
    if tar || entry.kind == "directory" {
        return archive(&mut client, agent_id, target).await;
    }
    let range = headers.get(RANGE).and_then(|v| v.to_str().ok()).map_or(Range::Whole, |t| Range::parse(t, entry.size));
    bytes_of(&mut client, agent_id, target, range).await
}

/// Short calls keep the short deadline on a route that has none.
async fn within<T>(
    app: &App,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<tonic::Response<T>, ApiError> {
    match tokio::time::timeout(app.cfg().deadlines.short, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ApiError::timeout("The sandbox did not answer in time.", "Look at the agent's health.")),
    }
}

async fn archive(client: &mut DataClient, agent_id: String, target: Target) -> Result<Response, ApiError> {
    let request = FileReadRequest {
        agent_id,
        path: target.path,
        archive: true,
        user: target.user,
        range_start: 0,
        range_end: None,
    };
    let (_, body) = open(client, request).await?;
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TAR));
    Ok(response)
}

async fn bytes_of(
    client: &mut DataClient,
    agent_id: String,
    target: Target,
    range: Range,
) -> Result<Response, ApiError> {
    let (start, end) = match range {
        Range::Whole => (0, None),
        Range::Part { start, end } => (start, Some(end)),
        Range::Unsatisfiable { size } => return Ok(unsatisfiable(size)),
    };
    let request = FileReadRequest {
        agent_id,
        path: target.path,
        archive: false,
        user: target.user,
        range_start: start,
        range_end: end,
    };
    let (head, body) = open(client, request).await?;
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(end) = end {
        // The file may have shrunk since it was looked at: then the stream
        // ends early and the client sees a cut transfer.
        headers.insert(CONTENT_LENGTH, HeaderValue::from(end - start + 1));
        if let Ok(value) = HeaderValue::from_str(&format!("bytes {start}-{end}/{}", head.total_size)) {
            headers.insert(CONTENT_RANGE, value);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    } else if head.entry.as_ref().is_some_and(|e| e.kind == "file") && head.total_size > 0 {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(head.total_size));
    }
    Ok(response)
}

fn unsatisfiable(size: u64) -> Response {
    let mut error = ApiError::bad_request(format!("The range lies outside the file's {size} bytes."));
    error.problem.status = StatusCode::RANGE_NOT_SATISFIABLE.as_u16();
    let mut response = error.into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    response
}

/// Opens the stream and takes its head, so that errors still have a status.
async fn open(
    client: &mut DataClient,
    request: FileReadRequest,
) -> Result<(aether_proto::node::FileReadHead, Body), ApiError> {
    let mut stream = client.file_read(request).await?.into_inner();
    match stream.message().await? {
        Some(FileReadResponse { message: Some(Read::Head(head)) }) => Ok((head, body_of(stream))),
        _ => Err(ApiError::internal("the node answered a read without its head")),
    }
}

fn body_of(stream: Streaming<FileReadResponse>) -> Body {
    Body::from_stream(stream.filter_map(|message| async move {
        match message {
            Ok(FileReadResponse { message: Some(Read::Chunk(chunk)) }) => Some(Ok(chunk)),
            Ok(_) => None,
            // Cuts the transfer: the client must not take half for the whole.
            Err(status) => {
                tracing::debug!(%status, "a download broke");
                Some(Err(status))
            }
        }
    }))
}

/// A byte range of one file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// No range, or one that we may ignore (several, another unit).
    Whole,
    Part {
        start: u64,
        end: u64,
    },
    Unsatisfiable {
        size: u64,
    },
}

impl Range {
    pub(super) fn parse(text: &str, size: u64) -> Self {
        let Some(spec) = text.trim().strip_prefix("bytes=") else { return Self::Whole };
        let Some((from, to)) = spec.split_once('-') else { return Self::Whole };
        let (from, to) = (from.trim(), to.trim());
        let number = |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse::<u64>().ok()).flatten();
        match (from.is_empty(), to.is_empty(), number(from), number(to)) {
            (false, true, Some(start), _) if start < size => Self::Part { start, end: size - 1 },
            (false, false, Some(start), Some(end)) if start <= end && start < size => {
                Self::Part { start, end: end.min(size - 1) }
            }
            (true, false, _, Some(last)) if last > 0 && size > 0 => {
                Self::Part { start: size - last.min(size), end: size - 1 }
            }
            (false, true, Some(_), _) | (true, false, _, Some(_)) => Self::Unsatisfiable { size },
            (false, false, Some(start), Some(end)) if start <= end => Self::Unsatisfiable { size },
            _ => Self::Whole,
        }
    }
}

const KIND: HeaderName = HeaderName::from_static("x-aether-file-kind");
const MODE: HeaderName = HeaderName::from_static("x-aether-file-mode");

/// What a path is, in headers.
#[utoipa::path(
    head, path = "/v1/agents/{id}/files", operation_id = "stat_file", tag = "files",
    params(
        ("id" = String, Path, description = "Id, name or alias"),
        ("path" = String, Query, description = "Absolute path in the sandbox"),
        ("user" = Option<String>, Query, description = "Look as this user"),
    ),
    responses(
        (status = 200, description = "Content-Length, X-Aether-File-Kind, X-Aether-File-Mode"),
        (status = 404), (status = 409),
    )
)]
pub(crate) async fn head(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let target = Target::of(&mut params);
    params.done()?;
    let (mut client, agent_id) = reach(&app, &caller, &id).await?;
    let entry = client.file_stat(target.request(&agent_id)).await?.into_inner();
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    if entry.kind == "file" {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(entry.size));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    let mode = mode_of(entry.mode);
    for (name, text) in [(KIND, entry.kind.as_str()), (MODE, mode.as_str())] {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

/// Write a file, or unpack a tar into a folder.
#[utoipa::path(
    put, path = "/v1/agents/{id}/files", operation_id = "write_file", tag = "files",
    params(
        ("id" = String, Path, description = "Id, name or alias"),
        ("path" = String, Query, description = "Absolute path in the sandbox; of the folder for a tar"),
        ("user" = Option<String>, Query, description = "Write as this user"),
        ("mode" = Option<String>, Query, description = "Octal permission bits of the file, such as 0755"),
    ),
    request_body(content = String, content_type = "application/octet-stream", description = "Bytes, or `application/x-tar`"),
    responses(
        (status = 200, body = FileInfo), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 507, description = "The sandbox's disk is full", body = Problem),
    )
)]
pub(crate) async fn put(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    mut params: Params,
    body: Body,
) -> Result<axum::Json<FileInfo>, ApiError> {
    let target = Target::of(&mut params);
    let archive = media_type(&headers).as_deref() == Some(TAR);
    let mode = params.text("mode").and_then(|text| {
        let mode = u32::from_str_radix(&text, 8).ok().filter(|m| *m <= 0o7777);
        if mode.is_none() {
            params.bad("mode", "must be octal permission bits, such as 0755");
        }
        mode
    });
    params.done()?;
    let agent = app.agent(&caller, &id).await?;
    let disk_bytes = agent.spec.resources.with_defaults().disk_mb.saturating_mul(1 << 20);
    if content_length(&headers).is_some_and(|n| n > disk_bytes) {
        return Err(ApiError::new(
            Code::InsufficientStorage,
            "The body is larger than the agent's disk.",
            "Make the agent with a larger disk.",
        ));
    }
    let mut client = app.live_client(&agent).await?;
    let head = FileWriteHead { agent_id: agent.id.to_string(), path: target.path, archive, user: target.user, mode };
    let (sender, requests) = mpsc::channel(IN_FLIGHT);
    let head = FileWriteRequest { message: Some(Write::Head(head)) };
    sender.try_send(head).expect("a new channel has room");
    let call = client.file_write(ReceiverStream::new(requests));
    let wrap = |chunk| FileWriteRequest { message: Some(Write::Chunk(chunk)) };
    let written = upload(body, app.cfg().deadlines.stream_idle, sender, wrap, call).await?;
    Ok(axum::Json(info(written.into_inner())))
}

/// Feeds a body to a node's call. A body that breaks off cancels the call:
/// half a file never counts as one.
pub(super) async fn upload<M, T>(
    body: Body,
    idle: std::time::Duration,
    sender: mpsc::Sender<M>,
    wrap: impl Fn(bytes::Bytes) -> M,
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, ApiError> {
    let mut body = chunks(body, idle);
    let mut sender = Some(sender);
    tokio::pin!(call);
    let feed = async {
        while let Some(chunk) = body.next().await {
            let mut chunk = chunk?;
            while !chunk.is_empty() {
                let piece = chunk.split_to(chunk.len().min(CHUNK));
                let Some(sender) = &sender else { return Ok(()) };
                if sender.send(wrap(piece)).await.is_err() {
                    // The node has stopped reading: its answer says why.
                    return Ok(());
                }
            }
        }
        sender = None;
        Ok(())
    };
    tokio::pin!(feed);
    tokio::select! {
        // An early answer is an error, or a node that read enough.
        answer = &mut call => return Ok(answer?),
        fed = &mut feed => fed.map_err(|e: ApiError| e)?,
    }
    match tokio::time::timeout(idle, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ApiError::timeout("The node did not finish the upload.", "Look at the state, then try again.")),
    }
}

/// Remove a file, or a folder with all in it.
#[utoipa::path(
    delete, path = "/v1/agents/{id}/files", operation_id = "delete_file", tag = "files",
    params(
        ("id" = String, Path, description = "Id, name or alias"),
        ("path" = String, Query, description = "Absolute path in the sandbox"),
        ("user" = Option<String>, Query, description = "Remove as this user"),
    ),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    mut params: Params,
) -> Result<StatusCode, ApiError> {
    let target = Target::of(&mut params);
    params.done()?;
    let (mut client, agent_id) = reach(&app, &caller, &id).await?;
    client.file_remove(target.request(&agent_id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn mode_of(mode: u32) -> String {
    format!("{:04o}", mode & 0o7777)
}

fn info(e: FileEntry) -> FileInfo {
    FileInfo {
        mode: mode_of(e.mode),
        name: e.name,
        path: e.path,
        kind: clean(&e.kind),
        size: e.size,
        owner: e.owner,
        group: e.group,
        modified_at: Timestamp::from_unix_ms(e.modified_ms),
        symlink_target: (!e.symlink_target.is_empty()).then_some(e.symlink_target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let part = |start, end| Range::Part { start, end };
        for (text, expected) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=2-4", part(2, 4)),
            ("bytes=5-", part(5, 9)),
            ("bytes=5-500", part(5, 9)),
            ("bytes=-3", part(7, 9)),
            ("bytes=-30", part(0, 9)),
            ("bytes=10-", Range::Unsatisfiable { size: 10 }),
            ("bytes=10-20", Range::Unsatisfiable { size: 10 }),
            ("bytes=-0", Range::Unsatisfiable { size: 10 }),
            ("bytes=4-2", Range::Whole),
            ("bytes=0-1,3-4", Range::Whole),
            ("lines=1-2", Range::Whole),
            ("bytes=+1-2", Range::Whole),
        ] {
            assert_eq!(Range::parse(text, 10), expected, "{text}");
        }
        assert_eq!(Range::parse("bytes=0-", 0), Range::Unsatisfiable { size: 0 });
    }
}

//! Plain HTTP on the data lane: `/files`, `/archive`, `/port`, `/health`.

use super::Body;
use super::access;
use crate::process::users::Account;
use crate::{Guest, lock};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Pieces of a body under way between a socket and a file.
const PIECES: usize = 4;

pub fn is_ours(path: &str) -> bool {
    matches!(path, "/files" | "/archive" | "/health" | "/port")
}

/// A refusal in E2B's form.
#[derive(Debug)]
pub struct Refused {
    pub status: StatusCode,
    pub message: String,
}

impl Refused {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        let status = match error.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StatusCode::FORBIDDEN,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidData
            | ErrorKind::InvalidFilename
            | ErrorKind::UnexpectedEof
            | ErrorKind::AlreadyExists => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, message: error.to_string() }
    }
}

/// What every request of these routes names.
pub struct Target {
    pub account: Account,
    pub path: PathBuf,
}

pub async fn answer(guest: Arc<Guest>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let done = match (request.method().clone(), request.uri().path()) {
        (Method::GET, "/health") => Ok(empty(StatusCode::NO_CONTENT)),
        (Method::GET, "/files") => super::files::read(&guest, request).await,
        (Method::POST, "/files") => super::files::write(&guest, request).await,
        (Method::GET, "/archive") => super::archive::read(&guest, request).await,
        (Method::PUT, "/archive") => super::archive::write(&guest, request).await,
        (Method::POST, "/port") => super::forward::open(request).await,
        _ => Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")),
    };
    Ok(done.unwrap_or_else(|refused| {
        let code = refused.status.as_u16();
        let body = serde_json::json!({ "code": code, "message": refused.message }).to_string();
        json(refused.status, body)
    }))
}

/// Who asks, and the query; the path is looked at by [`target`].
pub fn asker(guest: &Guest, request: &Request<Incoming>) -> Result<(Account, Vec<(String, String)>), Refused> {
    let query = parse_query(request.uri().query().unwrap_or_default())
        .ok_or_else(|| Refused::new(StatusCode::BAD_REQUEST, "the query is not percent-encoded UTF-8"))?;
    let user = query.iter().find(|(name, value)| name == "username" && !value.is_empty());
    let account = access::account(&lock(&guest.identity), user.map(|(_, value)| value.as_str()))
        .map_err(|error| Refused::new(StatusCode::UNAUTHORIZED, error.to_string()))?;
    Ok((account, query))
}

pub fn target(guest: &Guest, request: &Request<Incoming>) -> Result<Target, Refused> {
    let (account, query) = asker(guest, request)?;
    let named = query.iter().find(|(name, value)| name == "path" && !value.is_empty());
    let (_, path) = named.ok_or_else(|| Refused::new(StatusCode::BAD_REQUEST, "path is missing"))?;
    let path = access::resolve(&lock(&guest.identity), &account, path)?;
    Ok(Target { account, path })
}

pub fn json(status: StatusCode, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// A body fed by a blocking thread.
pub fn streamed() -> (mpsc::Sender<io::Result<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(PIECES);
    let frames = futures::stream::unfold(receiver, |mut receiver: mpsc::Receiver<io::Result<Bytes>>| async move {
        let piece = receiver.recv().await?;
        Some((piece.map(Frame::data), receiver))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

/// Hands a request's body to a blocking thread. A body that is cut becomes an
/// error there, never a short file.
pub fn feed(mut body: Incoming) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        while let Some(frame) = body.frame().await {
            let piece = match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => Ok(data),
                    Err(_trailers) => continue,
                },
                Err(error) => Err(io::Error::new(ErrorKind::UnexpectedEof, error.to_string())),
            };
            let over = piece.is_err();
            if sender.send(piece).await.is_err() || over {
                return;
            }
        }
        // An explicit end: a dropped sender alone means that we were aborted.
        let _ = sender.send(Ok(Bytes::new())).await;
    });
    receiver
}

/// The blocking side of [`feed`].
pub struct Fed {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    over: bool,
}

impl Fed {
    pub fn new(receiver: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { receiver, piece: Bytes::new(), over: false }
    }
}

impl io::Read for Fed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.over {
            match self.receiver.blocking_recv() {
                Some(Ok(piece)) if piece.is_empty() => self.over = true,
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => return Err(error),
                None => return Err(ErrorKind::UnexpectedEof.into()),
            }
        }
        let count = self.piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

fn parse_query(query: &str) -> Option<Vec<(String, String)>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(key)?, decode(value)?))
        })
        .collect()
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let high = (rest.next()? as char).to_digit(16)?;
                let low = (rest.next()? as char).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let parsed = parse_query("path=%2Fa%20b+c&username=&x");
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(parsed, Some(vec![pair("path", "/a b c"), pair("username", ""), pair("x", "")]));
        for wrong in ["path=%2", "path=%zz", "path=%ff"] {
            assert_eq!(parse_query(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_cut_body_is_an_error_and_an_ended_one_is_not() {
        use std::io::Read;
        for (end, fine) in [(true, true), (false, false)] {
            let (sender, receiver) = mpsc::channel(4);
            sender.try_send(Ok(Bytes::from_static(b"abc"))).expect("room");
            if end {
                sender.try_send(Ok(Bytes::new())).expect("room");
            }
            drop(sender);
            let mut text = Vec::new();
            let read = Fed::new(receiver).read_to_end(&mut text);
            assert_eq!((read.is_ok(), text.as_slice()), (fine, &b"abc"[..]));
        }
    }
}

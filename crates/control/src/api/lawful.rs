//! What a request must be before anything handles it, beyond what hyper
//! refuses by itself: forms that this server and a proxy before it could read
//! in two ways. Such a request is refused and, on HTTP/1, its connection
//! closed with it.

use crate::problem::ApiError;
use aether_core::Code;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, CONTENT_ENCODING, HOST, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Version};

/// The refusal of a request that is not as it must be.
pub(super) fn refusal(request: &Request) -> Option<Response> {
    let error = check(request).err()?;
    let mut response = error.into_response();
    if request.version() <= Version::HTTP_11 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Some(response)
}

fn check(request: &Request) -> Result<(), ApiError> {
    if request.method() == Method::CONNECT {
        return Err(ApiError::bad_request("This is no proxy."));
    }
    host(request)?;
    let headers = request.headers();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = |v: &HeaderValue| v.as_bytes().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some_and(|first| !chunked(first) || codings.next().is_some()) {
        return Err(ApiError::bad_request("Transfer-Encoding may be `chunked`, once."));
    }
    plain(headers)
}

/// Who is asked is said once, or twice the same.
fn host(request: &Request) -> Result<(), ApiError> {
    let bad = |text: &str| Err(ApiError::bad_request(text));
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, uri) = (hosts.next(), request.uri());
    if hosts.next().is_some() {
        return bad("Host may be given once.");
    }
    if host.is_none() && request.version() == Version::HTTP_11 {
        return bad("HTTP/1.1 needs a Host.");
    }
    if uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return bad("Only http and https are served.");
    }
    let named = uri.authority().map(Authority::as_str);
    if named.is_some_and(|name| name.contains('@')) {
        return bad("The address names a user: send a key in Authorization.");
    }
    let Some(host) = host.filter(|host| !host.is_empty()) else { return Ok(()) };
    let valid = host.to_str().ok().filter(|h| !h.contains('@') && h.parse::<Authority>().is_ok());
    match (valid, named) {
        (None, _) => bad("Host is not a name and a port."),
        (Some(host), Some(named)) if !host.eq_ignore_ascii_case(named) => bad("Host and the address differ."),
        _ => Ok(()),
    }
}

/// No route unpacks a body: a packed one would be read, or stored, as it is.
fn plain(headers: &HeaderMap) -> Result<(), ApiError> {
    let identity = |v: &HeaderValue| v.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().all(identity) {
        return Ok(());
    }
    Err(ApiError::new(
        Code::UnsupportedMediaType,
        "Bodies with a Content-Encoding are not taken.",
        "Send the body as it is, without Content-Encoding.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(version: Version, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = http::Request::builder().uri(uri).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(axum::body::Body::empty()).expect("a request");
        check(&request).map_or_else(|error| error.problem.status, |()| 200)
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused() {
        const HOST: (&str, &str) = ("host", "a:1");
        let one = |headers: &[(&str, &str)]| status(Version::HTTP_11, "/x", headers);
        assert_eq!(one(&[HOST]), 200);
        assert_eq!(one(&[("host", "[::1]:80")]), 200);
        assert_eq!(one(&[("host", "")]), 200);
        assert_eq!(status(Version::HTTP_10, "/x", &[]), 200);
        assert_eq!(status(Version::HTTP_2, "http://a:1/x", &[]), 200);
        assert_eq!(status(Version::HTTP_11, "http://A:1/x", &[HOST]), 200);
        for refused in [&[][..], &[HOST, HOST], &[("host", "a b")], &[("host", "u@a")], &[("host", "a/b")]] {
            assert_eq!(one(refused), 400, "{refused:?}");
        }
        for uri in ["http://b/x", "http://a/x", "ftp://a:1/x", "http://u@a:1/x"] {
            assert_eq!(status(Version::HTTP_11, uri, &[HOST]), 400, "{uri}");
            assert_eq!(status(Version::HTTP_2, uri, &[HOST]), 400, "{uri}");
        }
    }

    #[test]
    fn codings_are_plain() {
        let with = |headers: &[(&str, &str)]| status(Version::HTTP_2, "/x", headers);
        let te = "transfer-encoding";
        assert_eq!(with(&[(te, "Chunked")]), 200);
        for bad in [&[(te, "chunked"), (te, "chunked")][..], &[(te, "identity, chunked")], &[(te, "gzip, chunked")]] {
            assert_eq!(with(bad), 400, "{bad:?}");
        }
        let ce = "content-encoding";
        assert_eq!(with(&[(ce, "identity")]), 200);
        for bad in [&[(ce, "gzip")][..], &[(ce, "identity"), (ce, "br")], &[(ce, "identity, gzip")]] {
            assert_eq!(with(bad), 415, "{bad:?}");
        }
    }
}

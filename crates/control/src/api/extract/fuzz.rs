//! Headers that mean something to routes.

use super::*;
use crate::api::files::Range;
use aether_store::EventCursor;
use http::{HeaderName, HeaderValue};

const SIZE: u64 = 1000;

/// One header a line.
fn headers(input: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

fn range(text: &str) {
    for size in [0, 1, SIZE, u64::MAX] {
        match Range::parse(text, size) {
            Range::Part { start, end } => assert!(start <= end && end < size, "{text}: {start}-{end} of {size}"),
            Range::Unsatisfiable { size: told } => assert_eq!(told, size),
            Range::Whole => {}
        }
    }
}

#[test]
fn fuzz() {
    let words = &[
        "if-match: ",
        "W/\"7\"",
        "\"7\"",
        "*",
        "idempotency-key: ",
        "range: bytes=",
        "last-event-id: ",
        "0-1",
        "content-length: ",
        "content-type: ",
        "application/json",
        "bytes=-5",
        "bytes=5-",
        "authorization: Bearer ",
    ];
    aether_fuzz::target("headers").max_len(4096).memory(1 << 20).words(words).run(|input| {
        let headers = headers(input);
        if let Ok(Some(versions)) = if_match(&headers) {
            assert!(headers.contains_key("if-match") && versions.len() <= input.len());
        }
        let asked = ("agent", 1);
        if let Ok(Some(key)) = idempotency(&headers, &asked) {
            assert!(
                (1..=MAX_IDEMPOTENCY_KEY).contains(&key.key.len())
                    && key.key.bytes().all(|b| (b' '..=b'~').contains(&b))
            );
            let again = idempotency(&headers, &asked).ok().flatten().expect("as before");
            assert_eq!(again.request_hash, key.request_hash);
        }
        if let Some(text) = headers.get("range").and_then(|v| v.to_str().ok()) {
            range(text);
        }
        if let Some(Ok(cursor)) =
            headers.get("last-event-id").and_then(|v| v.to_str().ok()).map(str::parse::<EventCursor>)
        {
            assert_eq!(cursor.to_string().parse::<EventCursor>().ok(), Some(cursor));
        }
        assert!(media_type(&headers).is_none_or(|kind| !kind.contains(';')));
        let _ = (content_length(&headers), is_json(&headers));
    });
}

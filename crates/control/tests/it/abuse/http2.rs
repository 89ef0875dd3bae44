//! HTTP/2 frames written by hand: no library would send them.

use super::Attack;
use super::Wanted::{self, Closed, NoSuccess, Survived};
use super::target::Victim;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
const PUSH: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const ACK: u8 = 1;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// The preface and the client's settings.
pub(super) fn opening(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()).collect();
    [PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()
}

/// HPACK: a text's length and the text as it is.
fn text(out: &mut Vec<u8>, text: &[u8]) {
    if text.len() < 127 {
        out.push(text.len() as u8);
    } else {
        out.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            out.push(rest as u8 | 128);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(text);
}

/// HPACK: literal fields that are not remembered.
pub(super) fn fields(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in pairs {
        out.push(0);
        text(&mut out, name.as_bytes());
        text(&mut out, value.as_bytes());
    }
    out
}

pub(super) fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let base = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)];
    fields(&[&base[..], more].concat())
}

fn get(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &head("GET", "/health", more))
}

/// Statuses of the answers as far as their first field tells.
pub(super) fn statuses(answer: &[u8]) -> Vec<u16> {
    let (mut rest, mut all) = (answer, Vec::new());
    while rest.len() >= 9 {
        let len = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        let (kind, Some(payload)) = (rest[3], rest.get(9..9 + len)) else { break };
        if kind == HEADERS {
            // Changes of the table's size may come first.
            let first = payload.iter().position(|b| b & 0xe0 != 0x20).unwrap_or(0);
            match payload[first..] {
                [0x88, ..] => all.push(200),
                [0x8e, ..] => all.push(500),
                // In Huffman's code: 5, and 4.
                [0x48, _, b, ..] if b & 0xfc == 0x6c => all.push(502),
                _ => all.push(400),
            }
        }
        rest = &rest[9 + len..];
    }
    all
}

pub(super) fn all(target: &Victim, n: u64) -> Vec<Attack> {
    let mut all = Vec::new();
    let mut add = |name, wanted: Wanted, frames: Vec<u8>| {
        all.push(Attack { name, wanted, bytes: [opening(&[]), frames].concat() });
    };
    floods(target, &mut add);
    heads(&mut add);
    malformed(&mut add);
    hidden(target, n, &mut add);
    all
}

type Add<'a> = dyn FnMut(&'static str, Wanted, Vec<u8>) + 'a;

fn odd(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}

fn posted(target: &Victim, stream: u32, flags: u8) -> Vec<u8> {
    let key = format!("Bearer {}", target.admin);
    let more = [("authorization", key.as_str()), ("content-type", "application/json")];
    frame(HEADERS, END_HEADERS | flags, stream, &head("POST", "/v1/agents", &more))
}

fn floods(target: &Victim, add: &mut Add<'_>) {
    let reset = |stream| frame(RESET, 0, stream, &8u32.to_be_bytes());
    add("h2 rapid reset", Survived, odd(2000).flat_map(|s| [get(s, &[]), reset(s)].concat()).collect());
    let begun = |s| [posted(target, s, 0), reset(s)].concat();
    add("h2 rapid reset of what is at work", Survived, odd(2000).flat_map(begun).collect());
    // The server resets, which the peer's own limits do not count.
    let made = |s| [get(s, &[]), frame(WINDOW, 0, s, &0u32.to_be_bytes())].concat();
    add("h2 made you reset", Survived, odd(3000).flat_map(made).collect());
    let streams = odd(3000).flat_map(|s| posted(target, s, 0)).collect();
    add("h2 more streams than may be", Survived, streams);
    add("h2 settings", Survived, frame(SETTINGS, 0, 0, &[]).repeat(10_000));
    let table = [(1u16, 0u32), (1, 4096)].map(|(id, v)| [&id.to_be_bytes()[..], &v.to_be_bytes()[..]].concat());
    add("h2 settings of the table", Survived, frame(SETTINGS, 0, 0, &table.concat()).repeat(5000));
    add("h2 pings", Survived, frame(PING, 0, 0, &[7; 8]).repeat(10_000));
    add("h2 priorities", Survived, odd(10_000).flat_map(|s| frame(PRIORITY, 0, s, &[0, 0, 0, 0, 1])).collect());
    let empty = frame(DATA, 0, 1, &[]).repeat(20_000);
    add("h2 empty data", Survived, [posted(target, 1, 0), empty].concat());
    let padded = frame(DATA, 8, 1, &[&[255u8][..], &[0; 255]].concat()).repeat(3000);
    add("h2 padding", Survived, [posted(target, 1, 0), padded].concat());
    add("h2 unknown frames", Survived, frame(0x42, 0, 0, &[0; 64]).repeat(5000));
    add("h2 windows", Survived, [get(1, &[]), frame(WINDOW, 0, 0, &1u32.to_be_bytes()).repeat(10_000)].concat());
}

fn heads(add: &mut Add<'_>) {
    let begin = frame(HEADERS, END_STREAM, 1, &head("GET", "/health", &[]));
    let more = |payload: &[u8], count| [begin.clone(), frame(CONTINUATION, 0, 1, payload).repeat(count)].concat();
    add("h2 empty continuations", Closed, more(&[], 10_000));
    add("h2 small continuations", Closed, more(&fields(&[("x", "y")]), 10_000));
    add("h2 large continuations", Closed, more(&fields(&[("x", &"y".repeat(8000))]), 200));
    // Remembered once, named by one byte each time after.
    let mut bomb = head("GET", "/health", &[]);
    bomb.push(0x40);
    text(&mut bomb, b"x");
    text(&mut bomb, &[b'y'; 4000]);
    bomb.extend(vec![0x80 | 62; 12_000]);
    add("h2 header bomb", NoSuccess, frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb));
    let crumbs: Vec<u8> = vec![0x80 | 16; 16_000];
    add(
        "h2 many fields",
        NoSuccess,
        frame(HEADERS, END_STREAM | END_HEADERS, 1, &[head("GET", "/health", &[]), crumbs].concat()),
    );
    let cookies = fields(&vec![("cookie", "a=b"); 1300]);
    add(
        "h2 many cookies",
        NoSuccess,
        frame(HEADERS, END_STREAM | END_HEADERS, 1, &[head("GET", "/health", &[]), cookies].concat()),
    );
    add("h2 an index that is none", Closed, frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0xff, 0x7f]));
    add("h2 a number without end", Closed, frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 64]));
    add("h2 a table without end", Closed, frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0x3f, 0xff, 0xff, 0xff, 0x7f]));
    add("h2 wrong Huffman", Closed, frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0, 0x81, 0xff, 0x81, 0xff]));
}

fn malformed(add: &mut Add<'_>) {
    let mut one =
        |name, wanted, kind, flags, stream, payload: &[u8]| add(name, wanted, frame(kind, flags, stream, payload));
    one("h2 a giant frame", Closed, DATA, 0, 1, &[0; 70_000]);
    one("h2 data of no stream", Closed, DATA, 0, 1, b"x");
    one("h2 data of the connection", Closed, DATA, 0, 0, b"x");
    one("h2 a head of the connection", Closed, HEADERS, END_HEADERS, 0, &head("GET", "/health", &[]));
    one("h2 an even stream", Closed, HEADERS, END_HEADERS | END_STREAM, 2, &head("GET", "/health", &[]));
    one("h2 a push", Closed, PUSH, END_HEADERS, 1, &[0, 0, 0, 2]);
    one("h2 a continuation of nothing", Closed, CONTINUATION, END_HEADERS, 1, &[]);
    one("h2 settings of a stream", Closed, SETTINGS, 0, 1, &[]);
    one("h2 settings cut", Closed, SETTINGS, 0, 0, &[0; 5]);
    one("h2 a long ping", Closed, PING, 0, 0, &[0; 9]);
    one("h2 a window of nothing", Closed, WINDOW, 0, 0, &[0; 4]);
    one("h2 an overflowing window", Closed, WINDOW, 0, 0, &[0x7f, 0xff, 0xff, 0xff]);
    one("h2 too much padding", Closed, HEADERS, 8 | END_HEADERS, 1, &[200, 0]);
    one("h2 a wrong initial window", Closed, SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]);
    let backwards = [get(5, &[]), get(3, &[])].concat();
    add("h2 streams backwards", Closed, backwards);
    let between = [frame(HEADERS, 0, 1, &head("GET", "/health", &[])), frame(PING, 0, 0, &[0; 8])].concat();
    add("h2 a ping between headers", Closed, between);
    add("h2 garbage", Closed, vec![0xff; 100_000]);
}

/// What HTTP/2 forbids because HTTP/1 behind it would cut it elsewhere.
fn hidden(target: &Victim, n: u64, add: &mut Add<'_>) {
    let mut field = |name, pairs: &[(&str, &str)]| add(name, NoSuccess, get(1, pairs));
    field("h2 a coding", &[("transfer-encoding", "chunked")]);
    field("h2 a connection", &[("connection", "keep-alive")]);
    field("h2 an upgrade", &[("upgrade", "websocket")]);
    field("h2 another host", &[("host", "b")]);
    field("h2 a line in a value", &[("x", "y\r\ntransfer-encoding: chunked")]);
    field("h2 a line in a name", &[("x: y\r\nz", "v")]);
    field("h2 a capital", &[("X", "y")]);
    field("h2 a pseudo-field after others", &[("x", "y"), (":path", "/v1/agents")]);
    field("h2 a pseudo-field twice", &[(":path", "/v1/agents")]);
    field("h2 an unknown pseudo-field", &[(":x", "y")]);
    field("h2 a body that does not come", &[("content-length", "5")]);
    field("h2 a wrong length", &[("content-length", "-5")]);
    let bare = |pairs: &[(&str, &str)]| frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(pairs));
    add("h2 no path", NoSuccess, bare(&[(":method", "GET"), (":scheme", "http"), (":authority", "a")]));
    add(
        "h2 an empty path",
        NoSuccess,
        bare(&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "")]),
    );
    let line = "/health HTTP/1.1\r\nhost: a\r\n\r\nGET /v1/agents";
    add(
        "h2 a request in a path",
        NoSuccess,
        bare(&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", line)]),
    );
    add(
        "h2 a method of two words",
        NoSuccess,
        bare(&[(":method", "GET /x"), (":scheme", "http"), (":authority", "a"), (":path", "/health")]),
    );
    add("h2 connect", NoSuccess, bare(&[(":method", "CONNECT"), (":authority", "a:80")]));
    let body = format!(r#"{{"image":"never","name":"smuggled-{n}"}}"#);
    let key = format!("Bearer {}", target.admin);
    for length in ["0", "3", "99999"] {
        let more = [("authorization", key.as_str()), ("content-type", "application/json"), ("content-length", length)];
        let lying = frame(HEADERS, END_HEADERS, 1, &head("POST", "/v1/agents", &more));
        add("h2 a lying length", NoSuccess, [lying, frame(DATA, END_STREAM, 1, body.as_bytes())].concat());
    }
}

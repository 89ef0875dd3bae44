//! WebSocket frames that no client may send.

use super::Attack;
use super::Wanted::{self, Closed, Survived};
use super::target::Victim;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const FIN: u8 = 0x80;
const START: &[u8] = br#"{"type":"start","command":["cat"],"open_stdin":true}"#;

/// A frame whose mask is zero: masked, and readable.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    sized(first, payload.len() as u64, payload)
}

/// It says that it is as long as `len`.
fn sized(first: u8, len: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match len {
        0..126 => out.push(0x80 | len as u8),
        126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

pub(super) fn upgrade(target: &Victim, path: &str) -> Vec<u8> {
    format!(
        "GET /v1/agents/{}/{path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nConnection: upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        target.agent, target.admin
    )
    .into_bytes()
}

pub(super) fn all(target: &Victim) -> Vec<Attack> {
    let mut all = Vec::new();
    let mut add = |name, wanted: Wanted, frames: Vec<u8>| {
        for (path, first) in [("exec", true), ("ports/7", false)] {
            let mut bytes = upgrade(target, path);
            if first {
                bytes.extend(frame(FIN | TEXT, START));
            }
            bytes.extend_from_slice(&frames);
            all.push(Attack { name, wanted, bytes });
        }
    };
    add("an unmasked frame", Closed, vec![FIN | BINARY, 3, b'a', b'b', b'c']);
    add("longer than may be", Closed, sized(FIN | BINARY, 64 << 20, b"abc"));
    add("longer than can be", Closed, sized(FIN | BINARY, u64::MAX, b"abc"));
    add("a long message in pieces", Closed, pieces(40, 64 * 1024));
    add("many empty pieces", Survived, pieces(20_000, 0));
    add("many small pieces", Survived, pieces(20_000, 1));
    add("a piece of nothing", Closed, frame(FIN, b"abc"));
    add("a message in a message", Closed, [frame(BINARY, b"a"), frame(FIN | BINARY, b"b")].concat());
    add("reserved bits", Closed, frame(FIN | 0x70 | BINARY, b"a"));
    add("a reserved kind", Closed, frame(FIN | 5, b"a"));
    add("a reserved control", Closed, frame(FIN | 0xb, b"a"));
    add("a long control", Closed, frame(FIN | PING, &[b'p'; 126]));
    add("a control in pieces", Closed, frame(PING, b"p"));
    add("text that is not UTF-8", Closed, frame(FIN | TEXT, b"\xff\xfe\xfd"));
    add("a close of one byte", Closed, frame(FIN | CLOSE, b"x"));
    add("a close with a wrong code", Closed, frame(FIN | CLOSE, &999u16.to_be_bytes()));
    add("many pings", Survived, frame(FIN | PING, &[b'p'; 125]).repeat(10_000));
    add("deep JSON", Closed, frame(FIN | TEXT, "[".repeat(10_000).as_bytes()));
    add("a second start", Closed, frame(FIN | TEXT, START));
    add("garbage", Closed, vec![0xff; 4096]);
    all
}

/// One message; the last piece says so.
fn pieces(count: usize, len: usize) -> Vec<u8> {
    let piece = vec![b'x'; len];
    let mut out = frame(BINARY, &piece);
    for _ in 0..count {
        out.extend(frame(0, &piece));
    }
    out.extend(frame(FIN, &piece));
    out
}

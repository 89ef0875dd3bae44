//! Connections that want to stay: thousands, each slow in one way.

use super::http2::{self, ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PING, SETTINGS, WINDOW, frame, head, opening};
use super::target::{Victim, Wire};
use super::websocket;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// From each address so many, fewer than one peer may have.
const PER_ADDRESS: u64 = 900;
const DIALS_AT_ONCE: usize = 64;
const STREAMS: u32 = 20;
const DRIP: Duration = Duration::from_secs(1);

/// What a connection does after its first bytes.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// Neither reads nor writes.
    Nothing,
    /// One byte now and then, for ever.
    Drip(u8),
    /// Reads a byte now and then.
    Sip,
    /// Answers every ping, gives no window.
    Pong,
    /// Writes pings, and reads nothing.
    Flood,
}

struct Kind {
    name: &'static str,
    bytes: Vec<u8>,
    then: Then,
}

pub(super) struct Held {
    stop: Arc<AtomicBool>,
    alive: Arc<Mutex<BTreeMap<&'static str, i64>>>,
}

impl Held {
    /// How many of each kind still stood when it was ended.
    pub(super) fn end(self) -> BTreeMap<&'static str, i64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut alive = self.alive.lock().expect("lock").clone();
        alive.retain(|_, count| *count > 0);
        alive
    }
}

fn kinds(target: &Victim) -> Vec<Kind> {
    let mut all = Vec::new();
    let mut add = |name, then, bytes: Vec<u8>| all.push(Kind { name, bytes, then });
    add("nothing", Then::Nothing, Vec::new());
    add("half a head", Then::Nothing, b"GET /health HTTP/1.1\r\nHost: a\r\nx: ".to_vec());
    add("a dripping head", Then::Drip(b'x'), b"GET /health HTTP/1.1\r\nHost: a\r\nx: ".to_vec());
    let large = format!("GET /health HTTP/1.1\r\nHost: a\r\nx: {}", "y".repeat(30_000));
    add("a large head", Then::Drip(b'y'), large.into_bytes());
    add("a second head", Then::Drip(b'x'), b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /".to_vec());
    add("kept alive", Then::Nothing, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n".to_vec());
    let posted = |path: &str, more: &str, body: &str| {
        format!(
            "POST /v1/agents{path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             {more}\r\n\r\n{body}",
            target.admin
        )
        .into_bytes()
    };
    add("a dripping body", Then::Drip(b' '), posted("", "Content-Length: 1000", "{"));
    let exec = format!("/{}/exec", target.agent);
    add("a dripping exec", Then::Drip(b' '), posted(&exec, "Content-Length: 1000", "{"));
    add("a dripping chunk", Then::Drip(b' '), posted("", "Transfer-Encoding: chunked", "fffff\r\n{"));
    add("a large body's end", Then::Nothing, posted("", "Content-Length: 1048576", &" ".repeat(1 << 20)[1..]));
    let asked = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n".repeat(200);
    add("answers left lying", Then::Nothing, asked.clone());
    add("answers in sips", Then::Sip, asked);
    two(target, &mut all);
    all
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &head("GET", path, &[]))
}

fn two(target: &Victim, all: &mut Vec<Kind>) {
    let mut add = |name, then, bytes: Vec<u8>| all.push(Kind { name, bytes, then });
    let streams = |path| -> Vec<u8> { (0..STREAMS).flat_map(|n| get(2 * n + 1, path)).collect() };
    add("h2 half a preface", Then::Nothing, http2::PREFACE[..20].to_vec());
    add("h2 no request", Then::Pong, opening(&[]));
    add("h2 idle", Then::Pong, [opening(&[]), get(1, "/health")].concat());
    add("h2 half a head", Then::Nothing, [opening(&[]), frame(HEADERS, 0, 1, &head("GET", "/health", &[]))].concat());
    let half = frame(HEADERS, 0, 3, &head("GET", "/health", &[]));
    add("h2 half a second head", Then::Nothing, [opening(&[]), get(1, "/health"), half].concat());
    add("h2 no window", Then::Pong, [opening(&[(4, 0)]), streams("/openapi.json")].concat());
    add("h2 a window of a byte", Then::Pong, [opening(&[(4, 1)]), streams("/openapi.json")].concat());
    add(
        "h2 a window for none but the connection",
        Then::Nothing,
        [opening(&[(4, 1 << 20)]), streams("/openapi.json")].concat(),
    );
    add("h2 pings unread", Then::Flood, [opening(&[]), get(1, "/health")].concat());
    let key = format!("Bearer {}", target.admin);
    let more = [("authorization", key.as_str()), ("content-type", "application/json")];
    let body = |n: u32| frame(HEADERS, END_HEADERS, 2 * n + 1, &head("POST", "/v1/agents", &more));
    add("h2 bodies that do not come", Then::Pong, [opening(&[]), (0..STREAMS).flat_map(body).collect()].concat());
    let dripping = [opening(&[]), body(0), frame(DATA, 0, 1, b"{"), frame(WINDOW, 0, 0, &[0, 0, 0, 1])].concat();
    add("h2 a body that stops", Then::Pong, dripping);
    add("a WebSocket without a frame", Then::Nothing, websocket::upgrade(target, "exec"));
}

/// Opens so many, of every kind in turn, and keeps them.
pub(super) async fn open(target: &Arc<Victim>, count: u64) -> Held {
    let held = Held { stop: Arc::default(), alive: Arc::default() };
    let kinds = Arc::new(kinds(target));
    let dials = Arc::new(tokio::sync::Semaphore::new(DIALS_AT_ONCE));
    let mut begun = Vec::new();
    for n in 0..count {
        let (kinds, target, dials) = (kinds.clone(), target.clone(), dials.clone());
        let (stop, alive) = (held.stop.clone(), held.alive.clone());
        let (told, begins) = tokio::sync::oneshot::channel::<()>();
        begun.push(begins);
        tokio::spawn(async move {
            let permit = dials.acquire_owned().await.expect("open");
            let kind = &kinds[n as usize % kinds.len()];
            // One in sixteen over the local socket.
            let way = if n % 16 == 0 { 0 } else { 11 + u8::try_from(n / PER_ADDRESS).expect("few addresses") };
            let buffer = matches!(kind.then, Then::Nothing | Then::Sip).then_some(4096);
            let Ok(mut wire) = target.dial(way, buffer).await else { return };
            *alive.lock().expect("lock").entry(kind.name).or_default() += 1;
            let _ = tokio::time::timeout(DRIP, wire.write_all(&kind.bytes)).await;
            drop((permit, told, target));
            hold(wire, kind.then, &stop).await;
            *alive.lock().expect("lock").entry(kind.name).or_default() -= 1;
        });
    }
    for one in begun {
        let _ = one.await;
    }
    held
}

/// Until the server ends it, as far as this kind sees that, or the test does.
async fn hold(mut wire: Box<dyn Wire>, then: Then, stop: &AtomicBool) {
    let mut buffer = vec![0; 16 * 1024];
    while !stop.load(Ordering::Relaxed) {
        match then {
            Then::Nothing => tokio::time::sleep(DRIP).await,
            Then::Drip(byte) => {
                tokio::time::sleep(DRIP).await;
                if wire.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
            Then::Sip => {
                tokio::time::sleep(DRIP / 5).await;
                if !matches!(wire.read(&mut buffer[..1]).await, Ok(1)) {
                    return;
                }
            }
            Then::Flood => {
                let pings = frame(PING, 0, 0, &[1; 8]).repeat(1000);
                match tokio::time::timeout(DRIP, wire.write_all(&pings)).await {
                    Ok(Err(_)) => return,
                    Ok(Ok(())) => tokio::time::sleep(DRIP).await,
                    Err(_) => {}
                }
            }
            Then::Pong => match tokio::time::timeout(DRIP, wire.read(&mut buffer)).await {
                Ok(Ok(0) | Err(_)) => return,
                Ok(Ok(n)) => {
                    if wire.write_all(&pongs(&buffer[..n])).await.is_err() {
                        return;
                    }
                }
                Err(_) => {}
            },
        }
    }
}

/// What a living peer says to settings and pings that begin in these bytes.
fn pongs(mut read: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while read.len() >= 9 {
        let len = u32::from_be_bytes([0, read[0], read[1], read[2]]) as usize;
        let Some(payload) = read.get(9..9 + len) else { break };
        match (read[3], read[4] & ACK) {
            (SETTINGS, 0) => out.extend(frame(SETTINGS, ACK, 0, &[])),
            (PING, 0) => out.extend(frame(PING, ACK, 0, payload)),
            _ => {}
        }
        read = &read[9 + len..];
    }
    out
}

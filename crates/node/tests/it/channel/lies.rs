//! A guest that lies or stalls in every message: each call of guest.proto
//! with each lie. The clock is virtual, so that every deadline is run to its
//! end, and a call without one is seen at once.

use super::sandbox::{open, request, shell};
use super::scripted::{LIES, Lie, Script, Scripted, answer_hello};
use aether_counted::Counted;
use aether_node::channel::{ChannelError, GuestClient, wire};
use aether_proto::channel::{MESSAGE_SIZE, STREAM_WINDOW};
use buffa::Message as _;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

const TOKEN: [u8; 16] = [2; 16];
const CALL: Duration = Duration::from_secs(15);
/// Of a stream's messages a reader takes so many, and then stops reading.
const TAKES: usize = 20;
/// A reader that has stopped takes no more than what is under way: windows,
/// and what the guest's own HTTP/2 has buffered.
const UNDER_WAY: u64 = STREAM_WINDOW as u64 + (1 << 20);
/// What may be kept of one answer: texts are cut, lists are bounded.
const KEPT: usize = 128 * 1024;
/// Of one message in a stream: a log line as `Debug` shows its bytes.
const KEPT_OF_STREAM: usize = 512 * 1024;

/// How a call went: bytes that the caller holds of the answer.
type Went = Result<usize, ChannelError>;

struct Rpc {
    name: &'static str,
    /// Its deadline; of a stream, until it is open.
    limit: Duration,
    call: fn(GuestClient) -> BoxFuture<'static, Went>,
    good: fn(u64) -> Vec<u8>,
    absurd: fn() -> Vec<u8>,
    stream: bool,
}

const fn unary(
    name: &'static str,
    limit: Duration,
    call: fn(GuestClient) -> BoxFuture<'static, Went>,
    absurd: fn() -> Vec<u8>,
) -> Rpc {
    Rpc { name, limit, call, good: |_| Vec::new(), absurd, stream: false }
}

/// As `Debug` shows it, which is more than it is.
fn held<T: std::fmt::Debug>(answer: T) -> usize {
    format!("{answer:?}").len()
}

async fn drink<T: std::fmt::Debug>(stream: impl Stream<Item = Result<T, ChannelError>> + Send) -> Went {
    let mut stream = pin!(stream);
    let mut kept = 0;
    for _ in 0..TAKES {
        match stream.next().await {
            Some(Ok(item)) => kept += held(item),
            Some(Err(error)) => return Err(error),
            None => return Ok(kept),
        }
    }
    // It is open, and not read any more.
    tokio::time::sleep(Duration::from_secs(30)).await;
    Ok(kept)
}

fn nothing() -> Vec<u8> {
    Vec::new()
}

fn long() -> String {
    "\x1b[2J\n".repeat(40_000)
}

fn state() -> wire::ExecState {
    let exit = wire::Exit { signal: Some(long()), error: long(), ..Default::default() };
    wire::ExecState { exec_id: long(), argv: vec![long()], exit: Some(exit).into(), ..Default::default() }
}

fn absurd_identity() -> Vec<u8> {
    let (kernel_release, boot_id, main_error) = (long(), long(), long());
    wire::IdentifyResponse { kernel_release, boot_id, main_error, ..Default::default() }.encode_to_vec()
}

fn absurd_health() -> Vec<u8> {
    let (message, probe, probe_message) = (long(), long(), long());
    wire::HealthResponse { message, probe, probe_message, ..Default::default() }.encode_to_vec()
}

fn absurd_stats() -> Vec<u8> {
    let cpu_usage_percent = f64::NAN;
    wire::StatsResponse { cpu_usage_percent, memory_usage_bytes: u64::MAX, ..Default::default() }.encode_to_vec()
}

fn absurd_end() -> Vec<u8> {
    wire::ShutdownResponse { main_signal: Some(long()), ..Default::default() }.encode_to_vec()
}

/// The sequence does not rise.
fn absurd_event() -> Vec<u8> {
    wire::Event { sequence: 0, ..Default::default() }.encode_to_vec()
}

fn good_event(n: u64) -> Vec<u8> {
    let oom = wire::OutOfMemory { process: long(), pid: 1, ..Default::default() };
    let event = Some(aether_node::channel::EventKind::Oom(Box::new(oom)));
    wire::Event { sequence: n, event, ..Default::default() }.encode_to_vec()
}

fn output(offset: u64) -> Vec<u8> {
    let output = wire::Output { stream: 1, data: vec![7; 1000], offset, ..Default::default() };
    let event = Some(aether_node::channel::OutputKind::Output(Box::new(output)));
    wire::OutputEvent { event, ..Default::default() }.encode_to_vec()
}

fn log_line() -> Vec<u8> {
    wire::LogLine { line: vec![b'x'; 1 << 20], stream: 9, ..Default::default() }.encode_to_vec()
}

/// Every call of guest.proto.
const RPCS: &[Rpc] = &[
    unary(
        "Guest/Identify",
        Duration::from_secs(60),
        |c| async move { c.identify(request()).await.map(held) }.boxed(),
        absurd_identity,
    ),
    unary("Guest/Reseed", CALL, |c| async move { c.reseed(vec![1; 32], 1).await.map(held) }.boxed(), nothing),
    unary("Guest/Health", CALL, |c| async move { c.health().await.map(held) }.boxed(), absurd_health),
    unary("Guest/Stats", CALL, |c| async move { c.stats().await.map(held) }.boxed(), absurd_stats),
    unary("Guest/Quiesce", CALL, |c| async move { c.quiesce(CALL).await.map(held) }.boxed(), nothing),
    unary("Guest/Thaw", CALL, |c| async move { c.thaw().await.map(held) }.boxed(), nothing),
    unary(
        "Guest/Shutdown",
        Duration::from_secs(17),
        |c| async move { c.shutdown(Duration::from_secs(2)).await.map(held) }.boxed(),
        absurd_end,
    ),
    Rpc {
        name: "Guest/Events",
        limit: CALL,
        call: |c| async move { drink(c.events(0)).await }.boxed(),
        good: good_event,
        absurd: absurd_event,
        stream: true,
    },
    unary(
        "Exec/Start",
        CALL,
        |c| async move { c.exec_start(shell("x", "true")).await.map(held) }.boxed(),
        || state().encode_to_vec(),
    ),
    Rpc {
        name: "Exec/Output",
        limit: CALL,
        call: |c| async move { drink(c.exec_output("x", 0)).await }.boxed(),
        good: |n| output((n - 1) * 1000),
        absurd: || output(77),
        stream: true,
    },
    unary(
        "Exec/Read",
        CALL,
        |c| async move { c.exec_read("x", 0, 1000).await.map(held) }.boxed(),
        || wire::ReadResponse { state: Some(state()).into(), ..Default::default() }.encode_to_vec(),
    ),
    unary(
        "Exec/Input",
        Duration::from_secs(600),
        |c| async move { c.exec_input("x", vec![1], false).await.map(held) }.boxed(),
        nothing,
    ),
    unary("Exec/Signal", CALL, |c| async move { c.exec_signal("x", 9).await.map(held) }.boxed(), nothing),
    unary("Exec/Resize", CALL, |c| async move { c.exec_resize("x", 1, 1).await.map(held) }.boxed(), nothing),
    unary("Exec/Get", CALL, |c| async move { c.exec_get("x").await.map(held) }.boxed(), || state().encode_to_vec()),
    unary(
        "Exec/List",
        CALL,
        |c| async move { c.exec_list().await.map(held) }.boxed(),
        || wire::ListResponse { execs: vec![state(); 3], ..Default::default() }.encode_to_vec(),
    ),
    Rpc {
        name: "Exec/Logs",
        limit: CALL,
        call: |c| {
            async move {
                let lines = c.logs(wire::LogsRequest { follow: true, ..Default::default() }).await?;
                drink(lines).await
            }
            .boxed()
        },
        good: |_| log_line(),
        absurd: log_line,
        stream: true,
    },
];

/// A call that is added to the protocol must be lied to here.
#[test]
fn every_call_of_the_protocol_is_in_the_table() {
    let proto = include_str!("../../../../proto/proto/guest.proto");
    let mut service = "";
    let mut named = BTreeSet::new();
    for line in proto.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("service ") {
            service = rest.trim_end_matches(" {");
        }
        if let Some((rpc, _)) = line.strip_prefix("rpc ").and_then(|rest| rest.split_once('(')) {
            named.insert(format!("{service}/{}", rpc.trim()));
        }
    }
    assert!(named.len() > 15, "{named:?}");
    assert_eq!(RPCS.iter().map(|rpc| rpc.name.to_owned()).collect::<BTreeSet<_>>(), named);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_lies_in_any_message_costs_a_bounded_time_and_memory() {
    let mut counted = Counted::new("neighbours", 7, "lies of a guest in each message of the channel", 0);
    for rpc in RPCS {
        for lie in LIES {
            counted.n += 1;
            counted.faults += 1;
            if let Err(wrong) = lied_to(rpc, lie).await {
                counted.failures += 1;
                eprintln!("{} {lie:?}: {wrong}", rpc.name);
            }
        }
    }
    assert_eq!(counted.failures, 0);
}

async fn lied_to(rpc: &Rpc, lie: Lie) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a folder");
    let script = Script { target: rpc.name, lie, good: rpc.good, absurd: (rpc.absurd)(), taken: AtomicU64::new(0) };
    let script = Arc::new(script);
    let _guest = Scripted::start(dir.path(), &script);
    let client = open(dir.path(), TOKEN);
    let begun = Instant::now();
    // A stream that is open may be silent: then its reader waits, and nothing else does.
    let reading = if rpc.stream { Duration::from_secs(120) } else { Duration::ZERO };
    let limit = rpc.limit + reading + Duration::from_secs(2);
    let went = tokio::time::timeout(limit, (rpc.call)(client.clone())).await;
    let taken = script.taken.load(Ordering::SeqCst);
    let silent = rpc.stream && matches!(lie, Lie::Stall | Lie::Trickle);
    let went = match went {
        Ok(went) => went,
        Err(_) if silent => Ok(0),
        // Sent again and again, each time with a good message in front.
        Err(_) if rpc.stream && lie == Lie::Absurd => Ok(0),
        Err(_) => return Err(format!("no end after {limit:?}")),
    };
    if !rpc.stream && begun.elapsed() > rpc.limit + Duration::from_secs(2) {
        return Err(format!("it took {:?}", begun.elapsed()));
    }
    let fair = MESSAGE_SIZE as u64 + UNDER_WAY + TAKES as u64 * (1 << 20);
    if taken > fair {
        return Err(format!("{taken} bytes of it were taken, more than {fair}"));
    }
    judge(rpc, lie, &went, silent)?;
    known(rpc, lie, went.is_err(), client.breach())?;
    // The same guest is asked something else, on both lanes. A paused clock may leap while bytes are on their way, which
    // is a time-out that is none.
    let mut last = Ok(());
    for _ in 0..20 {
        last = others_work(rpc, &client).await;
        if last.is_ok() {
            break;
        }
    }
    last.map_err(|e| format!("afterwards: {e}"))
}

async fn others_work(rpc: &Rpc, client: &GuestClient) -> Result<(), ChannelError> {
    match rpc.name {
        "Guest/Thaw" => client.reseed(vec![1; 32], 1).await?,
        _ => client.thaw().await?,
    }
    match rpc.name {
        "Exec/Resize" => client.exec_signal("y", 1).await,
        _ => client.exec_resize("y", 1, 1).await,
    }
}

fn judge(rpc: &Rpc, lie: Lie, went: &Went, silent: bool) -> Result<(), String> {
    let most = if rpc.stream { KEPT_OF_STREAM } else { KEPT };
    match went {
        Ok(kept) if *kept > most && !(rpc.stream && lie == Lie::Flood) => {
            Err(format!("{kept} bytes of the answer are kept"))
        }
        // What is no message is never taken for one; odd ones may be, cut to size.
        Ok(_) if silent || matches!(lie, Lie::Absurd | Lie::Swarm) || rpc.stream && lie == Lie::Flood => Ok(()),
        Ok(kept) => Err(format!("it was believed: {kept} bytes")),
        Err(error) => {
            let text = error.to_string();
            if text.is_empty() || text.len() > 1100 || text.chars().any(char::is_control) {
                return Err(format!("the reason has {} bytes: {:.80}", text.len(), text));
            }
            Ok(())
        }
    }
}

/// Whoever looks at the agent learns of the lie.
fn known(rpc: &Rpc, lie: Lie, failed: bool, breach: Option<String>) -> Result<(), String> {
    let is = |names: &[&str]| names.contains(&rpc.name);
    let wanted = match lie {
        // No lie, but an answer.
        Lie::Refusal => Some(false),
        // Who watches the guest's health counts its misses, and a process may not read its input.
        Lie::Silence | Lie::Stall | Lie::Trickle if is(&["Guest/Health", "Exec/Input"]) => None,
        Lie::Silence | Lie::Stall | Lie::Trickle => (!rpc.stream).then_some(true),
        Lie::Giant | Lie::Endless | Lie::WrongType | Lie::Garbage | Lie::GarbageAfter => Some(true),
        Lie::Flood | Lie::Swarm | Lie::Absurd => failed.then_some(true),
        // Where a call is not made again, a cut may be ours.
        Lie::GiantHead | Lie::Reset | Lie::Cut
            if is(&["Guest/Health", "Guest/Shutdown", "Exec/Signal", "Exec/Input", "Exec/Logs"]) =>
        {
            None
        }
        Lie::GiantHead | Lie::Reset | Lie::Cut => Some(true),
    };
    match wanted {
        Some(wanted) if wanted != breach.is_some() => Err(format!("known of it: {breach:?}")),
        _ if breach.as_ref().is_some_and(|text| text.is_empty() || text.len() > 1100) => {
            Err(format!("its reason has {} bytes", breach.unwrap_or_default().len()))
        }
        _ => Ok(()),
    }
}

type Behaviour = fn(UnixStream) -> BoxFuture<'static, ()>;

/// Below the calls: the hello, and the protocol that carries them.
#[tokio::test(start_paused = true)]
async fn a_guest_that_lies_below_the_calls_is_given_up_in_time() {
    async fn pour(stream: &mut UnixStream, piece: &[u8]) {
        while stream.write_all(piece).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let ways: [(&str, Behaviour); 7] = [
        ("takes the hello and says nothing", |stream| {
            async move {
                let _open = stream;
                std::future::pending().await
            }
            .boxed()
        }),
        ("closes at once", |stream| async move { drop(stream) }.boxed()),
        ("answers with another number", |mut stream| {
            async move { pour(&mut stream, &aether_proto::channel::answer(&[9; 16])).await }.boxed()
        }),
        ("pours without an answer", |mut stream| async move { pour(&mut stream, &[0xae; 64 * 1024]).await }.boxed()),
        ("answers, then pours", |mut stream| {
            async move {
                let _ = answer_hello(&mut stream).await;
                pour(&mut stream, &[0; 16 * 1024]).await;
            }
            .boxed()
        }),
        ("answers, then says nothing", |mut stream| {
            async move {
                let _ = answer_hello(&mut stream).await;
                let _open = stream;
                std::future::pending().await
            }
            .boxed()
        }),
        ("answers, then sends settings for ever", |mut stream| {
            async move {
                let _ = answer_hello(&mut stream).await;
                pour(&mut stream, &[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
            }
            .boxed()
        }),
    ];
    let mut counted = Counted::new("neighbours", 7, "lies of a guest below the calls of the channel", 0);
    for (what, behaves) in ways {
        let dir = tempfile::tempdir().expect("a folder");
        for lane in ["control", "data"] {
            let listener = UnixListener::bind(dir.path().join(lane)).expect("bound");
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(behaves(stream));
                }
            });
        }
        counted.n += 1;
        counted.faults += 1;
        let client = open(dir.path(), TOKEN);
        let limit = Duration::from_secs(5);
        let waited = tokio::time::timeout(limit * 2, client.wait_ready(limit)).await;
        let error = waited.unwrap_or_else(|_| panic!("{what}: no end")).expect_err(what);
        assert!(matches!(error, ChannelError::Timeout | ChannelError::Gone), "{what}: {error}");
    }
}

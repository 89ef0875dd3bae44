//! What strangers and clients may do to the listener: counted test 26. The
//! server runs in a process of its own, so that a crash, its memory and its
//! descriptors are seen from outside; an honest client works beside all of it.
//!
//! Not here: limits one by one (`http_limits`), hostile images and guests.

mod bodies;
mod http2;
mod slow;
mod smuggling;
mod target;
mod websocket;

use aether_counted::{Counted, Dice, seed, trials};
use std::sync::Arc;
use std::time::Duration;
use target::{Honest, Memory, Phase, Seen, Target, Until};

/// By how much the server may grow.
const MEMORY_MOST: u64 = 256 << 20;
/// In which a connection must be given back; what CI allows a busy machine.
const RECLAIMED: Duration = Duration::from_secs(10);
const RECLAIMED_CI: Duration = Duration::from_secs(60);
const HONEST_CI: Duration = Duration::from_secs(10);
const CALM: Duration = Duration::from_secs(2);
/// Attacks at the same time.
const AT_ONCE: usize = 16;

/// One hostile exchange.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) wanted: Wanted,
}

/// What must come of it; a server error never may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// HTTP/1: a 4xx or nothing, and the end of the connection.
    Refused,
    /// HTTP/1: one answer at most: what follows the request is never one.
    OneAnswer,
    /// HTTP/1: a 4xx.
    ClientError,
    /// HTTP/2: no stream is answered with success.
    NoSuccess,
    /// The end of the connection.
    Closed,
    /// Nothing but that the server goes on.
    Survived,
}

impl Wanted {
    fn until(self) -> Until {
        match self {
            Wanted::Refused | Wanted::Closed => Until::End,
            Wanted::ClientError => Until::Answer,
            Wanted::OneAnswer | Wanted::NoSuccess | Wanted::Survived => Until::Silence,
        }
    }
}

impl Attack {
    fn all(target: &Target, n: u64) -> Vec<Attack> {
        let mut all = smuggling::all(target, n);
        all.extend(bodies::all(target));
        all.extend(http2::all(target, n));
        all.extend(websocket::all(target));
        all
    }

    fn judge(&self, answer: &[u8], closed: bool) -> Result<(), String> {
        let told = || String::from_utf8_lossy(&answer[..answer.len().min(600)]).into_owned();
        let statuses = if self.name.starts_with("h2") { http2::statuses(answer) } else { statuses(answer) };
        let sorry = statuses.contains(&503) && find(&answer.to_ascii_lowercase(), b"retry-after").is_some();
        if statuses.iter().any(|s| *s >= 500) && !sorry {
            return Err(format!("{}: a server error: {}", self.name, told()));
        }
        let refused = statuses.iter().all(|s| (400..500).contains(s));
        let good = match self.wanted {
            Wanted::Refused => statuses.len() <= 1 && refused && closed,
            Wanted::OneAnswer => statuses.len() <= 1,
            Wanted::ClientError => statuses.len() == 1 && (refused || sorry),
            Wanted::NoSuccess => !statuses.contains(&200),
            Wanted::Closed => closed,
            Wanted::Survived => true,
        };
        if good { Ok(()) } else { Err(format!("{}: {statuses:?}, closed {closed}: {}", self.name, told())) }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

/// Of HTTP/1 answers; interim ones do not count.
fn statuses(answer: &[u8]) -> Vec<u16> {
    let (mut rest, mut all) = (answer, Vec::new());
    while let Some(at) = find(rest, b"HTTP/1.") {
        rest = &rest[at + 7..];
        let text = rest.get(2..5).and_then(|t| std::str::from_utf8(t).ok());
        all.extend(text.and_then(|t| t.parse::<u16>().ok()).filter(|s| *s >= 200));
    }
    all
}

/// Every attack, over both ways in, again and again until there were `n`.
async fn requests(target: &Arc<Target>, n: u64, dice: &mut Dice, counted: &mut Counted) -> Vec<String> {
    let mut running = tokio::task::JoinSet::new();
    let mut wrong = Vec::new();
    let mut all: Vec<Attack> = Vec::new();
    for number in 0..n {
        let attack = match all.pop() {
            Some(attack) => attack,
            None => {
                all = Attack::all(target, number);
                all.pop().expect("there are attacks")
            }
        };
        if running.len() >= AT_ONCE {
            wrong.extend(running.join_next().await.expect("running").expect("joined"));
        }
        let way = if dice.roll(4) == 0 { 0 } else { 7 };
        let target = target.clone();
        running.spawn(async move {
            let (answer, closed) = target.exchange(way, &attack.bytes, attack.wanted.until()).await;
            attack.judge(&answer, closed).err().map(|e| format!("{e} (way {way})"))
        });
        counted.n += 1;
        counted.faults += 1;
    }
    while let Some(one) = running.join_next().await {
        wrong.extend(one.expect("joined"));
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn abuse_is_refused_bounded_and_survived() {
    let seed = seed();
    let mut counted = Counted::new("http", 26, "hostile requests and connections", seed);
    let (n, connections) = (trials("AETHER_ABUSE_REQUESTS", 800), trials("AETHER_ABUSE_CONNECTIONS", 400));
    let long = connections >= 5000;
    target::more_descriptors();
    let target = Arc::new(Target::start().await);
    let honest = Honest::start(&target);
    let memory = Memory::start(target.pid);
    tokio::time::sleep(CALM).await;
    honest.phase(Phase::Requests);
    let mut wrong = requests(&target, n, &mut Dice::new(seed), &mut counted).await;
    honest.phase(Phase::Calm);
    println!("memory +{} MiB after {n} requests", memory.grown() >> 20);
    tokio::time::sleep(CALM).await;
    let before = target.descriptors();
    honest.phase(Phase::Connections);
    let held = slow::open(&target, connections).await;
    (counted.n, counted.faults) = (counted.n + connections, counted.faults + connections);
    let took = target.until_descriptors(before + 16, RECLAIMED_CI).await;
    honest.phase(Phase::Calm);
    tokio::time::sleep(CALM).await;
    let left = held.end();
    let grown = memory.grown();
    println!("{n} requests, {connections} connections; given back after {took:?}; memory +{} MiB", grown >> 20);
    match took {
        None => wrong.push(format!("connections are left: {left:?}")),
        Some(took) if long && took > RECLAIMED => wrong.push(format!("given back after {took:?} only: {left:?}")),
        Some(_) => {}
    }
    if grown > MEMORY_MOST {
        wrong.push(format!("the server grew by {} MiB", grown >> 20));
    }
    wrong.extend(slower(honest.end(), long));
    wrong.extend(target.smuggled().await.into_iter().map(|name| format!("{name} reached a handler")));
    let target = Arc::into_inner(target).expect("nobody else has it");
    wrong.extend(target.end().await.err());
    counted.failures += wrong.len() as u64;
    wrong.sort();
    for text in &wrong {
        println!("{text}");
    }
    assert!(wrong.is_empty(), "{} of {} went wrong", wrong.len(), counted.n);
}

/// What the honest client noticed.
fn slower(seen: Seen, long: bool) -> Vec<String> {
    let (calm, _) = seen.p99(Phase::Calm);
    // Unoptimised, one large body takes longer to read than an honest request.
    let most = if long && !cfg!(debug_assertions) { 2 * calm } else { HONEST_CI };
    let phases = [Phase::Calm, Phase::Requests, Phase::Connections].map(|phase| (phase, seen.p99(phase)));
    println!("honest p99: {phases:?}");
    let slow = phases.iter().filter(|(_, (p99, _))| *p99 > most);
    let mut wrong: Vec<_> =
        slow.map(|(phase, (p99, _))| format!("honest p99 {p99:?} in {phase:?}, {calm:?} calm")).collect();
    wrong.extend(seen.failed);
    wrong
}

//! What strangers and clients may do to the listener: counted test 26. The
//! server runs in a process of its own, so that a crash, its memory and its
//! descriptors are seen from outside; an honest client works beside all of it.
//! The attackers stand for others' machines: they get what processor time the
//! server and the honest client leave.
//!
//! Not here: limits one by one (`http_limits`), hostile images and guests.

mod bodies;
mod honest;
mod http2;
mod slow;
mod smuggling;
mod target;
mod websocket;

use aether_counted::{Counted, Dice, seed, trials};
use honest::{Honest, Phase, Seen};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use target::{Memory, Target, Until, Victim};
use tokio::time::Instant;

/// By how much the server may grow.
const MEMORY_MOST: u64 = 256 << 20;
/// In which a connection must be given back; what CI allows a busy machine.
const RECLAIMED: Duration = Duration::from_secs(10);
const RECLAIMED_CI: Duration = Duration::from_secs(60);
const HONEST_CI: Duration = Duration::from_secs(10);
const CALM: Duration = Duration::from_secs(2);
/// Enough requests for a percentile.
const CALM_LONG: Duration = Duration::from_secs(15);
/// Failures that a panic repeats; a file has all of them.
const TOLD: usize = 20;
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
    fn all(target: &Victim, n: u64) -> Vec<Attack> {
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

/// Every attack, over both ways in, again and again until there were `n`; no
/// sooner than the pace allows.
async fn requests(victim: Arc<Victim>, n: u64, seed: u64, pace: Duration) -> Vec<String> {
    let mut dice = Dice::new(seed);
    let mut running = tokio::task::JoinSet::new();
    let mut wrong = Vec::new();
    let mut all: Vec<Attack> = Vec::new();
    let began = Instant::now();
    for number in 0..n {
        let attack = match all.pop() {
            Some(attack) => attack,
            None => {
                all = Attack::all(&victim, number);
                all.pop().expect("there are attacks")
            }
        };
        if running.len() >= AT_ONCE {
            wrong.extend(running.join_next().await.expect("running").expect("joined"));
        }
        tokio::time::sleep_until(began + pace * u32::try_from(number).expect("few")).await;
        let way = if dice.roll(4) == 0 { 0 } else { 7 };
        let victim = victim.clone();
        running.spawn(async move {
            let (answer, closed) = victim.exchange(way, &attack.bytes, attack.wanted.until()).await;
            attack.judge(&answer, closed).err().map(|e| format!("{e} (way {way})"))
        });
    }
    while let Some(one) = running.join_next().await {
        wrong.extend(one.expect("joined"));
    }
    wrong
}

/// The same attackers are busy elsewhere: what they cost the honest client by
/// being on its machine.
async fn elsewhere(target: &Target, honest: &Honest, requested: (u64, u64, Duration), connections: u64) {
    let (n, seed, pace) = requested;
    let bare = target.elsewhere("requests").await;
    honest.phase(Phase::RequestsElsewhere);
    // What is wrong with such a server's answers is not of interest.
    tokio::spawn(requests(bare.victim.clone(), n, seed, pace)).await.expect("joined");
    honest.phase(Phase::Calm);
    bare.end().await.expect("ends");
    let bare = target.elsewhere("connections").await;
    let before = bare.descriptors();
    honest.phase(Phase::ConnectionsElsewhere);
    let held = slow::open(&bare.victim, connections).await;
    bare.until_descriptors(before + 16, RECLAIMED_CI).await;
    honest.phase(Phase::Calm);
    held.end();
    bare.end().await.expect("ends");
}

/// A runtime whose threads step back for the server's and the honest client's.
fn attackers() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().on_thread_start(|| {
        rustix::process::nice(19).expect("anybody may step back");
    });
    builder.build().expect("a runtime")
}

#[test]
fn abuse_is_refused_bounded_and_survived() {
    // This thread, and so the processes and threads that it starts, keep their priority.
    attackers().block_on(abuse());
}

async fn abuse() {
    let seed = seed();
    let mut counted = Counted::new("http", 26, "hostile requests and connections", seed);
    let (n, connections) = (trials("AETHER_ABUSE_REQUESTS", 800), trials("AETHER_ABUSE_CONNECTIONS", 400));
    let long = connections >= 5000;
    let calm = if long { CALM_LONG } else { CALM };
    target::more_descriptors();
    let target = Target::start().await;
    let honest = Honest::start(&target);
    let memory = Memory::start(target.pid);
    tokio::time::sleep(calm).await;
    honest.phase(Phase::Requests);
    let began = Instant::now();
    let mut wrong = tokio::spawn(requests(target.victim.clone(), n, seed, Duration::ZERO)).await.expect("joined");
    let pace = began.elapsed() / u32::try_from(n.max(1)).expect("few");
    honest.phase(Phase::Calm);
    (counted.n, counted.faults) = (counted.n + n, counted.faults + n);
    println!("memory +{} MiB after {n} requests", memory.grown() >> 20);
    tokio::time::sleep(calm).await;
    let before = target.descriptors();
    honest.phase(Phase::Connections);
    let held = slow::open(&target.victim, connections).await;
    (counted.n, counted.faults) = (counted.n + connections, counted.faults + connections);
    let took = target.until_descriptors(before + 16, RECLAIMED_CI).await;
    honest.phase(Phase::Calm);
    tokio::time::sleep(calm).await;
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
    if long {
        elsewhere(&target, &honest, (n / 4, seed, pace), connections).await;
    }
    counted.tell("memory_mib", grown >> 20);
    counted.tell("given_back_ms", took.map_or(0, |t| t.as_millis() as u64));
    wrong.extend(slower(honest.end(), long, &mut counted));
    wrong.extend(target.smuggled().await.into_iter().map(|name| format!("{name} reached a handler")));
    wrong.extend(target.end().await.err());
    counted.failures += wrong.len() as u64;
    wrong.sort();
    let kept = keep(seed, &wrong);
    let told = wrong.iter().take(TOLD).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} of {} went wrong; all in {}:\n{told}", wrong.len(), counted.n, kept.display());
}

/// What went wrong, beside the build: a terminal forgets.
fn keep(seed: u64, wrong: &[String]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("http-abuse.log");
    if !wrong.is_empty() {
        let mut file = std::fs::File::options().create(true).append(true).open(&path).expect("opens");
        for text in wrong {
            writeln!(file, "AETHER_SEED={seed} {text}").expect("written");
        }
    }
    path
}

/// What the honest client noticed: beside an attack its requests take at most
/// twice what they take without one, and with the same attackers elsewhere.
fn slower(seen: Seen, long: bool, counted: &mut Counted) -> Vec<String> {
    let mut wrong = Vec::new();
    for (phase, elsewhere, name) in [
        (Phase::Requests, Phase::RequestsElsewhere, "requests"),
        (Phase::Connections, Phase::ConnectionsElsewhere, "connections"),
    ] {
        let (calm, beside, away) = (seen.took(Phase::Calm), seen.took(phase), seen.took(elsewhere));
        println!("honest client, {name}: calm {calm}, beside them {beside}, with them elsewhere {away}");
        println!("the slowest beside {name}: {}", seen.slowest(phase));
        let us = |took: Duration| took.as_micros() as u64;
        counted.tell(&format!("{name}_p99_us"), us(beside.p99));
        counted.tell(&format!("{name}_elsewhere_p99_us"), us(away.p99));
        counted.tell("calm_p99_us", us(calm.p99));
        let twice = 2 * calm.p99.max(away.p99);
        // Unoptimised, one large body takes longer to read than an honest request.
        let most = if long && !cfg!(debug_assertions) { twice } else { HONEST_CI };
        if beside.p99 > most {
            wrong.push(format!("beside {name} an honest request took {beside}; calm {calm}, elsewhere {away}"));
        }
    }
    wrong.extend(seen.failed);
    wrong
}

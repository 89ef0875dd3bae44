//! Registries that stall, lead inward, change their answers, lie about
//! lengths and never end. Each gives a clear error before the deadline, or
//! the image that was asked for; nothing is left, and a listener that stands
//! for the node's own services is never connected to.

use super::layouts::MANIFEST;
use super::liar::{file, tar};
use super::server::{Server, Step, head, reply};
use super::{audit, config, lies, open, quiet, tenant};
use crate::images::archives::{Blob, Image, sha256};
use crate::jail::Scratch;
use aether_core::secret::Secret;
use aether_counted::Counted;
use aether_node::images::{Credentials, ImageError, Images, PullSpec};
use futures::StreamExt;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

/// Of a whole pull.
const WHOLE: Duration = Duration::from_secs(10);
/// What a busy machine may take longer.
const SLACK: Duration = Duration::from_secs(60);
pub(super) const TAG: &str = "/v2/t/img/manifests/1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Fine,
    Lying,
    Slow,
    Unreachable,
    Busy,
    Unauthorized,
    Refused,
    NotFound,
    Invalid,
}

fn end(result: &Result<(), ImageError>) -> Option<End> {
    Some(match result {
        Ok(()) => End::Fine,
        Err(ImageError::Lying { .. }) => End::Lying,
        Err(ImageError::TooSlow { .. }) => End::Slow,
        Err(ImageError::Unreachable { .. }) => End::Unreachable,
        Err(ImageError::Busy { .. }) => End::Busy,
        Err(ImageError::Unauthorized { .. }) => End::Unauthorized,
        Err(ImageError::Refused(_)) => End::Refused,
        Err(ImageError::NotInRegistry(_)) => End::NotFound,
        Err(ImageError::Invalid(_)) => End::Invalid,
        Err(_) => return None,
    })
}

/// One registry with its image; `spoil` makes it hostile.
pub(super) struct Case {
    name: String,
    end: End,
    spoil: Box<dyn FnOnce(&Stage) + Send>,
}

pub(super) struct Stage {
    pub(super) server: Server,
    pub(super) image: Image,
    pub(super) address: String,
    /// Where nobody may connect to.
    trap: u16,
}

impl Stage {
    pub(super) fn layer(&self) -> String {
        format!("/v2/t/img/blobs/{}", sha256(&self.image.layers[0].data))
    }

    pub(super) fn config(&self) -> String {
        format!("/v2/t/img/blobs/{}", sha256(&self.image.config))
    }

    /// The whole layer, and its first half with the headers for all of it.
    pub(super) fn half(&self) -> (Vec<u8>, Vec<u8>) {
        let data = self.image.layers[0].data.clone();
        let head = [head("200 OK", &[]), format!("content-length: {}\r\n\r\n", data.len()).into_bytes()].concat();
        let half = [head, data[..data.len() / 2].to_vec()].concat();
        (data, half)
    }

    /// Half of the layer, then this on the request for the rest.
    pub(super) fn resumed(&self, rest: impl Fn(&[u8], usize) -> Vec<u8> + Send + Sync + 'static) {
        let (data, half) = self.half();
        self.server.on(&self.layer(), move |_, request| match asked_from(request) {
            None => vec![Step::Send(half.clone())],
            Some(from) => vec![Step::Send(rest(&data, from))],
        });
    }
}

fn asked_from(request: &str) -> Option<usize> {
    let line = request.lines().find(|l| l.to_ascii_lowercase().starts_with("range:"))?;
    line.split("bytes=").nth(1)?.trim_end_matches('-').parse().ok()
}

pub(super) fn case(name: impl Into<String>, end: End, spoil: impl FnOnce(&Stage) + Send + 'static) -> Case {
    Case { name: name.into(), end, spoil: Box::new(spoil) }
}

/// The tag's answer alone is spoiled.
pub(super) fn tag(name: impl Into<String>, end: End, steps: Vec<Step>) -> Case {
    case(name, end, move |s| s.server.on(TAG, move |_, _| steps.clone()))
}

pub(super) fn open_head(more: &str) -> Vec<u8> {
    [head("200 OK", &[("content-type", MANIFEST)]), more.as_bytes().to_vec()].concat()
}

fn stalls() -> Vec<Case> {
    let send = |text: &[u8]| Step::Send(text.to_vec());
    let slowly = Duration::from_millis(200);
    let continued = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
    vec![
        tag("it says nothing", End::Slow, vec![Step::Stall]),
        tag("it stops in the status line", End::Slow, vec![send(b"HTTP/1.1 2"), Step::Stall]),
        tag("it stops in the headers", End::Slow, vec![send(&open_head("x-more: ")), Step::Stall]),
        tag("it stops after the headers", End::Slow, vec![send(&open_head("content-length: 99\r\n\r\n")), Step::Stall]),
        tag(
            "it stops in the manifest",
            End::Slow,
            vec![send(&open_head("content-length: 99\r\n\r\n{\"schema")), Step::Stall],
        ),
        tag(
            "it stops in a chunk",
            End::Slow,
            vec![send(&open_head("transfer-encoding: chunked\r\n\r\nff\r\n{")), Step::Stall],
        ),
        tag("its headers drip", End::Slow, vec![Step::Drip(open_head(&format!("x: {}", "x".repeat(4000))), slowly)]),
        tag(
            "its manifest drips",
            End::Slow,
            vec![send(&open_head("content-length: 4000\r\n\r\n")), Step::Drip(vec![b' '; 4000], slowly)],
        ),
        tag(
            "it says to go on for ever, slowly",
            End::Slow,
            vec![Step::Drip(continued.repeat(200), Duration::from_millis(50))],
        ),
        case("it stops before the config", End::Slow, |s| s.server.on(&s.config(), |_, _| vec![Step::Stall])),
        case("it stops in the layer's headers", End::Slow, |s| {
            s.server.on(&s.layer(), |_, _| vec![Step::Send(head("200 OK", &[])), Step::Stall])
        }),
        case("it stops in the layer, each time", End::Slow, |s| {
            let (_, half) = s.half();
            s.server.on(&s.layer(), move |_, _| vec![Step::Send(half.clone()), Step::Stall]);
        }),
        case("it gives one byte of the layer each time and stops", End::Slow, |s| {
            let (data, _) = s.half();
            s.server.on(&s.layer(), move |_, request| {
                let from = asked_from(request).unwrap_or(0);
                let span = format!("bytes {from}-{}/{}", data.len() - 1, data.len());
                let head = [
                    head("206 Partial Content", &[("content-range", &span)]),
                    format!("content-length: {}\r\n\r\n", data.len() - from).into_bytes(),
                    vec![data[from]],
                ]
                .concat();
                vec![Step::Send(head), Step::Stall]
            });
        }),
        case("its layer drips", End::Slow, |s| {
            let (data, _) = s.half();
            s.server.on(&s.layer(), move |_, _| {
                let head =
                    [head("200 OK", &[]), format!("content-length: {}\r\n\r\n", data.len()).into_bytes()].concat();
                vec![Step::Send(head), Step::Drip(data.clone(), Duration::from_millis(100))]
            });
        }),
        case("its token server says nothing", End::Slow, |s| {
            challenge(s, &format!("http://{}/token", s.address));
            s.server.on("/token", |_, _| vec![Step::Stall]);
        }),
        tag(
            "it asks to wait for a year",
            End::Slow,
            vec![send(&reply("503 Busy", &[("retry-after", "31536000")], ""))],
        ),
        tag(
            "it asks to wait for a year, politely",
            End::Slow,
            vec![send(&reply("429 Slow Down", &[("retry-after", "31536000")], ""))],
        ),
        tag("it is always busy", End::Busy, vec![send(&reply("429 Slow Down", &[("retry-after", "0")], ""))]),
        tag(
            "it is always busy, until a date",
            End::Busy,
            vec![send(&reply("429 Slow Down", &[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")], ""))],
        ),
        tag("it hangs up", End::Unreachable, vec![]),
        tag("it hangs up after its headers", End::Unreachable, vec![send(&open_head("content-length: 99\r\n\r\n"))]),
        case("it hangs up before the layer", End::Unreachable, |s| s.server.on(&s.layer(), |_, _| vec![])),
    ]
}

/// Without a token the tag is answered with 401.
pub(super) fn challenge(s: &Stage, realm: &str) {
    let refused =
        reply("401 Unauthorized", &[("www-authenticate", &format!("Bearer realm=\"{realm}\",service=\"r\""))], "");
    let manifest = reply("200 OK", &[("content-type", MANIFEST)], &s.image.manifest);
    s.server.on(TAG, move |_, request| {
        let known = request.to_ascii_lowercase().contains("authorization: bearer good");
        vec![Step::Send(if known { manifest.clone() } else { refused.clone() })]
    });
}

/// Ways to write the node's loopback, with a port.
fn inward(port: u16) -> Vec<(&'static str, String)> {
    let mut all: Vec<(&str, String)> = [
        ("http://127.0.0.1", "127.0.0.1"),
        ("another loopback", "127.0.0.2"),
        ("a decimal address", "2130706433"),
        ("a hexadecimal address", "0x7f000001"),
        ("an octal address", "0177.0.0.1"),
        ("a short address", "127.1"),
        ("localhost", "localhost"),
        ("LOCALHOST", "LOCALHOST"),
        ("localhost with a dot", "localhost."),
        ("a name below localhost", "registry.localhost"),
        ("the empty address", "0.0.0.0"),
        ("an IPv6 loopback", "[::1]"),
        ("a mapped IPv4 address", "[::ffff:127.0.0.1]"),
        ("a compatible IPv4 address", "[::127.0.0.1]"),
        ("the empty IPv6 address", "[::]"),
        ("full-width digits", "%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1"),
        ("ideographic dots", "127%E3%80%820%E3%80%820%E3%80%821"),
    ]
    .into_iter()
    .map(|(what, host)| (what, format!("http://{host}:{port}/x")))
    .collect();
    for (what, url) in [
        ("https", format!("https://127.0.0.1:{port}/x")),
        ("https to localhost", format!("https://localhost:{port}/x")),
        ("https to localhost with a dot", format!("https://localhost.:{port}/x")),
        ("https to IPv6", format!("https://[::1]:{port}/x")),
        ("a user before the address", format!("http://registry.example@127.0.0.1:{port}/x")),
        ("credentials before the address", format!("https://u:p@127.0.0.1:{port}/x")),
        ("a fragment trick", format!("http://127.0.0.1:{port}#@registry.example/")),
        ("backslashes", format!("http:\\\\127.0.0.1:{port}\\x")),
        ("no scheme", format!("//127.0.0.1:{port}/x")),
        ("a tab in the scheme", format!("ht\ttp://127.0.0.1:{port}/x")),
        ("a file", "file:///etc/passwd".into()),
        ("FTP", format!("ftp://127.0.0.1:{port}/x")),
        ("gopher", format!("gopher://127.0.0.1:{port}/x")),
        ("data", "data:,x".into()),
        ("a script", "javascript:1".into()),
        ("a unix socket", "unix:///var/run/docker.sock".into()),
    ] {
        all.push((what, url));
    }
    all
}

fn redirects(trap: u16) -> Vec<Case> {
    let to = |location: &str| reply("307 Temporary Redirect", &[("location", location)], "");
    let mut all = Vec::new();
    for (n, (what, url)) in inward(trap).into_iter().enumerate() {
        let (answer, realm) = (to(&url), url.clone());
        match n % 2 {
            0 => all.push(case(format!("its layer leads to {what}"), End::Refused, move |s| {
                s.server.always(&s.layer(), answer)
            })),
            _ => {
                all.push(case(format!("its tag leads to {what}"), End::Refused, move |s| s.server.always(TAG, answer)))
            }
        }
        if what != "no scheme" {
            all.push(case(format!("its token server is at {what}"), End::Refused, move |s| challenge(s, &realm)));
        }
    }
    let step = |n: u32| format!("/hop/{n}");
    all.extend([
        case("it leads in a circle", End::Lying, move |s| s.server.always(TAG, to(TAG))),
        case("it leads on and on", End::Lying, move |s| {
            s.server.always(TAG, to(&step(0)));
            (0..20).for_each(|n| s.server.always(&step(n), to(&step(n + 1))));
        }),
        case("it leads to itself by another way", End::Fine, move |s| {
            let manifest = reply("200 OK", &[("content-type", MANIFEST)], &s.image.manifest);
            s.server.always(TAG, to("/elsewhere"));
            s.server.always("/elsewhere", manifest);
        }),
        case("it leads inward at the second step", End::Refused, move |s| {
            s.server.always(TAG, to("/elsewhere"));
            s.server.always("/elsewhere", to(&format!("http://127.0.0.1:{}/x", s.trap)));
        }),
        case("it leads inward on the second attempt", End::Refused, move |s| {
            let inward = to(&format!("http://127.0.0.1:{}/x", s.trap));
            s.server.on(TAG, move |n, _| {
                vec![Step::Send(if n == 1 { reply("500 Oops", &[], "") } else { inward.clone() })]
            });
        }),
        case("it leads the layer's rest inward", End::Refused, move |s| {
            let inward = to(&format!("http://127.0.0.1:{}/x", s.trap));
            s.resumed(move |_, _| inward.clone());
        }),
        tag("it leads to nowhere", End::Lying, vec![Step::Send(reply("302 Found", &[], ""))]),
        tag("it leads to no URL", End::Lying, vec![Step::Send(to("http://[::1"))]),
        case("its token server leads inward", End::Lying, move |s| {
            challenge(s, &format!("http://{}/token", s.address));
            s.server.always("/token", to(&format!("http://127.0.0.1:{}/x", s.trap)));
        }),
        case("its foreign layer has URLs that lead inward", End::Lying, |s| {
            let mut doc: serde_json::Value = serde_json::from_slice(&s.image.manifest).expect("json");
            doc["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar");
            doc["layers"][0]["urls"] = json!([format!("http://127.0.0.1:{}/x", s.trap)]);
            s.server.always(TAG, reply("200 OK", &[("content-type", MANIFEST)], doc.to_string()));
            s.server.always(&s.layer(), reply("404 Not Found", &[], ""));
        }),
    ]);
    all
}

fn credentials() -> Vec<Case> {
    let ask = |header: &str| reply("401 Unauthorized", &[("www-authenticate", header)], "");
    let mut all: Vec<Case> = [
        ("Negotiate", End::Unauthorized),
        ("Digest realm=\"x\"", End::Unauthorized),
        ("", End::Unauthorized),
        ("Bearer", End::Unauthorized),
        ("Bearer realm", End::Unauthorized),
        ("Bearer realm=\"unclosed", End::Unauthorized),
        ("Bearer service=\"x\"", End::Unauthorized),
        ("Bearer realm=\"\"", End::Refused),
        ("Bearer realm=\"/token\"", End::Refused),
        ("Bearer realm=\"token\"", End::Refused),
        ("Bearer realm=\"http://\"", End::Refused),
        ("Basic realm=\"x\"", End::Unauthorized),
    ]
    .into_iter()
    .map(|(header, end)| tag(format!("it asks for {header:?}"), end, vec![Step::Send(ask(header))]))
    .collect();
    let tokens: [(&str, &str, End); 9] = [
        ("nothing", "", End::Lying),
        ("no JSON", "<html>", End::Lying),
        ("no token", "{}", End::Lying),
        ("an empty token", r#"{"token":""}"#, End::Lying),
        ("a token of numbers", r#"{"token":1}"#, End::Lying),
        ("a token with a newline", r#"{"token":"a\r\nx-evil: 1"}"#, End::Lying),
        ("a token with a NUL", r#"{"token":"a\u0000"}"#, End::Lying),
        ("a token that it does not accept", r#"{"token":"bad"}"#, End::Unauthorized),
        ("a token of 40,000 bytes that it does not accept", "", End::Unauthorized),
    ];
    for (what, body, end) in tokens {
        let body =
            if what.contains("40,000") { format!("{{\"token\":\"{}\"}}", "t".repeat(40_000)) } else { body.to_owned() };
        all.push(case(format!("its token server sends {what}"), end, move |s| {
            challenge(s, &format!("http://{}/token", s.address));
            s.server.always("/token", reply("200 OK", &[], body));
        }));
    }
    for (status, end) in [
        ("401 Unauthorized", End::Unauthorized),
        ("403 Forbidden", End::Unauthorized),
        ("404 Not Found", End::Lying),
        ("500 Oops", End::Unreachable),
        ("429 Slow Down", End::Busy),
        ("204 No Content", End::Lying),
    ] {
        all.push(case(format!("its token server answers {status}"), end, move |s| {
            challenge(s, &format!("http://{}/token", s.address));
            s.server.always("/token", reply(status, &[("retry-after", "0")], ""));
        }));
    }
    all.push(case("it asks again for each token", End::Unauthorized, move |s| {
        s.server.always(TAG, ask(&format!("Bearer realm=\"http://{}/token\"", s.address)));
        s.server.always("/token", reply("200 OK", &[], r#"{"token":"good"}"#));
    }));
    all.push(case("it wants no token for the tag and none will do for the layer", End::Unauthorized, move |s| {
        s.server.always(&s.layer(), ask(&format!("Bearer realm=\"http://{}/token\"", s.address)));
        s.server.always("/token", reply("200 OK", &[], r#"{"token":"good"}"#));
    }));
    all.push(case("it asks in a thousand ways", End::Unauthorized, |s| {
        let ways: String = (0..90).map(|n| format!("www-authenticate: Way{n} x=\"{}\"\r\n", "y".repeat(100))).collect();
        s.server.always(
            TAG,
            [head("401 Unauthorized", &[]), ways.into_bytes(), b"content-length: 0\r\n\r\n".to_vec()].concat(),
        );
    }));
    all
}

async fn pull(images: &Images, address: &str) -> Result<(), ImageError> {
    let spec = PullSpec::parse(&format!("{address}/t/img:1")).expect("reference");
    let owner = tenant("default");
    let record = images.pull(&owner, spec, quiet()).await?;
    assert!(record.device.exists());
    images.remove(&owner, &record.digest).await
}

/// One registry; what was wrong about its end.
async fn run(images: &Images, case: Case, number: usize, trap: u16) -> Option<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let image = Image::new(vec![Blob::plain(tar([file("x", number.to_string().repeat(30_000))]))]);
    let stage = Stage { server: Server::default(), image, address, trap };
    stage.server.honest(&stage.image);
    (case.spoil)(&stage);
    stage.server.clone().serve(listener);
    let began = tokio::time::Instant::now();
    let result = tokio::time::timeout(WHOLE + SLACK, pull(images, &stage.address)).await;
    let Ok(result) = result else { return Some(format!("{}: no end after {:?}", case.name, began.elapsed())) };
    let wrong = end(&result) != Some(case.end);
    let odd =
        result.as_ref().err().map(ToString::to_string).filter(|t| t.chars().any(char::is_control) || t.len() > 700);
    (wrong || odd.is_some()).then(|| format!("{}: {result:?}, not {:?}", case.name, case.end))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_registry_is_told_in_time_and_leaves_nothing() {
    let scratch = Scratch::new("registries");
    let trap = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = trap.local_addr().expect("address").port();
    let trapped = Arc::new(AtomicU32::new(0));
    let counter = trapped.clone();
    tokio::spawn(async move {
        while trap.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut settings = config(&scratch.0);
    settings.timeouts.connect = Duration::from_secs(2);
    settings.timeouts.idle = Duration::from_secs(2);
    settings.timeouts.whole = WHOLE;
    settings.timeouts.retries = 1;
    settings.timeouts.backoff = Duration::from_millis(5);
    let images = open(settings).await;
    let only = std::env::var("AETHER_HOSTILE").unwrap_or_default();
    let mut cases = [stalls(), lies::lengths(), lies::changes(), redirects(port), credentials()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
    cases.retain(|c| c.name.contains(&only));
    let names: BTreeSet<&str> = cases.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "each case has a name of its own");
    let mut counted = Counted::new("hostile_images", 27, "hostile registries", 0);
    (counted.n, counted.faults) = (cases.len() as u64, cases.len() as u64);
    let store = &images;
    let all = cases.into_iter().enumerate().map(|(n, case)| run(store, case, n, port));
    let mut wrong: Vec<String> =
        futures::stream::iter(all).buffer_unordered(12).filter_map(|w| async { w }).collect().await;
    wrong.extend(audit::odd_in_store(&scratch.0));
    images.gc().await.expect("gc");
    wrong
        .extend(audit::left_in_store(&scratch.0).into_iter().map(|name| format!("{name} stays, and nothing needs it")));
    let inside = trapped.load(Ordering::Relaxed);
    wrong.extend((inside > 0).then(|| format!("{inside} connections to what is the node's own")));
    counted.failures = wrong.len() as u64;
    drop(counted);
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_stay_with_the_registry_they_are_for() {
    let scratch = Scratch::new("credentials");
    let bind = || async { TcpListener::bind("127.0.0.1:0").await.expect("bind") };
    let (here, there) = (bind().await, bind().await);
    let address = |l: &TcpListener| l.local_addr().expect("address").to_string();
    let (ours, theirs) = (address(&here), address(&there));
    let mut settings = config(&scratch.0);
    settings.allow_insecure_hosts = vec![theirs.clone()];
    let images = open(settings).await;
    let image = Image::new(vec![Blob::plain(tar([file("x", "x")]))]);
    let (server, other) = (Server::default(), Server::default());
    server.honest(&image);
    let manifest = reply("200 OK", &[("content-type", MANIFEST)], &image.manifest);
    server.on(TAG, move |_, request| {
        let known = request.to_ascii_lowercase().contains("authorization: basic ");
        let ask = || reply("401 Unauthorized", &[("www-authenticate", "Basic realm=\"x\"")], "");
        vec![Step::Send(if known { manifest.clone() } else { ask() })]
    });
    let layer = format!("/v2/t/img/blobs/{}", sha256(&image.layers[0].data));
    server.always(&layer, reply("307 Temporary Redirect", &[("location", &format!("http://{theirs}/store"))], ""));
    let data = image.layers[0].data.clone();
    other.on("/store", move |_, request| {
        let told = request.to_ascii_lowercase().contains("authorization");
        vec![Step::Send(if told { reply("500 Told", &[], "") } else { reply("200 OK", &[], &data) })]
    });
    let seen = other.clone();
    server.serve(here);
    other.serve(there);
    let mut spec = PullSpec::parse(&format!("{ours}/t/img:1")).expect("reference");
    spec.credentials = Some(Credentials { username: "me".into(), password: Secret::new("secret") });
    images.pull(&tenant("default"), spec, quiet()).await.expect("the store needs none");
    assert_eq!(seen.times("/store"), 1);
}

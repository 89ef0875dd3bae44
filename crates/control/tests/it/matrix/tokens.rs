//! Tokens that are almost one, tokens while keys change, and tokens that were
//! one until now: the other half of test 25.

use super::forged::TARGET;
use super::forged_tokens::{Form, Right, forms};
use super::judge;
use super::raw::{Raw, get};
use crate::harness::{Server, ok, start_with};
use crate::signer::Signer;
use aether_control::ControlConfig;
use aether_core::{Role, Secret};
use aether_counted::{Counted, trials};
use data_encoding::BASE64URL_NOPAD;
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

const LEAST: usize = 150;
const BETWEEN: usize = 20;
const ROTATIONS: u64 = 100;
/// Keys that have signed before and still verify.
const KEPT: usize = 3;
const REVOCATIONS: &str = "AETHER_REVOCATIONS";
const REVOCATIONS_CI: u64 = 45;
const DEAD_WITHIN: Duration = Duration::from_secs(5);
const PASSWORD: &str = "correct horse battery";

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("{field} of {value}")).to_owned()
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).expect("claims");
    serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).expect("base 64")).expect("JSON")
}

/// A server that signs by the first and verifies by all.
async fn server(signers: &[Signer], dir: &Path) -> Server {
    let (private, _) = signers[0].files(dir, "own");
    let previous: Vec<_> = signers[1..].iter().enumerate().collect();
    start_with(|cfg| {
        cfg.jwt.private_key_path = Some(private);
        for (n, signer) in previous {
            match signer.public.is_empty() {
                true => cfg.jwt.previous_secrets.push(Secret::new(signer.private.clone())),
                false => cfg.jwt.previous_key_paths.push(signer.files(dir, &n.to_string()).1),
            }
        }
        cfg.local_users = true;
    })
    .await
}

async fn exchanged(server: &Server, key: &str) -> String {
    let request = server.client.post(format!("{}/v1/auth/token", server.url)).json(&json!({ "api_key": key }));
    let (status, made) = ok(request).await;
    assert_eq!(status.as_u16(), 200, "{made}");
    text(&made, "token")
}

async fn login(server: &Server, body: Value) -> String {
    let (status, made) = ok(server.client.post(format!("{}/v1/auth/login", server.url)).json(&body)).await;
    assert_eq!(status.as_u16(), 200, "{made}");
    text(&made, "token")
}

/// As all refusals must be, but for the id of the request.
fn shape(raw: &Raw) -> (u16, Vec<String>, Value) {
    let mut body: Value = serde_json::from_str(&raw.body).unwrap_or(Value::Null);
    body["request_id"] = Value::Null;
    (raw.status, raw.head.clone(), body)
}

async fn asked(server: &Server, token: &str) -> Result<Raw, String> {
    get(server.address, TARGET, &[format!("authorization: Bearer {token}").into_bytes()]).await
}

/// Good tokens whose subject is not what it was.
async fn outlived(server: &Server, forms: &mut Vec<Form>) {
    let admin = server.key("mine", Role::Admin, None).await;
    let send = async |method: Method, path: &str, body: Value| {
        let (status, made) = ok(server.as_key(&admin, method, path).json(&body)).await;
        assert!(status.is_success(), "{path}: {made}");
        made
    };
    let soon = aether_core::Clock::now(&aether_core::source::SystemClock::default()).plus(Duration::from_millis(600));
    for (what, expires) in [("revoked", Value::Null), ("expired", json!(soon))] {
        let body = json!({ "name": what, "role": "admin", "expires_at": expires });
        let key = send(Method::POST, "/v1/auth/keys", body).await;
        let token = exchanged(server, &text(&key, "key")).await;
        match what {
            "revoked" => {
                let path = format!("/v1/auth/keys/{}", text(&key, "id"));
                server.as_key(&admin, Method::DELETE, &path).send().await.expect("answered");
            }
            _ => tokio::time::sleep(Duration::from_millis(700)).await,
        }
        forms.push(Form { name: format!("of a key that is {what}"), token });
    }
    for (what, method, body) in [
        ("disabled", Method::PATCH, json!({ "disabled": true })),
        ("deleted", Method::DELETE, Value::Null),
        ("given another password", Method::PATCH, json!({ "password": "another one of them" })),
    ] {
        let user = json!({ "name": format!("user-{}", what.len()), "password": PASSWORD, "role": "viewer" });
        let made = send(Method::POST, "/v1/users", user.clone()).await;
        let body_of_login = json!({ "user": user["name"], "password": PASSWORD, "tenant": "mine" });
        let token = login(server, body_of_login).await;
        assert_eq!(asked(server, &token).await.expect("answered").status, 200, "{what}");
        let request = server.as_key(&admin, method, &format!("/v1/users/{}", text(&made, "id"))).json(&body);
        assert!(request.send().await.expect("answered").status().is_success(), "{what}");
        forms.push(Form { name: format!("of a user who is {what}"), token });
    }
}

#[tokio::test]
async fn nothing_but_the_token_itself_is_one() {
    let dir = tempfile::tempdir().expect("dir");
    let signers = [
        Signer::rsa(),
        Signer::secret("a secret of more than thirty-two characters"),
        Signer::p256(),
        Signer::ed25519(),
    ];
    let server = server(&signers, dir.path()).await;
    let mut counted = Counted::new("matrix", 25, "forged and odd tokens", 0);
    let key = server.key("mine", Role::Developer, None).await;
    let own = exchanged(&server, &key).await;
    let right = Right { claims: claims(&own), signers: &signers };
    let mut forms = forms(&right);
    outlived(&server, &mut forms).await;
    assert!(forms.len() >= LEAST);
    // The same claims by each of its keys, and what the server gives out.
    let mut valid: Vec<String> = signers.iter().map(|signer| signer.token(&right.claims)).collect();
    valid.extend([own, login(&server, json!({ "api_key": key })).await]);
    let none = get(server.address, TARGET, &[]).await.expect("answered");
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for (n, form) in forms.iter().enumerate() {
        match asked(&server, &form.token).await {
            Ok(answer) if shape(&answer) == shape(&none) => {}
            // Bytes that no header has: refused before anybody is asked.
            Ok(answer) if answer.status == 400 && !form.token.bytes().all(|b| b.is_ascii_graphic()) => {}
            other => wrong.push(format!("{}: {other:?}", form.name)),
        }
        if n % BETWEEN == 0 {
            tried += 1;
            let token = &valid[n / BETWEEN % valid.len()];
            match asked(&server, token).await {
                Ok(answer) if answer.status == 200 => {}
                other => wrong.push(format!("a right token: {other:?}: {:?}", claims(token))),
            }
        }
    }
    assert!(tried >= valid.len(), "each right one is tried");
    // A suspended tenant's is told from a wrong one, as its key is, and no more let in.
    let platform = server.key("default", Role::PlatformAdmin, None).await;
    ok(server.as_key(&platform, Method::POST, "/v1/tenants/mine/suspend")).await;
    for token in &valid {
        let status = asked(&server, token).await.map(|answer| answer.status);
        wrong.extend((status != Ok(403)).then(|| format!("a suspended tenant's: {status:?}")));
    }
    counted.n = (forms.len() + valid.len()) as u64;
    counted.tell("right_ones", tried);
    judge(&mut counted, &wrong);
    assert!(wrong.is_empty(), "{} of {} are wrong, the first: {}", wrong.len(), counted.n, wrong[0]);
}

/// The settings with `signer` in the place of `before`, which verifies on.
fn rotated(cfg: &mut ControlConfig, signer: &Signer, (dir, n): (&Path, u64), before: &VecDeque<(Signer, String)>) {
    let jwt = &mut cfg.jwt;
    (jwt.private_key_path, jwt.secret) = (None, None);
    match signer.public.is_empty() {
        true => jwt.secret = Some(Secret::new(signer.private.clone())),
        false => jwt.private_key_path = Some(signer.files(dir, &n.to_string()).0),
    }
    let (secrets, pairs): (Vec<_>, Vec<_>) = before.iter().map(|(s, _)| s).partition(|s| s.public.is_empty());
    jwt.previous_secrets = secrets.into_iter().map(|s| Secret::new(s.private.clone())).collect();
    jwt.previous_key_paths = pairs.into_iter().map(|s| s.files(dir, &s.kid).1).collect();
}

#[tokio::test]
async fn keys_rotate_and_tokens_live_on_as_long_as_their_key() {
    let dir = tempfile::tempdir().expect("dir");
    let server = start_with(|_| {}).await;
    let mut counted = Counted::new("matrix", 25, "rotations of the keys that sign tokens", 0);
    let key = server.key("mine", Role::Developer, None).await;
    let (mut kept, mut wrong, mut cfg) = (VecDeque::new(), Vec::new(), server.cfg.clone());
    let status = async |token: &str| asked(&server, token).await.map_or(0, |answer| answer.status);
    for n in 0..ROTATIONS {
        let signer = match n % 4 {
            0 => Signer::ed25519(),
            1 => Signer::p256(),
            2 => Signer::secret(&format!("secret number {n} of more than thirty-two")),
            _ if n == 3 => Signer::rsa(),
            _ => Signer::ed25519(),
        };
        rotated(&mut cfg, &signer, (dir.path(), n), &kept);
        server.reloader.prepare(cfg.clone()).expect("good settings").apply();
        let token = exchanged(&server, &key).await;
        let header = token.split('.').next().expect("a header");
        let header: Value =
            serde_json::from_slice(&BASE64URL_NOPAD.decode(header.as_bytes()).expect("base 64")).expect("JSON");
        if header != signer.header() {
            wrong.push(format!("rotation {n}: {header} does not sign as {}", signer.header()));
        }
        let dropped = (kept.len() == KEPT).then(|| kept.pop_front()).flatten();
        kept.push_back((signer, token));
        for (signer, token) in &kept {
            if status(token).await != 200 {
                wrong.push(format!("rotation {n}: a token of {} is refused", signer.alg()));
            }
        }
        // It goes with the next one's settings.
        if let Some((signer, token)) = dropped {
            rotated(&mut cfg, &kept[KEPT - 1].0, (dir.path(), n), &kept);
            server.reloader.prepare(cfg.clone()).expect("good settings").apply();
            let status = status(&token).await;
            if status != 401 {
                wrong.push(format!("rotation {n}: a token of {}, whose key is gone: {status}", signer.alg()));
            }
        }
        counted.n += 1;
    }
    judge(&mut counted, &wrong);
    assert!(wrong.is_empty(), "{} are wrong, the first: {}", wrong.len(), wrong[0]);
}

/// How long after its revocation a token was last taken, by either server.
async fn revoked(server: &Server, urls: [&str; 2], admin: &str, n: u64) -> Result<Duration, String> {
    let status = async |url: &str, token: &str| {
        let request = server.client.get(format!("{url}{TARGET}")).bearer_auth(token);
        request.send().await.expect("answered").status().as_u16()
    };
    let url = urls[n as usize % 2];
    let send = async |method: Method, path: &str, as_whom: &str, body: Value| {
        let request = server.client.request(method, format!("{url}{path}")).bearer_auth(as_whom).json(&body);
        ok(request).await
    };
    let (_, key) = send(Method::POST, "/v1/auth/keys", admin, json!({ "name": "t", "role": "viewer" })).await;
    let by_key = json!({ "api_key": text(&key, "key") });
    let (token, ended) = match n % 3 {
        0 => {
            let token = exchanged(server, &text(&key, "key")).await;
            (token.clone(), (Method::POST, "/v1/auth/logout".to_owned(), token, Value::Null))
        }
        1 => {
            let path = format!("/v1/auth/keys/{}", text(&key, "id"));
            (login(server, by_key).await, (Method::DELETE, path, admin.to_owned(), Value::Null))
        }
        _ => {
            let user = json!({ "name": format!("u{n}"), "password": PASSWORD, "role": "viewer" });
            let (_, made) = send(Method::POST, "/v1/users", admin, user.clone()).await;
            let body = json!({ "user": user["name"], "password": PASSWORD, "tenant": "mine" });
            let path = format!("/v1/users/{}", text(&made, "id"));
            (login(server, body).await, (Method::PATCH, path, admin.to_owned(), json!({ "disabled": true })))
        }
    };
    for url in urls {
        let status = status(url, &token).await;
        if status != 200 {
            return Err(format!("token {n} is not taken while it holds: {status}"));
        }
    }
    let (method, path, as_whom, body) = ended;
    let (done, told) = send(method, &path, &as_whom, body).await;
    if !done.is_success() {
        return Err(format!("token {n} is not revoked: {done} {told}"));
    }
    let since = Instant::now();
    let mut last = Duration::ZERO;
    for _ in 0..3 {
        for url in urls {
            while status(url, &token).await != 401 {
                last = since.elapsed();
                if last > DEAD_WITHIN {
                    return Err(format!("token {n} is taken {last:?} after its revocation"));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    Ok(last)
}

#[tokio::test]
async fn a_revoked_token_is_dead_on_every_server() {
    let server = start_with(|cfg| cfg.local_users = true).await;
    let second = server.second().await;
    let admin = server.key("mine", Role::Admin, None).await;
    let mut counted = Counted::new("matrix", 25, "revocations of tokens: by logout, key and user, on two servers", 0);
    counted.n = trials(REVOCATIONS, REVOCATIONS_CI);
    let urls = [server.url.as_str(), second.as_str()];
    let results = futures::stream::iter(0..counted.n).map(|n| revoked(&server, urls, &admin, n)).buffer_unordered(8);
    let results: Vec<_> = results.collect().await;
    let longest = results.iter().filter_map(|r| r.as_ref().ok()).max().copied().unwrap_or_default();
    counted.tell("longest_ms", longest.as_millis() as u64);
    let wrong: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    judge(&mut counted, &wrong);
    assert!(wrong.is_empty(), "{} are wrong, the first: {}", wrong.len(), wrong[0]);
}

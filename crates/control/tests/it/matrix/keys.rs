//! Keys that are almost one, in places that are almost right (test 25), and
//! keys that were one until now. Tokens are in `tokens`.

use super::forged::{Right, TARGET, forms, valid};
use super::judge;
use super::raw::{Raw, get};
use crate::harness::{Server, ok, start};
use aether_core::Role;
use aether_counted::{Counted, trials};
use futures::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

const LEAST: usize = 150;
/// Between a forged key and the next look whether the right one still is.
const BETWEEN: usize = 10;
const REVOCATIONS: &str = "AETHER_REVOCATIONS";
const REVOCATIONS_CI: u64 = 50;
const DEAD_WITHIN: Duration = Duration::from_secs(5);

async fn right_keys(server: &Server) -> Right {
    let (_, made) = ok(server.post("/v1/auth/keys", json!({ "name": "right", "role": "admin" }))).await;
    let text = |field: &str| made[field].as_str().unwrap_or_else(|| panic!("{field} of {made}")).to_owned();
    let another = server.key("other", Role::Admin, None).await;
    Right { ours: text("key"), e2b: text("e2b_key"), id: text("id"), shown: text("prefix"), another }
}

/// As all refusals must be, but for the id of the request.
fn shape(raw: &Raw) -> (u16, Vec<String>, Value) {
    let mut body: Value = serde_json::from_str(&raw.body).unwrap_or(Value::Null);
    body["request_id"] = Value::Null;
    (raw.status, raw.head.clone(), body)
}

#[tokio::test]
async fn nothing_but_the_key_itself_is_one() {
    let server = start().await;
    let mut counted = Counted::new("matrix", 25, "forged and odd API keys", 0);
    let right = right_keys(&server).await;
    let (forms, valid) = (forms(&right), valid(&right));
    assert!(forms.len() >= LEAST);
    let none = get(server.address, TARGET, &[]).await.expect("answered");
    assert_eq!(none.status, 401);
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for (n, form) in forms.iter().enumerate() {
        match get(server.address, &form.target, &form.headers).await {
            Ok(answer) if form.well_formed && shape(&answer) == shape(&none) => {}
            Ok(answer) if !form.well_formed && matches!(answer.status, 400 | 401 | 431) => {}
            other => wrong.push(format!("{}: {other:?}", form.name)),
        }
        if n % BETWEEN == 0 {
            let form = &valid[n / BETWEEN % valid.len()];
            tried += 1;
            match get(server.address, TARGET, &form.headers).await {
                Ok(answer) if answer.status == 200 => {}
                other => wrong.push(format!("the right key as {}: {other:?}", form.name)),
            }
        }
    }
    assert!(tried >= valid.len(), "each right form is tried");
    counted.n = forms.len() as u64;
    counted.tell("right_ones", tried);
    judge(&mut counted, &wrong);
    assert!(wrong.is_empty(), "{} of {} are wrong, the first: {}", wrong.len(), counted.n, wrong[0]);
}

/// How long after its revocation a key was last taken, by either server.
async fn revoked(server: &Server, urls: [&str; 2], n: u64) -> Result<Duration, String> {
    let (_, made) = ok(server.post("/v1/auth/keys", json!({ "name": format!("r-{n}"), "role": "viewer" }))).await;
    let key = made["key"].as_str().ok_or_else(|| format!("no key: {made}"))?.to_owned();
    let status = async |url: &str| {
        let request = server.client.get(format!("{url}{TARGET}")).bearer_auth(&key);
        request.send().await.expect("answered").status()
    };
    for url in urls {
        let status = status(url).await;
        if status != StatusCode::OK {
            return Err(format!("key {n} is not taken while it holds: {status}"));
        }
    }
    let path = format!("{}/v1/auth/keys/{}", urls[n as usize % 2], made["id"].as_str().unwrap_or_default());
    let revoked =
        server.client.request(Method::DELETE, path).bearer_auth(&server.admin).send().await.expect("answered");
    if revoked.status() != StatusCode::NO_CONTENT {
        return Err(format!("key {n} is not revoked: {}", revoked.status()));
    }
    let since = Instant::now();
    let mut last = Duration::ZERO;
    // Dead at once, and dead it stays.
    for _ in 0..3 {
        for url in urls {
            while status(url).await != StatusCode::UNAUTHORIZED {
                last = since.elapsed();
                if last > DEAD_WITHIN {
                    return Err(format!("key {n} is taken {last:?} after its revocation"));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    Ok(last)
}

#[tokio::test]
async fn a_revoked_key_is_dead_on_every_server() {
    let server = start().await;
    let second = server.second().await;
    let mut counted = Counted::new("matrix", 25, "revocations of keys, on two servers", 0);
    counted.n = trials(REVOCATIONS, REVOCATIONS_CI);
    let urls = [server.url.as_str(), second.as_str()];
    let results = futures::stream::iter(0..counted.n).map(|n| revoked(&server, urls, n)).buffer_unordered(8);
    let results: Vec<_> = results.collect().await;
    let longest = results.iter().filter_map(|r| r.as_ref().ok()).max().copied().unwrap_or_default();
    counted.tell("longest_ms", longest.as_millis() as u64);
    let wrong: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    judge(&mut counted, &wrong);
    assert!(wrong.is_empty(), "{} are wrong, the first: {}", wrong.len(), wrong[0]);
}

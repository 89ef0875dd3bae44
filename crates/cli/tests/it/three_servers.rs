//! Test 17 over processes: a quota of 50 agents, asked for by 200 at once from
//! three servers on one PostgreSQL. `AETHER_QUOTA_ROUNDS` says how often.

use crate::live::{Live, wait_for};
use crate::postgres::fresh_database;
use aether_counted::{Counted, trials};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Barrier;

const SERVERS: usize = 3;
const ASKED: usize = 200;
const QUOTA: usize = 50;
const ROUNDS_CI: u64 = 2;
/// What servers on one database must have in common.
const JWT_SECRET: &str = "the-same-for-all-three-of-these-servers";

/// One request as root, who acts for the tenant: its status and body.
fn ask(server: &Live, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let mut stream = UnixStream::connect(server.dir.path().join("run/aether.sock")).expect("connects");
    let body = body.to_string();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\naether-tenant: q\r\n");
    let head = format!("{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

fn used(server: &Live) -> u64 {
    let (_, usage) = ask(server, "GET", "/v1/quotas/q/usage", &json!({}));
    usage["usage"]["agents"].as_u64().or(usage["agents"].as_u64()).unwrap_or_else(|| panic!("{usage}"))
}

/// How many were created, and what was answered beside that and the quota.
fn round(servers: &[Live], number: u64) -> (Vec<String>, Vec<String>) {
    let together = Barrier::new(ASKED);
    let one = |n: usize| {
        // It waits for ever: no node has the room.
        let agent =
            json!({ "image": "none:1", "name": format!("r{number}-{n}"), "resources": { "memory_mb": 131_072 } });
        together.wait();
        ask(&servers[n % SERVERS], "POST", "/v1/agents", &agent)
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..ASKED).map(|n| scope.spawn(move || one(n))).collect();
        all.into_iter().map(|thread| thread.join().expect("runs")).collect()
    });
    let (mut ids, mut other) = (Vec::new(), Vec::new());
    for (status, body) in answers {
        match (status, body["code"].as_str()) {
            (201, _) => ids.push(body["id"].as_str().expect("an id").to_owned()),
            (429, Some("QUOTA_EXCEEDED")) => {}
            _ => other.push(format!("{status} {body}")),
        }
    }
    (ids, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_of_two_hundred_over_three_servers() {
    let url = fresh_database().await;
    let rounds = trials("AETHER_QUOTA_ROUNDS", ROUNDS_CI);
    tokio::task::spawn_blocking(move || {
        let mut servers: Vec<Live> =
            (0..SERVERS).map(|_| Live::prepare(&[("DATABASE_URL", &url), ("JWT_SECRET", JWT_SECRET)])).collect();
        let up = servers[0].with_config(&["migrate", "up"]);
        assert_eq!(up.code, Some(0), "{up:?}");
        servers[0].launch();
        // What one seals the others open.
        let key = servers[0].dir.path().join("state/seal.key");
        for server in &mut servers[1..] {
            let state = server.dir.path().join("state");
            std::fs::create_dir_all(&state).expect("made");
            std::fs::copy(&key, state.join("seal.key")).expect("copied");
            server.launch();
        }
        servers[0].ok(&["tenant", "create", "q", "--tier", "unlimited"]);
        let limit = json!({ "max_agents": QUOTA });
        assert_eq!(ask(&servers[0], "PUT", "/v1/quotas/q", &limit).0, 200);
        let mut counted = Counted::new("quota", 17, "rounds of 200 creates over three servers", 0);
        for number in 0..rounds {
            let (ids, other) = round(&servers, number);
            counted.n += 1;
            let exact = ids.len() == QUOTA && other.is_empty() && used(&servers[0]) == QUOTA as u64;
            counted.failures += u64::from(!exact);
            assert!(exact, "round {number}: {} created, {} used, {other:?}", ids.len(), used(&servers[0]));
            for (n, id) in ids.iter().enumerate() {
                let (status, body) = ask(&servers[n % SERVERS], "DELETE", &format!("/v1/agents/{id}"), &json!({}));
                assert_eq!(status, 204, "{body}");
            }
            wait_for("the quota to be free", || (used(&servers[1]) == 0).then_some(()));
        }
    })
    .await
    .expect("runs");
}

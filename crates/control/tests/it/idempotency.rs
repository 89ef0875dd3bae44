//! Counted test 16: whatever comes twice under one `Idempotency-Key` happens
//! once. Seeded mixes of routes, of requests at once through two servers on
//! one store, of cut connections, changed bodies and late repeats; then the
//! store, the audit and the node are asked what really happened.
//!
//! `AETHER_KEYS` says how many keys, `AETHER_SEED` repeats a run.

use crate::harness::{Server, ok, problem, start};
use aether_counted::{Counted, Dice, seed, trials};
use futures::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;

/// Keys at work at once.
const TOGETHER: usize = 12;
/// Agents for execs, starts and stops.
const POOL: usize = TOGETHER;

/// More than the node has: what is created waits, and takes no room from the pool.
const TOO_LARGE: u64 = 131_072;

/// What a key is used for, with what must be true in the end.
enum Asked {
    Create,
    BulkCreate {
        count: u64,
    },
    Exec,
    /// The agent, and which of its wishes has been asked for since.
    Stop {
        agent: String,
    },
    Start {
        agent: String,
    },
    Delete {
        name: String,
        agent: String,
    },
    BulkDelete {
        name: String,
        agent: String,
    },
}

struct Key {
    number: u64,
    path: String,
    method: Method,
    body: Value,
    asked: Asked,
}

struct Run {
    server: Server,
    second: String,
    dice: Mutex<Dice>,
    requests: AtomicU64,
    cuts: AtomicU64,
    changed: AtomicU64,
}

impl Run {
    async fn roll(&self, below: u64) -> u64 {
        self.dice.lock().await.roll(below)
    }

    /// Through either server.
    async fn request(&self, key: &Key, body: &Value) -> reqwest::RequestBuilder {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let url = if self.roll(2).await == 0 { &self.server.url } else { &self.second };
        let request = self.server.client.request(key.method.clone(), format!("{url}{}", key.path));
        let request = request.bearer_auth(&self.server.admin).header("idempotency-key", format!("key-{}", key.number));
        if body.is_null() { request } else { request.json(body) }
    }

    /// The client goes away at any moment of its request.
    async fn cut(&self, key: &Key) {
        self.cuts.fetch_add(1, Ordering::Relaxed);
        let patience = Duration::from_micros(self.roll(4000).await);
        // A connection of its own: one that waits in a pool is not cut.
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("client");
        let request = self.request(key, &key.body).await.build().expect("request");
        let _ = tokio::time::timeout(patience, client.execute(request)).await;
    }

    async fn answer(&self, key: &Key) -> Value {
        let (status, answer) = ok(self.request(key, &key.body).await).await;
        let wanted = match key.asked {
            Asked::Create => StatusCode::CREATED,
            Asked::BulkCreate { .. } | Asked::BulkDelete { .. } => StatusCode::MULTI_STATUS,
            Asked::Delete { .. } => StatusCode::NO_CONTENT,
            Asked::Exec | Asked::Stop { .. } | Asked::Start { .. } => StatusCode::OK,
        };
        assert_eq!(status, wanted, "key {} {} {}: {answer}", key.number, key.method, key.path);
        told(&key.asked, &answer)
    }

    /// The same key for anything else.
    async fn change(&self, key: &Key) {
        self.changed.fetch_add(1, Ordering::Relaxed);
        let other = match (&key.asked, self.roll(2).await) {
            (Asked::Create, 0) => json!({ "image": "never", "labels": { "other": "one" } }),
            (Asked::BulkCreate { .. }, 0) => json!({ "agents": [{ "image": "other" }] }),
            (Asked::BulkDelete { .. }, 0) => json!({ "ids": ["somebody"] }),
            (Asked::Exec, 0) => json!({ "command": ["say", "something else"] }),
            (Asked::Stop { .. }, 0) => json!({ "timeout": 7 }),
            _ => {
                // Another route: starts and deletes have no body to change.
                let path = if matches!(key.asked, Asked::Create) { "/v1/agents/bulk/create" } else { "/v1/agents" };
                let body =
                    if path.ends_with("create") { json!({ "agents": [key.body] }) } else { json!({ "image": "x" }) };
                let elsewhere = Key { path: path.to_owned(), method: Method::POST, number: key.number, ..spare() };
                problem(self.request(&elsewhere, &body).await, 422, "IDEMPOTENCY_MISMATCH").await;
                return;
            }
        };
        problem(self.request(key, &other).await, 422, "IDEMPOTENCY_MISMATCH").await;
    }

    /// Everything that a key goes through at first; what it was told.
    async fn first_use(&self, key: &Key) -> Value {
        for _ in 0..self.roll(3).await {
            self.cut(key).await;
        }
        let at_once = 1 + self.roll(3).await;
        let answers = futures::future::join_all((0..at_once).map(|_| self.answer(key))).await;
        assert!(answers.iter().all(|a| *a == answers[0]), "key {}: {answers:?}", key.number);
        if self.roll(2).await == 0 {
            self.change(key).await;
        }
        answers.into_iter().next().expect("one at least")
    }

    async fn plain(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = ok(self.server.request(method, path).json(&body)).await;
        assert!(status.is_success(), "{path}: {answer}");
        answer
    }

    async fn row(&self, agent: &str) -> Value {
        self.plain(Method::GET, &format!("/v1/agents/{agent}"), Value::Null).await
    }

    /// How often an action on a resource is in the audit.
    fn audited(&self, agent: &str, action: &str) -> u64 {
        let sql = "SELECT count(*) FROM audit_logs WHERE resource_id = ?1 AND action = ?2 AND result = 'success'";
        self.count(sql, &[agent, action])
    }

    fn count(&self, sql: &str, params: &[&str]) -> u64 {
        let reader = rusqlite::Connection::open(&self.server.database).expect("opens");
        reader.busy_timeout(Duration::from_secs(60)).expect("waits");
        let count = reader.query_row(sql, rusqlite::params_from_iter(params), |row| row.get::<_, i64>(0));
        u64::try_from(count.expect("counts")).expect("not negative")
    }
}

fn waiting(name: &str) -> Value {
    json!({ "image": "never", "name": name, "resources": { "memory_mb": TOO_LARGE } })
}

fn spare() -> Key {
    Key { number: 0, path: String::new(), method: Method::POST, body: Value::Null, asked: Asked::Create }
}

/// What must be the same in each answer; an agent's state goes on meanwhile.
fn told(asked: &Asked, answer: &Value) -> Value {
    let agent = |a: &Value| json!([a["id"], a["name"], a["config"], a["created_at"]]);
    match asked {
        Asked::Create | Asked::Stop { .. } | Asked::Start { .. } => agent(answer),
        Asked::BulkCreate { .. } => {
            answer["results"].as_array().expect("results").iter().map(|r| agent(&r["agent"])).collect()
        }
        Asked::Exec => json!([answer["exec_id"], answer["outcome"], answer["exit_code"], answer["stdout"]]),
        Asked::Delete { .. } | Asked::BulkDelete { .. } => answer.clone(),
    }
}

/// A key, and what it needs to be there.
async fn prepare(run: &Run, number: u64, agent: &str) -> Key {
    let label = number.to_string();
    let config = |i: u64| {
        let labels = json!({ "key": label, "item": i.to_string() });
        json!({ "image": "never", "labels": labels, "resources": { "memory_mb": TOO_LARGE } })
    };
    let key = |method, path: String, body, asked| Key { number, method, path, body, asked };
    let create = |asked, path: &str, body| key(Method::POST, path.to_owned(), body, asked);
    let doomed = || async {
        let name = format!("doomed-{number}");
        let made = run.plain(Method::POST, "/v1/agents", waiting(&name)).await;
        (name, made["id"].as_str().expect("id").to_owned())
    };
    match run.roll(12).await {
        0..4 => create(Asked::Create, "/v1/agents", config(0)),
        4..7 => {
            let body = json!({ "command": ["say", format!("key {number}")] });
            key(Method::POST, format!("/v1/agents/{agent}/exec"), body, Asked::Exec)
        }
        7 => {
            let path = format!("/v1/agents/{agent}/stop?wait=stopped");
            key(Method::POST, path, json!({ "timeout": 5 }), Asked::Stop { agent: agent.to_owned() })
        }
        8 => {
            run.plain(Method::POST, &format!("/v1/agents/{agent}/stop?wait=stopped"), json!({})).await;
            let path = format!("/v1/agents/{agent}/start?wait=running");
            key(Method::POST, path, Value::Null, Asked::Start { agent: agent.to_owned() })
        }
        9 => {
            let (name, agent) = doomed().await;
            key(Method::DELETE, format!("/v1/agents/{name}"), Value::Null, Asked::Delete { name, agent })
        }
        10 => {
            let (name, agent) = doomed().await;
            create(Asked::BulkDelete { name: name.clone(), agent }, "/v1/agents/bulk/delete", json!({ "ids": [name] }))
        }
        _ => {
            let count = 1 + run.roll(5).await;
            let body = json!({ "agents": (0..count).map(config).collect::<Vec<_>>() });
            create(Asked::BulkCreate { count }, "/v1/agents/bulk/create", body)
        }
    }
}

/// One key from its first request to a late repeat after its effect has been
/// undone by others, with what happened counted in between.
async fn one(run: &Run, number: u64, agent: String) -> (Key, Value) {
    let key = prepare(run, number, &agent).await;
    let before = (run.audited(&agent, "stop"), run.audited(&agent, "start"));
    let first = run.first_use(&key).await;
    let since = |run: &Run| (run.audited(&agent, "stop") - before.0, run.audited(&agent, "start") - before.1);
    match &key.asked {
        Asked::Create => assert_eq!(created(run, number), 1),
        Asked::BulkCreate { count } => assert_eq!(created(run, number), *count),
        Asked::Exec => assert_eq!(run.server.node.runs(first[0].as_str().expect("id")), 1),
        Asked::Stop { agent } => {
            assert_eq!(since(run), (1, 0), "key {number}");
            run.plain(Method::POST, &format!("/v1/agents/{agent}/start?wait=running"), json!({})).await;
            assert_eq!(run.answer(&key).await, first);
            assert_eq!((run.row(agent).await["desired"].as_str(), since(run)), (Some("running"), (1, 1)));
        }
        Asked::Start { agent } => {
            assert_eq!(since(run), (0, 1), "key {number}");
            run.plain(Method::POST, &format!("/v1/agents/{agent}/stop?wait=stopped"), json!({})).await;
            assert_eq!(run.answer(&key).await, first);
            assert_eq!((run.row(agent).await["desired"].as_str(), since(run)), (Some("stopped"), (1, 1)));
            run.plain(Method::POST, &format!("/v1/agents/{agent}/start?wait=running"), json!({})).await;
        }
        Asked::Delete { name, agent } | Asked::BulkDelete { name, agent } => {
            assert_eq!(run.audited(agent, "delete"), 1, "key {number}");
            // Its name means another agent from now on.
            run.plain(Method::POST, "/v1/agents", waiting(name)).await;
        }
    }
    if matches!(key.asked, Asked::Create | Asked::BulkCreate { .. }) && run.roll(8).await != 0 {
        let filter = format!("/v1/agents?label=key%3D{number}&per_page=100");
        for agent in run.plain(Method::GET, &filter, Value::Null).await["data"].as_array().expect("agents") {
            run.plain(Method::DELETE, &format!("/v1/agents/{}", agent["id"].as_str().expect("id")), Value::Null).await;
        }
    }
    (key, first)
}

/// The agents that a key made, gone ones included.
fn created(run: &Run, number: u64) -> u64 {
    let sql = "SELECT count(*) FROM agent_labels WHERE kind = 'label' AND key = 'key' AND value = ?1";
    run.count(sql, &[&number.to_string()])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_has_one_effect() {
    let keys = trials("AETHER_KEYS", 500);
    let seed = seed();
    let mut counted = Counted::new("idempotency", 16, "keys on every route that takes one, through two servers", seed);
    let server = start().await;
    let second = server.second().await;
    let zero = AtomicU64::default;
    let dice = Mutex::new(Dice::new(seed));
    let run = Arc::new(Run { server, second, dice, requests: zero(), cuts: zero(), changed: zero() });
    let (give, take) = tokio::sync::mpsc::channel(POOL);
    for i in 0..POOL {
        give.send(run.server.agent(&format!("pool-{i}")).await).await.expect("room");
    }
    let take = Mutex::new(take);
    let done: Vec<(Key, Value)> = futures::stream::iter(0..keys)
        .map(|number| {
            let (run, give, take) = (run.clone(), give.clone(), &take);
            async move {
                let agent = take.lock().await.recv().await.expect("as many as are at work");
                let made = one(&run, number, agent.clone()).await;
                give.send(agent).await.expect("room");
                made
            }
        })
        .buffer_unordered(TOGETHER)
        .collect()
        .await;
    // Much later, when most of it is gone: each is told the same, and nothing happens.
    let sum = "SELECT count(*) FROM audit_logs WHERE action <> 'observe' AND action <> 'place'";
    let before = run.count(sum, &[]);
    futures::stream::iter(&done)
        .for_each_concurrent(TOGETHER, |(key, first)| {
            let run = run.clone();
            async move { assert_eq!(run.answer(key).await, *first, "key {}", key.number) }
        })
        .await;
    assert_eq!(run.count(sum, &[]), before, "a repeat did something");
    let wanted = |of: fn(&Asked) -> u64| done.iter().map(|(key, _)| of(&key.asked)).sum::<u64>();
    let execs = wanted(|a| u64::from(matches!(a, Asked::Exec)));
    assert_eq!((u64::from(run.server.node.all_runs()), run.count("SELECT count(*) FROM execs", &[])), (execs, execs));
    let agents = wanted(|a| match a {
        Asked::Create => 1,
        Asked::BulkCreate { count } => *count,
        Asked::Delete { .. } | Asked::BulkDelete { .. } => 2,
        _ => 0,
    });
    assert_eq!(run.count("SELECT count(*) FROM agents", &[]), agents + POOL as u64);
    for (key, _) in &done {
        if let Asked::Delete { name, .. } | Asked::BulkDelete { name, .. } = &key.asked {
            assert_eq!(run.row(name).await["desired"], "running", "the newer one lives");
        }
    }
    counted.n = run.requests.load(Ordering::Relaxed);
    counted.faults = run.cuts.load(Ordering::Relaxed) + run.changed.load(Ordering::Relaxed);
    println!(
        "{keys} keys, {} requests, {} cut, {} changed",
        counted.n,
        run.cuts.load(Ordering::Relaxed),
        run.changed.load(Ordering::Relaxed)
    );
}

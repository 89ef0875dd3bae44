//! Counted test 16 with the real thing: the server dies by `kill -9` while
//! keyed creates and execs are on their way; each is repeated until it is
//! answered, and has happened once: in the store, on the host, in the guest.

use crate::api::{Answer, curl};
use aether_e2e::{Cli, Counted, Dice, LONG, Server, Settings, seed, trials, wait_for};
use serde_json::{Value, json};
use std::time::Duration;

/// One keyed request and what was ever answered to it.
struct Keyed {
    key: String,
    path: &'static str,
    body: Value,
    answers: Vec<Value>,
}

impl Keyed {
    fn send(&self, socket: &str) -> Answer {
        let header = format!("idempotency-key: {}", self.key);
        let url = format!("http://aether{}", self.path);
        curl(&["--unix-socket", socket, "-H", &header, "--json", &self.body.to_string(), &url])
    }
}

fn create(key: &str) -> Keyed {
    let body = json!({ "image": "python:3.11", "labels": { "key": key }, "resources": { "memory_mb": 128 } });
    Keyed { key: key.to_owned(), path: "/v1/agents", body, answers: Vec::new() }
}

/// Leaves a mark in the guest each time that it runs.
fn exec(key: &str) -> Keyed {
    let script = format!("echo ran >> /tmp/{key}; sleep 0.5; wc -l < /tmp/{key}; exit 5");
    let body = json!({ "command": ["sh", "-c", script] });
    Keyed { key: key.to_owned(), path: "/v1/agents/runner/exec", body, answers: Vec::new() }
}

/// All at once, each `times` times; what came back as JSON is kept.
fn send_all(keyed: &mut [Keyed], times: usize, socket: &str) {
    std::thread::scope(|scope| {
        let sent: Vec<_> = keyed
            .iter_mut()
            .map(|k| {
                scope.spawn(move || {
                    for _ in 0..times {
                        let answer = k.send(socket);
                        if matches!(answer.status, 200 | 201) {
                            k.answers.push(serde_json::from_str(&answer.body).expect("JSON"));
                        }
                    }
                })
            })
            .collect();
        sent.into_iter().for_each(|t| t.join().expect("a client"));
    });
}

fn happened_once(cli: &Cli, keyed: &Keyed) {
    let id = |a: &Value| a["id"].as_str().or(a["exec_id"].as_str()).expect("an id").to_owned();
    let first = id(&keyed.answers[0]);
    assert!(keyed.answers.iter().all(|a| id(a) == first), "{}: {:?}", keyed.key, keyed.answers);
    if keyed.path == "/v1/agents" {
        let list = cli.json(&["agent", "list", "--label", &format!("key={}", keyed.key)]);
        assert_eq!(list["data"].as_array().or(list.as_array()).map(Vec::len), Some(1), "{list}");
        return;
    }
    let marks = cli.run(&["agent", "exec", "runner", "--", "sh", "-c", &format!("cat /tmp/{} | wc -l", keyed.key)]);
    let ran: u32 = marks.stdout.trim().parse().expect("a number");
    let known = keyed.answers.iter().any(|a| a["outcome"] == "exited");
    assert!(ran == 1 || (ran == 0 && !known), "{}: ran {ran} times, {:?}", keyed.key, keyed.answers);
    for answer in keyed.answers.iter().filter(|a| a["outcome"] == "exited") {
        assert_eq!((&answer["exit_code"], &answer["stdout"]), (&json!(5), &json!("1\n")), "{}", keyed.key);
    }
}

#[test]
fn a_server_killed_under_keyed_requests_does_each_once() {
    let seed = seed();
    let mut dice = Dice::new(seed);
    let mut counted = Counted::new("idempotency", 16, "keyed creates and execs of real guests under kill -9", seed);
    let mut server = Server::with_image(Settings::default());
    let cli = server.cli();
    cli.ok(&["agent", "create", "--name", "runner", "--image", "python:3.11", "--memory", "256", "--wait"]);
    let socket = server.path("run/aether.sock").to_string_lossy().into_owned();
    let mut all = Vec::new();
    for round in 0..trials("AETHER_CRASHES", 2) {
        let mut keyed: Vec<_> = (0..6).map(|i| exec(&format!("exec-{round}-{i}"))).collect();
        keyed.push(create(&format!("create-{round}-a")));
        keyed.push(create(&format!("create-{round}-b")));
        let patience = Duration::from_millis(dice.roll(900));
        std::thread::scope(|scope| {
            let (keyed, socket) = (&mut keyed, &socket);
            scope.spawn(move || send_all(keyed, 1, socket));
            std::thread::sleep(patience);
            server.crash();
        });
        counted.faults += 1;
        server.launch();
        cli.wait_status("runner", "running");
        // Until each is answered: an adopted guest may need a moment.
        wait_for("an answer to each", LONG, || {
            send_all(&mut keyed, 2, &socket);
            keyed.iter().all(|k| !k.answers.is_empty()).then_some(())
        });
        counted.n += keyed.len() as u64;
        keyed.iter().for_each(|k| happened_once(&cli, k));
        // The agents of one round are enough at a time.
        for old in all.iter().filter(|k: &&Keyed| k.path == "/v1/agents") {
            cli.run(&["agent", "destroy", "--yes", old.answers[0]["id"].as_str().expect("id")]);
        }
        all.append(&mut keyed);
    }
    // Once more, at last: nothing new comes of it, of deleted agents neither.
    let before = all.iter().map(|k| k.answers.len()).collect::<Vec<_>>();
    send_all(&mut all, 1, &socket);
    for (keyed, before) in all.iter().zip(before) {
        assert_eq!(keyed.answers.len(), before + 1, "{} was not answered", keyed.key);
        let id = |a: &Value| a["id"].as_str().or(a["exec_id"].as_str()).map(str::to_owned);
        assert_eq!(id(&keyed.answers[before]), id(&keyed.answers[0]), "{}", keyed.key);
    }
    wait_for("as many VMMs as agents", LONG, || {
        let list = cli.json(&["agent", "list"]);
        let agents = list["data"].as_array().or(list.as_array())?.clone();
        (agents.iter().all(|a| a["status"] == "running") && agents.len() == server.vmms().len()).then_some(())
    });
    assert_eq!(server.finish(), Vec::<String>::new());
}

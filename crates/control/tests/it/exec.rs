use crate::harness::{ok, problem, start, start_with};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn request_and_answer() {
    let server = start().await;
    let id = server.agent("runner").await;
    let (status, result) = server.exec(&id, json!({ "command": ["echo", "hi"] })).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((result["stdout"].as_str(), result["exit_code"].as_i64()), (Some("hi\n"), Some(0)));
    let (status, result) = server.exec(&id, json!({ "command": ["exit", "3"] })).await;
    assert_eq!((status, result["exit_code"].as_i64()), (StatusCode::OK, Some(3)));
    let (_, result) = server.exec(&id, json!({ "command": ["warn", "w"] })).await;
    assert_eq!((result["stdout"].as_str(), result["stderr"].as_str()), (Some(""), Some("w")));
    let long = "z".repeat(300_000);
    let (_, result) = server.exec(&id, json!({ "command": ["cat"], "stdin": long })).await;
    assert_eq!(result["stdout"].as_str().map(str::len), Some(300_000));
    let (_, result) = server.exec(&id, json!({ "command": ["flood", "3000000"] })).await;
    assert_eq!((result["stdout"].as_str().map(str::len), &result["truncated"]), (Some(1 << 20), &json!(true)));
    let (status, result) = server.exec(&id, json!({ "command": ["vanish"] })).await;
    assert_eq!((status, result["outcome"].as_str()), (StatusCode::OK, Some("unknown")));
    let (_, result) = server.exec(&id, json!({ "command": ["nope"] })).await;
    assert_eq!(result["exit_code"], 127);
}

#[tokio::test]
async fn what_cannot_run_is_explained() {
    let server = start().await;
    let id = server.agent("runner").await;
    let path = format!("/v1/agents/{id}/exec");
    for bad in [
        json!({}),
        json!({ "command": ["a"], "timeout": 301 }),
        json!({ "command": ["a"], "tty": true }),
        json!({ "command": ["a"], "cwd": "x" }),
        json!({ "command": ["a"], "shell": true }),
    ] {
        problem(server.post(&path, bad), 400, "VALIDATION_ERROR").await;
    }
    problem(server.post("/v1/agents/absent/exec", json!({ "command": ["a"] })), 404, "NOT_FOUND").await;
    ok(server.request(Method::POST, &format!("/v1/agents/{id}/stop?wait=stopped"))).await;
    let body = problem(server.post(&path, json!({ "command": ["echo", "a"] })), 409, "CONFLICT").await;
    assert!(body["detail"].as_str().is_some_and(|d| d.contains("stopped")) && body["remedy"] == "Start it first.");
    problem(server.get(&path), 409, "CONFLICT").await;
}

#[tokio::test]
async fn a_timeout_kills_and_names_the_exec() {
    let server = start().await;
    let id = server.agent("runner").await;
    let body = json!({ "command": ["sleep"], "timeout": 1 });
    let body = problem(server.post(&format!("/v1/agents/{id}/exec"), body), 504, "TIMEOUT").await;
    let instance = body["instance"].as_str().expect("instance");
    assert!(instance.starts_with(&format!("/v1/agents/{id}/execs/exe")), "{instance}");
    let (status, exec) = ok(server.get(&format!("{instance}?offset=5"))).await;
    assert_eq!((status, exec["output"][0]["data"].as_str()), (StatusCode::OK, Some("bGF0ZQ==")));
    assert_eq!((exec["next_offset"].as_u64(), exec["output"][0]["stream"].as_str()), (Some(9), Some("stderr")));
}

/// The way to the node is made meanwhile, and nothing is said along it.
#[tokio::test]
async fn nothing_runs_before_its_intent_is_on_disk() {
    let server = start().await;
    let id = server.agent("runner").await;
    let lock = rusqlite::Connection::open(&server.database).expect("opens");
    lock.execute_batch("BEGIN IMMEDIATE").expect("locks");
    let asked = server.post(&format!("/v1/agents/{id}/exec"), json!({ "command": ["echo", "a"] })).send();
    let asked = tokio::spawn(asked);
    server.until(|s| async { s.node.ways() == 1 }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.node.all_runs(), 0);
    lock.execute_batch("ROLLBACK").expect("unlocks");
    let answer = asked.await.expect("joins").expect("answers");
    assert_eq!((answer.status(), server.node.all_runs()), (StatusCode::OK, 1));
}

#[tokio::test]
async fn an_idempotency_key_runs_once() {
    let server = start().await;
    let id = server.agent("runner").await;
    let path = format!("/v1/agents/{id}/exec");
    let keyed =
        |command: &str| server.post(&path, json!({ "command": ["echo", command] })).header("idempotency-key", "k");
    let (_, first) = ok(keyed("a")).await;
    let (_, again) = ok(keyed("a")).await;
    assert_eq!(first["exec_id"], again["exec_id"]);
    assert_eq!(again["stdout"], "again\n", "a repeat attaches");
    assert_eq!(server.node.runs(first["exec_id"].as_str().expect("id")), 1);
    problem(keyed("b"), 422, "IDEMPOTENCY_MISMATCH").await;
}

#[tokio::test]
async fn a_repeat_of_an_exec_that_never_reached_the_guest_is_unknown_and_runs_nothing() {
    let server = start_with(|cfg| cfg.deadlines.exec_margin = Duration::from_millis(1500)).await;
    let id = server.agent("runner").await;
    let path = format!("/v1/agents/{id}/exec");
    let keyed = |command: &str| server.post(&path, json!({ "command": [command] })).header("idempotency-key", command);
    let first = tokio::spawn(keyed("never-arrives").send());
    let intents = |s: &'static str| {
        let (store, agent) = (server.store.clone(), id.parse().expect("id"));
        let scope = aether_core::TenantScope::system("default".parse().expect("tenant"), "test");
        async move {
            let rows = store.list_execs(&scope, &agent, 10).await.expect("rows");
            rows.into_iter().find(|r| r.command == [s])
        }
    };
    server.until(|_| async { intents("never-arrives").await.is_some() }).await;
    first.abort();
    // Broken, it would start a second one and wait for it forever.
    let repeat = tokio::time::timeout(Duration::from_secs(60), ok(keyed("never-arrives")));
    let (status, again) = repeat.await.expect("a repeat is answered");
    assert_eq!((status, again["outcome"].as_str()), (StatusCode::OK, Some("unknown")), "{again}");
    assert!(again["exit_code"].is_null() && again["error"].as_str().is_some_and(|e| !e.is_empty()), "{again}");
    let intent = intents("never-arrives").await.expect("recorded");
    assert_eq!(again["exec_id"].as_str(), Some(intent.exec_id.as_str()));
    problem(keyed("cut"), 503, "SERVICE_UNAVAILABLE").await;
    server.until(|_| async { intents("cut").await.is_some_and(|r| r.end.is_some()) }).await;
    assert_eq!(ok(keyed("cut")).await.1["outcome"], "unknown", "nobody knows whether it ran");
    problem(keyed("refuse"), 409, "CONFLICT").await;
    server.until(|_| async { intents("refuse").await.is_some_and(|r| r.end.is_some()) }).await;
    let refused = problem(keyed("refuse"), 409, "CONFLICT").await;
    assert!(refused["remedy"].as_str().is_some_and(|r| r.contains("another key")), "{refused}");
    assert_eq!(server.node.all_runs(), 0, "nothing ran");
}

#[tokio::test]
async fn a_repeat_on_a_stopped_agent_tells_what_is_recorded() {
    let server = start().await;
    let id = server.agent("runner").await;
    let path = format!("/v1/agents/{id}/exec");
    let keyed =
        |key: &'static str| server.post(&path, json!({ "command": ["exit", "3"] })).header("idempotency-key", key);
    let (_, first) = ok(keyed("k")).await;
    ok(server.request(Method::POST, &format!("/v1/agents/{id}/stop?wait=stopped"))).await;
    server.exec_ended(&id).await;
    let (status, again) = ok(keyed("k")).await;
    assert_eq!((status, &again["exec_id"]), (StatusCode::OK, &first["exec_id"]));
    assert_eq!((again["outcome"].as_str(), again["exit_code"].as_i64()), (Some("exited"), Some(3)), "{again}");
    assert_eq!(
        (&again["truncated"], again["stdout"].as_str()),
        (&json!(true), Some("")),
        "its output went with the guest"
    );
    problem(keyed("new"), 409, "CONFLICT").await;
    assert_eq!(server.node.all_runs(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_kills_nothing_and_the_end_is_recorded() {
    let server = start().await;
    let id = server.agent("runner").await;
    let request = server.post(&format!("/v1/agents/{id}/exec"), json!({ "command": ["sleep"], "timeout": 60 }));
    let call = tokio::spawn(request.send());
    server.until(|s| async move { s.node.all_runs() == 1 }).await;
    call.abort();
    let (_, execs) = ok(server.get(&format!("/v1/agents/{id}/execs"))).await;
    let exec = execs[0]["exec_id"].as_str().expect("one").to_owned();
    let path = format!("/v1/agents/{id}/execs/{exec}/signal");
    problem(server.post(&path, json!({ "signal": "no way" })), 400, "VALIDATION_ERROR").await;
    let (status, _) = ok(server.post(&path, json!({ "signal": "SIGTERM" }))).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let scope = aether_core::TenantScope::system("default".parse().expect("tenant"), "test");
    let agent: aether_core::AgentId = id.parse().expect("id");
    server
        .until(|s| {
            let (scope, agent) = (scope.clone(), agent.clone());
            async move {
                let rows = s.store.list_execs(&scope, &agent, 10).await.expect("rows");
                rows[0]
                    .end
                    .as_ref()
                    .is_some_and(|e| e.outcome == "exited" && e.exit_signal.as_deref() == Some("SIGTERM"))
            }
        })
        .await;
    for bad in [format!("/v1/agents/{id}/execs/exec0aaaaaaaaaaaaaaaa"), format!("/v1/agents/{id}/execs/x")] {
        problem(server.get(&bad), 404, "NOT_FOUND").await;
    }
}

#[tokio::test]
async fn a_repeat_gives_no_input_twice() {
    let server = start().await;
    let id = server.agent("runner").await;
    let path = format!("/v1/agents/{id}/exec");
    let body = json!({ "command": ["cat"], "stdin": "once" });
    let keyed = || server.post(&path, body.clone()).header("idempotency-key", "k");
    let (_, first) = ok(keyed()).await;
    let (_, again) = ok(keyed()).await;
    assert_eq!(first["exec_id"], again["exec_id"]);
    assert_eq!(server.node.stdin(first["exec_id"].as_str().expect("id")), b"once");
}

#[tokio::test]
async fn a_repeat_follows_the_first_agent_and_not_its_name() {
    let server = start().await;
    let id = server.agent("first").await;
    let keyed = |key: &str, by: &str| {
        let request = server.post(&format!("/v1/agents/{by}/exec"), json!({ "command": ["say", "hi"] }));
        request.header("idempotency-key", key.to_owned())
    };
    let (_, first) = ok(keyed("k", "first")).await;
    assert_eq!(first["exit_code"], 3);
    // The name moves on to another agent: the exec is still the first one's.
    let renamed = server.request(Method::PATCH, &format!("/v1/agents/{id}")).json(&json!({ "name": "renamed" }));
    assert_eq!(ok(renamed).await.0, StatusCode::OK);
    server.agent("first").await;
    let (_, again) = ok(keyed("k", "first")).await;
    assert_eq!((&again["exec_id"], &again["stdout"]), (&first["exec_id"], &first["stdout"]));
    // By another spelling it is another request.
    problem(keyed("k", "renamed"), 422, "IDEMPOTENCY_MISMATCH").await;
    let (_, other) = ok(keyed("other", "renamed")).await;
    let ended = |s: &'static str| {
        let (store, agent) = (server.store.clone(), id.parse().expect("id"));
        let scope = aether_core::TenantScope::system("default".parse().expect("tenant"), s);
        async move { store.list_execs(&scope, &agent, 10).await.expect("rows").iter().all(|r| r.end.is_some()) }
    };
    server.until(|_| async { ended("test").await }).await;
    assert_eq!(ok(server.request(Method::DELETE, &format!("/v1/agents/{id}"))).await.0, StatusCode::NO_CONTENT);
    for (key, by, was) in [("k", "first", &first), ("other", "renamed", &other)] {
        let (status, gone) = ok(keyed(key, by)).await;
        assert_eq!((status, &gone["exec_id"]), (StatusCode::OK, &was["exec_id"]), "{gone}");
        assert_eq!((gone["outcome"].as_str(), gone["exit_code"].as_i64()), (Some("exited"), Some(3)), "{gone}");
    }
    problem(keyed("new", "renamed"), 404, "NOT_FOUND").await;
    assert_eq!(server.node.all_runs(), 2);
}

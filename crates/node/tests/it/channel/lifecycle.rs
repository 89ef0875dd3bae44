//! Identity, the main process, logs, events, shutdown.

use super::sandbox::{LIMIT, Sandbox, TOKEN, request, shell};
use aether_node::channel::{ErrorCode, EventKind, wire};
use futures::{StreamExt, TryStreamExt};
use std::pin::pin;
use std::time::Duration;

fn with_main(script: &str, restart: &str) -> wire::IdentifyRequest {
    let main = wire::MainProcess {
        argv: vec!["/bin/sh".into(), "-c".into(), script.to_owned()],
        restart: restart.to_owned(),
        ..Default::default()
    };
    wire::IdentifyRequest { main: Some(main).into(), ..request() }
}

async fn events_until(sandbox: &Sandbox, count: usize) -> Vec<EventKind> {
    let events = pin!(sandbox.client.events(0));
    let collect = events.take(count).try_collect::<Vec<_>>();
    let events = tokio::time::timeout(LIMIT, collect).await.expect("in time").expect("events");
    events.into_iter().filter_map(|event| event.event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_before_the_identity() {
    let sandbox = Sandbox::boot();
    sandbox.client.wait_ready(LIMIT).await.expect("ready");
    let early = sandbox.client.exec_start(shell("early", "true")).await.err();
    assert_eq!(early.and_then(|error| error.code()), Some(ErrorCode::FailedPrecondition));
    assert!(!sandbox.client.health().await.expect("health").identified);
    let short = wire::IdentifyRequest { entropy: vec![1; 8], ..request() };
    let refused = sandbox.client.identify(short).await.err();
    assert_eq!(refused.and_then(|error| error.code()), Some(ErrorCode::InvalidArgument));
    sandbox.client.identify(request()).await.expect("identified");
    assert_eq!(sandbox.client.token().0, TOKEN);
    assert!(sandbox.client.health().await.expect("health").identified);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_identify_starts_nothing_twice() {
    let sandbox = Sandbox::start_with(with_main("echo once; exec sleep 1000", "never")).await;
    let again = sandbox.client.identify(with_main("echo twice; exec sleep 1000", "never")).await.expect("answered");
    let first = sandbox.client.exec_get("main").await.expect("the main process");
    assert_eq!(again.main_pid, first.pid);
    // Its shell has come that far: a shutdown at once would meet it before its first word.
    let spoken = async {
        while sandbox.client.exec_read("main", 0, 1024).await.is_ok_and(|read| read.output.is_empty()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), spoken).await.expect("it speaks");
    sandbox.client.shutdown(Duration::from_secs(5)).await.expect("ended");
    let outcome = sandbox.outcome("main", 0).await.expect("its output");
    assert_eq!(outcome.text(), "once\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_process_ends_with_its_code_and_its_lines() {
    let sandbox = Sandbox::start_with(with_main("echo one; echo two >&2; printf three; exit 7", "never")).await;
    let events = events_until(&sandbox, 2).await;
    let [EventKind::MainStarted(started), EventKind::MainExited(exited)] = &events[..] else {
        panic!("unexpected {events:?}")
    };
    assert_eq!((started.restarts, exited.exit_code, exited.will_restart), (0, Some(7), false));
    let lines = |request| async {
        let stream = sandbox.client.logs(request).await.expect("logs");
        let lines: Vec<wire::LogLine> = stream.try_collect().await.expect("lines");
        let mut shown: Vec<(u32, String)> =
            lines.iter().map(|line| (line.stream, String::from_utf8_lossy(&line.line).into_owned())).collect();
        shown.sort();
        shown
    };
    let all = lines(wire::LogsRequest::default()).await;
    assert_eq!(all, [(1, "one".into()), (1, "three".into()), (2, "two".into())]);
    assert_eq!(lines(wire::LogsRequest { tail: 1, ..Default::default() }).await.len(), 1);
    assert!(lines(wire::LogsRequest { since_ms: u64::MAX, ..Default::default() }).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_restart_it_until_it_succeeds() {
    let counter = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = counter.path().display();
    let script = format!("echo x >> {path}; [ $(wc -l < {path}) -ge 3 ]");
    let sandbox = Sandbox::start_with(with_main(&script, "on_failure")).await;
    let events = events_until(&sandbox, 6).await;
    let exits: Vec<(Option<i32>, bool)> = events
        .iter()
        .filter_map(|event| match event {
            EventKind::MainExited(exited) => Some((exited.exit_code, exited.will_restart)),
            _ => None,
        })
        .collect();
    assert_eq!(exits, [(Some(1), true), (Some(1), true), (Some(0), false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_main_program_is_told_twice() {
    let mut request = with_main("", "never");
    if let Some(main) = request.main.as_option_mut() {
        main.argv = vec!["/no/such/program".into()];
    }
    let sandbox = Sandbox::boot();
    sandbox.client.wait_ready(LIMIT).await.expect("ready");
    let answer = sandbox.client.identify(request).await.expect("answered");
    assert!(answer.main_pid == 0 && answer.main_error.contains("not found"), "{answer:?}");
    let events = events_until(&sandbox, 1).await;
    assert!(matches!(&events[..], [EventKind::MainExited(exited)] if exited.exit_code == Some(127)), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_asks_then_kills_and_says_how_it_went() {
    let polite = Sandbox::start_with(with_main("trap 'exit 5' TERM; while :; do sleep 0.05; done", "always")).await;
    let stubborn = Sandbox::start_with(with_main("trap '' TERM; while :; do sleep 0.05; done", "always")).await;
    // The traps must be set before they are tried.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let answer = polite.client.shutdown(Duration::from_secs(60)).await.expect("ended");
    assert_eq!((answer.main_exit_code, answer.main_signal), (Some(5), None));
    let answer = stubborn.client.shutdown(Duration::from_millis(200)).await.expect("ended");
    assert_eq!((answer.main_exit_code, answer.main_signal.as_deref()), (None, Some("SIGKILL")));
}

//! Exec: codes, signals, time limits, terminals, input, offsets, ids.

use super::sandbox::{LIMIT, Sandbox, shell};
use aether_node::channel::{ChannelError, ErrorCode, OutputKind, wire};
use futures::StreamExt;
use std::pin::pin;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn streams_codes_and_environment() {
    let sandbox = Sandbox::start().await;
    let outcome = sandbox.run("a", "echo out; echo err >&2; echo $FROM_AGENT $USER; exit 3").await;
    assert_eq!(outcome.text(), "out\nyes root\n");
    assert_eq!(outcome.err, b"err\n");
    assert_eq!(outcome.exit().exit_code, Some(3));
    assert_eq!(outcome.state.output_end, 17);
    let again = sandbox.outcome("a", 4).await.expect("from an offset");
    assert_eq!(again.out.len() + again.err.len(), 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_runs_once() {
    let sandbox = Sandbox::start().await;
    let file = sandbox.path("count");
    let script = format!("echo x >> {file}");
    let first = sandbox.client.exec_start(shell("same", &script)).await.expect("started");
    let second = sandbox.client.exec_start(shell("same", &script)).await.expect("met");
    assert!(!first.existed && second.existed);
    assert_eq!(first.pid, second.pid);
    sandbox.outcome("same", 0).await.expect("ended");
    assert_eq!(std::fs::read(&file).expect("the file"), b"x\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_group_and_limits_kill_it() {
    let sandbox = Sandbox::start().await;
    // The inner sleep must die with the shell, or the pipe stays open.
    sandbox.client.exec_start(shell("term", "sleep 1000; true")).await.expect("started");
    sandbox.client.exec_signal("term", 15).await.expect("signalled");
    let outcome = sandbox.outcome("term", 0).await.expect("ended");
    assert_eq!((outcome.exit().exit_code, outcome.exit().signal.as_deref()), (None, Some("SIGTERM")));
    let late = sandbox.client.exec_signal("term", 15).await;
    assert_eq!(late.map_err(|error| error.code()), Err(Some(ErrorCode::FailedPrecondition)));
    let wrong = sandbox.client.exec_signal("term", 99).await;
    assert_eq!(wrong.map_err(|error| error.code()), Err(Some(ErrorCode::InvalidArgument)));

    let mut limited = shell("limit", "trap '' TERM; sleep 1000");
    limited.timeout_ms = 300;
    sandbox.client.exec_start(limited).await.expect("started");
    let outcome = sandbox.outcome("limit", 0).await.expect("ended");
    assert!(outcome.exit().timed_out);
    assert_eq!(outcome.exit().signal.as_deref(), Some("SIGKILL"));
}

#[tokio::test(flavor = "multi_thread")]
async fn input_reaches_it_and_ends() {
    let sandbox = Sandbox::start().await;
    let mut start = shell("cat", "cat; echo done");
    start.stdin = true;
    sandbox.client.exec_start(start).await.expect("started");
    // More than a pipe holds.
    let big = vec![b'x'; 300_000];
    let write = async {
        sandbox.client.exec_input("cat", big.clone(), false).await.expect("written");
        sandbox.client.exec_input("cat", b"end\n".to_vec(), true).await.expect("ended");
    };
    let (outcome, ()) = tokio::join!(sandbox.outcome("cat", 0), write);
    let outcome = outcome.expect("ended");
    assert_eq!(outcome.out.len(), big.len() + "end\ndone\n".len());
    assert!(outcome.out.ends_with(b"xend\ndone\n"));
    let late = sandbox.client.exec_input("cat", b"x".to_vec(), false).await;
    assert_eq!(late.map_err(|error| error.code()), Err(Some(ErrorCode::FailedPrecondition)));
    sandbox.client.exec_start(shell("deaf", "cat")).await.expect("started");
    let outcome = sandbox.outcome("deaf", 0).await.expect("without stdin cat ends at once");
    assert_eq!(outcome.exit().exit_code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size_that_changes() {
    let sandbox = Sandbox::start().await;
    let mut start = shell("tty", "stty size; read line; stty size; tty; echo $TERM; exit 4");
    start.tty = Some(wire::Terminal { cols: 100, rows: 30, ..Default::default() }).into();
    sandbox.client.exec_start(start).await.expect("started");
    let drive = async {
        let mut events = pin!(sandbox.client.exec_output("tty", 0));
        let (mut seen, mut resized, mut end) = (String::new(), false, None);
        while let Some(event) = events.next().await {
            match event.expect("an event").event {
                Some(OutputKind::Output(output)) => seen.push_str(&String::from_utf8_lossy(&output.data)),
                Some(OutputKind::Exited(state)) => end = Some(state),
                other => panic!("unexpected {other:?}"),
            }
            if !resized && seen.contains("30 100") {
                resized = true;
                sandbox.client.exec_resize("tty", 132, 50).await.expect("resized");
                sandbox.client.exec_input("tty", b"go\n".to_vec(), false).await.expect("typed");
            }
        }
        (seen, end.expect("an end"))
    };
    let (seen, end) = tokio::time::timeout(LIMIT, drive).await.expect("in time");
    assert!(seen.contains("50 132") && seen.contains("/dev/pts/") && seen.contains("xterm-256color"), "{seen}");
    assert_eq!(end.exit.as_option().and_then(|exit| exit.exit_code), Some(4));
    let without = sandbox.client.exec_resize("none", 1, 1).await;
    assert_eq!(without.map_err(|error| error.code()), Err(Some(ErrorCode::NotFound)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_is_told_clearly() {
    let sandbox = Sandbox::start().await;
    let refused = |start: wire::StartRequest| async {
        match sandbox.client.exec_start(start).await {
            Err(ChannelError::Remote { code: ErrorCode::InvalidArgument, message }) => message,
            other => panic!("not refused: {other:?}"),
        }
    };
    let ghost = wire::StartRequest { user: "ghost".into(), ..shell("user", "true") };
    assert_eq!(refused(ghost).await, "unknown user \"ghost\"");
    let nowhere = wire::StartRequest { cwd: "/no/such".into(), ..shell("cwd", "true") };
    assert_eq!(refused(nowhere).await, "cwd \"/no/such\" does not exist");
    assert!(refused(shell("", "true")).await.contains("exec_id"));
    assert!(refused(shell("main", "true")).await.contains("exec_id"));
    assert!(refused(wire::StartRequest { argv: Vec::new(), ..shell("argv", "") }).await.contains("argv"));
    let bad_env =
        wire::StartRequest { env: [("A=B".to_owned(), String::new())].into_iter().collect(), ..shell("env", "true") };
    assert!(refused(bad_env).await.contains("env"));

    let missing = wire::StartRequest { argv: vec!["no-such-program".into()], ..shell("missing", "") };
    for existed in [false, true] {
        let state = sandbox.client.exec_start(missing.clone()).await.expect("a state");
        let exit = state.exit.as_option().expect("an exit");
        assert_eq!((state.running, state.existed, exit.exit_code), (false, existed, Some(127)));
        assert!(exit.error.contains("not found"), "{}", exit.error);
    }
    std::fs::write(sandbox.path("plain"), "data").expect("write");
    let plain = wire::StartRequest { argv: vec![sandbox.path("plain")], ..shell("plain", "") };
    let state = sandbox.client.exec_start(plain).await.expect("a state");
    assert_eq!(state.exit.as_option().and_then(|exit| exit.exit_code), Some(126));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listening_costs_the_oldest_and_a_listener_nothing() {
    let sandbox = Sandbox::start().await;
    let script = "i=0; while [ $i -lt 40 ]; do head -c 100000 /dev/zero; i=$((i+1)); done; echo end";
    sandbox.client.exec_start(shell("alone", script)).await.expect("started");
    let state = loop {
        let state = sandbox.client.exec_get("alone").await.expect("a state");
        if !state.running {
            break state;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(state.exit.as_option().and_then(|exit| exit.exit_code), Some(0));
    let outcome = sandbox.outcome("alone", 0).await.expect("ended");
    let [(0, to)] = outcome.gaps[..] else { panic!("one gap from 0: {:?}", outcome.gaps) };
    assert_eq!(to + outcome.out.len() as u64, 4_000_004);
    assert!(outcome.out.ends_with(b"end\n"));
    let read = sandbox.client.exec_read("alone", 0, 100).await.expect("read");
    assert!(read.gap && read.output.iter().map(|output| output.data.len()).sum::<usize>() == 100);

    sandbox.client.exec_start(shell("heard", &format!("sleep 1; {script}"))).await.expect("started");
    let outcome = sandbox.outcome("heard", 0).await.expect("ended");
    assert_eq!((outcome.gaps.len(), outcome.out.len()), (0, 4_000_004));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_left_behind_neither_delays_the_end_nor_dies_of_it() {
    let sandbox = Sandbox::start().await;
    let flag = sandbox.path("alive");
    // It writes to the pipe after its parent's end: SIGPIPE would kill it.
    let outcome = sandbox.run("bg", &format!("(sleep 1; echo late; echo late; touch {flag}) & echo now")).await;
    assert_eq!(outcome.text(), "now\n");
    let wait = async {
        while !std::path::Path::new(&flag).exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("the child lived on");
}

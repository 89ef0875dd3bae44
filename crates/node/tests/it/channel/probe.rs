//! Health probes, run by the real guest code.

use super::sandbox::{LIMIT, Sandbox, request, shell};
use aether_node::channel::{ErrorCode, wire};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn probe() -> wire::Probe {
    wire::Probe { interval_ms: 50, timeout_ms: 5000, retries: 2, ..Default::default() }
}

fn with(probe: wire::Probe, main: Option<&str>) -> wire::IdentifyRequest {
    let main = main.map(|script| wire::MainProcess {
        argv: vec!["/bin/sh".into(), "-c".into(), script.to_owned()],
        restart: "never".into(),
        ..Default::default()
    });
    wire::IdentifyRequest { probe: Some(probe).into(), main: main.into(), ..request() }
}

/// No process of a test outlives it.
async fn end(sandbox: &Sandbox) {
    sandbox.client.shutdown(Duration::from_millis(100)).await.expect("ended");
}

async fn until(sandbox: &Sandbox, status: &str) -> wire::HealthResponse {
    let wait = async {
        loop {
            let health = sandbox.client.health().await.expect("answers");
            if health.probe == status {
                return health;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_command_restarts_the_main_process() {
    let dir = tempfile::tempdir().expect("a folder");
    let ok = dir.path().join("ok");
    let ok = ok.to_string_lossy();
    let command = vec!["/bin/sh".into(), "-c".into(), format!("test -e {ok}")];
    let probe = wire::Probe { command, restart: true, ..probe() };
    let main = format!("touch {ok}; exec sleep 1000");
    let sandbox = Sandbox::start_with(with(probe, Some(&main))).await;
    let health = until(&sandbox, "healthy").await;
    assert!(health.healthy && health.probe_checked_at_ms > 0, "{health:?}");
    let first = sandbox.client.exec_get("main").await.expect("the main process").pid;
    sandbox.run("break", &format!("rm {ok}")).await;
    let restarted = async {
        loop {
            let main = sandbox.client.exec_get("main").await.expect("the main process");
            if main.running && main.pid != first {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, restarted).await.expect("restarted, though its policy is never");
    let health = until(&sandbox, "healthy").await;
    assert_eq!((health.probe_failures, health.probe_message.as_str()), (0, ""));
    // The probe's process is not one that a caller can take over.
    let taken = sandbox.client.exec_start(shell("probe", "true")).await.err();
    assert_eq!(taken.and_then(|e| e.code()), Some(ErrorCode::InvalidArgument));
    end(&sandbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_and_tcp_are_asked_inside_and_only_told_where_so_wished() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = u32::from(listener.local_addr().expect("address").port());
    let status = std::sync::Arc::new(std::sync::Mutex::new("200 OK"));
    let say = status.clone();
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let mut head = [0; 512];
            let count = stream.read(&mut head).await.unwrap_or(0);
            let asked = String::from_utf8_lossy(&head[..count]).into_owned();
            let line =
                if asked.starts_with("GET /well?x=1 HTTP/1.1\r\n") { *say.lock().expect("lock") } else { "404 No" };
            let _ = stream.write_all(format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
        }
    });
    let http = wire::Probe { http_port: port, http_path: "/well?x=1".into(), ..probe() };
    let sandbox = Sandbox::start_with(with(http, Some("exec sleep 1000"))).await;
    until(&sandbox, "healthy").await;
    let main = sandbox.client.exec_get("main").await.expect("the main process").pid;
    *status.lock().expect("lock") = "500 No";
    let health = until(&sandbox, "unhealthy").await;
    assert!(health.healthy, "the guest itself is well");
    assert!(health.probe_failures >= 2 && health.probe_message.contains("500"), "{health:?}");
    assert_eq!(sandbox.client.exec_get("main").await.expect("the main process").pid, main, "left alone");
    *status.lock().expect("lock") = "302 Found";
    until(&sandbox, "healthy").await;
    end(&sandbox).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("address").port();
    let sandbox = Sandbox::start_with(with(wire::Probe { tcp_port: u32::from(nobody), ..probe() }, None)).await;
    assert!(until(&sandbox, "unhealthy").await.probe_message.contains(&nobody.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_hangs_fails_and_wrong_ones_are_refused() {
    let hangs = wire::Probe { command: vec!["sleep".into(), "1000".into()], timeout_ms: 100, retries: 3, ..probe() };
    let sandbox = Sandbox::start_with(with(hangs, None)).await;
    assert!(until(&sandbox, "unhealthy").await.probe_message.contains("no result"));
    end(&sandbox).await;
    for wrong in [
        wire::Probe { command: vec!["true".into()], tcp_port: 1, ..probe() },
        wire::Probe { tcp_port: 70_000, ..probe() },
        wire::Probe { http_port: 80, http_path: "no path".into(), ..probe() },
        wire::Probe { tcp_port: 80, interval_ms: 0, ..probe() },
        probe(),
    ] {
        let sandbox = Sandbox::boot();
        sandbox.client.wait_ready(LIMIT).await.expect("ready");
        let refused = sandbox.client.identify(with(wrong.clone(), None)).await.err();
        assert_eq!(refused.and_then(|e| e.code()), Some(ErrorCode::InvalidArgument), "{wrong:?}");
    }
}

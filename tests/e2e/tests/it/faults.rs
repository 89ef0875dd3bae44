//! Bad input and faults: each has a documented code and leaves nothing behind.

use aether_e2e::{LONG, Run, Server, Settings, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[track_caller]
fn refused(run: &Run, words: &[&str]) {
    assert_ne!(run.code, Some(0), "{}", run.stdout);
    for word in words {
        assert!(run.stderr.contains(word), "{word:?} is missing in {}", run.stderr);
    }
}

#[test]
fn what_a_clumsy_user_does_is_answered_with_a_remedy() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    refused(&cli.run(&["run", "--pull", "never", "no-such-image:1", "--", "true"]), &["no-such-image", "hint"]);
    refused(&cli.run(&["run", "BAD//ref", "--", "true"]), &["image"]);
    refused(&cli.run(&["agent", "create", "--image", "python:3.11", "--memory", "1"]), &["memory", "128"]);
    refused(&cli.run(&["agent", "create", "--image", "python:3.11", "--name=-x"]), &["name"]);
    refused(&cli.run(&["agent", "get", "nobody"]), &["nobody"]);
    refused(&cli.run(&["agent", "exec", "nobody", "--", "true"]), &["nobody"]);
    // Nothing listens there: the registry is down.
    refused(&cli.run(&["image", "pull", "127.0.0.1:9/x/y:1"]), &["127.0.0.1:9"]);

    cli.ok(&["agent", "create", "--name", "taken", "--image", "python:3.11", "--wait"]);
    refused(&cli.run(&["agent", "create", "--name", "taken", "--image", "python:3.11"]), &["taken"]);
    let absent = cli.run(&["agent", "exec", "taken", "--", "/no/such/program"]);
    assert_eq!(absent.code, Some(127), "{}", absent.stderr);
    let denied = cli.run(&["agent", "exec", "taken", "--", "/etc/passwd"]);
    assert_eq!(denied.code, Some(126), "{}", denied.stderr);
    refused(&cli.run(&["agent", "exec", "--user", "nobody-here", "taken", "--", "true"]), &["nobody-here"]);
    refused(&cli.run(&["agent", "exec", "--workdir", "/no/such", "taken", "--", "true"]), &["/no/such"]);
    refused(&cli.run(&["agent", "cp", "taken:/no/such", "/tmp/never"]), &["/no/such"]);
    cli.ok(&["agent", "stop", "taken"]);
    refused(&cli.run(&["agent", "exec", "taken", "--", "true"]), &["stopped"]);
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn a_vmm_that_dies_in_mid_exec_is_reported_and_cleaned_up() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    cli.ok(&["agent", "create", "--name", "victim", "--image", "python:3.11", "--wait"]);
    let live = cli
        .command(&["agent", "exec", "victim", "--", "sleep", "1000"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    wait_for("the exec to run", LONG, || {
        let execs = cli.json(&["agent", "execs", "victim"]);
        execs.as_array().is_some_and(|l| l.iter().any(|e| e["state"] == "running")).then_some(())
    });
    for pid in server.vmms() {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kills");
    }
    let out: Run = live.wait_with_output().expect("ends").into();
    assert_ne!(out.code, Some(0));
    cli.wait_status("victim", "failed");
    let info = cli.json(&["agent", "get", "victim"]);
    assert_eq!(info["error"]["code"], "SANDBOX_DIED");
    // Its disk is kept: it can be started again, or destroyed.
    cli.ok(&["agent", "start", "victim", "--wait"]);
    assert_eq!(cli.ok(&["agent", "exec", "victim", "--", "echo", "back"]), "back\n");
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn a_guest_that_panics_a_full_disk_and_a_ttl_end_as_documented() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    cli.ok(&["agent", "create", "--name", "small", "--image", "python:3.11", "--disk", "1024", "--wait"]);
    let full = cli.run(&["agent", "exec", "small", "--", "dd", "if=/dev/zero", "of=/root/big", "bs=1M", "count=2000"]);
    assert!(full.code == Some(1) && full.stderr.contains("No space left"), "{}", full.stderr);
    // A file that does not fit is a clear error too, and the agent still works.
    let big = server.path("big");
    std::fs::File::create(&big).and_then(|f| f.set_len(64 << 20)).expect("makes a file");
    refused(&cli.run(&["agent", "cp", &big.to_string_lossy(), "small:/root/big2"]), &["space"]);
    cli.ok(&["agent", "exec", "small", "--", "rm", "-f", "/root/big", "/root/big2"]);
    cli.ok(&["agent", "exec", "small", "--", "sh", "-c", "echo fits > /root/fits"]);

    cli.ok(&["agent", "create", "--name", "panics", "--image", "python:3.11", "--wait"]);
    cli.run(&["agent", "exec", "panics", "--timeout", "20s", "--", "sh", "-c", "echo c > /proc/sysrq-trigger"]);
    cli.wait_status("panics", "failed");

    cli.ok(&["agent", "create", "--name", "brief", "--image", "python:3.11", "--ttl", "5s", "--wait"]);
    cli.wait_status("brief", "stopped");
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn an_agent_that_fits_nowhere_says_why() {
    let server = Server::with_image(Settings::default());
    let cli = server.cli();
    let create = ["agent", "create", "--name", "huge", "--image", "python:3.11", "--memory", "131072", "--cpu", "64"];
    cli.ok(&create);
    let info = wait_for("a reason", LONG, || {
        let info = cli.json(&["agent", "get", "huge"]);
        info["placement_reason"].is_string().then_some(info)
    });
    assert_eq!(info["status"], "pending");
    assert!(info["placement_reason"].as_str().is_some_and(|r| r.contains("memory")), "{info}");
    cli.ok(&["agent", "destroy", "--yes", "huge"]);
    assert_eq!(cli.status("huge"), "gone");
    assert_eq!(server.finish(), Vec::<String>::new());
}

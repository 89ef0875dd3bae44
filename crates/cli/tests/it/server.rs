//! A real server: what it refuses before it starts.

use crate::{config_in, run};

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("tempdir")
}

fn as_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn a_wrong_configuration_is_refused_before_anything_is_made() {
    let dir = temp();
    let state = dir.path().join("state");
    for (text, part) in [
        ("node:\n  boot_timeout: soon\n", "node.boot_timeout"),
        ("server:\n  adress: x\n", "did you mean server.address?"),
        ("server:\n  address: ':8080'\n  enable_auth: false\n", "not a loopback address"),
    ] {
        let config = config_in(dir.path(), text);
        let state_dir = state.to_string_lossy().into_owned();
        let ran = run(dir.path(), &["--config", &config.to_string_lossy(), "server", "--state-dir", &state_dir]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(part), "{ran:?}");
        assert!(!state.exists());
    }
}

#[test]
fn a_port_in_use_is_said_with_its_remedy() {
    assert!(as_root(), "the server needs root, and so do its tests");
    let dir = temp();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("address").to_string();
    let (state, run_dir) = (dir.path().join("s"), dir.path().join("r"));
    let args = [
        "server",
        "--address",
        &address,
        "--state-dir",
        &state.to_string_lossy(),
        "--run-dir",
        &run_dir.to_string_lossy(),
    ]
    .map(str::to_owned);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ran = run(dir.path(), &args);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("cannot listen on") && ran.stderr.contains("hint: "), "{ran:?}");
    assert!(!run_dir.join("aether.sock").exists());
}

#[test]
fn two_servers_do_not_share_a_state_folder() {
    assert!(as_root(), "the server needs root, and so do its tests");
    let dir = temp();
    let state = dir.path().join("s");
    std::fs::create_dir(&state).expect("creates");
    let lock = std::fs::File::create(state.join("server.lock")).expect("creates");
    nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock)
        .map(|held| {
            let args = ["server", "--address", "none", "--state-dir", &state.to_string_lossy(), "--run-dir"];
            let run_dir = dir.path().join("r").to_string_lossy().into_owned();
            let mut args = args.to_vec();
            args.push(&run_dir);
            let ran = run(dir.path(), &args);
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert!(ran.stderr.contains("another server uses"), "{ran:?}");
            drop(held);
        })
        .expect("locks");
}

//! Commands that talk to no server.

use crate::{aether, config_in, run};
use std::path::Path;

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("tempdir")
}

#[test]
fn a_wrong_command_line_is_exit_code_2_with_a_word_on_stderr() {
    let dir = temp();
    for args in [
        &["nonsense"][..],
        &["run"],
        &["agent"],
        &["agent", "exec", "x"],
        &["agent", "destroy"],
        &["run", "img", "--memory", "lots", "--", "true"],
        &["agent", "create", "--label", "novalue"],
        &["agent", "cp", "a", "b"],
        &["agent", "stop", "x", "--timeout", "soon"],
        &["agent", "destroy", "x", "--grace", "1h"],
        &["--server", "ftp://x", "agent", "list"],
    ] {
        let run = run(dir.path(), args);
        assert!(matches!(run.code, Some(1 | 2)), "{args:?}: {run:?}");
        assert!(run.stdout.is_empty() && !run.stderr.is_empty(), "{args:?}: {run:?}");
    }
    assert_eq!(run(dir.path(), &["nonsense"]).code, Some(2));
}

#[test]
fn help_goes_to_stdout_and_tells_the_exit_codes() {
    let dir = temp();
    let help = run(dir.path(), &["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("Exit codes:") && help.stdout.contains("126/127"));
    assert!(!help.stdout.contains("jail"), "hidden verbs stay hidden");
}

#[test]
fn completion_scripts_exist_for_every_shell_and_bash_reads_its_own() {
    let dir = temp();
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = run(dir.path(), &["completion", shell]);
        assert_eq!(script.code, Some(0), "{shell}");
        assert!(script.stdout.contains("aether") && script.stdout.len() > 1000, "{shell}");
    }
    let script = run(dir.path(), &["completion", "bash"]).stdout;
    let path = dir.path().join("complete.bash");
    std::fs::write(&path, script).expect("writes");
    let checked = std::process::Command::new("bash").arg("-n").arg(&path).status().expect("bash starts");
    assert!(checked.success());
}

#[test]
fn without_a_server_the_error_says_how_to_start_one() {
    let dir = temp();
    let socket = dir.path().join("none.sock");
    let server = format!("unix://{}", socket.display());
    let listed = run(dir.path(), &["--server", &server, "agent", "list"]);
    assert_eq!(listed.code, Some(1));
    assert!(listed.stderr.contains("not running") && listed.stderr.contains("hint: Start it with `aether server`"));
    let ran = run(dir.path(), &["--server", &server, "run", "img", "--", "true"]);
    assert_eq!(ran.code, Some(125), "{ran:?}");
    let json = run(dir.path(), &["--server", &server, "-o", "json", "agent", "list"]);
    assert!(serde_json::from_str::<serde_json::Value>(&json.stderr).expect("JSON")["remedy"].is_string());
    // Nobody listens any more: another error than no socket at all.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("binds"));
    let stale = run(dir.path(), &["--server", &server, "agent", "list"]);
    assert!(stale.stderr.contains("nobody listens"), "{stale:?}");
    let tcp = run(dir.path(), &["--server", "http://127.0.0.1:1", "agent", "list"]);
    assert!(tcp.stderr.contains("cannot reach http://127.0.0.1:1"), "{tcp:?}");
}

#[test]
fn the_socket_comes_from_the_configuration_and_the_environment() {
    let dir = temp();
    let config = config_in(dir.path(), "server:\n  run_dir: /nowhere/one\n");
    let named = run(dir.path(), &["--config", &config.to_string_lossy(), "agent", "list"]);
    assert!(named.stderr.contains("/nowhere/one/aether.sock"), "{named:?}");
    let by_env = aether(dir.path(), &["agent", "list"]).env("AETHER_RUN_DIR", "/nowhere/two").output().expect("starts");
    assert!(String::from_utf8_lossy(&by_env.stderr).contains("/nowhere/two/aether.sock"));
    let by_server =
        aether(dir.path(), &["agent", "list"]).env("AETHER_SERVER", "unix:///nowhere/three").output().expect("starts");
    assert!(String::from_utf8_lossy(&by_server.stderr).contains("/nowhere/three"));
}

#[test]
fn a_foreign_config_yaml_does_not_stop_a_client() {
    let dir = temp();
    std::fs::write(dir.path().join("config.yaml"), "theme: dark\n").expect("writes");
    let listed = run(dir.path(), &["agent", "list"]);
    assert!(listed.stderr.contains("not running"), "{listed:?}");
    let shown = run(dir.path(), &["config", "show"]);
    assert_eq!(shown.code, Some(1), "{shown:?}");
}

#[test]
fn config_show_tells_values_and_sources_and_masks_secrets() {
    let dir = temp();
    let config = config_in(dir.path(), "node:\n  max_boots: 3\ndatabase:\n  password: hunter2\n");
    let shown =
        aether(dir.path(), &["--config", &config.to_string_lossy(), "config", "show", "--set", "node.prefix=abc"])
            .env("DATABASE_URL", "postgres://me:hunter2@h/d")
            .output()
            .expect("starts");
    let text = String::from_utf8_lossy(&shown.stdout);
    let line = |key: &str| text.lines().find(|l| l.starts_with(key)).unwrap_or_default().to_owned();
    assert!(line("node.max_boots").contains("3") && line("node.max_boots").contains("file "), "{text}");
    assert!(line("node.prefix").contains("abc") && line("node.prefix").contains("flag --set"), "{text}");
    assert!(
        line("database.url").contains("***") && line("database.url").contains("environment DATABASE_URL"),
        "{text}"
    );
    assert!(line("server.address").contains("default"), "{text}");
    assert!(!text.contains("hunter2"));
    let json = run(dir.path(), &["-o", "json", "config", "show", "server."]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&json.stdout).expect("JSON");
    assert!(rows.iter().all(|r| r["key"].as_str().is_some_and(|k| k.starts_with("server."))) && !rows.is_empty());
    let missing = run(dir.path(), &["--config", "/no/such/file.yaml", "config", "show"]);
    assert_eq!(missing.code, Some(1), "{missing:?}");
}

#[test]
fn version_needs_no_server() {
    let dir = temp();
    let version = run(dir.path(), &["--server", "unix:///nowhere", "version"]);
    assert_eq!(version.code, Some(0), "{version:?}");
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")) && version.stdout.contains("not reached"));
    assert_eq!(run(dir.path(), &["-q", "version", "--client"]).stdout.trim(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let dir = temp();
    let shell =
        format!("{} completion zsh | head -c 10 >/dev/null; echo ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_aether"));
    let out = std::process::Command::new("bash").args(["-c", &shell]).current_dir(dir.path()).output().expect("bash");
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "0");
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn hidden_verbs_refuse_a_caller_that_is_not_the_server() {
    let dir = temp();
    let jail = run(dir.path(), &["jail"]);
    assert!(jail.code != Some(0) && jail.stderr.contains("internal"), "{jail:?}");
    assert_ne!(run(dir.path(), &["image-convert", "{}"]).code, Some(0));
}

fn migrate(dir: &Path, args: &[&str]) -> crate::Run {
    let state = dir.join("state");
    let run_dir = dir.join("run");
    let (state, run_dir) = (state.to_string_lossy().into_owned(), run_dir.to_string_lossy().into_owned());
    let mut all = vec!["-o", "json", "migrate", "--state-dir", &state, "--run-dir", &run_dir];
    all.extend_from_slice(args);
    run(dir, &all)
}

#[test]
fn the_embedded_database_goes_up_and_down() {
    let dir = temp();
    let version = |args: &[&str]| -> (u64, u64) {
        let run = migrate(dir.path(), args);
        assert_eq!(run.code, Some(0), "{args:?}: {run:?}");
        let v: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
        (v["current"].as_u64().expect("a number"), v["newest"].as_u64().expect("a number"))
    };
    let (none, newest) = version(&["version"]);
    assert!(none == 0 && newest >= 1);
    assert_eq!(version(&["up"]), (newest, newest));
    assert_eq!(version(&["up"]), (newest, newest));
    assert_eq!(version(&["down"]), (newest - 1, newest));
    assert_eq!(version(&["up"]), (newest, newest));
    let steps = newest.to_string();
    assert_eq!(version(&["down", "--steps", &steps]), (0, newest));
}

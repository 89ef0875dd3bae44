//! What docs/operations.md tells an operator to type, typed.

use crate::live::Live;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The block after this fence, with the folders of a test in place of the
/// system's.
fn block(fence: &str, dir: &Path) -> String {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).expect("the page");
    let rest = page.split_once(&format!("\n{fence}\n")).expect("the block").1;
    let text = rest.split("```").next().unwrap_or_default();
    assert!(!text.trim().is_empty());
    text.replace("/var/lib/aether", &dir.join("state").to_string_lossy())
        .replace("/var/backups", &dir.join("backups").to_string_lossy())
}

#[track_caller]
fn shell(script: &str) {
    let out = Command::new("bash").args(["-euc", script]).output().expect("bash runs");
    assert!(out.status.success(), "{script}\n{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_backup_of_a_running_server_comes_back_whole() {
    let mut live = Live::start(&[]);
    let dir = live.dir.path().to_owned();
    std::fs::create_dir(dir.join("backups")).expect("mkdir");
    live.waiting_agent("kept");
    live.ok(&["agent", "update", "kept", "-e", "WORD=hunter2"]);
    let made = live.json(&["apikey", "create", "--name", "ci"]);
    let key = made["key"].as_str().expect("a key").to_owned();
    shell(&block("```sh", &dir));
    live.waiting_agent("later");

    // All is lost but the copy.
    assert_eq!(live.terminate(), Some(0), "{}", live.log());
    for name in ["aether.db", "seal.key", "api-keys.pepper"] {
        std::fs::remove_file(dir.join("state").join(name)).expect("it was there");
    }
    shell(&block("```sh restore", &dir));
    live.launch();
    let agent = live.json(&["agent", "get", "kept", "--show-env"]);
    assert_eq!(agent["env"]["WORD"], "hunter2", "{agent}");
    assert_eq!(live.run(&["agent", "get", "later"]).code, Some(1), "it came after the backup");
    assert_eq!(live.as_key(&key, &["agent", "list"]).code, Some(0), "keys hold over a restore");
    live.ok(&["agent", "destroy", "kept"]);
    assert_eq!(live.terminate(), Some(0), "{}", live.log());
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let dir = tempfile::tempdir().expect("tempdir");
    let unit = std::fs::read_to_string(root().join("deploy/systemd/aether.service")).expect("the unit");
    let unit = unit.replace("/usr/local/bin/aether", env!("CARGO_BIN_EXE_aether"));
    let path = dir.path().join("aether.service");
    std::fs::write(&path, unit).expect("writes");
    let out = Command::new("systemd-analyze").arg("verify").arg(&path).output().expect("systemd-analyze runs");
    let told = String::from_utf8_lossy(&out.stderr);
    // It looks at the units that are ordered before, too.
    let ours: Vec<&str> = told.lines().filter(|l| l.contains("aether.service")).collect();
    assert!(out.status.success() && ours.is_empty(), "{told}");
}

//! A server that really runs, and the commands against it. No sandbox is
//! booted here: agents wait for more memory than any machine has, or for an
//! image that nobody has. Those that run are in tests/e2e.

use crate::{Run, aether};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

static NUMBER: AtomicU32 = AtomicU32::new(0);
/// Asked for, it fits nowhere: the agent waits, with the reason.
const TOO_MUCH_MB: u32 = 131_072;

pub(crate) struct Live {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
    child: Option<Child>,
}

pub(crate) fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    for _ in 0..1800 {
        if let Some(value) = done() {
            return value;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("waited three minutes for {what}");
}

impl Live {
    /// The folders and the configuration; nothing runs yet.
    pub(crate) fn prepare(environment: &[(&str, &str)]) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the server needs root, and so do its tests");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::tempdir().expect("tempdir");
        let at = dir.path().display();
        let process = std::process::id();
        // /bin/true is an executable, and that is all that is asked of a guest before it boots.
        let text = format!(
            "server:\n  address: 127.0.0.1:0\n  state_dir: {at}/state\n  run_dir: {at}/run\n\
             observability:\n  log_format: text\n\
             engine:\n  accel: tcg\n  guest_path: /bin/true\n\
             node:\n  prefix: c{number}n{}\n  uid_base: {}\n  network_slots: 4\n  network_spare: 1\n",
            process % 100_000,
            900_000 + (process % 1000) * 100 + number * 10,
        );
        let config = crate::config_in(dir.path(), &text);
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self { dir, config, environment, child: None }
    }

    pub(crate) fn start(environment: &[(&str, &str)]) -> Self {
        let mut live = Self::prepare(environment);
        live.launch();
        live
    }

    /// Runs one command with the server's own configuration and environment.
    pub(crate) fn with_config(&self, args: &[&str]) -> Run {
        let config = self.config.to_string_lossy().into_owned();
        let mut all = vec!["--config", &config];
        all.extend_from_slice(args);
        aether(self.dir.path(), &all).envs(self.environment.iter().cloned()).output().expect("starts").into()
    }

    pub(crate) fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).expect("a log");
        let config = self.config.to_string_lossy().into_owned();
        // Said when the node is open too; lists are answered before.
        let ready = |log: &str| log.matches("listening on unix://").count();
        let before = ready(&self.log());
        let child = aether(self.dir.path(), &["--config", &config, "server"])
            .envs(self.environment.iter().cloned())
            .stdout(log.try_clone().expect("dup"))
            .stderr(log)
            .spawn()
            .expect("starts");
        self.child = Some(child);
        wait_for("the server", || {
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().expect("waits")) {
                panic!("the server ended with {status}: {}", self.log());
            }
            let ready = ready(&self.log()) > before;
            (ready && self.run(&["node", "list", "-q"]).stdout.lines().count() >= 1).then_some(())
        });
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A command over the socket, as root: no key.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        let server = format!("unix://{}/run/aether.sock", self.dir.path().display());
        let mut all = vec!["--server", &server];
        all.extend_from_slice(args);
        crate::run(self.dir.path(), &all)
    }

    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!(run.code, Some(0), "{args:?}: {run:?}\n{}", self.log());
        run.stdout
    }

    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let mut all = vec!["-o", "json"];
        all.extend_from_slice(args);
        serde_json::from_str(&self.ok(&all)).expect("JSON")
    }

    /// Where it listens on TCP.
    pub(crate) fn address(&self) -> String {
        let log = self.log();
        let told = |line: &str| Some(line.split_once("listening on http")?.1.split_once("://")?.1.trim().to_owned());
        log.lines().rev().find_map(told).expect("a TCP address")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().expect("it runs").id();
        kill(Pid::from_raw(id.cast_signed()), signal).expect("signals");
    }

    /// A command over TCP with a key.
    pub(crate) fn as_key(&self, key: &str, args: &[&str]) -> Run {
        let server = format!("http://{}", self.address());
        let mut all = vec!["--server", &server];
        all.extend_from_slice(args);
        aether(self.dir.path(), &all).env("AETHER_TOKEN", key).output().expect("starts").into()
    }

    /// One request past the CLI, which would ask for the image first.
    pub(crate) fn create(&self, body: &Value) -> String {
        let mut stream = UnixStream::connect(self.dir.path().join("run/aether.sock")).expect("connects");
        let body = body.to_string();
        let head = "POST /v1/agents HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n";
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).expect("asks");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        answer
    }

    /// An agent that waits; its reason is there when this returns.
    pub(crate) fn waiting_agent(&self, name: &str) -> Value {
        let asked = json!({ "image": "none:1", "name": name, "resources": { "memory_mb": TOO_MUCH_MB } });
        let answer = self.create(&asked);
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        wait_for("a reason", || {
            let agent = self.json(&["agent", "get", name]);
            agent["placement_reason"].is_string().then_some(agent)
        })
    }

    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let child = self.child.as_mut()?;
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("signals");
        let status = wait_for("the end", || child.try_wait().expect("waits"));
        self.child = None;
        status.code()
    }

    fn crash(&mut self) {
        let mut child = self.child.take().expect("runs");
        child.kill().expect("kills");
        child.wait().expect("waits");
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's log ---\n{}", self.log());
        }
        self.terminate();
    }
}

fn secret(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("state/admin.key")).expect("the first key").trim().to_owned()
}

#[test]
fn commands_against_a_live_server() {
    let live = Live::start(&[]);
    keys(&live);
    agents(&live);
    images(&live);
    system(&live);
    let mut live = live;
    assert_eq!(live.terminate(), Some(0), "{}", live.log());
    let log = live.log();
    assert!(!log.contains(&secret(live.dir.path())) && !log.contains("hunter2"), "{log}");
}

fn keys(live: &Live) {
    let admin = secret(live.dir.path());
    assert_eq!(live.as_key(&admin, &["agent", "list"]).code, Some(0));
    let scopes = ["--scope", "agent:read", "--scope", "agent:create"];
    let made = live.json(&[&["apikey", "create", "--name", "ci"][..], &scopes].concat());
    let (id, key) = (made["id"].as_str().expect("id"), made["key"].as_str().expect("key"));
    assert!(key.starts_with("aether_sk_") && made["e2b_key"].as_str().is_some_and(|k| k.starts_with("e2b_")));
    for spelling in [key, made["e2b_key"].as_str().expect("key")] {
        assert_eq!(live.as_key(spelling, &["agent", "list"]).code, Some(0));
    }
    let refused = live.as_key(key, &["apikey", "list"]);
    assert!(refused.code == Some(1) && !refused.stderr.contains(key), "{refused:?}");
    let listed = live.ok(&["apikey", "list"]);
    assert!(listed.contains("ci") && listed.contains("agent:create") && !listed.contains(key), "{listed}");
    assert_eq!(live.ok(&["apikey", "list", "-q"]).lines().count(), 2);
    profiles(live, key);
    live.ok(&["apikey", "revoke", id]);
    let revoked = live.as_key(key, &["agent", "list"]);
    let unknown = live.as_key("aether_sk_unknown", &["agent", "list"]);
    assert_eq!((revoked.code, &revoked.stderr), (Some(1), &unknown.stderr));
    for (args, code) in [
        (&["apikey", "revoke", id][..], 1),
        (&["apikey", "create", "--name", "x", "--role", "king"], 1),
        (&["apikey", "create", "--name", "x", "--expires-in", "soon"], 2),
        (&["apikey", "create"], 2),
    ] {
        let run = live.run(args);
        assert!(run.code == Some(code) && !run.stderr.is_empty() && run.stdout.is_empty(), "{args:?}: {run:?}");
    }
}

fn agents(live: &Live) {
    assert_eq!(live.json(&["agent", "list"]), json!([]));
    let agent = live.waiting_agent("waits");
    assert_eq!(agent["status"], "pending");
    assert!(agent["placement_reason"].as_str().is_some_and(|r| r.contains("memory")), "{agent}");
    let table = live.ok(&["agent", "list"]);
    assert!(table.starts_with("ID") && table.contains("waits") && table.contains("pending"), "{table}");
    assert_eq!(live.ok(&["ps", "-q"]).trim(), agent["id"].as_str().expect("id"));
    let again = live.create(&json!({ "image": "none:1", "name": "waits" }));
    assert!(again.starts_with("HTTP/1.1 409 "), "{again}");
    for args in
        [&["agent", "create", "--image", "none:1", "--pull", "never"][..], &["agent", "create", "--image", "UPPER"]]
    {
        let run = live.run(args);
        assert!(run.code == Some(1) && run.stderr.contains("hint: "), "{args:?}: {run:?}");
    }
    changes(live);
    let exec = live.run(&["agent", "exec", "waits", "--", "true"]);
    assert_eq!(exec.code, Some(125), "{exec:?}");
    let absent = live.run(&["agent", "get", "absent"]);
    assert!(absent.code == Some(1) && absent.stderr.contains("hint: "), "{absent:?}");
    live.ok(&["agent", "destroy", "waits"]);
    assert_eq!(live.run(&["agent", "get", "waits"]).code, Some(1));
    assert_eq!(live.ok(&["agent", "list", "-q"]), "");
    let no_image = live.run(&["run", "--pull", "never", "none:1", "--", "true"]);
    assert_eq!(no_image.code, Some(125), "{no_image:?}");
    assert_eq!(live.ok(&["agent", "list", "-q"]), "", "a run that cannot be leaves nothing");
}

fn profiles(live: &Live, key: &str) {
    let log = live.log();
    let address = log.lines().rev().find_map(|l| l.split("listening on http://").nth(1)).expect("a TCP address");
    let server = format!("http://{}", address.trim());
    let home = live.dir.path();
    let login = |name: &str, key: &str| -> Run {
        let mut child = aether(home, &["login", &server, "--as", name, "--token-stdin"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("starts");
        child.stdin.take().expect("piped").write_all(format!("{key}\n").as_bytes()).expect("writes");
        child.wait_with_output().expect("ends").into()
    };
    let alone = |args: &[&str]| crate::run(home, args);
    let wrong = login("ci", "aether_sk_unknown");
    assert!(wrong.code == Some(1) && alone(&["profile", "ls", "-q"]).stdout.is_empty(), "{wrong:?}");
    let taken = login("ci", key);
    assert!(taken.code == Some(0) && !taken.stdout.contains(key), "{taken:?}");
    let file = home.join(".config/aether/profiles.yaml");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).expect("kept"));
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(alone(&["agent", "list", "-q"]).code, Some(0), "the current profile");
    assert_eq!(alone(&["--profile", "ci", "agent", "list"]).code, Some(0));
    let listed = alone(&["-o", "json", "profile", "list"]);
    assert!(listed.stdout.contains("\"current\": true") && !listed.stdout.contains(key), "{listed:?}");
    for args in [&["--profile", "absent", "ps"][..], &["--profile", "ci", "--server", &server, "ps"]] {
        assert_ne!(alone(args).code, Some(0), "{args:?}");
    }
    // The key goes to its own server and to no other.
    let unkeyed = alone(&["--server", &server, "ps"]);
    assert!(unkeyed.code == Some(1) && unkeyed.stderr.contains("API key"), "{unkeyed:?}");
    assert_eq!(alone(&["profile", "clear"]).code, Some(0));
    assert_eq!(alone(&["profile", "use", "ci"]).stdout, "ci\n");
    assert_eq!(alone(&["logout"]).stdout, "ci\n");
    assert!(!std::fs::read_to_string(&file).expect("kept").contains(key));
    assert_eq!(alone(&["logout"]).code, Some(1));
}

/// A user logs in, and the login is renewed, by the binary alone.
#[test]
fn a_user_logs_in_and_out() {
    let live = Live::start(&[("AETHER_SECURITY_LOCAL_USERS", "true"), ("AETHER_SECURITY_JWT_TOKEN_DURATION", "4s")]);
    let with_input = |args: &[&str], input: &str| -> Run {
        let mut child = aether(live.dir.path(), args)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("writes");
        child.wait_with_output().expect("ends").into()
    };
    let log = live.log();
    let address = log.lines().rev().find_map(|l| l.split("listening on http://").nth(1)).expect("a TCP address");
    let server = format!("http://{}", address.trim());
    let socket = format!("unix://{}", live.dir.path().join("run/aether.sock").display());
    let admin = |args: &[&str], input: &str| with_input(&[&["--server", &socket], args].concat(), input);
    let made = admin(&["user", "create", "ann", "--role", "viewer", "--password-stdin"], "correct horse battery\n");
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(admin(&["user", "ls"], "").stdout.contains("ann"));
    let wrong = with_input(&["login", &server, "--user", "ann", "--password-stdin"], "wrong horse battery\n");
    assert!(wrong.code == Some(1) && wrong.stderr.contains("401") || wrong.stderr.contains("no valid"), "{wrong:?}");
    let taken = with_input(&["login", &server, "--user", "ann", "--password-stdin"], "correct horse battery\n");
    assert!(taken.code == Some(0) && !taken.stdout.contains("aether_rt_"), "{taken:?}");
    let file = live.dir.path().join(".config/aether/profiles.yaml");
    let kept = std::fs::read_to_string(&file).expect("kept");
    let alone = |args: &[&str]| crate::run(live.dir.path(), args);
    assert_eq!(alone(&["agent", "list", "-q"]).code, Some(0));
    assert_eq!(alone(&["apikey", "list"]).code, Some(1), "a viewer");
    assert!(alone(&["token"]).stderr.contains("a token already"));
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!(alone(&["agent", "list", "-q"]).code, Some(0), "its token has ended, and was renewed");
    let renewed = std::fs::read_to_string(&file).expect("kept");
    assert!(kept != renewed && renewed.contains("aether_rt_"));
    assert_eq!(admin(&["user", "disable", "ann"], "").stdout, "ann\n");
    let out = alone(&["agent", "list"]);
    assert!(out.code == Some(1), "{out:?}");
    admin(&["user", "enable", "ann"], "");
    let again = with_input(&["login", &server, "--user", "ann", "--password-stdin"], "correct horse battery\n");
    assert_eq!(again.code, Some(0), "{again:?}");
    let out = alone(&["logout"]);
    assert!(out.code == Some(0) && !out.stderr.contains("warning"), "{out:?}");
    let key = std::fs::read_to_string(live.dir.path().join("state/admin.key")).expect("the first key");
    let token = aether(live.dir.path(), &["--server", &server, "token", "--scope", "agent:read"])
        .env("AETHER_TOKEN", key.trim())
        .output()
        .expect("starts");
    let token = String::from_utf8(token.stdout).expect("text");
    let with_token = |args: &[&str]| -> Run {
        let mut command = aether(live.dir.path(), &[&["--server", &server], args].concat());
        command.env("AETHER_TOKEN", token.trim()).output().expect("starts").into()
    };
    assert_eq!(with_token(&["agent", "list"]).code, Some(0));
    assert_eq!(with_token(&["apikey", "list"]).code, Some(1), "narrowed");
}

/// Of the agent `waits`, which has its name back at the end.
fn changes(live: &Live) {
    let version = live.json(&["agent", "get", "waits"])["version"].to_string();
    let update = &["agent", "update", "waits", "-l", "team=a", "-e", "KEY=s3cr3t", "--if-version", &version];
    let changed = live.json(update);
    assert_eq!(changed["changed"], json!(["labels", "env"]), "{changed}");
    let refused = live.run(update);
    assert!(refused.code == Some(1) && refused.stderr.contains("version"), "{refused:?}");
    assert_eq!(live.ok(&["rename", "waits", "other"]), "other: changed name\n");
    assert_eq!(live.run(&["agent", "get", "waits"]).code, Some(1));
    assert_eq!(live.ok(&["agent", "update", "other", "--remove-label", "none"]), "other: nothing to change\n");
    for (filters, hits) in [
        (&["-f", "state=pending", "-f", "label=team=a"][..], 1),
        (&["-f", "image=none:1", "-f", "name=oth", "-f", "created-after=1h"], 1),
        (&["-f", "name=wai"], 0),
        (&["-f", "created-before=1h"], 0),
    ] {
        assert_eq!(live.ok(&[&["ps", "-q"], filters].concat()).lines().count(), hits, "{filters:?}");
    }
    for args in [
        &["agent", "update", "other"][..],
        &["agent", "update", "other", "-l", "a=b", "--remove-label", "a"],
        &["ps", "-f", "colour=blue"],
        &["ps", "-f", "name="],
    ] {
        let run = live.run(args);
        assert!(run.code == Some(2) && !run.stderr.is_empty(), "{args:?}: {run:?}");
    }
    let shown = live.ok(&["agent", "get", "other", "--show-env"]);
    assert!(shown.contains("KEY=s3cr3t") && shown.contains("team=a"), "{shown}");
    assert!(!live.log().contains("s3cr3t"));
    live.ok(&["agent", "rename", "other", "waits"]);
}

fn images(live: &Live) {
    let usage = live.json(&["system", "df"]);
    assert_eq!(usage["images"], json!({ "count": 0, "active": 0, "bytes": 0, "reclaimable_bytes": 0 }));
    assert!(live.ok(&["system", "df"]).starts_with("KIND     TOTAL   ACTIVE   SIZE"), "a table");
    assert_eq!(live.json(&["image", "prune"])["images"], json!([]));
    assert_eq!(live.json(&["system", "prune", "--all"])["agents"], json!([]));
    assert_eq!(live.run(&["image", "tag", "absent:1", "mine:1"]).code, Some(1));
    assert_eq!(live.json(&["image", "list"]), json!([]));
    let no_archive = live.dir.path().join("no.tar");
    std::fs::write(&no_archive, b"no archive").expect("writes");
    let no_archive = no_archive.to_string_lossy().into_owned();
    for (args, part) in [
        (&["image", "pull", "UPPER"][..], "UPPER"),
        (&["image", "pull", "10.0.0.1/team/a:1"], "images.allow_hosts"),
        (&["image", "import", &no_archive], ""),
        (&["image", "import", "/no/such/file"], "/no/such/file"),
        (&["image", "rm", "absent:1"], "absent"),
        (&["image", "inspect", "absent:1"], ""),
    ] {
        let run = live.run(args);
        assert_eq!(run.code, Some(1), "{args:?}: {run:?}");
        assert!(run.stderr.contains(part) && run.stderr.contains("error: "), "{args:?}: {run:?}");
    }
    let password = aether(live.dir.path(), &["--config", &live.config.to_string_lossy(), "image", "pull", "UPPER"])
        .env("AETHER_REGISTRY_PASSWORD", "hunter2")
        .output()
        .expect("starts");
    assert!(!String::from_utf8_lossy(&password.stderr).contains("hunter2"));
}

fn system(live: &Live) {
    let nodes = live.json(&["node", "list"]);
    let node = &nodes[0];
    assert_eq!((node["status"].as_str(), node["engine"].as_str()), (Some("ready"), Some("qemu")), "{nodes}");
    assert_eq!(node["isolation"], "vm-emulated");
    assert!(live.ok(&["node", "list"]).contains("ready"));
    let versions = live.json(&["version"]);
    assert_eq!(versions["client"], versions["server"], "{versions}");
    let shown = live.with_config(&["-o", "json", "config", "show", "node."]);
    let rows: Vec<Value> = serde_json::from_str(&shown.stdout).expect("JSON");
    let slots = rows.iter().find(|r| r["key"] == "node.network_slots").expect("the key");
    assert_eq!((slots["value"].as_str(), rows.len() > 5), (Some("4"), true), "{slots}");
}

#[test]
fn a_crash_loses_nothing_and_the_server_keeps_its_name() {
    let mut live = Live::start(&[]);
    let agent = live.waiting_agent("stays");
    let name = std::fs::read(live.dir.path().join("state/server.id")).expect("a name");
    live.crash();
    live.launch();
    assert_eq!(std::fs::read(live.dir.path().join("state/server.id")).expect("a name"), name);
    assert_eq!(live.json(&["agent", "get", "stays"])["id"], agent["id"]);
    assert_eq!(live.json(&["node", "list"]).as_array().map(Vec::len), Some(1), "the node too is the same");
    live.ok(&["agent", "destroy", "stays"]);
}

//! A server of the test's own, and the CLI against it.

use crate::{HostState, aether_bin, demo_dir, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Emulated boots on a busy machine take seconds: limits are generous, and
/// only bound how long a broken run lasts.
pub const LONG: Duration = Duration::from_secs(180);

static NUMBER: AtomicU32 = AtomicU32::new(1);

/// Configuration lines beside the harness's own.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `group.key: value`
    pub extra: Vec<(String, String)>,
    pub env: Vec<(String, String)>,
    /// The network namespace that is the server's host; none: the machine's own.
    pub netns: Option<String>,
}

impl Settings {
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.extra.push((key.to_owned(), value.to_owned()));
        self
    }
}

/// A running `aether server` with its own folders, socket and name prefix.
pub struct Server {
    pub dir: tempfile::TempDir,
    pub prefix: String,
    settings: Settings,
    uid_base: u32,
    child: Option<Child>,
    before: HostState,
}

/// The CLI, pointed at one server.
#[derive(Clone, Debug)]
pub struct Cli {
    socket: PathBuf,
}

/// What a CLI call answered.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// The call's output, when it exited with 0.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// The call's output as JSON, when it exited with 0.
    #[track_caller]
    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

impl From<Output> for Run {
    fn from(o: Output) -> Self {
        Self {
            code: o.status.code(),
            stdout: String::from_utf8_lossy(&o.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

impl Cli {
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(aether_bin());
        command.env("AETHER_SERVER", format!("unix://{}", self.socket.display())).args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Run {
        self.command(args).stdin(Stdio::null()).output().expect("the CLI starts").into()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!(run.code, Some(0), "aether {args:?}\nstdout: {}\nstderr: {}", run.stdout, run.stderr);
        run.stdout
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = vec!["--output", "json"];
        all.extend_from_slice(args);
        self.run(&all).json()
    }

    /// The agent's status word; `gone` when it is not found.
    pub fn status(&self, agent: &str) -> String {
        let run = self.run(&["--output", "json", "agent", "get", agent]);
        let value: Value = serde_json::from_str(&run.stdout).unwrap_or_default();
        value["status"].as_str().unwrap_or("gone").to_owned()
    }

    pub fn wait_status(&self, agent: &str, wanted: &str) {
        wait_for(&format!("{agent} to be {wanted}"), LONG, || (self.status(agent) == wanted).then_some(()));
    }
}

impl Server {
    /// A server with the demo's image imported as `python:3.11`.
    pub fn with_image(settings: Settings) -> Self {
        let server = Self::start(settings);
        server.cli().ok(&["image", "import", &demo_dir().join("python.tar").to_string_lossy()]);
        server
    }

    /// The network of its uplinks comes of its prefix, one of a thousand: two
    /// servers at once may get the same, and one then takes another prefix.
    pub fn start(settings: Settings) -> Self {
        let mut server = Self::unstarted(settings);
        while let Err(status) = server.try_launch() {
            let log = server.log();
            assert!(log.contains("choose another node.prefix"), "the server ended with {status}: {log}");
            println!("{} has another server's network: anew", server.prefix);
            server = Self::unstarted(std::mem::take(&mut server.settings));
        }
        server
    }

    /// Its folder and its configuration, and nothing that runs.
    pub fn unstarted(settings: Settings) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("e{}x{number}", std::process::id() % 1000);
        let dir = tempfile::Builder::new().prefix("aether-e2e-").tempdir().expect("a temporary folder");
        let before = HostState::read(&prefix, &[]);
        // Far from what other tests use; a node owns the 65,536 uids from its base on, and ends what it does not know there.
        let uid_base = 2_100_000_000 + std::process::id() % 100 * 7_000_000 + number * 70_000;
        let server = Self { dir, prefix, settings, uid_base, child: None, before };
        server.write_config();
        server
    }

    /// Another value of a key, from the next start on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.extra.push((key.to_owned(), value.to_owned()));
        self.write_config();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn cli(&self) -> Cli {
        Cli { socket: self.path("run/aether.sock") }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("server.log")).unwrap_or_default()
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().map(|c| i32::try_from(c.id()).expect("a pid")).expect("the server runs")
    }

    fn write_config(&self) {
        let mut groups: std::collections::BTreeMap<String, Vec<(String, String)>> = std::collections::BTreeMap::new();
        let own = [
            ("server.state_dir", self.path("state").display().to_string()),
            ("server.run_dir", self.path("run").display().to_string()),
            ("server.address", "127.0.0.1:0".to_owned()),
            ("node.prefix", self.prefix.clone()),
            ("node.uid_base", self.uid_base.to_string()),
        ];
        let own = own.into_iter().map(|(k, v)| (k.to_owned(), v));
        for (key, value) in own.chain(self.settings.extra.iter().cloned()) {
            let (group, key) = key.split_once('.').expect("group.key");
            let entries = groups.entry(group.to_owned()).or_default();
            entries.retain(|(k, _)| k != key);
            entries.push((key.to_owned(), value));
        }
        let mut text = String::new();
        for (group, entries) in groups {
            writeln!(text, "{group}:").expect("writes to a string");
            for (key, value) in entries {
                writeln!(text, "  {key}: {value}").expect("writes to a string");
            }
        }
        std::fs::write(self.path("config.yaml"), text).expect("writes the configuration");
    }

    /// Starts the server (again) on its folders and waits until it answers.
    pub fn launch(&mut self) {
        if let Err(status) = self.try_launch() {
            panic!("the server ended with {status}: {}", self.log());
        }
    }

    /// As `launch`; an error: how it ended instead.
    pub fn try_launch(&mut self) -> Result<(), ExitStatus> {
        let log = File::options().create(true).append(true).open(self.path("server.log")).expect("a log file");
        let mut command = match &self.settings.netns {
            // Not `ip netns exec`, which would also hide the control groups.
            Some(name) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}")).arg(aether_bin());
                command
            }
            None => Command::new(aether_bin()),
        };
        // Said when the node is open too; lists are answered before.
        let ready = |log: &str| log.matches("listening on unix://").count();
        let before = ready(&self.log());
        let child = command
            .args(["--config", &self.path("config.yaml").to_string_lossy(), "server"])
            .envs(self.settings.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("dup"))
            .stderr(log)
            .spawn()
            .expect("the server starts");
        self.child = Some(child);
        let cli = self.cli();
        let up = wait_for("the server to be ready", LONG, || match self.ended() {
            Some(status) => Some(Err(status)),
            None if ready(&self.log()) == before => None,
            None => (cli.run(&["agent", "list", "--quiet"]).code == Some(0)).then_some(Ok(())),
        });
        if up.is_err() {
            self.child = None;
        }
        up
    }

    /// How its process ended, where it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().expect("waits"))
    }

    /// `kill -9`, as a crash.
    pub fn crash(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kills");
            child.wait().expect("waits");
        }
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGTERM).expect("signals");
        wait_for("the server to end", LONG, || child.try_wait().expect("waits"));
    }

    /// Its first slot's user; the converter's is the one before.
    pub fn uid_base(&self) -> u32 {
        self.uid_base
    }

    /// Pids of VMMs that run as one of this server's slot users.
    pub fn vmms(&self) -> Vec<i32> {
        let mine = self.uid_base..self.uid_base + 1000;
        let entries = std::fs::read_dir("/proc").expect("proc");
        let pid_of = |e: std::fs::DirEntry| e.file_name().to_string_lossy().parse::<i32>().ok();
        entries.flatten().filter_map(pid_of).filter(|pid| uid_of(*pid).is_some_and(|u| mine.contains(&u))).collect()
    }

    /// Destroys all agents, stops the server and answers what it left on the
    /// host: nothing, if all is well.
    pub fn finish(mut self) -> Vec<String> {
        self.cli().ok(&["agent", "destroy", "--all", "--yes"]);
        let cli = self.cli();
        wait_for("all agents to be gone", LONG, || {
            cli.ok(&["agent", "list", "--quiet"]).trim().is_empty().then_some(())
        });
        wait_for("all VMMs to be gone", LONG, || self.vmms().is_empty().then_some(()));
        self.terminate();
        let (prefix, dir) = (self.prefix.clone(), self.dir.path().to_string_lossy().into_owned());
        let after = HostState::read(&prefix, &[Path::new(&self.path("run"))]);
        // The two folders that every start makes may stay; what was in them may not.
        let kept = |line: &String| line.ends_with("/run/sandboxes d") || line.ends_with("/run/sandboxes/slots d");
        let mut left = after.added_since(&self.before, &[&prefix, &dir]);
        left.retain(|line| !kept(line));
        left
    }
}

fn uid_of(pid: i32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_none() {
            return;
        }
        if std::thread::panicking() {
            let log = self.log();
            let telling = log.lines().filter(|l| !l.contains("\"level\":\"INFO\"") || l.contains("failed"));
            eprintln!("--- server log, warnings and failures ---\n{}", telling.collect::<Vec<_>>().join("\n"));
        }
        self.cli().run(&["agent", "destroy", "--all", "--yes"]);
        std::thread::sleep(Duration::from_secs(2));
        for pid in self.vmms() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.terminate();
    }
}

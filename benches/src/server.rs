//! A server of the benchmark's own: the release binary with its own folders
//! and names, spoken to over TCP with its key, as a user would.

use crate::Setup;
use crate::rows::IMAGE;
use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bounds how long a broken run lasts.
const LONG: Duration = Duration::from_secs(120);

/// The most that an agent may ask for, and more than a machine that measures has.
pub(crate) const NO_ROOM_MB: u64 = 131_072;

pub(crate) struct Server {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) uid_base: u32,
    aether: PathBuf,
    child: Child,
    http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) key: String,
}

/// One page of a list of agents.
pub(crate) struct Page {
    pub(crate) ids: Vec<String>,
    /// Of the page after it.
    pub(crate) next: Option<String>,
}

impl Server {
    /// `number` keeps the servers of one run apart on the host.
    pub(crate) async fn start(setup: &Setup, number: u32, insecure_registry: Option<&str>) -> anyhow::Result<Self> {
        Self::start_with(Command::new(&setup.aether), setup, number, insecure_registry).await
    }

    /// With the node's words on each exec.
    pub(crate) async fn start_telling(setup: &Setup, number: u32) -> anyhow::Result<Self> {
        let mut command = Command::new(&setup.aether);
        command.env("AETHER_OBSERVABILITY_LOG_LEVEL", "debug");
        Self::start_with(command, setup, number, None).await
    }

    /// On one core alone.
    pub(crate) async fn start_on(setup: &Setup, number: u32, core: &str) -> anyhow::Result<Self> {
        let mut command = Command::new("taskset");
        command.args(["-c", core]).arg(&setup.aether);
        Self::start_with(command, setup, number, None).await
    }

    async fn start_with(
        mut command: Command,
        setup: &Setup,
        number: u32,
        insecure_registry: Option<&str>,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("aether-bench-").tempdir()?;
        let port = free_port()?;
        let uid_base = 1_500_000_000 + number * 70_000;
        let path = |name: &str| dir.path().join(name);
        let mut config = format!(
            "server: {{ state_dir: {}, run_dir: {}, address: \"127.0.0.1:{port}\" }}\n\
             node: {{ prefix: bn{number}, uid_base: {uid_base} }}\n",
            path("state").display(),
            path("run").display()
        );
        if let Some(host) = insecure_registry {
            config.push_str(&format!("images: {{ allow_insecure_hosts: [\"{host}\"] }}\n"));
        }
        std::fs::write(path("config.yaml"), config)?;
        let child = launch(&mut command, dir.path())?;
        let url = format!("http://127.0.0.1:{port}");
        let http = reqwest::Client::builder().tcp_nodelay(true).build()?;
        let mut server = Self { dir, uid_base, aether: setup.aether.clone(), child, http, url, key: String::new() };
        server.wait_ready().await?;
        server.key = std::fs::read_to_string(server.dir.path().join("state/admin.key"))?.trim().to_owned();
        Ok(server)
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        for _ in 0..LONG.as_millis() / 100 {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended with {status}: {}", self.log());
            }
            let answer = self.http.get(format!("{}/readiness", self.url)).send().await;
            if answer.is_ok_and(|a| a.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the server is not ready: {}", self.log())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default()
    }

    /// The user's command, against this server.
    pub(crate) fn cli(&self, args: &[&str]) -> Command {
        let socket = self.dir.path().join("run/aether.sock");
        let mut command = Command::new(&self.aether);
        command.env("AETHER_SERVER", format!("unix://{}", socket.display())).args(args).stdin(Stdio::null());
        command
    }

    pub(crate) fn cli_ok(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.cli(args).output()?;
        ensure!(output.status.success(), "aether {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn call(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let answer = request.bearer_auth(&self.key).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{status}: {text}");
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }

    /// Creates an agent that idles and answers when it runs.
    pub(crate) async fn create(&self, name: &str, image: &str) -> anyhow::Result<String> {
        let body = json!({ "name": name, "image": image });
        let agent = self.call(self.http.post(format!("{}/v1/agents?wait=running", self.url)).json(&body)).await?;
        ensure!(agent["status"] == "running", "not running: {agent}");
        agent["id"].as_str().map(str::to_owned).context("an id")
    }

    /// Creates an agent that no node here has room for, so that it stays a row.
    pub(crate) async fn create_waiting(&self, name: &str) -> anyhow::Result<String> {
        let body = json!({ "name": name, "image": IMAGE, "resources": { "memory_mb": NO_ROOM_MB } });
        let agent = self.call(self.http.post(format!("{}/v1/agents", self.url)).json(&body)).await?;
        agent["id"].as_str().map(str::to_owned).context("an id")
    }

    /// Destroys an agent and waits until its VMM is gone.
    pub(crate) async fn destroy(&self, id: &str) -> anyhow::Result<()> {
        self.call(self.http.delete(format!("{}/v1/agents/{id}?grace=0", self.url))).await?;
        for _ in 0..LONG.as_millis() / 20 {
            if self.vmms().is_empty() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("a VMM stays after its agent was destroyed")
    }

    /// One read over HTTP: key, tenant, row.
    pub(crate) async fn get(&self, id: &str) -> anyhow::Result<Value> {
        self.call(self.http.get(format!("{}/v1/agents/{id}", self.url))).await
    }

    pub(crate) async fn image(&self, name: &str) -> anyhow::Result<Value> {
        self.call(self.http.get(format!("{}/v1/images/{name}", self.url))).await
    }

    /// Runs a command to its end, which must be with 0; its id.
    pub(crate) async fn exec_id(&self, id: &str, argv: &[&str]) -> anyhow::Result<String> {
        let body = json!({ "command": argv });
        let done = self.call(self.http.post(format!("{}/v1/agents/{id}/exec", self.url)).json(&body)).await?;
        ensure!(done["exit_code"] == 0, "{done}");
        done["exec_id"].as_str().map(str::to_owned).context("an exec's id")
    }

    /// Pids of the VMMs of this server's slots.
    pub(crate) fn vmms(&self) -> Vec<u32> {
        let mine = self.uid_base..self.uid_base + 1000;
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let pid = |e: std::fs::DirEntry| e.file_name().to_string_lossy().parse::<u32>().ok();
        entries.flatten().filter_map(pid).filter(|p| uid_of(*p).is_some_and(|u| mine.contains(&u))).collect()
    }

    /// The steps of the agent's boot in milliseconds by name, and when it was
    /// over (Unix time in milliseconds), as the server logged it.
    pub(crate) async fn booted(&self, id: &str) -> anyhow::Result<(Vec<(String, f64)>, f64)> {
        // The answer may be here before the line is.
        let mut line = self.log_line("booted", |fields| fields["agent"] == id);
        for _ in 0..100 {
            if line.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            line = self.log_line("booted", |fields| fields["agent"] == id);
        }
        let line = line?;
        let took = line["took_ms"].as_str().context("took_ms")?;
        let step = |word: &str| {
            let (name, ms) = word.split_once('=')?;
            Some((name.to_owned(), ms.parse().ok()?))
        };
        let steps = took.split(' ').map(|w| step(w).with_context(|| format!("a step in {took}")));
        let at = line["timestamp"].as_str().context("timestamp")?;
        Ok((steps.collect::<anyhow::Result<_>>()?, parse_time(at)?))
    }

    /// The latest line of the log with this message and such fields.
    pub(crate) fn log_line(&self, message: &str, fits: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let log = self.log();
        let lines = log.lines().rev().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let found = lines.into_iter().find(|l| l["message"] == message && fits(l));
        found.with_context(|| format!("no line {message:?} in the log"))
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again over what it left; returns at once.
    pub(crate) fn again(&mut self) -> anyhow::Result<()> {
        self.child = launch(&mut Command::new(&self.aether), self.dir.path())?;
        Ok(())
    }

    /// The newest agents, as soon as the server answers at all.
    pub(crate) async fn first_page(&self) -> anyhow::Result<Page> {
        let began = tokio::time::Instant::now();
        loop {
            match self.listed("").await {
                Ok(page) => return Ok(page),
                Err(error) if began.elapsed() > LONG => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    pub(crate) async fn page(&self, cursor: &str) -> anyhow::Result<Page> {
        self.listed(&format!("&cursor={cursor}")).await
    }

    async fn listed(&self, more: &str) -> anyhow::Result<Page> {
        #[derive(serde::Deserialize)]
        struct Agent {
            id: String,
        }
        // No more of it is made than is looked at: the client's work is in the figure.
        #[derive(serde::Deserialize)]
        struct List {
            data: Vec<Agent>,
            next_cursor: Option<String>,
        }
        let request = self.http.get(format!("{}/v1/agents?per_page=100{more}", self.url));
        let answer = request.bearer_auth(&self.key).send().await?;
        ensure!(answer.status().is_success(), "{}", answer.status());
        let list: List = serde_json::from_slice(&answer.bytes().await?)?;
        Ok(Page { ids: list.data.into_iter().map(|agent| agent.id).collect(), next: list.next_cursor })
    }

    /// Ends it without destroying its agents, none of which runs.
    pub(crate) fn abandon(mut self) -> anyhow::Result<()> {
        self.terminate()
    }

    /// Stops it; nothing may stay behind.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.cli_ok(&["agent", "destroy", "--all", "--yes"])?;
        self.terminate()
    }

    /// So that it takes its networks down.
    fn terminate(&mut self) -> anyhow::Result<()> {
        signal(self.pid(), libc::SIGTERM)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.cli(&["agent", "destroy", "--all", "--yes"]).output();
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A server on the configuration in `dir`, its log beside it.
fn launch(command: &mut Command, dir: &Path) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(dir.join("server.log"))?;
    command
        .arg("--config")
        .arg(dir.join("config.yaml"))
        .arg("server")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("the server starts")
}

/// To a process that was started here and is not reaped yet.
pub(crate) fn signal(pid: u32, signal: i32) -> anyhow::Result<()> {
    #[allow(unsafe_code, reason = "kill(2) of the server or of a VMM of its slots")]
    // SAFETY: no memory is involved.
    let done = unsafe { libc::kill(i32::try_from(pid)?, signal) };
    ensure!(done == 0, "process {pid} is gone: {}", std::io::Error::last_os_error());
    Ok(())
}

fn uid_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Unix time in milliseconds, to be compared with the log's.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures with the clock that the log has")]
pub(crate) fn wall_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}

/// `2026-01-31T12:34:56.123456Z`
fn parse_time(text: &str) -> anyhow::Result<f64> {
    let seconds = text.get(..19).context("a time")?;
    let whole = aether_core::Timestamp::parse_rfc3339(&format!("{seconds}Z")).context("a time")?;
    let part: f64 = text.get(19..text.len() - 1).filter(|p| !p.is_empty()).unwrap_or("0").parse()?;
    #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit in 52 bits")]
    let whole = whole.unix_ms() as f64;
    Ok(whole + part * 1000.0)
}

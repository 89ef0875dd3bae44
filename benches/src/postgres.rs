//! A PostgreSQL of the benchmark's own: a fresh cluster on a Unix socket with
//! every promise of durability on. It ends with this process: its keeper
//! waits for the end of a pipe that only this process holds.

use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) struct Postgres {
    dir: tempfile::TempDir,
    bin: PathBuf,
    keeper: Child,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// PostgreSQL refuses to run as root.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program).current_dir("/");
    command
}

impl Postgres {
    /// `commit_delay` in microseconds: how long a commit waits for company.
    pub(crate) async fn start(commit_delay: u32) -> anyhow::Result<Self> {
        let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .context("PostgreSQL is not installed")?
            .flatten()
            .map(|entry| entry.path().join("bin"))
            .filter(|bin| bin.join("initdb").exists())
            .collect();
        found.sort();
        let bin = found.pop().context("PostgreSQL is not installed")?;
        let dir = tempfile::Builder::new().prefix("aether-bench-pg-").tempdir()?;
        ensure!(Command::new("chown").arg("postgres").arg(dir.path()).status()?.success(), "chown");
        let data = dir.path().join("data");
        let mut init = unprivileged(&bin.join("initdb"));
        let init = init.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--username", "postgres", "-D"]);
        let output = init.arg(&data).output()?;
        ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let script = format!(
            "'{bin}/postgres' -D '{data}' -c listen_addresses= -c unix_socket_directories='{dir}' -c fsync=on \
             -c synchronous_commit=on -c full_page_writes=on -c max_connections=200 -c shared_buffers=256MB \
             -c commit_delay={commit_delay} </dev/null >'{dir}/log' 2>&1 & read end; kill -INT $!; wait",
            bin = bin.display(),
            data = data.display(),
            dir = dir.path().display(),
        );
        let mut keeper = unprivileged(Path::new("/bin/sh"));
        let keeper = keeper.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let postgres = Self { dir, bin, keeper };
        for _ in 0..600 {
            if postgres.ask("SELECT 1").is_ok() {
                return Ok(postgres);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("PostgreSQL did not start within a minute")
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.dir.path().display())
    }

    /// The answer to one question, as text.
    pub(crate) fn ask(&self, sql: &str) -> anyhow::Result<String> {
        let mut psql = unprivileged(&self.bin.join("psql"));
        let output = psql.args(["-U", "postgres", "-Atqc", sql, "-h"]).arg(self.dir.path()).output()?;
        ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Transactions per second that `pgbench` reports for a script, and how many it made.
    pub(crate) fn pgbench(&self, script: &Path, clients: u32, seconds: u32) -> anyhow::Result<(f64, u64)> {
        let mut bench = unprivileged(&self.bin.join("pgbench"));
        let bench = bench.args(["-n", "-M", "prepared", "-j", "2", "-U", "postgres"]);
        let bench = bench.args([format!("-c{clients}"), format!("-T{seconds}")]).arg("-h").arg(self.dir.path());
        let output = bench.arg("-f").arg(script).arg("postgres").output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
        let number = |after: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(after));
            line.and_then(|l| l.split_whitespace().next()).with_context(|| format!("pgbench says no {after:?}: {text}"))
        };
        Ok((number("tps = ")?.parse()?, number("number of transactions actually processed: ")?.parse()?))
    }
}

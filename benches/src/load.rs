//! Load from `wrk`, on a core of its own, and what it reports.

use anyhow::{Context, ensure};
use std::path::PathBuf;
use std::process::Command;

/// The core of servers under load, ours and peers alike.
pub(crate) const SERVER_CORE: &str = "0";
const LOAD_CORE: &str = "1";

/// One run of `wrk`.
pub(crate) struct Wrk {
    pub(crate) url: String,
    pub(crate) connections: u32,
    pub(crate) seconds: u32,
    /// A Lua script that makes the requests.
    pub(crate) script: Option<PathBuf>,
    pub(crate) key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    pub(crate) per_second: f64,
    pub(crate) p99_ms: f64,
    /// Answered with 2xx.
    pub(crate) answered: u64,
}

impl Wrk {
    /// Fails when an answer was not 2xx or a connection broke.
    pub(crate) fn run(&self) -> anyhow::Result<Load> {
        let mut command = Command::new("taskset");
        command.args(["-c", LOAD_CORE, "wrk", "-t1", "--latency"]);
        command.arg(format!("-c{}", self.connections)).arg(format!("-d{}", self.seconds));
        if let Some(script) = &self.script {
            command.arg("-s").arg(script);
        }
        if let Some(key) = &self.key {
            command.args(["-H", &format!("Authorization: Bearer {key}")]);
        }
        let output = command.arg(&self.url).output().context("run wrk (apt-get install wrk)")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
        parse(&text)
    }
}

fn parse(text: &str) -> anyhow::Result<Load> {
    for bad in ["Non-2xx", "Socket errors"] {
        ensure!(!text.contains(bad), "not all answers were good: {text}");
    }
    let word = |after: &str| {
        let line = text.lines().find_map(|l| l.trim().strip_prefix(after));
        line.map(str::trim).with_context(|| format!("wrk says no {after:?}: {text}"))
    };
    let answered = text.lines().find(|l| l.contains(" requests in ")).context("wrk counts no requests")?;
    Ok(Load {
        per_second: word("Requests/sec:")?.parse()?,
        p99_ms: milliseconds(word("99%")?)?,
        answered: answered.split_whitespace().next().unwrap_or_default().parse()?,
    })
}

fn milliseconds(text: &str) -> anyhow::Result<f64> {
    for (unit, factor) in [("us", 0.001), ("ms", 1.0), ("s", 1000.0)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>().with_context(|| format!("a time: {text}"))? * factor);
        }
    }
    anyhow::bail!("a time: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 2s test @ http://127.0.0.1:1/
  1 threads and 32 connections
  Latency Distribution
     50%  415.00us
     99%    1.21ms
  152404 requests in 2.00s, 29.36MB read
Requests/sec:  76201.72
Transfer/sec:     14.68MB
";

    #[test]
    fn a_report_is_read() {
        let load = parse(REPORT).expect("a report");
        assert_eq!(load, Load { per_second: 76_201.72, p99_ms: 1.21, answered: 152_404 });
        assert!((milliseconds("2.50s").expect("a time") - 2500.0).abs() < 1e-9);
    }

    #[test]
    fn a_report_with_errors_is_refused() {
        assert!(parse(&format!("{REPORT}  Non-2xx or 3xx responses: 4\n")).is_err());
        assert!(parse(&format!("{REPORT}  Socket errors: connect 0, read 3, write 0, timeout 0\n")).is_err());
        assert!(parse("").is_err());
    }
}

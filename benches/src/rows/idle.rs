//! What a server costs that does nothing: memory and processor time, with no
//! agent; and beside it with one idle agent, without the VMM's own share.

use super::{IMAGE, archive};
use crate::Setup;
use crate::record::Record;
use crate::server::Server;
use crate::stats::bootstrap;
use anyhow::Context;
use std::time::Duration;

/// Windows of this length; the interval is over them.
const WINDOW: Duration = Duration::from_secs(5);
const WINDOWS: usize = 12;
const SETTLE: Duration = Duration::from_secs(15);

pub(crate) async fn run(setup: &Setup) -> anyhow::Result<Vec<Record>> {
    let server = Server::start(setup, 1, None).await?;
    tokio::time::sleep(SETTLE).await;
    let (rss, cpu) = watch(server.pid()).await?;
    let mut records = vec![
        Record::amount("idle", "resident memory of an idle server", "MiB", bootstrap(&rss), WINDOWS, Some(40.0)),
        Record::amount(
            "idle.cpu",
            "processor time of an idle server",
            "% of a core",
            bootstrap(&cpu),
            WINDOWS,
            Some(0.2),
        ),
    ];
    server.cli_ok(&["image", "import", &archive(setup)])?;
    server.create("idle", IMAGE).await?;
    tokio::time::sleep(SETTLE).await;
    let (rss, cpu) = watch(server.pid()).await?;
    let what = "resident memory of the server after an import and with one idle agent";
    records.push(Record::amount("idle.agent", what, "MiB", bootstrap(&rss), WINDOWS, None));
    let what = "processor time of the server with one idle agent";
    records.push(Record::amount("idle.agent.cpu", what, "% of a core", bootstrap(&cpu), WINDOWS, None));
    server.stop()?;
    Ok(records)
}

async fn watch(pid: u32) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let (mut rss, mut cpu) = (Vec::new(), Vec::new());
    for _ in 0..WINDOWS {
        let before = busy_ns(pid)?;
        tokio::time::sleep(WINDOW).await;
        #[allow(clippy::cast_precision_loss, reason = "nanoseconds of a few seconds")]
        let share = (busy_ns(pid)? - before) as f64 / WINDOW.as_nanos() as f64;
        cpu.push(share * 100.0);
        rss.push(rss_mib(pid)?);
    }
    Ok((rss, cpu))
}

/// Over all threads; threads that end in between are missed, and idle ones do not end.
fn busy_ns(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(text) = std::fs::read_to_string(entry?.path().join("schedstat")) else { continue };
        sum += text.split_whitespace().next().context("schedstat")?.parse::<u64>()?;
    }
    Ok(sum)
}

pub(crate) fn rss_mib(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}

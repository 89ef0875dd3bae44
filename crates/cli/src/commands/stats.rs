//! `aether stats`: what agents use now.

use super::{Context, agent_path};
use crate::args::OutputFormat;
use crate::client::query;
use crate::error::CliError;
use crate::output::{bytes, duration, fields, table, text};
use aether_core::api::{AgentInfo, AgentStats, Page};
use futures::StreamExt;
use std::collections::BTreeMap;
use std::time::Duration;

const PER_PAGE: usize = 100;
/// Guests asked at the same time; each takes a tenth of a second to measure.
const TOGETHER: usize = 8;

/// The agents that were named, or all that run.
pub(super) async fn named_or_running(context: &Context, names: &[String]) -> Result<Vec<String>, CliError> {
    if !names.is_empty() {
        return Ok(names.to_vec());
    }
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let parameters = [
            ("status", Some("running".to_owned())),
            ("per_page", Some(PER_PAGE.to_string())),
            ("cursor", cursor.take()),
        ];
        let page: Page<AgentInfo> = context.client.get(&format!("/v1/agents{}", query(&parameters))).await?;
        all.extend(page.data.into_iter().map(|agent| agent.name));
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(all),
        }
    }
}

/// Each agent's figures, in order; those that cannot be had are left to the
/// caller.
pub(super) async fn gather(context: &Context, agents: Vec<String>) -> Vec<(String, Result<AgentStats, CliError>)> {
    futures::stream::iter(agents)
        .map(|agent| async move {
            let stats = match agent_path(&agent, "/stats") {
                Ok(path) => context.client.get(&path).await,
                Err(e) => Err(e),
            };
            (agent, stats)
        })
        .buffered(TOGETHER)
        .collect()
        .await
}

pub(super) async fn stats(context: &Context, names: &[String]) -> Result<u8, CliError> {
    let agents = named_or_running(context, names).await?;
    let mut rows = Vec::new();
    let mut failed = false;
    for (agent, stats) in gather(context, agents).await {
        match stats {
            Ok(stats) => rows.push((agent, stats)),
            // An agent that has just ended was nobody's wish to see.
            Err(_) if names.is_empty() => {}
            Err(e) if names.len() == 1 => return Err(e),
            Err(e) => {
                failed = true;
                eprint!("{}", e.render(context.printer.format != OutputFormat::Table));
            }
        }
    }
    if let ([(agent, stats)], [_]) = (rows.as_slice(), names) {
        context.printer.one(stats, agent, one_agent)?;
    } else if context.printer.format == OutputFormat::Table {
        text(&many(&rows))?;
    } else {
        context.printer.structured(&rows.into_iter().collect::<BTreeMap<_, _>>())?;
    }
    Ok(u8::from(failed))
}

fn many(rows: &[(String, AgentStats)]) -> String {
    let header = ["AGENT", "CPU", "MEMORY", "DISK", "NET IN", "NET OUT", "PROCESSES"];
    table(
        &header,
        rows.iter().map(|(agent, s)| {
            vec![
                agent.clone(),
                format!("{:.1} %", s.cpu_usage_percent),
                format!("{} / {}", bytes(s.memory_usage_bytes), bytes(s.memory_total_bytes)),
                format!("{} / {}", bytes(s.disk_usage_bytes), bytes(s.disk_total_bytes)),
                bytes(s.network_rx_bytes),
                bytes(s.network_tx_bytes),
                s.processes.to_string(),
            ]
        }),
    )
}

fn one_agent(s: &AgentStats) -> String {
    let seconds = |us: u64| format!("{:.1} s", Duration::from_micros(us).as_secs_f64());
    fields(&[
        ("CPU", format!("{:.1} % of {} CPUs, {} in all", s.cpu_usage_percent, s.cpu_count, seconds(s.cpu_usage_us))),
        ("Memory", format!("{} of {}", bytes(s.memory_usage_bytes), bytes(s.memory_total_bytes))),
        ("Disk", format!("{} of {}", bytes(s.disk_usage_bytes), bytes(s.disk_total_bytes))),
        ("Network", format!("{} in, {} out", bytes(s.network_rx_bytes), bytes(s.network_tx_bytes))),
        ("Processes", s.processes.to_string()),
        ("Up", duration(Duration::from_millis(s.uptime_ms))),
        ("Host CPU", seconds(s.host_cpu_usage_us)),
        ("Host memory", bytes(s.host_memory_bytes)),
        ("Host disk", bytes(s.host_disk_bytes)),
    ])
}

//! `aether top`: a live table on a terminal, one printing of it elsewhere.

use super::Context;
use super::show::clip;
use super::stats::{gather, named_or_running};
use crate::args::{OutputFormat, TopArgs};
use crate::error::{CliError, printable};
use crate::output::{bytes, raw, table};
use crate::values::duration;
use aether_core::api::AgentStats;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(200);
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// The terminal's other screen, while it lives.
struct Screen;

impl Screen {
    fn enter() -> Result<Self, CliError> {
        raw(ENTER)?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = raw(LEAVE);
    }
}

pub(super) async fn top(context: &Context, args: TopArgs) -> Result<u8, CliError> {
    let delay = duration("--delay", &args.delay)?.max(SHORTEST);
    let live = context.printer.format == OutputFormat::Table && std::io::stdout().is_terminal();
    if context.printer.format != OutputFormat::Table {
        return super::stats::stats(context, &args.agents).await;
    }
    let looks = if live { args.iterations } else { Some(args.iterations.unwrap_or(1)) };
    let screen = if live { Some(Screen::enter()?) } else { None };
    let ended = tokio::select! {
        ended = watch(context, &args.agents, delay, looks, live) => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    drop(screen);
    ended.map(|()| 0)
}

async fn watch(
    context: &Context,
    names: &[String],
    delay: Duration,
    mut looks: Option<u32>,
    live: bool,
) -> Result<(), CliError> {
    let mut before = BTreeMap::new();
    loop {
        let agents = named_or_running(context, names).await?;
        let now: BTreeMap<String, AgentStats> = gather(context, agents)
            .await
            .into_iter()
            .filter_map(|(agent, stats)| stats.ok().map(|stats| (agent, stats)))
            .collect();
        let (width, height) = crate::exec::terminal_size();
        let lines = render(&now, &before, if live { Some((width as usize, height as usize)) } else { None });
        if live {
            // Each line is cleared to its end, then all below: no flicker.
            let text: String = lines.iter().map(|line| format!("{line}\x1b[K\r\n")).collect();
            raw(format!("\x1b[H{}\x1b[J", text.trim_end_matches("\r\n")).as_bytes())?;
        } else {
            raw((lines.join("\n") + "\n").as_bytes())?;
        }
        before = now;
        looks = looks.map(|n| n.saturating_sub(1));
        if looks == Some(0) {
            return Ok(());
        }
        tokio::time::sleep(delay).await;
    }
}

/// The busiest first; cut to the screen.
fn render(
    now: &BTreeMap<String, AgentStats>,
    before: &BTreeMap<String, AgentStats>,
    screen: Option<(usize, usize)>,
) -> Vec<String> {
    let mut rows: Vec<_> = now.iter().collect();
    rows.sort_by(|a, b| b.1.cpu_usage_percent.total_cmp(&a.1.cpu_usage_percent).then_with(|| a.0.cmp(b.0)));
    let cells = rows.into_iter().map(|(agent, s)| {
        let earlier = before.get(agent);
        vec![
            clip(&printable(agent), 20),
            format!("{:.1}", s.cpu_usage_percent),
            format!("{}/{}", bytes(s.memory_usage_bytes), bytes(s.memory_total_bytes)),
            bytes(s.disk_usage_bytes),
            rate(s, earlier, |s| s.network_rx_bytes),
            rate(s, earlier, |s| s.network_tx_bytes),
            s.processes.to_string(),
        ]
    });
    let text = table(&["AGENT", "CPU %", "MEMORY", "DISK", "IN/s", "OUT/s", "PROCS"], cells);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if let Some((width, height)) = screen {
        let hidden = lines.len().saturating_sub(height);
        if hidden > 0 && height > 1 {
            lines.truncate(height - 1);
            lines.push(format!("… and {} more", hidden + 1));
        }
        lines = lines.iter().map(|line| clip(line, width)).collect();
    }
    lines
}

/// Per second between two looks; a dash at the first.
fn rate(now: &AgentStats, before: Option<&AgentStats>, of: impl Fn(&AgentStats) -> u64) -> String {
    let passed = before.map(|before| now.sampled_at.since(before.sampled_at)).filter(|passed| !passed.is_zero());
    match (before, passed) {
        (Some(before), Some(passed)) => {
            let grown = of(now).saturating_sub(of(before));
            #[allow(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "shown with three digits"
            )]
            bytes((grown as f64 / passed.as_secs_f64()) as u64)
        }
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::Timestamp;

    fn stats(cpu: f64, rx: u64, at_ms: u64) -> AgentStats {
        AgentStats {
            cpu_usage_percent: cpu,
            network_rx_bytes: rx,
            memory_usage_bytes: 100_000_000,
            memory_total_bytes: 256_000_000,
            sampled_at: Timestamp::from_unix_ms(at_ms),
            ..AgentStats::default()
        }
    }

    #[test]
    fn the_busiest_is_first_and_rates_come_with_the_second_look() {
        let before = BTreeMap::from([("idle".to_owned(), stats(0.0, 0, 0)), ("busy".to_owned(), stats(90.0, 1000, 0))]);
        let now =
            BTreeMap::from([("idle".to_owned(), stats(0.0, 0, 2000)), ("busy".to_owned(), stats(95.5, 5000, 2000))]);
        let first = render(&before, &BTreeMap::new(), None);
        assert!(first[1].starts_with("busy    90.0    100 MB/256 MB") && first[1].contains(" - "), "{first:#?}");
        let second = render(&now, &before, None);
        assert!(second[1].contains("2.00 kB") && second[2].starts_with("idle"), "{second:#?}");
    }

    #[test]
    fn a_small_screen_is_not_overrun() {
        let many: BTreeMap<_, _> =
            (0..50).map(|n| (format!("agent-with-a-rather-long-name-{n}"), stats(1.0, 0, 0))).collect();
        let lines = render(&many, &BTreeMap::new(), Some((80, 24)));
        assert_eq!((lines.len(), lines[23].as_str()), (24, "… and 28 more"));
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
    }
}

//! What the sandbox uses, from the kernel's own tables.

use crate::sys;
use aether_proto::guest::aether::guest::v1::StatsResponse;
use std::fs;
use std::time::Duration;

/// Over which the percentage is measured.
const SAMPLE: Duration = Duration::from_millis(100);

pub(super) async fn read() -> StatsResponse {
    let before = cpu(&text("/proc/stat"));
    tokio::time::sleep(SAMPLE).await;
    let after = cpu(&text("/proc/stat"));
    let (total, available) = memory(&text("/proc/meminfo"));
    let (rx, tx) = network(&text("/proc/net/dev"));
    let (free, disk) = sys::space(c"/").unwrap_or_default();
    StatsResponse {
        // Ticks are hundredths of a second on every Linux there is.
        cpu_usage_us: after.busy.saturating_mul(10_000),
        cpu_usage_percent: percent(before, after),
        memory_usage_bytes: total.saturating_sub(available),
        memory_total_bytes: total,
        disk_usage_bytes: disk.saturating_sub(free),
        disk_total_bytes: disk,
        network_rx_bytes: rx,
        network_tx_bytes: tx,
        processes: processes(),
        uptime_ms: sys::uptime_ms(),
        cpu_count: u32::try_from(after.cores).unwrap_or(u32::MAX),
        ..Default::default()
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cpu {
    busy: u64,
    all: u64,
    cores: u64,
}

fn cpu(stat: &str) -> Cpu {
    let cores = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count() as u64;
    let Some(line) = stat.lines().find(|line| line.starts_with("cpu ")) else { return Cpu::default() };
    let ticks: Vec<u64> = line.split_ascii_whitespace().skip(1).take(8).map(|word| word.parse().unwrap_or(0)).collect();
    let all = ticks.iter().sum();
    let idle = ticks.get(3).copied().unwrap_or(0) + ticks.get(4).copied().unwrap_or(0);
    Cpu { busy: all - idle, all, cores }
}

/// 100 is one core.
fn percent(before: Cpu, after: Cpu) -> f64 {
    let all = after.all.saturating_sub(before.all);
    if all == 0 {
        return 0.0;
    }
    let busy = after.busy.saturating_sub(before.busy);
    busy as f64 / all as f64 * 100.0 * after.cores.max(1) as f64
}

fn memory(meminfo: &str) -> (u64, u64) {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    (field("MemTotal:").unwrap_or(0), field("MemAvailable:").unwrap_or(0))
}

/// All interfaces but the loopback.
fn network(dev: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for line in dev.lines() {
        let Some((name, counters)) = line.split_once(':') else { continue };
        if name.trim() == "lo" {
            continue;
        }
        let numbers: Vec<u64> = counters.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
        sums.0 += numbers.first().copied().unwrap_or(0);
        sums.1 += numbers.get(8).copied().unwrap_or(0);
    }
    sums
}

fn processes() -> u32 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let pids = entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit));
    // Kernel threads have no command line and are not the tenant's.
    let own = pids.filter(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| !line.is_empty()));
    u32::try_from(own.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        let stat = "cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 5\n";
        assert_eq!(cpu(stat), Cpu { busy: 20, all: 100, cores: 2 });
        assert_eq!(percent(Cpu { busy: 0, all: 0, cores: 2 }, cpu(stat)), 40.0);
        assert_eq!(memory("MemTotal: 4 kB\nMemAvailable:    1 kB\n"), (4096, 1024));
        let dev = "Inter-|\n lo: 5 0 0 0 0 0 0 0 5 0\n eth0: 7 1 0 0 0 0 0 0 9 0\n";
        assert_eq!(network(dev), (7, 9));
        assert_eq!(cpu(""), Cpu::default());
    }
}

//! Times and amounts for people.

use aether_core::Timestamp;
use std::time::Duration;

/// `3 minutes ago`.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    if then > now { format!("in {}", duration(then.since(now))) } else { format!("{} ago", duration(now.since(then))) }
}

/// One unit is enough to tell young from old.
pub(crate) fn duration(d: Duration) -> String {
    let s = d.as_secs();
    let (count, unit) = match s {
        0..120 => (s, "second"),
        120..7200 => (s / 60, "minute"),
        7200..172_800 => (s / 3600, "hour"),
        172_800..1_209_600 => (s / 86_400, "day"),
        1_209_600..5_184_000 => (s / 604_800, "week"),
        5_184_000..63_072_000 => (s / 2_592_000, "month"),
        _ => (s / 31_536_000, "year"),
    };
    if s == 0 {
        return "less than a second".to_owned();
    }
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// `67.1 MB`, in powers of 1000 as docker has it.
pub(crate) fn bytes(count: u64) -> String {
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB"].into_iter();
    let mut unit = units.next().unwrap_or("B");
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64;
    for next in units {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    match unit {
        "B" => format!("{count} B"),
        _ if value < 9.995 => format!("{value:.2} {unit}"),
        _ if value < 99.95 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// MiB as the API counts them: `512 MiB`, `2 GiB`.
pub(crate) fn mib(count: u64) -> String {
    if count >= 1024 && count.is_multiple_of(1024) { format!("{} GiB", count / 1024) } else { format!("{count} MiB") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let at = Timestamp::from_unix_ms;
        assert_eq!(ago(at(0), at(300)), "less than a second ago");
        assert_eq!(ago(at(0), at(1000)), "1 second ago");
        assert_eq!(ago(at(0), at(119_000)), "119 seconds ago");
        assert_eq!(ago(at(0), at(180_000)), "3 minutes ago");
        assert_eq!(ago(at(7_200_000), at(0)), "in 2 hours");
        assert_eq!(duration(Duration::from_secs(86_400 * 3)), "3 days");
        assert_eq!(duration(Duration::from_secs(86_400 * 800)), "2 years");
    }

    #[test]
    fn sizes() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_996_000, "10.0 MB"),
            (67_100_000, "67.1 MB"),
            (999_400_000, "999 MB"),
            (999_600_000, "1.00 GB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!((mib(512), mib(2048), mib(1500)), ("512 MiB".into(), "2 GiB".into(), "1500 MiB".into()));
    }
}

//! How agents look to people.

use crate::output::{ago, duration, fields, mib};
use aether_core::api::AgentInfo;
use aether_core::probe::HealthProbe;
use aether_core::source::SystemClock;
use aether_core::{Clock, Observed, Timestamp};

pub(super) fn now() -> Timestamp {
    SystemClock::default().now()
}

/// `running (3 minutes)`, `stopped (0)`, `pending (queue 3)`.
pub(super) fn status(agent: &AgentInfo, now: Timestamp) -> String {
    let detail = match agent.status {
        Observed::Running => agent.started_at.map(|t| {
            let well = if agent.unhealthy { ", unhealthy" } else { "" };
            duration(now.since(t)) + well
        }),
        Observed::Stopped | Observed::Failed => end(agent),
        _ => agent.queue_position.map(|p| format!("queue {p}")),
    };
    match detail {
        Some(detail) => format!("{} ({detail})", agent.status),
        None => agent.status.to_string(),
    }
}

fn end(agent: &AgentInfo) -> Option<String> {
    match (&agent.exit_signal, agent.exit_code, &agent.error) {
        (Some(signal), ..) => Some(signal.clone()),
        (None, Some(code), _) => Some(code.to_string()),
        (None, None, Some(error)) => Some(error.code.clone()),
        (None, None, None) => None,
    }
}

pub(super) fn command(agent: &AgentInfo) -> String {
    let words = agent.config.command.iter().chain(&agent.config.args);
    let text = words.map(|w| quoted(w)).collect::<Vec<_>>().join(" ");
    if text.is_empty() && agent.config.run_image_command { "(the image's)".to_owned() } else { text }
}

/// A word as a shell would take it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn probe(health: &HealthProbe) -> String {
    let what = match (&health.http, &health.tcp) {
        (Some(http), _) => format!("http port {}{}", http.port, http.path),
        (None, Some(tcp)) => format!("tcp port {}", tcp.port),
        (None, None) => health.command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
    };
    let then = if health.restart { ", then a restart" } else { "" };
    format!("{what}, each {} s, {} failures{then}", health.interval_s, health.retries)
}

pub(super) fn clip(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

/// One agent in full.
pub(super) fn details(agent: &AgentInfo) -> String {
    let now = now();
    let time = |t: Option<Timestamp>| t.map(|t| format!("{t} ({})", ago(t, now))).unwrap_or_default();
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let map = |m: &std::collections::BTreeMap<String, String>| {
        m.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("\n")
    };
    let r = agent.config.resources;
    let sandbox = match (&agent.isolation, &agent.engine) {
        (Some(isolation), Some(engine)) => format!("{isolation} ({engine})"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => String::new(),
    };
    fields(&[
        ("Name", agent.name.clone()),
        ("Id", agent.id.to_string()),
        ("Alias", text(&agent.alias)),
        ("Status", status(agent, now)),
        ("Unhealthy", text(&agent.unhealthy_reason)),
        ("Wanted", agent.desired.to_string()),
        ("Version", agent.version.to_string()),
        ("Error", agent.error.as_ref().map(|e| format!("{}: {}", e.code, e.message)).unwrap_or_default()),
        ("Image", agent.config.image.clone()),
        ("Digest", text(&agent.image_digest)),
        ("Command", command(agent)),
        ("Health probe", agent.config.health.as_ref().map(probe).unwrap_or_default()),
        ("Recovery", agent.config.recovery.as_str().to_owned()),
        ("Workdir", text(&agent.config.workdir)),
        ("User", text(&agent.config.user)),
        ("Resources", format!("{} CPU, {} memory, {} disk", r.cpu_count, mib(r.memory_mb), mib(r.disk_mb))),
        ("Network", agent.config.network.as_str().to_owned()),
        ("Isolation", sandbox),
        ("Disk encryption", text(&agent.disk_encryption)),
        ("Node", text(&agent.node)),
        ("Placement", text(&agent.placement_reason)),
        ("Environment", agent.env.as_ref().map(map).unwrap_or_else(|| agent.env_names.join("\n"))),
        ("Secrets", secrets(agent)),
        ("Labels", map(&agent.config.labels)),
        ("Metadata", map(&agent.config.metadata)),
        ("Next start", agent.pending_restart.join(", ")),
        ("Exit", end(agent).unwrap_or_default()),
        ("Restarts", if agent.restarts > 0 { agent.restarts.to_string() } else { String::new() }),
        ("Created", time(Some(agent.created_at))),
        ("Started", time(agent.started_at)),
        ("Stopped", time(agent.stopped_at)),
        ("Expires", time(agent.expires_at)),
    ])
}

/// Each secret, where it is, and the version that this run was given.
fn secrets(agent: &AgentInfo) -> String {
    let one = |s: &aether_core::SecretRef| {
        let place = s.file.as_deref().or(s.env.as_deref()).unwrap_or_default();
        match agent.secret_versions.get(&s.name) {
            Some(version) => format!("{} as {place}, version {version}", s.name),
            None => format!("{} as {place}", s.name),
        }
    };
    agent.config.secrets.iter().map(one).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("print(6*7)"), "'print(6*7)'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!((quoted("-c"), quoted("")), ("-c".into(), "''".into()));
    }

    #[test]
    fn clipping_counts_characters() {
        assert_eq!(clip("ééé", 3), "ééé");
        assert_eq!(clip("éééé", 3), "éé…");
    }
}

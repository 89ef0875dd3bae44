//! Messages of the node protocol to rows of the store and back. A node is
//! trusted more than a guest, but its texts come from guests: bounded here.

use crate::problem::clean;
use aether_core::api::{AgentFailure, NodeAmounts, failure};
use aether_core::{AgentId, NodeId, Observed, Timestamp};
use aether_proto::node::{AgentAssignment, AgentReport, NodeHello};
use aether_store::{Assignment, NodeHelloRow, ReportRow};

const MAX_LABELS: usize = 64;
const MAX_TEXT: usize = 256;

pub(super) fn hello(hello: NodeHello) -> Result<NodeHelloRow, String> {
    let node_id: NodeId = hello.node_id.parse().map_err(|e: aether_core::id::IdError| e.to_string())?;
    let capacity = hello.capacity.ok_or("hello has no capacity")?;
    if hello.labels.len() > MAX_LABELS {
        return Err(format!("more than {MAX_LABELS} labels"));
    }
    let short = |text: &str, what: &str| {
        if text.len() > MAX_TEXT { Err(format!("{what} is longer than {MAX_TEXT} bytes")) } else { Ok(text.to_owned()) }
    };
    Ok(NodeHelloRow {
        node_id,
        version: short(&hello.version, "version")?,
        node_epoch: hello.node_epoch,
        features: hello.features.into_iter().take(MAX_LABELS).collect(),
        capacity: NodeAmounts {
            cpu_millicores: capacity.cpu_millicores,
            memory_mb: capacity.memory_mb,
            disk_mb: capacity.disk_mb,
        },
        labels: hello.labels.into_iter().collect(),
        engine: short(&hello.engine, "engine")?,
        isolation: short(&hello.isolation, "isolation")?,
        data_address: some(&hello.data_address),
    })
}

pub(super) fn report(report: AgentReport) -> Result<ReportRow, String> {
    let agent_id: AgentId = report.agent_id.parse().map_err(|e: aether_core::id::IdError| e.to_string())?;
    let observed: Observed = report.observed.parse().map_err(|e: aether_core::state::UnknownState| e.to_string())?;
    let error =
        some(&report.error_code).map(|code| AgentFailure { code: clean(&code), message: clean(&report.error_message) });
    Ok(ReportRow {
        agent_id,
        generation: report.generation,
        observed,
        exit_code: report.exit_code,
        exit_signal: report.exit_signal.map(|s| clean(&s)),
        error,
        started_at: report.started_at_ms.map(Timestamp::from_unix_ms),
        stopped_at: report.stopped_at_ms.map(Timestamp::from_unix_ms),
        isolation: some(&report.isolation),
        engine: some(&report.engine),
        disk_encryption: some(&report.disk_encryption),
        queue_position: (report.queue_position > 0).then_some(report.queue_position),
        restarts: report.restarts,
        image_digest: some(&report.image_digest),
        unhealthy: report.unhealthy,
        unhealthy_reason: some(&report.unhealthy_reason).map(|reason| clean(&reason)),
        sequence: report.sequence,
    })
}

/// The env is unsealed into this message and nowhere else.
pub(super) fn assignment(a: Assignment) -> Result<AgentAssignment, serde_json::Error> {
    let row = a.agent;
    Ok(AgentAssignment {
        agent_id: row.id.to_string(),
        tenant_id: row.tenant.to_string(),
        generation: row.generation,
        desired: a.desired.to_string(),
        name: row.name.to_string(),
        spec_json: serde_json::to_vec(&row.spec)?.into(),
        env: a.env.into_iter().collect(),
        expires_at_ms: row.expires_at.map(Timestamp::unix_ms),
        image_digest: row.image_digest.unwrap_or_default(),
        stop_timeout_ms: row.stop_timeout_ms.unwrap_or_default(),
        force: row.force,
    })
}

pub(super) fn known_failure(code: &str) -> &'static str {
    failure::ALL.into_iter().find(|k| *k == code).unwrap_or("OTHER")
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.chars().take(MAX_TEXT).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_proto::node::NodeCapacity;

    #[test]
    fn a_bad_hello_is_refused() {
        let good = NodeHello {
            node_id: "nodc0aaaaaaaaaaaaaaaa".into(),
            capacity: Some(NodeCapacity::default()),
            ..NodeHello::default()
        };
        assert!(hello(good.clone()).is_ok());
        assert!(hello(NodeHello { node_id: "x".into(), ..good.clone() }).is_err());
        assert!(hello(NodeHello { capacity: None, ..good.clone() }).is_err());
        assert!(hello(NodeHello { engine: "q".repeat(300), ..good.clone() }).is_err());
        let labels = (0..65).map(|n| (n.to_string(), String::new())).collect();
        assert!(hello(NodeHello { labels, ..good }).is_err());
    }

    #[test]
    fn a_bad_report_is_refused_and_a_good_one_cleaned() {
        let good = AgentReport {
            agent_id: "agtc0aaaaaaaaaaaaaaaa".into(),
            observed: "failed".into(),
            error_code: "BOOT_FAILED".into(),
            error_message: "line\nline".into(),
            ..AgentReport::default()
        };
        let row = report(good.clone()).expect("good");
        assert_eq!(row.error.map(|e| e.message), Some("line line".to_owned()));
        assert_eq!((row.isolation, row.queue_position, row.unhealthy_reason), (None, None, None));
        let unwell = AgentReport { unhealthy: true, unhealthy_reason: "a\x1bb".into(), ..good.clone() };
        assert_eq!(report(unwell).expect("good").unhealthy_reason.as_deref(), Some("a b"));
        assert!(report(AgentReport { observed: "zombie".into(), ..good.clone() }).is_err());
        assert!(report(AgentReport { agent_id: "../x".into(), ..good }).is_err());
    }

    #[test]
    fn labels_are_the_documented_reasons() {
        assert_eq!(known_failure("BOOT_TIMEOUT"), "BOOT_TIMEOUT");
        assert_eq!(known_failure("anything a node makes up"), "OTHER");
    }
}

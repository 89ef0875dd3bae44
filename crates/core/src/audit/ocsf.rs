//! Records as events of the Open Cybersecurity Schema Framework: class 6003,
//! API Activity. For other systems to read; the proof is in our own format.

use super::Record;
use serde_json::{Value, json};

const CLASS: u64 = 6003;
/// Of the schema.
const VERSION: &str = "1.3.0";

/// The activities that the class knows.
fn activity(action: &str) -> u64 {
    match action {
        "create" => 1,
        "read" | "read_env" | "list" | "export" => 2,
        "update" | "start" | "stop" | "place" => 3,
        "delete" => 4,
        _ => 99,
    }
}

/// One event.
pub fn ocsf(record: &Record) -> Value {
    let activity = activity(&record.action);
    let details: Value = serde_json::from_str(record.details.get()).unwrap_or(Value::Null);
    let status = match record.result.as_str() {
        "success" => 1,
        "failure" | "denied" => 2,
        _ => 99,
    };
    let address = record.address.as_deref();
    let ip = address.and_then(|a| a.parse().ok().or_else(|| a.parse().ok().map(|s: std::net::SocketAddr| s.ip())));
    let endpoint = match (ip, address) {
        (Some(ip), _) => json!({ "ip": ip.to_string() }),
        (None, Some(address)) => json!({ "name": address }),
        (None, None) => json!({ "svc_name": "aether" }),
    };
    let mut event = json!({
        "category_uid": 6,
        "class_uid": CLASS,
        "activity_id": activity,
        "type_uid": CLASS * 100 + activity,
        "severity_id": 1,
        "time": record.time.unix_ms(),
        "status_id": status,
        "status": record.result,
        "metadata": {
            "version": VERSION,
            "product": { "name": "Aether", "vendor_name": "Aether" },
            "uid": record.sequence.to_string(),
        },
        "actor": { "user": { "uid": record.actor } },
        "api": { "operation": record.action, "service": { "name": "aether" } },
        "src_endpoint": endpoint,
        "resources": [{ "type": record.resource, "uid": record.resource_id }],
        "unmapped": {
            "details": details, "position": record.position, "prev": record.prev, "hash": record.hash,
        },
    });
    // The schema knows no null: what is absent is left out.
    if record.resource_id.is_none() {
        event["resources"] = json!([{ "type": record.resource }]);
    }
    if let Some(tenant) = &record.tenant {
        event["metadata"]["tenant_uid"] = json!(tenant);
    }
    if let Some(error) = &record.error {
        event["status_detail"] = json!(error);
    }
    if activity == 99 {
        event["activity_name"] = json!(record.action);
    }
    event
}

//! `GET /v1/audit`: who did what.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// One record of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AuditRecord {
    /// Its number; the newest has the highest.
    pub id: u64,
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub time: Timestamp,
    /// Absent: of the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Who: the id of an API key, a local user, a part of the system.
    pub actor: String,
    /// create, read, update, delete, start, stop, exec and so on; of a
    /// denial the permission that was missing.
    pub action: String,
    pub resource: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_id: Option<String>,
    /// success, failure or denied.
    pub result: String,
    /// Where the request came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[cfg_attr(feature = "schema", schema(value_type = Object))]
    pub details: serde_json::Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its place in the chain, from 1; absent for the moment until it is
    /// linked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// Of the record and, by the one before, of all before it: SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

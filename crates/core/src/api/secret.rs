//! The documents of `/v1/secrets` and `/v1/system/master-key`. Values come in
//! and never go out.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The body of `PUT /v1/secrets/{name}`: the value as text or as base64.
#[derive(Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SecretRequest {
    /// At most 65536 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The same for bytes that are no text: such a secret can be a file alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    /// For people, at most 256 bytes; left out, it stays as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl fmt::Debug for SecretRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretRequest").field("description", &self.description).finish_non_exhaustive()
    }
}

/// The body of `POST /v1/secrets/{name}/rotate`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SecretRotation {
    /// Random bytes in the new value, 16 to 1024, default 32; the value is their base64url text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u32>,
}

/// A secret without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SecretInfo {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The newest: what the next start of an agent gets.
    pub version: u64,
    /// Where the newest is kept: sealed, transit or vault.
    pub backend: String,
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    pub created_by: String,
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub updated_at: Timestamp,
    pub updated_by: String,
    /// The newest first; of one secret alone, not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<SecretVersionInfo>,
}

/// One version that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SecretVersionInfo {
    pub version: u64,
    pub backend: String,
    /// Of the value.
    pub bytes: u64,
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    pub created_by: String,
}

/// The body of `POST /v1/system/master-key`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MasterKeyRequest {
    pub step: MasterKeyStep,
}

/// A step of changing the key that seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MasterKeyStep {
    /// A new key into this server's key file; it opens and does not seal yet.
    Add,
    /// The newest key of this server's file seals from here on, on every
    /// server; what older ones sealed is sealed anew in the background.
    Activate,
    /// Keys that seal nothing any more leave this server's file.
    Drop,
}

/// The answer of `GET` and `POST /v1/system/master-key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct MasterKeyState {
    /// Those in this server's file.
    pub keys: Vec<MasterKey>,
    /// Values that another key than the active one seals; 0: the change is done.
    pub left: u64,
}

/// A key, by the fingerprint that tells nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct MasterKey {
    pub id: String,
    pub active: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_debugged() {
        let asked: SecretRequest =
            serde_json::from_str(r#"{"value":"hunter2","value_base64":"aHVudGVyMg=="}"#).expect("parses");
        let shown = format!("{asked:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("aHVu"), "{shown}");
    }
}

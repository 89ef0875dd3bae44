//! Many agents in one request. Each item has its own result: one that is
//! refused does not touch the others.

use super::AgentInfo;
use crate::error::Problem;
use serde::{Deserialize, Serialize};

/// Items of one request.
pub const BULK_MOST: usize = 100;

/// The body of `POST /v1/agents/bulk/create`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BulkCreate {
    /// 1 to 100; each is judged by itself.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<super::AgentConfig>))]
    pub agents: Vec<serde_json::Value>,
}

/// The answer of `POST /v1/agents/bulk/create`, in the order of the request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct BulkCreated {
    pub results: Vec<BulkCreateResult>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct BulkCreateResult {
    pub index: u32,
    /// As the create alone would have answered: 201, 400, 409 …
    pub status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// The body of `POST /v1/agents/bulk/delete`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BulkDelete {
    /// Ids, names or aliases, 1 to 100.
    pub ids: Vec<String>,
    /// From the signal to the kill: 1s, at most 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<String>,
}

/// The answer of `POST /v1/agents/bulk/delete`, in the order of the request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct BulkDeleted {
    pub results: Vec<BulkDeleteResult>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct BulkDeleteResult {
    /// As it was asked for.
    pub id: String,
    /// 204, 404 …
    pub status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

//! `GET /v1/events`: what happened, in the order in which it may be read.

use crate::id::AgentId;
use crate::state::{Desired, Observed};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// One thing that happened to one of the tenant's agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EventInfo {
    /// Its place: for `Last-Event-ID` and `after`.
    pub id: String,
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub time: Timestamp,
    /// agent.created, agent.updated, agent.desired, agent.waiting,
    /// agent.placed, agent.secrets, agent.observed, agent.recovering, agent.gone.
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub agent_id: Option<AgentId>,
    /// Its name now; while its tombstone is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Of the agent, after the change.
    pub version: u64,
    pub generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Observed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<Desired>,
    #[cfg_attr(feature = "schema", schema(value_type = Object))]
    pub data: serde_json::Value,
}

/// The answer of `GET /v1/events` where no stream was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EventPage {
    pub data: Vec<EventInfo>,
    /// Where to go on: the next `after`, whether or not there is more now.
    pub next: String,
    /// Whether there may be more already.
    pub more: bool,
}

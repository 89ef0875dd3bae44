//! What a tenant's things take, and giving back what nobody uses.

use super::ImageInfo;
use serde::{Deserialize, Serialize};

/// The body of `PUT /v1/images/{name}`: another name for an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TagRequest {
    /// The image, by name or digest.
    pub source: String,
}

/// The body of `POST /v1/images/prune`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct PruneRequest {
    /// Only images that have been here for as long, as in `24h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than: Option<String>,
    /// Only tell what would go.
    pub dry_run: bool,
}

/// The answer of `POST /v1/images/prune`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Pruned {
    pub images: Vec<ImageInfo>,
    /// Less than the sum of the sizes where layers are shared.
    pub freed_bytes: u64,
}

/// `GET /v1/system/df`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DiskUsage {
    pub images: UsageRow,
    /// Writable disks.
    pub agents: UsageRow,
}

/// One kind of thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct UsageRow {
    pub count: u64,
    /// Used by agents; or agents that hold CPU and memory.
    pub active: u64,
    pub bytes: u64,
    /// What removing those that are not active would give back.
    pub reclaimable_bytes: u64,
}

//! Names and room: `PUT /v1/images/{name}`, `POST /v1/images/prune`,
//! `GET /v1/system/df`.

use super::Caller;
use super::extract::{Json, MaybeJson, Params};
use super::image_reach;
use super::images::{checked_name, find, info, merge};
use crate::app::App;
use crate::dialer::DataClient;
use crate::problem::ApiError;
use aether_core::api::{DiskUsage, ImageInfo, PruneRequest, Pruned, TagRequest};
use aether_core::image::{ImageRef, is_digest};
use aether_core::{AgentId, FieldError, Problem};
use aether_proto::node::{
    DiskUsageRequest, ImageGetRequest, ImageListRequest, ImagePruneRequest, ImagePruneResponse, ImageTagRequest,
};
use axum::extract::{Path, State};
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Code;

const MAX_AGE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Give an image another name; a name that is taken moves to it.
#[utoipa::path(
    put, path = "/v1/images/{*name}", operation_id = "tag_image", tag = "images", request_body = TagRequest,
    params(("name" = String, Path, description = "The new name; it may hold slashes")),
    responses((status = 200, body = ImageInfo), (status = 400, body = Problem), (status = 404, body = Problem))
)]
pub(crate) async fn tag(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
    Json(body): Json<TagRequest>,
) -> Result<axum::Json<ImageInfo>, ApiError> {
    params.done()?;
    let mut errors = Vec::new();
    match name.parse::<ImageRef>() {
        Ok(name) if name.digest.is_none() && !is_digest(&name.to_string()) => {}
        Ok(_) => errors.push(FieldError::new("name", "is for a tag, not a digest")),
        Err(error) => errors.push(FieldError::new("name", error.to_string())),
    }
    if !errors.is_empty() {
        return Err(ApiError::validation(errors));
    }
    image_reach::named(&caller, &name)?;
    let source = checked_name(body.source)?;
    if caller.reach().is_some() {
        find(&app, &caller, source.clone()).await?;
    }
    let request = ImageTagRequest { tenant_id: caller.tenant().to_owned(), source, name };
    let mut found = BTreeMap::new();
    for (_, mut client) in app.nodes.ready().await? {
        match client.image_tag(request.clone()).await {
            Ok(image) => merge(&mut found, info(image.into_inner())),
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => return Err(status.into()),
        }
    }
    let tagged = found.into_values().next().and_then(|image| image_reach::seen(&caller, image));
    tagged.map(axum::Json).ok_or_else(|| ApiError::not_found("image"))
}

/// Remove the images that no agent of the tenant uses.
#[utoipa::path(
    post, path = "/v1/images/prune", operation_id = "prune_images", tag = "images", request_body = Option<PruneRequest>,
    responses((status = 200, body = Pruned), (status = 400, body = Problem))
)]
pub(crate) async fn prune(
    State(app): State<App>,
    caller: Caller,
    params: Params,
    MaybeJson(body): MaybeJson<PruneRequest>,
) -> Result<axum::Json<Pruned>, ApiError> {
    params.done()?;
    let age = match &body.older_than {
        None => Duration::ZERO,
        Some(text) => aether_core::time::parse_duration(text)
            .filter(|age| *age <= MAX_AGE)
            .ok_or_else(|| ApiError::field("older_than", "must be a duration such as 24h"))?,
    };
    let request = ImagePruneRequest {
        tenant_id: caller.tenant().to_owned(),
        age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        dry_run: body.dry_run,
    };
    let (mut found, mut freed_bytes) = (BTreeMap::new(), 0);
    for (_, mut client) in app.nodes.ready().await? {
        let answer = match caller.reach() {
            None => client.image_prune(request.clone()).await?.into_inner(),
            Some(_) => prune_within(&caller, &mut client, &request).await?,
        };
        freed_bytes += answer.freed_bytes;
        for image in answer.images {
            merge(&mut found, info(image));
        }
    }
    Ok(axum::Json(Pruned { images: found.into_values().collect(), freed_bytes }))
}

/// One by one, those that the caller reaches under all of their names.
async fn prune_within(
    caller: &Caller,
    client: &mut DataClient,
    asked: &ImagePruneRequest,
) -> Result<ImagePruneResponse, ApiError> {
    let dry = ImagePruneRequest { dry_run: true, ..asked.clone() };
    let unused = client.image_prune(dry).await?.into_inner().images;
    let mut pruned = ImagePruneResponse::default();
    for image in unused.into_iter().filter(|image| image_reach::whole(caller, &info(image.clone()))) {
        if !asked.dry_run {
            let one = ImageGetRequest { tenant_id: asked.tenant_id.clone(), name_or_digest: image.digest.clone() };
            match client.image_remove(one).await {
                Ok(_) => {}
                // Somebody was faster, or has begun to use it.
                Err(status) if matches!(status.code(), Code::NotFound | Code::FailedPrecondition) => continue,
                Err(status) => return Err(status.into()),
            }
        }
        pruned.freed_bytes += image.size_bytes;
        pruned.images.push(image);
    }
    Ok(pruned)
}

/// What the tenant's images and agents take on disk.
#[utoipa::path(
    get, path = "/v1/system/df", operation_id = "disk_usage", tag = "system",
    responses((status = 200, body = DiskUsage))
)]
pub(crate) async fn df(
    State(app): State<App>,
    caller: Caller,
    params: Params,
) -> Result<axum::Json<DiskUsage>, ApiError> {
    params.done()?;
    let tenant_id = caller.tenant().to_owned();
    let mut usage = DiskUsage::default();
    let mut images = BTreeMap::new();
    for (_, mut client) in app.nodes.ready().await? {
        let listed = client.image_list(ImageListRequest { tenant_id: tenant_id.clone() }).await?.into_inner();
        for image in listed.images {
            merge(&mut images, info(image));
        }
        let disks = client.disk_usage(DiskUsageRequest { tenant_id: tenant_id.clone() }).await?.into_inner();
        for disk in disks.disks {
            let Ok(id) = disk.agent_id.parse::<AgentId>() else { continue };
            // What is on its way out is nobody's any more.
            let Some(agent) = app.store.find_agent(&caller.scope(), id.as_str()).await? else { continue };
            usage.agents.count += 1;
            usage.agents.bytes += disk.bytes;
            match agent.observed.holds_compute() {
                true => usage.agents.active += 1,
                false => usage.agents.reclaimable_bytes += disk.bytes,
            }
        }
    }
    for image in images.into_values().filter_map(|image| image_reach::seen(&caller, image)) {
        usage.images.count += 1;
        usage.images.bytes += image.size_bytes;
        match image.agents {
            0 => usage.images.reclaimable_bytes += image.size_bytes,
            _ => usage.images.active += 1,
        }
    }
    Ok(axum::Json(usage))
}

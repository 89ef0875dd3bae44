//! `/v1/images`: pull, import, list, get, remove. The nodes hold the images;
//! lists are merged by digest, new ones go to the first node that is ready.

use super::Caller;
use super::extract::{Params, chunks, media_type, parse};
use super::image_reach;
use crate::app::App;
use crate::inflight::Place;
use crate::problem::{ApiError, clean};
use aether_core::api::{ImageInfo, ImageProgress, PullRequest};
use aether_core::image::{ImageRef, is_digest};
use aether_core::{Code, Problem, Timestamp};
use aether_proto::node::image_import_request::Message as Import;
use aether_proto::node::{
    Image, ImageGetRequest, ImageImportBegin, ImageImportRequest, ImageListRequest, ImageProgress as NodeProgress,
    ImagePullRequest,
};
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, Limited};
use std::collections::BTreeMap;
use std::convert::Infallible;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

const IN_FLIGHT: usize = 4;
const CHUNK: usize = 64 * 1024;
const MAX_FIELD: usize = 4096;

/// The tenant's images.
#[utoipa::path(get, path = "/v1/images", operation_id = "list_images", tag = "images", responses((status = 200, body = Vec<ImageInfo>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    params: Params,
) -> Result<axum::Json<Vec<ImageInfo>>, ApiError> {
    params.done()?;
    let mut found = BTreeMap::new();
    for (_, mut client) in app.nodes.ready().await? {
        let answer = client.image_list(ImageListRequest { tenant_id: caller.tenant().to_owned() }).await?;
        for image in answer.into_inner().images {
            merge(&mut found, info(image));
        }
    }
    let mut images: Vec<ImageInfo> =
        found.into_values().filter_map(|image| image_reach::seen(&caller, image)).collect();
    images.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.digest.cmp(&b.digest)));
    Ok(axum::Json(images))
}

pub(super) fn merge(found: &mut BTreeMap<String, ImageInfo>, image: ImageInfo) {
    match found.get_mut(&image.digest) {
        None => {
            found.insert(image.digest.clone(), image);
        }
        Some(known) => {
            known.agents += image.agents;
            for name in image.names {
                if !known.names.contains(&name) {
                    known.names.push(name);
                }
            }
        }
    }
}

/// One image, by name or digest.
#[utoipa::path(
    get, path = "/v1/images/{*name}", operation_id = "get_image", tag = "images",
    params(("name" = String, Path, description = "Name or digest; a name may hold slashes")),
    responses((status = 200, body = ImageInfo), (status = 404, body = Problem))
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
) -> Result<axum::Json<ImageInfo>, ApiError> {
    params.done()?;
    find(&app, &caller, name).await.map(axum::Json)
}

/// By name or digest, as the caller sees it.
pub(super) async fn find(app: &App, caller: &Caller, name: String) -> Result<ImageInfo, ApiError> {
    let image = find_any(app, caller, name).await?;
    image_reach::seen(caller, image).ok_or_else(|| ApiError::not_found("image"))
}

/// A digest may be of one out of the caller's reach.
async fn find_any(app: &App, caller: &Caller, name: String) -> Result<ImageInfo, ApiError> {
    image_reach::asked(caller, &name)?;
    let request = ImageGetRequest { tenant_id: caller.tenant().to_owned(), name_or_digest: checked_name(name)? };
    let mut found = BTreeMap::new();
    for (_, mut client) in app.nodes.ready().await? {
        match client.image_get(request.clone()).await {
            Ok(image) => merge(&mut found, info(image.into_inner())),
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => return Err(status.into()),
        }
    }
    found.into_values().next().ok_or_else(|| ApiError::not_found("image"))
}

/// Remove a name, or an image by its digest.
#[utoipa::path(
    delete, path = "/v1/images/{*name}", operation_id = "remove_image", tag = "images",
    params(("name" = String, Path, description = "Name or digest; a name may hold slashes")),
    responses((status = 204), (status = 404, body = Problem), (status = 409, description = "In use", body = Problem))
)]
pub(crate) async fn remove(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
) -> Result<StatusCode, ApiError> {
    params.done()?;
    image_reach::asked(&caller, &name)?;
    let name = checked_name(name)?;
    // With its digest all of its names go.
    if is_digest(&name) && caller.reach().is_some() {
        let image = find_any(&app, &caller, name.clone()).await?;
        if !image_reach::whole(&caller, &image) {
            let shared = image_reach::seen(&caller, image).is_some();
            return Err(if shared { image_reach::refusal(&caller) } else { ApiError::not_found("image") });
        }
    }
    let request = ImageGetRequest { tenant_id: caller.tenant().to_owned(), name_or_digest: name };
    let mut removed = false;
    for (_, mut client) in app.nodes.ready().await? {
        match client.image_remove(request.clone()).await {
            Ok(_) => removed = true,
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => return Err(status.into()),
        }
    }
    if removed { Ok(StatusCode::NO_CONTENT) } else { Err(ApiError::not_found("image")) }
}

/// What is neither a reference nor a digest is not among the images.
pub(super) fn checked_name(name: String) -> Result<String, ApiError> {
    if is_digest(&name) || name.parse::<ImageRef>().is_ok() { Ok(name) } else { Err(ApiError::not_found("image")) }
}

/// Pull an image (JSON), or import an archive; the answer is a line of JSON
/// per step, the last with `image` or `problem`.
#[utoipa::path(
    post, path = "/v1/images", operation_id = "add_image", tag = "images",
    params(("name" = Option<String>, Query, description = "With an archive: the image's name")),
    request_body(
        description = "What to pull, or an archive (OCI layout, OCI or docker archive)",
        content((PullRequest = "application/json"), (String = "application/x-tar"))
    ),
    responses(
        (status = 200, description = "NDJSON", body = ImageProgress, content_type = "application/x-ndjson"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 415, body = Problem),
        (status = 502, body = Problem), (status = 507, body = Problem),
    )
)]
pub(crate) async fn add(
    State(app): State<App>,
    caller: Caller,
    mut params: Params,
    request: Request,
) -> Result<Response, ApiError> {
    let name = params.text("name");
    match media_type(request.headers()).as_deref() {
        Some("application/json") => {
            if name.is_some() {
                params.bad("name", "goes with an archive; a pull has its reference in the body");
            }
            params.done()?;
            let body = Limited::new(request.into_body(), app.cfg().limits.json_body_bytes).collect();
            let body = tokio::time::timeout(app.cfg().deadlines.short, body)
                .await
                .map_err(|_| ApiError::timeout("The body did not come in time.", "Try again."))?
                .map_err(|_| {
                    ApiError::new(Code::PayloadTooLarge, "The body is too large or broke off.", "Send a short one.")
                })?;
            pull(&app, &caller, parse(&body.to_bytes())?).await
        }
        Some("application/x-tar" | "application/octet-stream" | "application/gzip" | "application/zstd") => {
            if let Some(name) = &name
                && let Err(error) = name.parse::<ImageRef>()
            {
                params.bad("name", error.to_string());
            }
            params.done()?;
            image_reach::unbounded(&caller)?;
            import(&app, &caller, name.unwrap_or_default(), request.into_body()).await
        }
        _ => Err(ApiError::new(
            Code::UnsupportedMediaType,
            "This route takes application/json or application/x-tar.",
            "Send JSON with a reference to pull, or an archive as application/x-tar.",
        )),
    }
}

async fn pull(app: &App, caller: &Caller, asked: PullRequest) -> Result<Response, ApiError> {
    let mut errors = Vec::new();
    if let Err(error) = asked.reference.parse::<ImageRef>() {
        errors.push(aether_core::FieldError::new("reference", error.to_string()));
    }
    for (field, text) in [("username", &asked.username), ("password", &asked.password), ("platform", &asked.platform)] {
        if text.as_ref().is_some_and(|t| t.len() > MAX_FIELD || t.chars().any(char::is_control)) {
            errors.push(aether_core::FieldError::new(field, "is too long or holds control characters"));
        }
    }
    if !errors.is_empty() {
        return Err(ApiError::validation(errors));
    }
    image_reach::named(caller, &asked.reference)?;
    let place = place(app, caller).await?;
    let request = ImagePullRequest {
        tenant_id: caller.tenant().to_owned(),
        reference: asked.reference,
        username: asked.username.unwrap_or_default(),
        password: asked.password.unwrap_or_default(),
        insecure: asked.insecure,
        platform: asked.platform.unwrap_or_default(),
    };
    let mut client = first_node(app).await?;
    let mut progress = client.image_pull(request).await?.into_inner();
    // The first message, or the error in its place, decides the status.
    let first = progress.message().await?;
    Ok(ndjson(caller, first, progress, place))
}

/// Room for one image more, held until it is there. One that the tenant has
/// already is refused too where there is none: its name may mean another
/// image by now.
async fn place(app: &App, caller: &Caller) -> Result<Place, ApiError> {
    let limit = app.store.tenant_limits(&caller.tenant).await?.images;
    let mut held = BTreeMap::new();
    if limit.is_some() {
        for (_, mut client) in app.nodes.ready().await? {
            let answer = client.image_list(ImageListRequest { tenant_id: caller.tenant().to_owned() }).await?;
            answer.into_inner().images.into_iter().for_each(|image| merge(&mut held, info(image)));
        }
    }
    app.images.begin(&caller.tenant, held.len() as u64, limit).map_err(|excess| ApiError::quota(None, excess))
}

async fn first_node(app: &App) -> Result<crate::dialer::DataClient, ApiError> {
    let nodes = app.nodes.ready().await?;
    nodes.into_iter().next().map(|(_, client)| client).ok_or_else(|| ApiError::unavailable("No node is connected.", 2))
}

async fn import(app: &App, caller: &Caller, name: String, body: Body) -> Result<Response, ApiError> {
    let place = place(app, caller).await?;
    let mut client = first_node(app).await?;
    let (sender, requests) = mpsc::channel(IN_FLIGHT);
    let begin = ImageImportBegin { tenant_id: caller.tenant().to_owned(), name };
    sender.try_send(ImageImportRequest { message: Some(Import::Begin(begin)) }).expect("a new channel has room");
    let idle = app.cfg().deadlines.stream_idle;
    let mut body = chunks(body, idle);
    let feed = async move {
        while let Some(chunk) = body.next().await {
            let mut chunk = match chunk {
                Ok(chunk) => chunk,
                // With the sender kept: an orderly end would count as the
                // archive's end. The caller drops the call.
                Err(error) => return Err((error, sender)),
            };
            while !chunk.is_empty() {
                let piece = chunk.split_to(chunk.len().min(CHUNK));
                if sender.send(ImageImportRequest { message: Some(Import::Chunk(piece)) }).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    };
    tokio::pin!(feed);
    let mut fed = false;
    let call = client.image_import(ReceiverStream::new(requests));
    tokio::pin!(call);
    let mut progress = loop {
        tokio::select! {
            answer = &mut call => break answer?.into_inner(),
            end = &mut feed, if !fed => match end {
                Ok(()) => fed = true,
                Err((error, _sender)) => return Err(error),
            },
        }
    };
    // The answer begins when the archive is read, or refused: not every
    // client reads while it writes. What is said meanwhile is kept short.
    let mut last = None;
    while !fed {
        tokio::select! {
            end = &mut feed => match end {
                Ok(()) => fed = true,
                Err((error, _sender)) => return Err(error),
            },
            message = progress.message() => match message? {
                Some(message) => last = Some(message),
                None => break,
            },
        }
    }
    let first = match last {
        Some(last) if last.phase == "done" => Some(last),
        _ => progress.message().await?.or(last),
    };
    Ok(ndjson(caller, first, progress, place))
}

fn ndjson(caller: &Caller, first: Option<NodeProgress>, progress: Streaming<NodeProgress>, place: Place) -> Response {
    let caller = caller.clone();
    let lines = futures::stream::iter(first.map(Ok)).chain(progress).scan(false, move |over, message| {
        let _held = &place;
        let line = match message {
            _ if *over => None,
            Ok(step) => Some(line_of(&caller, step)),
            Err(status) => {
                *over = true;
                Some(failure(status))
            }
        };
        futures::future::ready(line.map(Ok::<Bytes, Infallible>))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn line_of(caller: &Caller, step: NodeProgress) -> Bytes {
    json_line(&ImageProgress {
        phase: step.phase,
        done_bytes: step.done_bytes,
        total_bytes: step.total_bytes,
        message: (!step.message.is_empty()).then(|| clean(&step.message)),
        image: step.image.and_then(|image| image_reach::seen(caller, info(image))),
        problem: None,
    })
}

fn failure(status: tonic::Status) -> Bytes {
    let error = ApiError::from(status);
    if let Some(reason) = &error.inward {
        tracing::warn!(?reason, "image work failed");
    }
    json_line(&ImageProgress {
        phase: "failed".to_owned(),
        done_bytes: 0,
        total_bytes: 0,
        message: Some(error.problem.detail.clone()),
        image: None,
        problem: Some(*error.problem),
    })
}

fn json_line(progress: &ImageProgress) -> Bytes {
    let mut line = serde_json::to_vec(progress).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

pub(super) fn info(image: Image) -> ImageInfo {
    ImageInfo {
        digest: image.digest,
        names: image.names,
        state: image.state,
        size_bytes: image.size_bytes,
        created_at: Timestamp::from_unix_ms(image.created_at_ms),
        os: image.os,
        architecture: image.architecture,
        config: serde_json::from_slice(&image.config_json).unwrap_or_default(),
        layers: image.layers,
        agents: image.agents,
    }
}

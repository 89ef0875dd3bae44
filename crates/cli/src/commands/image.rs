//! `aether image`: pull and import with progress, list, inspect, remove.

use super::show::now;
use super::{Context, each};
use crate::args::{ImportArgs, PullArgs, PullPolicy};
use crate::client::{LineStream, encode, file_body, full, query, reader_body};
use crate::error::CliError;
use crate::exec::{read_password, stdin_is_terminal};
use crate::output::{Progress, ago, bytes, fields, line};
use crate::tarball::folder_body;
use aether_core::api::{ImageInfo, ImageProgress, PullRequest};
use aether_core::image::ImageRef;
use http::{Method, Response, header};
use hyper::body::Incoming;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const MAX_PASSWORD: u64 = 16 * 1024;

pub(super) fn image_path(image: &str) -> Result<String, CliError> {
    if image.is_empty() {
        return Err(CliError::usage("the name of the image is empty"));
    }
    // The bare word is a route of its own.
    let image = if image == "prune" { "prune:latest" } else { image };
    Ok(format!("/v1/images/{}", encode(image)))
}

/// Makes sure that the image is here, by the policy.
pub(super) async fn provide(context: &Context, image: &str, policy: PullPolicy) -> Result<(), CliError> {
    if policy != PullPolicy::Always {
        match context.client.get::<ImageInfo>(&image_path(image)?).await {
            Ok(_) => return Ok(()),
            Err(e) if e.is_not_found() && policy == PullPolicy::Missing => {
                context.printer.talk(&format!("The image {image} is not here: pulling it."));
            }
            Err(e) => return Err(e),
        }
    }
    let request =
        PullRequest { reference: image.to_owned(), username: None, password: None, insecure: false, platform: None };
    pull_with_progress(context, &request).await.map(drop)
}

pub(super) async fn pull(context: &Context, args: PullArgs) -> Result<u8, CliError> {
    if let Err(e) = args.reference.parse::<ImageRef>() {
        return Err(CliError::with_remedy(
            format!("{:?}: {e}", args.reference),
            "Write it as in python:3.11 or registry.example.com/team/tool:v1.",
        ));
    }
    let password = match &args.username {
        None => None,
        Some(_) => Some(registry_password(args.password_stdin)?),
    };
    let request = PullRequest {
        reference: args.reference,
        username: args.username,
        password,
        insecure: args.insecure,
        platform: args.platform,
    };
    let image = pull_with_progress(context, &request).await?;
    print_new(context, &image)?;
    Ok(0)
}

/// From standard input, the environment, or the terminal: never a flag, which
/// other users could read.
fn registry_password(from_stdin: bool) -> Result<String, CliError> {
    use std::io::Read;
    if from_stdin {
        let mut text = String::new();
        let read = std::io::stdin().take(MAX_PASSWORD).read_to_string(&mut text);
        read.map_err(|e| CliError::failed(format!("cannot read the password: {e}")))?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    if let Ok(password) = std::env::var("AETHER_REGISTRY_PASSWORD") {
        return Ok(password);
    }
    if !stdin_is_terminal() {
        return Err(CliError::usage("--username needs --password-stdin or AETHER_REGISTRY_PASSWORD in a script"));
    }
    read_password("Password: ").map_err(|e| CliError::failed(format!("cannot read the password: {e}")))
}

async fn pull_with_progress(context: &Context, request: &PullRequest) -> Result<ImageInfo, CliError> {
    let body = serde_json::to_vec(request).map_err(|e| CliError::failed(format!("cannot form the request: {e}")))?;
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::ACCEPT, "application/x-ndjson")];
    let response = context.client.send(Method::POST, "/v1/images", &headers, full(body)).await?;
    follow(context, response, None).await
}

/// Reads the lines of progress to the last, which has the image or the
/// problem. `sent` counts an upload that goes on meanwhile.
async fn follow(
    context: &Context,
    response: Response<Incoming>,
    sent: Option<(Arc<AtomicU64>, u64)>,
) -> Result<ImageInfo, CliError> {
    let mut progress = Progress::start(context.printer);
    let mut lines = LineStream::new(response.into_body());
    while let Some(step) = lines.next::<ImageProgress>().await? {
        if let Some(problem) = step.problem {
            return Err(CliError::Problem(Box::new(problem)));
        }
        if let Some(image) = step.image {
            return Ok(image);
        }
        let phase = step.message.as_deref().map_or_else(|| step.phase.clone(), |m| format!("{}: {m}", step.phase));
        match &sent {
            Some((count, total)) if step.total_bytes == 0 => {
                progress.update(&phase, count.load(Ordering::Relaxed), *total);
            }
            _ => progress.update(&phase, step.done_bytes, step.total_bytes),
        }
    }
    Err(CliError::with_remedy(
        "the server ended its answer without a result",
        "Look at the server's log, then try again: what was fetched is kept.",
    ))
}

pub(super) async fn import(context: &Context, args: ImportArgs) -> Result<u8, CliError> {
    let path = format!("/v1/images{}", query(&[("name", args.name.clone())]));
    let sent = Arc::new(AtomicU64::new(0));
    let mut total = 0;
    let body = if args.source == "-" {
        reader_body(tokio::io::stdin())
    } else {
        let source = Path::new(&args.source);
        let cannot = |e: std::io::Error| CliError::failed(format!("cannot read {}: {e}", source.display()));
        let metadata = tokio::fs::metadata(source).await.map_err(cannot)?;
        if metadata.is_dir() {
            if !source.join("oci-layout").is_file() {
                return Err(CliError::with_remedy(
                    format!("{} is not an OCI layout: it has no file oci-layout", source.display()),
                    "Make one with `skopeo copy docker://… oci:FOLDER`, or import an archive.",
                ));
            }
            folder_body(source)
        } else {
            total = metadata.len();
            let counter = sent.clone();
            let file = tokio::fs::File::open(source).await.map_err(cannot)?;
            file_body(file, move |count| {
                counter.fetch_add(count, Ordering::Relaxed);
            })
        }
    };
    let headers = [(header::CONTENT_TYPE, "application/x-tar"), (header::ACCEPT, "application/x-ndjson")];
    let response = context.client.send(Method::POST, &path, &headers, body).await?;
    let image = follow(context, response, Some((sent, total))).await?;
    print_new(context, &image)?;
    Ok(0)
}

fn print_new(context: &Context, image: &ImageInfo) -> Result<(), CliError> {
    if image.names.is_empty() {
        context.printer.talk("The archive names no image: use the digest, or import it again with --name.");
    }
    context.printer.one(image, &image.digest, |image| {
        let name = image.names.first().map_or_else(|| "(no name)".to_owned(), |n| familiar(n));
        format!("{name}  {}  {}\n", image.digest, bytes(image.size_bytes))
    })
}

/// `docker.io/library/python:3.11` as people write it.
fn familiar(name: &str) -> String {
    name.parse::<ImageRef>().map_or_else(|_| name.to_owned(), |r| r.familiar())
}

pub(super) async fn list(context: &Context) -> Result<u8, CliError> {
    let images = context.client.get::<super::node::Listing<ImageInfo>>("/v1/images").await?.items();
    let now = now();
    if context.printer.format != crate::args::OutputFormat::Table || context.printer.quiet {
        context.printer.list(&images, &[], |i| i.digest.clone(), |_| Vec::new())?;
        return Ok(0);
    }
    // A row per name, as docker has it.
    let rows: Vec<(String, &ImageInfo)> = images
        .iter()
        .flat_map(|image| {
            let names: Vec<String> = image.names.iter().map(|n| familiar(n)).collect();
            let names = if names.is_empty() { vec!["(no name)".to_owned()] } else { names };
            names.into_iter().map(move |name| (name, image))
        })
        .collect();
    let shown = rows.iter().map(|(name, i)| {
        let short: String = i.digest.chars().take(19).collect();
        vec![name.clone(), short, i.state.clone(), bytes(i.size_bytes), i.agents.to_string(), ago(i.created_at, now)]
    });
    crate::output::text(&crate::output::table(&["NAME", "DIGEST", "STATE", "SIZE", "AGENTS", "CREATED"], shown))?;
    Ok(0)
}

pub(super) async fn inspect(context: &Context, image: &str) -> Result<u8, CliError> {
    let image: ImageInfo = context.client.get(&image_path(image)?).await?;
    context.printer.one(&image, &image.digest, |i| {
        let config = serde_json::to_string_pretty(&i.config).unwrap_or_default();
        fields(&[
            ("Names", i.names.iter().map(|n| familiar(n)).collect::<Vec<_>>().join("\n")),
            ("Digest", i.digest.clone()),
            ("State", i.state.clone()),
            ("Platform", format!("{}/{}", i.os, i.architecture)),
            ("Size", bytes(i.size_bytes)),
            ("Created", ago(i.created_at, now())),
            ("Agents", i.agents.to_string()),
            ("Layers", i.layers.join("\n")),
            ("Config", config),
        ])
    })?;
    Ok(0)
}

pub(super) async fn remove(context: &Context, images: &[String]) -> Result<u8, CliError> {
    each(context, images, |image| async move {
        context.client.delete(&image_path(&image)?).await?;
        line(&image)
    })
    .await
}

//! `aether image tag`, `aether image prune`, `aether system df`,
//! `aether system prune`.

use super::Context;
use super::image::image_path;
use crate::args::{ImagePruneArgs, OutputFormat, SystemCommand, SystemPruneArgs, TagArgs};
use crate::client::query;
use crate::error::CliError;
use crate::output::{bytes, confirmed, line, table};
use aether_core::api::{
    AgentInfo, BULK_MOST, BulkDelete, BulkDeleted, DiskUsage, ImageInfo, Page, PruneRequest, Pruned, TagRequest,
    UsageRow,
};
use serde::Serialize;
use std::time::Duration;

/// Until the holds of destroyed agents are given back.
const HOLDS_LIMIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn tag(context: &Context, args: TagArgs) -> Result<u8, CliError> {
    let body = TagRequest { source: args.source };
    let image: ImageInfo = context.client.put(&image_path(&args.name)?, &body).await?;
    context.printer.one(&image, &image.digest, |i| format!("{}  {}\n", i.digest, i.names.join(", ")))?;
    Ok(0)
}

pub(super) async fn prune(context: &Context, args: ImagePruneArgs) -> Result<u8, CliError> {
    let question = "Remove all images that no agent uses?";
    if !args.dry_run && !args.yes && context.printer.format == OutputFormat::Table && !confirmed(question)? {
        return Err(CliError::failed("nothing was removed"));
    }
    let body = PruneRequest { older_than: args.older_than, dry_run: args.dry_run };
    let (_, pruned): (_, Pruned) = context.client.post("/v1/images/prune", &body, &[]).await?;
    if context.printer.format != OutputFormat::Table {
        return context.printer.structured(&pruned).map(|()| 0);
    }
    print_images(&pruned.images)?;
    let what = if args.dry_run { "would go" } else { "removed" };
    context.printer.talk(&format!("{} {what}, {} freed", pruned.images.len(), bytes(pruned.freed_bytes)));
    Ok(0)
}

fn print_images(images: &[ImageInfo]) -> Result<(), CliError> {
    images.iter().try_for_each(|image| match image.names.as_slice() {
        [] => line(&image.digest),
        names => line(&names.join(" ")),
    })
}

pub(super) async fn system(context: &Context, command: SystemCommand) -> Result<u8, CliError> {
    match command {
        SystemCommand::Df => df(context).await,
        SystemCommand::Prune(args) => system_prune(context, args).await,
    }
}

async fn df(context: &Context) -> Result<u8, CliError> {
    let usage: DiskUsage = context.client.get("/v1/system/df").await?;
    context.printer.one(&usage, &bytes(usage.images.bytes + usage.agents.bytes), |u| {
        let row = |kind: &str, r: UsageRow| {
            vec![kind.to_owned(), r.count.to_string(), r.active.to_string(), bytes(r.bytes), bytes(r.reclaimable_bytes)]
        };
        let rows = [row("images", u.images), row("agents", u.agents)];
        table(&["KIND", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], rows.into_iter())
    })?;
    Ok(0)
}

#[derive(Default, Serialize)]
struct Outcome {
    agents: Vec<String>,
    images: Vec<ImageInfo>,
    freed_bytes: u64,
}

async fn system_prune(context: &Context, args: SystemPruneArgs) -> Result<u8, CliError> {
    let ended = ended_agents(context).await?;
    let question = match (ended.len(), args.all) {
        (0, false) => {
            context.printer.talk("No agent has stopped or failed: nothing to prune.");
            return if context.printer.format == OutputFormat::Table {
                Ok(0)
            } else {
                context.printer.structured(&Outcome::default()).map(|()| 0)
            };
        }
        (count, false) => format!("Destroy {count} stopped or failed agents with their disks?"),
        (count, true) => {
            format!("Destroy {count} stopped or failed agents with their disks, and remove all unused images?")
        }
    };
    if !args.yes && context.printer.format == OutputFormat::Table && !confirmed(&question)? {
        return Err(CliError::failed("nothing was removed"));
    }
    let mut outcome = Outcome::default();
    for batch in ended.chunks(BULK_MOST) {
        let body = BulkDelete { ids: batch.iter().map(|a| a.id.to_string()).collect(), grace: None };
        let (_, deleted): (_, BulkDeleted) = context.client.post("/v1/agents/bulk/delete", &body, &[]).await?;
        let done = batch.iter().zip(&deleted.results).filter(|(_, result)| result.status == 204);
        outcome.agents.extend(done.map(|(agent, _)| agent.name.clone()));
    }
    if args.all {
        outcome_of_images(context, &mut outcome, &ended).await?;
    }
    if context.printer.format != OutputFormat::Table {
        return context.printer.structured(&outcome).map(|()| 0);
    }
    outcome.agents.iter().try_for_each(|name| line(name))?;
    print_images(&outcome.images)?;
    context.printer.talk(&format!(
        "{} agents destroyed, {} images removed, {} of images freed",
        outcome.agents.len(),
        outcome.images.len(),
        bytes(outcome.freed_bytes)
    ));
    Ok(0)
}

/// Until no disk of those agents is there any more their images are held.
async fn outcome_of_images(context: &Context, outcome: &mut Outcome, ended: &[AgentInfo]) -> Result<(), CliError> {
    let end = tokio::time::Instant::now() + HOLDS_LIMIT;
    loop {
        let (_, pruned): (_, Pruned) = context.client.post("/v1/images/prune", &PruneRequest::default(), &[]).await?;
        outcome.freed_bytes += pruned.freed_bytes;
        outcome.images.extend(pruned.images);
        let images: Vec<ImageInfo> = context.client.get("/v1/images").await?;
        let ours = |image: &ImageInfo| ended.iter().any(|agent| agent.image_digest.as_ref() == Some(&image.digest));
        let living = living_digests(context).await?;
        let held = images.iter().any(|image| ours(image) && !living.contains(&image.digest));
        if !held || tokio::time::Instant::now() >= end {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn living_digests(context: &Context) -> Result<Vec<String>, CliError> {
    Ok(all_agents(context, None).await?.into_iter().filter_map(|agent| agent.image_digest).collect())
}

async fn ended_agents(context: &Context) -> Result<Vec<AgentInfo>, CliError> {
    all_agents(context, Some("stopped,failed")).await
}

async fn all_agents(context: &Context, states: Option<&str>) -> Result<Vec<AgentInfo>, CliError> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let parameters = [
            ("state", states.map(str::to_owned)),
            ("per_page", Some(BULK_MOST.to_string())),
            ("cursor", cursor.take()),
        ];
        let page: Page<AgentInfo> = context.client.get(&format!("/v1/agents{}", query(&parameters))).await?;
        all.extend(page.data);
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(all),
        }
    }
}

//! `aether audit list`, `tail` and `export`.

use super::Context;
use super::logs::since;
use super::show::now;
use crate::args::{AuditCommand, AuditExportArgs, AuditFilterArgs, AuditListArgs, AuditTailArgs};
use crate::client::{empty, query};
use crate::error::CliError;
use crate::output::raw;
use aether_core::api::{AuditRecord, Page};
use http::Method;
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

const PAGE: u64 = 1000;
/// Records are linked within a second; a look is cheap.
const LOOK: Duration = Duration::from_millis(700);
const LAST_PAUSE: Duration = Duration::from_secs(5);

type Parameters = Vec<(&'static str, Option<String>)>;

pub(super) async fn audit(context: &Context, command: AuditCommand) -> Result<u8, CliError> {
    match command {
        AuditCommand::List(args) => list(context, args).await,
        AuditCommand::Tail(args) => tail(context, args).await,
        AuditCommand::Export(args) => export(context, args).await,
        AuditCommand::Verify(_) => Err(CliError::failed("this command needs no server")),
    }
}

fn parameters(filter: AuditFilterArgs) -> Parameters {
    vec![
        ("actor", filter.actor),
        ("action", filter.action),
        ("resource", filter.resource),
        ("resource_id", filter.resource_id),
        ("result", filter.result),
        ("platform", filter.platform.then(|| "true".to_owned())),
    ]
}

async fn list(context: &Context, args: AuditListArgs) -> Result<u8, CliError> {
    let mut parameters = parameters(args.filter);
    for (name, text) in [("since", &args.since), ("until", &args.until)] {
        if let Some(text) = text {
            parameters.push((name, Some(since(text, now())?.to_string())));
        }
    }
    let mut records: Vec<AuditRecord> = Vec::new();
    let mut cursor = None;
    loop {
        let left = if args.limit == 0 { PAGE } else { (args.limit - records.len() as u64).min(PAGE) };
        let mut these = parameters.clone();
        these.extend([("per_page", Some(left.to_string())), ("cursor", cursor.take())]);
        let page: Page<AuditRecord> = context.client.get(&format!("/v1/audit{}", query(&these))).await?;
        records.extend(page.data);
        cursor = page.next_cursor;
        if cursor.is_none() || (args.limit > 0 && records.len() as u64 >= args.limit) {
            break;
        }
    }
    context.printer.list(
        &records,
        &["ID", "TIME", "ACTOR", "ACTION", "RESOURCE", "RESULT", "ADDRESS", "POSITION"],
        |r| r.id.to_string(),
        |r| {
            vec![
                r.id.to_string(),
                r.time.to_string(),
                r.actor.clone(),
                r.action.clone(),
                about(r),
                r.result.clone(),
                r.address.clone().unwrap_or_default(),
                r.position.map_or_else(|| "-".to_owned(), |p| p.to_string()),
            ]
        },
    )?;
    Ok(0)
}

fn about(record: &AuditRecord) -> String {
    match &record.resource_id {
        Some(id) => format!("{} {id}", record.resource),
        None => record.resource.clone(),
    }
}

async fn tail(context: &Context, args: AuditTailArgs) -> Result<u8, CliError> {
    let parameters = parameters(args.filter);
    let mut after = args.after.map(|n| n.to_string());
    let mut pause = LOOK;
    loop {
        let mut these = parameters.clone();
        let from = after.clone().unwrap_or_else(|| "head".to_owned());
        these.extend([("after", Some(from)), ("per_page", Some(PAGE.to_string()))]);
        let page: Result<Page<AuditRecord>, CliError> =
            context.client.get(&format!("/v1/audit{}", query(&these))).await;
        match page {
            Ok(page) => {
                pause = LOOK;
                let whole = page.data.len() as u64 == PAGE;
                page.data.iter().try_for_each(|record| show(context, record))?;
                after = page.next_cursor.or(after);
                if whole {
                    continue;
                }
            }
            // Before the first answer an error is the user's to see; later it
            // is a server that restarts.
            Err(e) if after.is_none() || e.is_refusal() => return Err(e),
            Err(e) => {
                context.printer.talk(&format!("{}; resuming", e.to_string().lines().next().unwrap_or_default()));
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

fn show(context: &Context, record: &AuditRecord) -> Result<(), CliError> {
    context.printer.item(record, &record.id.to_string(), sentence)
}

/// `2026-01-02T03:04:05.678Z  local:0  create  agent agtc0…  success`
fn sentence(record: &AuditRecord) -> String {
    let mut parts = vec![record.time.to_string(), record.actor.clone(), record.action.clone(), about(record)];
    parts.push(record.result.clone());
    parts.extend(record.address.clone());
    parts.extend(record.error.clone());
    parts.join("  ")
}

async fn export(context: &Context, args: AuditExportArgs) -> Result<u8, CliError> {
    let parameters =
        [("format", Some(args.format.as_str().to_owned())), ("platform", args.platform.then(|| "true".to_owned()))];
    let path = format!("/v1/audit/export{}", query(&parameters));
    let response = context.client.send(Method::GET, &path, &[], empty()).await?;
    let mut body = response.into_body();
    let cannot =
        |path: &std::path::Path, e: std::io::Error| CliError::failed(format!("cannot write {}: {e}", path.display()));
    let mut file = match &args.file {
        Some(path) => Some((path, tokio::fs::File::create(path).await.map_err(|e| cannot(path, e))?)),
        None => None,
    };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| {
            CliError::with_remedy(format!("the export was cut off: {e}"), "What was written is not whole: try again.")
        })?;
        let Ok(bytes) = frame.into_data() else { continue };
        match &mut file {
            Some((path, file)) => file.write_all(&bytes).await.map_err(|e| cannot(path, e))?,
            None => raw(&bytes)?,
        }
    }
    if let Some((path, file)) = &mut file {
        file.sync_all().await.map_err(|e| cannot(path, e))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_sentence() {
        let record = AuditRecord {
            id: 7,
            time: aether_core::Timestamp::from_unix_ms(0),
            tenant: Some("default".into()),
            actor: "local:0".into(),
            action: "delete".into(),
            resource: "agent".into(),
            resource_id: Some("agtc0x".into()),
            result: "denied".into(),
            address: None,
            details: serde_json::json!({}),
            error: Some("why".into()),
            position: Some(3),
            hash: None,
        };
        assert_eq!(sentence(&record), "1970-01-01T00:00:00.000Z  local:0  delete  agent agtc0x  denied  why");
    }
}

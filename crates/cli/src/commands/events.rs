//! `aether events`: the past by pages, the present by a stream that resumes.

use super::Context;
use super::logs::since;
use super::show::now;
use crate::args::{EventsArgs, OutputFormat};
use crate::client::{SseStream, query};
use crate::error::CliError;
use aether_core::api::{EventInfo, EventPage};
use http::{HeaderName, Method, header};
use std::time::Duration;

const PAGE: u32 = 1000;
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Between two tries to resume.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(5);

pub(super) async fn events(context: &Context, args: EventsArgs) -> Result<u8, CliError> {
    let mut parameters = Vec::new();
    if let Some(text) = &args.since {
        parameters.push(("since", Some(since(text, now())?.to_string())));
    }
    parameters.extend(args.agent.iter().map(|agent| ("agent", Some(agent.clone()))));
    parameters.extend(args.kind.iter().map(|kind| ("kind", Some(kind.clone()))));
    if args.follow { follow(context, &parameters).await } else { past(context, parameters).await }
}

type Parameters = Vec<(&'static str, Option<String>)>;

async fn past(context: &Context, parameters: Parameters) -> Result<u8, CliError> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let mut these = parameters.clone();
        these.extend([("limit", Some(PAGE.to_string())), ("after", after.take())]);
        let page: EventPage = context.client.get(&format!("/v1/events{}", query(&these))).await?;
        if context.printer.format == OutputFormat::Table {
            page.data.iter().try_for_each(|event| show(context, event))?;
        } else {
            all.extend(page.data);
        }
        if !page.more {
            break;
        }
        after = Some(page.next);
    }
    if context.printer.format != OutputFormat::Table {
        context.printer.structured(&all)?;
    }
    Ok(0)
}

async fn follow(context: &Context, parameters: &Parameters) -> Result<u8, CliError> {
    let mut last = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let opened = open(context, parameters, last.as_deref()).await;
        let broken = match opened {
            Ok(mut stream) => loop {
                match stream.next().await {
                    Ok(Some(event)) => {
                        pause = FIRST_PAUSE;
                        if !event.id.is_empty() {
                            last = Some(event.id);
                        }
                        if !event.data.is_empty() {
                            let event = serde_json::from_str(&event.data)
                                .map_err(|e| CliError::failed(format!("an event cannot be read: {e}")))?;
                            show(context, &event)?;
                        }
                    }
                    Ok(None) => break "the server ended the stream".to_owned(),
                    Err(e) => break e.to_string(),
                }
            },
            // Before the first answer an error is the user's to see; later it
            // is a server that restarts.
            Err(e) if last.is_none() || e.is_refusal() => return Err(e),
            Err(e) => e.to_string(),
        };
        context.printer.talk(&format!("{}; resuming", broken.lines().next().unwrap_or_default()));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// A stream from `last` on, or from now.
pub(super) async fn open(
    context: &Context,
    parameters: &Parameters,
    last: Option<&str>,
) -> Result<SseStream, CliError> {
    let mut headers = vec![(header::ACCEPT, "text/event-stream")];
    headers.extend(last.map(|id| (LAST_EVENT_ID, id)));
    let path = format!("/v1/events{}", query(parameters));
    let response = context.client.send_whole(Method::GET, &path, &headers, &[]).await?;
    Ok(SseStream::new(response.into_body()))
}

fn show(context: &Context, event: &EventInfo) -> Result<(), CliError> {
    context.printer.item(event, &event.id, sentence)
}

/// `2026-01-02T03:04:05.678Z  agent.observed  web-1  creating → running`
fn sentence(event: &EventInfo) -> String {
    let id = event.agent_id.as_ref().map(ToString::to_string);
    let who = event.agent_name.clone().or(id).or_else(|| event.node.clone()).unwrap_or_default();
    let text = |key: &str| event.data[key].as_str().map(str::to_owned);
    let what = match (text("from"), text("to")) {
        (Some(from), Some(to)) if from == to => String::new(),
        (Some(from), Some(to)) => format!("{from} → {to}"),
        _ => text("reason").or_else(|| text("image")).unwrap_or_default(),
    };
    let changed: Vec<&str> =
        event.data["changed"].as_array().into_iter().flatten().filter_map(|v| v.as_str()).collect();
    let error = event.data["error"]["message"].as_str().unwrap_or_default();
    let exit = event.data["exit_code"].as_i64().map(|code| format!("exit code {code}")).unwrap_or_default();
    let well = match (event.data["unhealthy"].as_bool(), text("unhealthy_reason")) {
        (Some(true), Some(why)) => format!("unhealthy: {why}"),
        (Some(true), None) => "unhealthy".to_owned(),
        _ => String::new(),
    };
    let secrets = event.data["secrets"].as_object().into_iter().flatten();
    let secrets: Vec<String> = secrets.map(|(name, version)| format!("{name} version {version}")).collect();
    let parts = [what, secrets.join(", "), well, changed.join(", "), exit, error.to_owned()];
    let tail: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    format!("{}  {:15} {}  {}", event.time, event.kind, who, tail.join("; ")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_sentence() {
        let event = |kind: &str, data: serde_json::Value| EventInfo {
            id: "0-1".into(),
            time: aether_core::Timestamp::from_unix_ms(0),
            kind: kind.into(),
            agent_id: None,
            agent_name: Some("web-1".into()),
            node: None,
            version: 1,
            generation: 1,
            status: None,
            desired: None,
            data,
        };
        let ended = event("agent.observed", serde_json::json!({ "from": "running", "to": "stopped", "exit_code": 3 }));
        assert_eq!(sentence(&ended), "1970-01-01T00:00:00.000Z  agent.observed  web-1  running → stopped; exit code 3");
        let updated = event("agent.updated", serde_json::json!({ "changed": ["env", "name"] }));
        assert_eq!(sentence(&updated), "1970-01-01T00:00:00.000Z  agent.updated   web-1  env, name");
        let unwell =
            serde_json::json!({ "from": "running", "to": "running", "unhealthy": true, "unhealthy_reason": "it lies" });
        assert!(sentence(&event("agent.updated", unwell)).ends_with("web-1  unhealthy: it lies"));
        let given = event("agent.secrets", serde_json::json!({ "secrets": { "DB": 2 } }));
        assert!(sentence(&given).ends_with("agent.secrets   web-1  DB version 2"));
        assert!(sentence(&event("agent.gone", serde_json::json!({}))).ends_with("agent.gone      web-1"));
    }
}

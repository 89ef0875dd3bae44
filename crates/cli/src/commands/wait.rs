//! `aether wait`: by the stream of events; where there is none, by asking now
//! and then.

use super::events::open;
use super::{Context, agent_path, each};
use crate::args::{OutputFormat, WaitArgs, WaitFor};
use crate::client::SseStream;
use crate::error::CliError;
use crate::output::{Spinner, line};
use crate::values::duration;
use aether_core::api::AgentInfo;
use aether_core::{Desired, Observed};
use std::time::Duration;

/// How often the state is asked for beside the stream, and without one.
const BESIDE: Duration = Duration::from_secs(10);
const WITHOUT: Duration = Duration::from_millis(500);

pub(super) async fn wait(context: &Context, args: WaitArgs) -> Result<u8, CliError> {
    let limit = args.timeout.as_deref().map(|text| duration("--timeout", text)).transpose()?;
    let state = args.state;
    let all = each(context, &args.agents, |agent| async move {
        let spinner = Spinner::start(context.printer, &format!("waiting for {agent}"));
        let found = until(context, &agent, &spinner, state).await?;
        drop(spinner);
        print(context, &agent, state, found)
    });
    match limit {
        None => all.await,
        Some(limit) => match tokio::time::timeout(limit, all).await {
            Ok(done) => done,
            Err(_) => Err(CliError::failed(format!("gave up after {}", args.timeout.unwrap_or_default()))),
        },
    }
}

/// The agent when it is so; none when it is gone.
async fn until(
    context: &Context,
    agent: &str,
    spinner: &Spinner,
    state: WaitFor,
) -> Result<Option<AgentInfo>, CliError> {
    let path = agent_path(agent, "")?;
    // Opened before the first look: what happens in between is in it. The
    // name may be given to another agent meanwhile, so the id is followed.
    let mut first: AgentInfo = match context.client.get(&path).await {
        Err(e) if e.is_not_found() && state == WaitFor::Gone => return Ok(None),
        other => other?,
    };
    let id = first.id.to_string();
    let path = agent_path(&id, "")?;
    let mut stream = open(context, &vec![("agent", Some(id))], None).await.ok();
    loop {
        first = match context.client.get::<AgentInfo>(&path).await {
            Err(e) if e.is_not_found() && state == WaitFor::Gone => return Ok(None),
            Err(e) if e.is_not_found() => return Err(super::lifecycle::gone(agent)),
            other => other?,
        };
        if reached(&first, state)? {
            return Ok(Some(first));
        }
        spinner.say(&super::lifecycle::waiting_for(&first));
        next_change(&mut stream).await;
    }
}

/// Returns when something happened, or after a while.
async fn next_change(stream: &mut Option<SseStream>) {
    let Some(events) = stream else { return tokio::time::sleep(WITHOUT).await };
    let changed = async {
        loop {
            match events.next().await {
                Ok(Some(event)) if event.data.is_empty() => {}
                Ok(Some(_)) => return true,
                Ok(None) | Err(_) => return false,
            }
        }
    };
    if let Ok(false) = tokio::time::timeout(BESIDE, changed).await {
        *stream = None;
    }
}

fn reached(agent: &AgentInfo, state: WaitFor) -> Result<bool, CliError> {
    match state {
        WaitFor::Gone => Ok(false),
        WaitFor::Stopped => Ok(matches!(agent.status, Observed::Stopped | Observed::Failed)),
        WaitFor::Running => match agent.status {
            Observed::Running => Ok(true),
            Observed::Stopped | Observed::Failed => Err(super::lifecycle::not_running(agent)),
            _ if agent.desired != Desired::Running => Err(super::lifecycle::not_running(agent)),
            _ => Ok(false),
        },
    }
}

/// The exit code of what has stopped, as docker does; else the name.
fn print(context: &Context, asked: &str, state: WaitFor, found: Option<AgentInfo>) -> Result<(), CliError> {
    let Some(info) = found else { return line(asked) };
    if context.printer.format != OutputFormat::Table {
        return context.printer.structured(&info);
    }
    if state != WaitFor::Stopped {
        return line(asked);
    }
    match (info.exit_code, &info.exit_signal, &info.error) {
        (Some(code), ..) => line(&code.to_string()),
        (None, Some(signal), _) => line(signal),
        (None, None, Some(error)) => Err(CliError::failed(format!("{asked}: {}", error.message))),
        (None, None, None) => line(info.status.as_str()),
    }
}

//! Starting, stopping, waiting for and destroying agents.

use super::{Context, agent_path, each};
use crate::args::{DestroyArgs, OutputFormat, StartArgs, StopArgs};
use crate::client::query;
use crate::error::CliError;
use crate::output::{Spinner, confirmed, line};
use crate::values::seconds;
use aether_core::api::{AgentInfo, Page, StopRequest};
use aether_core::{Code, Desired, Observed, Problem};
use std::time::Duration;

const MAX_STOP_S: u64 = 300;
const MAX_GRACE_S: u64 = 30;
/// How often the state is asked for while waiting.
const FIRST_POLL: Duration = Duration::from_millis(50);
const LAST_POLL: Duration = Duration::from_millis(250);

pub(super) async fn start(context: &Context, args: StartArgs) -> Result<u8, CliError> {
    each(context, &args.agents, |agent| async move {
        let wait = args.wait.then(|| "running".to_owned());
        let path = agent_path(&agent, &format!("/start{}", query(&[("wait", wait)])))?;
        let (_, info): (_, AgentInfo) = context.client.post(&path, &serde_json::json!({}), &[]).await?;
        let info = if args.wait { wait_until_running(context, info.id.as_str()).await? } else { info };
        print_agent(context, &agent, &info)
    })
    .await
}

pub(super) async fn stop(context: &Context, args: StopArgs) -> Result<u8, CliError> {
    let timeout = seconds("--timeout", &args.timeout)?;
    if timeout > MAX_STOP_S {
        return Err(CliError::usage(format!("--timeout: at most {MAX_STOP_S}s")));
    }
    let request = StopRequest { force: args.force, timeout: Some(timeout) };
    let (request, no_wait) = (&request, args.no_wait);
    each(context, &args.agents, |agent| async move {
        let path = agent_path(&agent, "/stop")?;
        let (_, mut info): (_, AgentInfo) = context.client.post(&path, request, &[]).await?;
        if !no_wait {
            let spinner = Spinner::start(context.printer, &format!("{agent} is stopping"));
            info = poll(context, &agent, &spinner, |a| {
                matches!(a.status, Observed::Stopped | Observed::Failed | Observed::Lost)
            })
            .await?;
        }
        print_agent(context, &agent, &info)
    })
    .await
}

fn print_agent(context: &Context, asked: &str, info: &AgentInfo) -> Result<(), CliError> {
    if context.printer.format == OutputFormat::Table { line(asked) } else { context.printer.structured(info) }
}

/// Waits until the agent runs; that it failed, or is not to run any more, is
/// an error with its reason.
pub(super) async fn wait_until_running(context: &Context, agent: &str) -> Result<AgentInfo, CliError> {
    let spinner = Spinner::start(context.printer, "waiting for a node");
    let info = poll(context, agent, &spinner, |a| {
        a.desired != Desired::Running
            || !matches!(a.status, Observed::Pending | Observed::Creating | Observed::Restoring)
    })
    .await?;
    match info.status {
        Observed::Running => Ok(info),
        // A short main process has run and ended: that is no failure.
        Observed::Stopped if info.exit_code.is_some() || info.exit_signal.is_some() => Ok(info),
        _ => Err(not_running(&info)),
    }
}

pub(super) fn not_running(info: &AgentInfo) -> CliError {
    match &info.error {
        Some(error) => CliError::with_remedy(
            format!("{} is {}: {} ({})", info.name, info.status, error.message, error.code),
            format!("`aether agent get {}` shows it in full; `aether agent start` tries again.", info.name),
        ),
        None => CliError::with_remedy(
            format!("{} is {}, not running", info.name, info.status),
            format!("`aether agent get {}` shows it in full.", info.name),
        ),
    }
}

/// Asks until `done`, more and more seldom, and says meanwhile what it waits
/// for.
async fn poll(
    context: &Context,
    agent: &str,
    spinner: &Spinner,
    done: impl Fn(&AgentInfo) -> bool,
) -> Result<AgentInfo, CliError> {
    let path = agent_path(agent, "")?;
    let mut pause = FIRST_POLL;
    loop {
        let info: AgentInfo = context.client.get(&path).await?;
        if done(&info) {
            return Ok(info);
        }
        spinner.say(&waiting_for(&info));
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LAST_POLL);
    }
}

pub(super) fn waiting_for(info: &AgentInfo) -> String {
    match (info.status, info.queue_position, &info.placement_reason) {
        (status, Some(place), _) => format!("{} is {status}: number {place} in the boot queue", info.name),
        (Observed::Pending, None, Some(reason)) => format!("{} is pending: {reason}", info.name),
        (status, ..) => format!("{} is {status}", info.name),
    }
}

pub(super) async fn destroy(context: &Context, args: DestroyArgs) -> Result<u8, CliError> {
    let grace = seconds("--grace", &args.grace)?;
    if grace > MAX_GRACE_S {
        return Err(CliError::usage(format!("--grace: at most {MAX_GRACE_S}s")));
    }
    let agents = if args.all { everything(context).await? } else { args.agents };
    if agents.is_empty() {
        context.printer.talk("There is no agent to destroy.");
        return Ok(0);
    }
    if !args.yes && context.printer.format == OutputFormat::Table && !sure(&agents)? {
        return Err(CliError::failed("nothing was destroyed"));
    }
    super::agent::delete_all(context, &agents, grace).await
}

async fn everything(context: &Context) -> Result<Vec<String>, CliError> {
    let mut names = Vec::new();
    let mut cursor = None;
    loop {
        let parameters = [("per_page", Some("100".to_owned())), ("cursor", cursor.take())];
        let page: Page<AgentInfo> = context.client.get(&format!("/v1/agents{}", query(&parameters))).await?;
        names.extend(page.data.into_iter().map(|a| a.id.to_string()));
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(names),
        }
    }
}

/// Asks people; scripts are never asked.
fn sure(agents: &[String]) -> Result<bool, CliError> {
    confirmed(&match agents {
        [one] => format!("Destroy the agent {one} with its disk?"),
        many => format!("Destroy {} agents with their disks?", many.len()),
    })
}

/// The error of an agent that nobody can find any more.
pub(super) fn gone(agent: &str) -> CliError {
    CliError::Problem(Box::new(Problem::new(
        Code::NotFound,
        format!("{agent} was destroyed meanwhile"),
        "List those that are there with `aether agent list`.",
    )))
}

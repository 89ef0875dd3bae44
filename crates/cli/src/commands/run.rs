//! `aether run`: create, exec, destroy.
//!
//! The agent is created without a command and the command is an exec, so that
//! its output streams from the first byte and its exit code comes back
//! exactly. The name is chosen here, so that an agent whose creation was cut
//! short can still be destroyed.

use super::agent::{config_of, intent, made_up_name};
use super::lifecycle::{gone, not_running, wait_until_running, waiting_for};
use super::{Context, agent_path};
use crate::args::RunArgs;
use crate::client::{IDEMPOTENCY_KEY, encode};
use crate::error::CliError;
use crate::exec::{self, Ended, Options, Start};
use crate::output::Spinner;
use crate::values::seconds;
use aether_core::Observed;
use aether_core::api::{AgentConfig, AgentInfo, ExecRequest, ImageInfo};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// How long the clean-up tries before it tells the user to.
const DESTROY_LIMIT: Duration = Duration::from_secs(15);

pub(super) async fn run(context: &Context, args: RunArgs) -> Result<u8, CliError> {
    let timeout = args.timeout.as_deref().map(|t| seconds("--timeout", t)).transpose()?;
    let mut config = config_of(args.image.clone(), Vec::new(), &args.sandbox)?;
    let name = config.name.get_or_insert_with(made_up_name).clone();
    // From here on it is Aether that fails, not the command line.
    let prepared = prepare(context, &args).await.map_err(own_failure)?;
    let request = ExecRequest {
        command: prepared,
        timeout,
        env: config.env.clone(),
        cwd: config.workdir.clone(),
        user: config.user.clone(),
        open_stdin: args.interactive,
        tty: args.tty,
        ..ExecRequest::default()
    };
    let outcome = live(context, config, request, &args).await;
    finish(context, &name, args.keep, outcome).await
}

/// The image, here, and the words to run.
async fn prepare(context: &Context, args: &RunArgs) -> Result<Vec<String>, CliError> {
    super::image::provide(context, &args.image, args.pull).await?;
    if !args.command.is_empty() {
        return Ok(args.command.clone());
    }
    let image: ImageInfo = context.client.get(&format!("/v1/images/{}", encode(&args.image))).await?;
    let words = |key: &str| -> Vec<String> {
        let list = image.config.get(key).and_then(|v| v.as_array());
        list.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let command: Vec<String> = words("Entrypoint").into_iter().chain(words("Cmd")).collect();
    if command.is_empty() {
        return Err(CliError::with_remedy(
            format!("the image {} has no command of its own", args.image),
            format!("Give one, as in `aether run {} -- sh -c 'echo hello'`.", args.image),
        ));
    }
    Ok(command)
}

/// What became of it, and whether an agent may be there.
enum Outcome {
    /// The create was refused: there is nothing to destroy.
    NeverCreated(CliError),
    Failed(CliError),
    Ended(Ended),
}

async fn live(context: &Context, config: AgentConfig, request: ExecRequest, args: &RunArgs) -> Outcome {
    let (mut int, mut term, mut hup) = match listen() {
        Ok(signals) => signals,
        Err(e) => return Outcome::NeverCreated(e),
    };
    let created = tokio::select! {
        created = create(context, &config) => created,
        _ = int.recv() => return Outcome::Ended(Ended::Terminated(nix::libc::SIGINT)),
        _ = term.recv() => return Outcome::Ended(Ended::Terminated(nix::libc::SIGTERM)),
        _ = hup.recv() => return Outcome::Ended(Ended::Terminated(nix::libc::SIGHUP)),
    };
    let agent = match created {
        Ok(agent) => agent,
        Err((false, e)) => return Outcome::NeverCreated(e),
        Err((true, e)) => return Outcome::Failed(e),
    };
    let options = Options { interactive: args.interactive, tty: args.tty, detach: false };
    match exec::run(&context.client, agent.id.as_str(), Start::New(Box::new(request)), &options).await {
        Ok(ended) => Outcome::Ended(ended),
        Err(e) if e.is_not_found() => Outcome::Failed(gone(&agent.name)),
        Err(e) => Outcome::Failed(e),
    }
}

type ThreeSignals = (tokio::signal::unix::Signal, tokio::signal::unix::Signal, tokio::signal::unix::Signal);

fn listen() -> Result<ThreeSignals, CliError> {
    let on = |kind| signal(kind).map_err(|e| CliError::failed(format!("cannot listen for signals: {e}")));
    Ok((on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?))
}

/// Creates and waits until it runs. The error says whether an agent may be
/// there: the server refused it, or something broke after.
async fn create(context: &Context, config: &AgentConfig) -> Result<AgentInfo, (bool, CliError)> {
    let key = intent();
    let headers = [(IDEMPOTENCY_KEY, key.as_str())];
    let waiting = context.client.post::<AgentInfo>("/v1/agents?wait=running", config, &headers);
    tokio::pin!(waiting);
    let spinner = Spinner::start(context.printer, "creating a sandbox");
    let name = config.name.clone().unwrap_or_default();
    let answer = loop {
        tokio::select! {
            answer = &mut waiting => break answer,
            // Only who watches is told of the queue.
            () = tokio::time::sleep(Duration::from_secs(1)), if spinner.is_shown() => {
                if let Ok(path) = agent_path(&name, "")
                    && let Ok(info) = context.client.get::<AgentInfo>(&path).await
                {
                    spinner.say(&waiting_for(&info));
                }
            }
        }
    };
    drop(spinner);
    let info = match answer {
        Ok((_, info)) => info,
        Err(CliError::Problem(p)) if p.status < 500 => return Err((false, CliError::Problem(p))),
        Err(e) => return Err((true, e)),
    };
    match info.status {
        Observed::Running => Ok(info),
        Observed::Pending | Observed::Creating => {
            let info = wait_until_running(context, info.id.as_str()).await.map_err(|e| (true, e))?;
            if info.status == Observed::Running { Ok(info) } else { Err((true, not_running(&info))) }
        }
        _ => Err((true, not_running(&info))),
    }
}

/// Destroys the agent unless it is to stay, and turns all into an exit code.
async fn finish(context: &Context, name: &str, keep: bool, outcome: Outcome) -> Result<u8, CliError> {
    let outcome = match outcome {
        Outcome::NeverCreated(e) => return Err(own_failure(e)),
        other => other,
    };
    let detached = matches!(outcome, Outcome::Ended(Ended::Detached { .. }));
    if keep || detached {
        context.printer.talk(&format!("The agent {name} stays; `aether agent destroy {name}` ends it."));
    } else if !destroy(context, name).await {
        context.printer.talk(&format!(
            "warning: the agent {name} could not be destroyed; do it with `aether agent destroy {name}`"
        ));
    }
    match outcome {
        Outcome::NeverCreated(e) | Outcome::Failed(e) => Err(own_failure(e)),
        Outcome::Ended(ended) => Ok(super::exec::report(context, name, ended)),
    }
}

/// A create that was cut short may still be on its way, so "not found" is
/// believed only after a moment.
async fn destroy(context: &Context, name: &str) -> bool {
    let Ok(path) = agent_path(name, "?grace=0") else { return false };
    let start = Instant::now();
    let mut not_found = 0;
    while start.elapsed() < DESTROY_LIMIT {
        match context.client.delete(&path).await {
            Ok(()) => return true,
            Err(e) if e.is_not_found() => {
                not_found += 1;
                if not_found >= 3 {
                    return true;
                }
            }
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    false
}

/// Prints the error here and leaves with 125, which no command uses.
fn own_failure(e: CliError) -> CliError {
    match e {
        CliError::Usage(_) | CliError::Silent(_) => e,
        other => {
            crate::exec::restore();
            eprint!("{}", other.render(false));
            CliError::Silent(125)
        }
    }
}

//! `aether agent exec`.

use super::show::{clip, now, quoted};
use super::{Context, agent_path};
use crate::args::ExecArgs;
use crate::error::CliError;
use crate::exec::{self, Ended, Options, Start};
use crate::output::{ago, line};
use crate::values::{environment, seconds};
use aether_core::api::{ExecInfo, ExecRequest};

pub(super) async fn exec(context: &Context, args: ExecArgs) -> Result<u8, CliError> {
    let timeout = args.timeout.as_deref().map(|t| seconds("--timeout", t)).transpose()?;
    let no_files: &[&std::path::Path] = &[];
    let env = environment(no_files, &args.env, |name| std::env::var(name).ok())?;
    agent_path(&args.agent, "")?;
    let start = match &args.attach {
        Some(id) => Start::Attach(id.clone()),
        None => Start::New(Box::new(ExecRequest {
            command: args.command.clone(),
            timeout,
            env,
            cwd: args.workdir.clone(),
            user: args.user.clone(),
            open_stdin: args.interactive,
            tty: args.tty,
            ..ExecRequest::default()
        })),
    };
    let tty = args.tty || attached_to_terminal(context, &args).await?;
    let interactive = args.interactive || (args.attach.is_some() && tty && exec::stdin_is_terminal());
    let options = Options { interactive, tty, detach: args.detach };
    let ended = exec::run(&context.client, &args.agent, start, &options).await.map_err(own_failure(context))?;
    if args.detach
        && let Ended::Detached { exec_id } = &ended
    {
        line(exec_id)?;
        return Ok(0);
    }
    Ok(report(context, &args.agent, ended))
}

/// Whether the exec to attach to has a terminal: then ours must be raw.
async fn attached_to_terminal(context: &Context, args: &ExecArgs) -> Result<bool, CliError> {
    let Some(id) = &args.attach else { return Ok(false) };
    let path = agent_path(&args.agent, &format!("/execs/{}", crate::client::encode(id)))?;
    Ok(context.client.get::<ExecInfo>(&path).await?.tty)
}

/// What to say at the end, and the exit code.
pub(super) fn report(context: &Context, agent: &str, ended: Ended) -> u8 {
    match ended {
        Ended::Exited(code) => code,
        Ended::Killed => 137,
        Ended::BrokenPipe => 0,
        Ended::Terminated(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(0)),
        Ended::Detached { exec_id } => {
            context
                .printer
                .talk(&format!("\nDetached; it runs on. To come back: aether agent exec --attach {exec_id} {agent}"));
            0
        }
    }
}

/// Not the command failed but we: 125, as `run` has it.
fn own_failure(context: &Context) -> impl Fn(CliError) -> CliError {
    let json = context.printer.format != crate::args::OutputFormat::Table;
    move |e| match e {
        CliError::Usage(_) | CliError::Silent(_) => e,
        other => {
            eprint!("{}", other.render(json));
            CliError::Silent(125)
        }
    }
}

pub(super) async fn list(context: &Context, agent: &str) -> Result<u8, CliError> {
    let execs: Vec<ExecInfo> = context.client.get(&agent_path(agent, "/execs")?).await?;
    let now = now();
    context.printer.list(
        &execs,
        &["EXEC ID", "COMMAND", "PID", "STATE", "STARTED"],
        |e| e.exec_id.clone(),
        |e| {
            let words = e.command.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(" ");
            let state = match (&e.exit_signal, e.exit_code) {
                (Some(signal), _) => format!("{} ({signal})", e.state),
                (None, Some(code)) => format!("{} ({code})", e.state),
                (None, None) => e.state.clone(),
            };
            vec![e.exec_id.clone(), clip(&words, 40), e.pid.to_string(), state, ago(e.started_at, now)]
        },
    )?;
    Ok(0)
}

//! `aether`: the one binary. User commands talk to the HTTP API; `server` is
//! the whole system in one process; the hidden verbs confine a sandbox's
//! process and run in it before its program.
//!
//! Not here: any decision about agents. The server makes them.

mod args;
mod client;
mod commands;
mod completion;
mod config;
mod error;
mod exec;
#[cfg(test)]
mod golden;
mod output;
mod profiles;
mod tarball;
mod values;
mod version;

#[cfg(feature = "server")]
mod system;

use args::{AuditCommand, Cli, Command, ConfigCommand, OutputFormat, SetArgs};
use clap::Parser;
use commands::Context;
use error::CliError;
use output::Printer;

fn main() {
    // Before anything that could start a thread: the jail needs a process
    // with one.
    #[cfg(feature = "server")]
    system::hidden_verb();

    exec::install_panic_hook();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            std::process::exit(if e.use_stderr() { 2 } else { 0 });
        }
    };
    let json = cli.global.output != OutputFormat::Table;
    let code = match run(cli) {
        Ok(code) => code,
        Err(e) => {
            exec::restore();
            eprint!("{}", e.render(json));
            e.exit_code()
        }
    };
    exec::restore();
    // Not a return: a thread that reads standard input would be waited for.
    std::process::exit(code.into());
}

fn run(cli: Cli) -> Result<u8, CliError> {
    let printer = Printer { format: cli.global.output, quiet: cli.global.quiet };
    match cli.command {
        Command::Completion { shell } => completion::print(shell),
        Command::Config(ConfigCommand::Show { set, prefix }) => {
            let loaded = load(&cli.global, &set, Vec::new())?;
            config::show(printer, &loaded, prefix.as_deref())
        }
        #[cfg(feature = "server")]
        Command::Server(args) => system::server(&cli.global, *args),
        #[cfg(feature = "server")]
        Command::Migrate(args) => system::migrate(&cli.global, args, printer),
        #[cfg(feature = "server")]
        Command::Doctor(args) => system::doctor(&cli.global, args, printer),
        #[cfg(not(feature = "server"))]
        Command::Server(_) | Command::Migrate(_) | Command::Doctor(_) => {
            Err(CliError::failed("this is a build of the client alone: it has no server"))
        }
        Command::Audit(AuditCommand::Verify(args)) => commands::audit_verify(printer, &args),
        Command::Login(args) => {
            let tenant = cli.global.acting_for.filter(|t| !t.is_empty());
            runtime()?.block_on(commands::login(printer, args, tenant))
        }
        Command::Logout(args) => runtime()?.block_on(commands::logout(printer, args)),
        Command::Profile(command) => commands::profile(printer, command),
        Command::Version { client } => {
            let context = if client { None } else { Some(Context::new(&cli.global)?) };
            runtime()?.block_on(commands::version(context.as_ref(), printer))
        }
        command => {
            let runtime = runtime()?;
            runtime.block_on(commands::renew(&cli.global))?;
            let context = Context::new(&cli.global)?;
            runtime.block_on(commands::dispatch(&context, command))
        }
    }
}

fn load(global: &args::Global, set: &SetArgs, more: Vec<(String, String, String)>) -> Result<config::Loaded, CliError> {
    config::load(&config::Sources::of_process(global, set, more)?)
}

/// For client commands: two threads, so that a busy terminal does not hold up
/// the stream.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.map_err(|e| CliError::failed(format!("cannot start: {e}")))
}

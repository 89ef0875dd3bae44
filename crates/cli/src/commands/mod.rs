//! The user's commands: each asks the HTTP API and prints the answer. None
//! knows anything that the server does not, so they work from any terminal.

mod access;
mod agent;
mod audit;
mod audit_verify;
mod budget;
mod copy;
mod events;
mod exec;
mod housekeeping;
mod image;
mod inspect;
mod keys;
mod lifecycle;
mod login;
mod logs;
mod node;
mod port_forward;
mod renew;
mod run;
mod secret;
mod show;
mod stats;
mod tenant;
mod top;
mod update;
mod user;
mod version;
mod wait;

pub(crate) use audit_verify::audit_verify;
pub(crate) use login::{login, logout, profile};
pub(crate) use renew::renew;
pub(crate) use version::version;

use crate::args::{
    AgentCommand, ApiKeyCommand, Command, Global, ImageCommand, NodeCommand, QuotaCommand, TenantCommand,
};
use crate::client::{Client, encode};
use crate::error::CliError;
use crate::output::Printer;

/// What a command works with.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) printer: Printer,
}

impl Context {
    pub(crate) fn new(global: &Global) -> Result<Self, CliError> {
        let client = crate::config::client_settings(global)?;
        Ok(Self { client, printer: Printer { format: global.output, quiet: global.quiet } })
    }
}

/// The path of one agent, by name or id.
fn agent_path(agent: &str, rest: &str) -> Result<String, CliError> {
    if agent.is_empty() {
        return Err(CliError::usage("the name or id of the agent is empty"));
    }
    Ok(format!("/v1/agents/{}{rest}", encode(agent)))
}

/// Runs `one` for each; all are tried, and each failure is said at once.
async fn each<F, Fut>(context: &Context, names: &[String], one: F) -> Result<u8, CliError>
where
    F: Fn(String) -> Fut,
    Fut: Future<Output = Result<(), CliError>>,
{
    if let [single] = names {
        return one(single.clone()).await.map(|()| 0);
    }
    let json = context.printer.format != crate::args::OutputFormat::Table;
    let mut failed = false;
    for name in names {
        match one(name.clone()).await {
            Ok(()) => {}
            Err(CliError::Silent(code)) => return Err(CliError::Silent(code)),
            Err(e) => {
                failed = true;
                eprint!("{}", e.render(json));
            }
        }
    }
    Ok(u8::from(failed))
}

/// Dispatches every command that talks to a server.
pub(crate) async fn dispatch(context: &Context, command: Command) -> Result<u8, CliError> {
    match command {
        Command::Run(args) => run::run(context, *args).await,
        Command::Agent(command) => agent_command(context, command).await,
        Command::Exec(args) => exec::exec(context, args).await,
        Command::Ps(args) => agent::list(context, args).await,
        Command::Logs(args) => logs::logs(context, args).await,
        Command::PortForward(args) => port_forward::port_forward(context, args).await,
        Command::System(command) => housekeeping::system(context, command).await,
        Command::Stats(args) => stats::stats(context, &args.agents).await,
        Command::Top(args) => top::top(context, args).await,
        Command::Inspect(args) => inspect::inspect(context, &args.names).await,
        Command::Events(args) => events::events(context, args).await,
        Command::Wait(args) => wait::wait(context, args).await,
        Command::Cp(args) => copy::copy(context, args).await,
        Command::Rm(args) => lifecycle::destroy(context, args).await,
        Command::Rename(args) => update::rename(context, args).await,
        Command::Image(command) => match command {
            ImageCommand::Pull(args) => image::pull(context, args).await,
            ImageCommand::Import(args) => image::import(context, args).await,
            ImageCommand::List => image::list(context).await,
            ImageCommand::Inspect { image } => image::inspect(context, &image).await,
            ImageCommand::Tag(args) => housekeeping::tag(context, args).await,
            ImageCommand::Prune(args) => housekeeping::prune(context, args).await,
            ImageCommand::Rm { images } => image::remove(context, &images).await,
        },
        Command::Images => image::list(context).await,
        Command::Pull(args) => image::pull(context, args).await,
        Command::ApiKey(command) => match command {
            ApiKeyCommand::Create(args) => keys::create(context, args).await,
            ApiKeyCommand::List => keys::list(context).await,
            ApiKeyCommand::Get { key } => keys::get(context, &key).await,
            ApiKeyCommand::Update(args) => keys::update(context, args).await,
            ApiKeyCommand::Rotate(args) => keys::rotate(context, args).await,
            ApiKeyCommand::Revoke { keys } => keys::revoke(context, &keys).await,
        },
        Command::Secret(command) => secret::secret(context, command).await,
        Command::ServiceAccount(command) => access::service_account(context, command).await,
        Command::Role(command) => access::role(context, command).await,
        Command::User(command) => user::user(context, command).await,
        Command::Token(args) => user::token(context, args).await,
        Command::Tenant(command) => tenant_command(context, command).await,
        Command::Quota(command) => match command {
            QuotaCommand::Get { tenant, label } => tenant::quota_get(context, tenant, label.as_deref()).await,
            QuotaCommand::List => tenant::quota_list(context).await,
            QuotaCommand::Set(args) => tenant::quota_set(context, args).await,
            QuotaCommand::Labels { tenant } => budget::list(context, tenant).await,
            QuotaCommand::Lift { tenant, label } => budget::lift(context, &tenant, &label).await,
        },
        Command::Audit(command) => audit::audit(context, command).await,
        Command::Node(NodeCommand::List) => node::list(context).await,
        Command::Server(_)
        | Command::Migrate(_)
        | Command::Doctor(_)
        | Command::Config(_)
        | Command::Login(_)
        | Command::Logout(_)
        | Command::Profile(_)
        | Command::Completion { .. }
        | Command::Version { .. } => Err(CliError::failed("this command needs no server")),
    }
}

async fn agent_command(context: &Context, command: AgentCommand) -> Result<u8, CliError> {
    match command {
        AgentCommand::Create(args) => agent::create(context, *args).await,
        AgentCommand::List(args) => agent::list(context, args).await,
        AgentCommand::Get { agent, show_env } => agent::get(context, &agent, show_env).await,
        AgentCommand::Update(args) => update::update(context, *args).await,
        AgentCommand::Rename(args) => update::rename(context, args).await,
        AgentCommand::Start(args) => lifecycle::start(context, args).await,
        AgentCommand::Stop(args) => lifecycle::stop(context, args).await,
        AgentCommand::Exec(args) => exec::exec(context, args).await,
        AgentCommand::Logs(args) => logs::logs(context, args).await,
        AgentCommand::Cp(args) => copy::copy(context, args).await,
        AgentCommand::Health { agent } => agent::health(context, &agent).await,
        AgentCommand::Stats(args) => stats::stats(context, &args.agents).await,
        AgentCommand::Wait(args) => wait::wait(context, args).await,
        AgentCommand::Execs { agent } => exec::list(context, &agent).await,
        AgentCommand::Destroy(args) => lifecycle::destroy(context, args).await,
    }
}

async fn tenant_command(context: &Context, command: TenantCommand) -> Result<u8, CliError> {
    match command {
        TenantCommand::Create(args) => tenant::create(context, args).await,
        TenantCommand::List => tenant::list(context).await,
        TenantCommand::Get { tenant } => tenant::get(context, tenant).await,
        TenantCommand::Update(args) => tenant::update(context, args).await,
        TenantCommand::Suspend { tenants } => tenant::set_active(context, &tenants, "suspend").await,
        TenantCommand::Resume { tenants } => tenant::set_active(context, &tenants, "resume").await,
        TenantCommand::Delete(args) => tenant::delete(context, args).await,
    }
}

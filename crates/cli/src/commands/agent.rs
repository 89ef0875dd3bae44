//! Creating agents and looking at them.

use super::show::{clip, command, details, now, status};
use super::{Context, agent_path, each};
use crate::args::{CreateArgs, ListArgs, SandboxArgs};
use crate::client::{IDEMPOTENCY_KEY, query};
use crate::error::CliError;
use crate::output::{ago, line};
use crate::values::{environment, pairs, secret_ref};
use aether_core::api::{AgentConfig, AgentHealth, AgentInfo, Page};
use aether_core::source::OsRng;
use aether_core::spec::{NetworkPolicy, Resources};
use aether_core::{AgentName, EventId};

/// Most agents per request that the API gives.
const PER_PAGE: usize = 100;

/// The document for `POST /v1/agents` from the flags, checked here so that a
/// mistake is told before anything is pulled.
pub(super) fn config_of(image: String, words: Vec<String>, sandbox: &SandboxArgs) -> Result<AgentConfig, CliError> {
    let mut config = AgentConfig::for_image(image);
    config.name = sandbox.name.clone();
    let mut words = words.into_iter();
    config.command = words.next().into_iter().collect();
    config.args = words.collect();
    config.workdir.clone_from(&sandbox.workdir);
    config.user.clone_from(&sandbox.user);
    config.env = environment(&sandbox.env_file, &sandbox.env, |name| std::env::var(name).ok())?;
    config.secrets = sandbox.secret.iter().map(|text| secret_ref(text)).collect();
    config.labels = pairs("--label", &sandbox.label)?;
    config.resources = Resources { cpu_count: sandbox.cpu, memory_mb: sandbox.memory, disk_mb: sandbox.disk };
    config.network = match sandbox.network {
        crate::args::Network::None => NetworkPolicy::None,
        crate::args::Network::Public => NetworkPolicy::Public,
    };
    config.ttl.clone_from(&sandbox.ttl);
    config.clone().check().map_err(|errors| CliError::Problem(Box::new(aether_core::Problem::validation(errors))))?;
    Ok(config)
}

/// A fresh idempotency key: a create whose answer was lost is not a second one.
pub(super) fn intent() -> String {
    EventId::generate(aether_core::id::DEFAULT_CELL, &OsRng).to_string()
}

pub(super) fn made_up_name() -> String {
    AgentName::make_up(&OsRng).to_string()
}

pub(super) async fn create(context: &Context, args: CreateArgs) -> Result<u8, CliError> {
    let mut config = config_of(args.image, args.command, &args.sandbox)?;
    config.run_image_command = args.run_image_command;
    config.metadata = pairs("--metadata", &args.metadata)?;
    config.process_restart = args.restart.into();
    config.recovery = args.recovery.into();
    config.health = args.health.probe()?;
    let checked = config.clone().check();
    checked.map_err(|errors| CliError::Problem(Box::new(aether_core::Problem::validation(errors))))?;
    super::image::provide(context, &config.image, args.pull).await?;
    let key = intent();
    let headers = [(IDEMPOTENCY_KEY, key.as_str())];
    let (_, mut agent): (_, AgentInfo) = context.client.post("/v1/agents", &config, &headers).await?;
    if args.wait {
        agent = super::lifecycle::wait_until_running(context, agent.id.as_str()).await?;
    }
    context.printer.one(&agent, agent.id.as_str(), |a| format!("{}  {}\n", a.id, a.name))?;
    Ok(0)
}

/// `--filter`s as parameters of the API.
fn filters(list: &[String]) -> Result<Vec<(&'static str, String)>, CliError> {
    let parameter = |key: &str| match key {
        "state" | "status" => Some("state"),
        "label" => Some("label"),
        "metadata" => Some("metadata"),
        "image" => Some("image"),
        "name" => Some("name_prefix"),
        "created-after" => Some("created_after"),
        "created-before" => Some("created_before"),
        _ => None,
    };
    list.iter()
        .map(|item| {
            let (key, value) = item.split_once('=').unwrap_or((item, ""));
            match parameter(key) {
                Some(name) if !value.is_empty() => Ok((name, value.to_owned())),
                Some(_) => Err(CliError::usage(format!("--filter: {item:?} has no value"))),
                None => Err(CliError::usage(format!(
                    "--filter: {key:?} is none of state, label, metadata, image, name, created-after, created-before"
                ))),
            }
        })
        .collect()
}

pub(super) async fn list(context: &Context, args: ListArgs) -> Result<u8, CliError> {
    pairs("--label", &args.label)?;
    pairs("--metadata", &args.metadata)?;
    let filters = filters(&args.filter)?;
    let mut agents: Vec<AgentInfo> = Vec::new();
    let mut cursor = None;
    loop {
        let wanted = args.limit.map_or(PER_PAGE, |limit| limit.saturating_sub(agents.len()).min(PER_PAGE));
        if wanted == 0 {
            break;
        }
        let mut parameters =
            vec![("per_page", Some(wanted.to_string())), ("cursor", cursor.take()), ("status", args.status.clone())];
        parameters.extend(args.label.iter().map(|l| ("label", Some(l.clone()))));
        parameters.extend(args.metadata.iter().map(|m| ("metadata", Some(m.clone()))));
        parameters.extend(filters.iter().map(|(name, value)| (*name, Some(value.clone()))));
        let page: Page<AgentInfo> = context.client.get(&format!("/v1/agents{}", query(&parameters))).await?;
        agents.extend(page.data);
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    let now = now();
    context.printer.list(
        &agents,
        &["ID", "NAME", "IMAGE", "COMMAND", "STATUS", "CREATED"],
        |a| a.id.to_string(),
        |a| {
            vec![
                a.id.to_string(),
                a.name.clone(),
                clip(&a.config.image, 40),
                clip(&command(a), 30),
                status(a, now),
                ago(a.created_at, now),
            ]
        },
    )?;
    Ok(0)
}

pub(super) async fn get(context: &Context, agent: &str, show_env: bool) -> Result<u8, CliError> {
    let path = agent_path(agent, &query(&[("show", show_env.then(|| "env".to_owned()))]))?;
    let agent: AgentInfo = context.client.get(&path).await?;
    context.printer.one(&agent, agent.id.as_str(), details)?;
    Ok(0)
}

/// Exit code 1 when it is not well, for scripts.
pub(super) async fn health(context: &Context, agent: &str) -> Result<u8, CliError> {
    let health: AgentHealth = context.client.get(&agent_path(agent, "/health")?).await?;
    let word = if health.healthy { "healthy" } else { "unhealthy" };
    context.printer.one(&health, word, |h| {
        let failures = if h.failures > 0 { format!(" ({} in a row)", h.failures) } else { String::new() };
        if h.message.is_empty() { format!("{word}\n") } else { format!("{word}: {}{failures}\n", h.message) }
    })?;
    Ok(u8::from(!health.healthy))
}

/// Deletes each by name, printing what was done as docker does.
pub(super) async fn delete_all(context: &Context, agents: &[String], grace_s: u64) -> Result<u8, CliError> {
    each(context, agents, |agent| async move {
        let path = agent_path(&agent, &query(&[("grace", Some(grace_s.to_string()))]))?;
        context.client.delete(&path).await?;
        line(&agent)
    })
    .await
}

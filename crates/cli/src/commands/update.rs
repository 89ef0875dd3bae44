//! `aether agent update` and `aether rename`.

use super::{Context, agent_path};
use crate::args::{RenameArgs, UpdateArgs};
use crate::error::CliError;
use crate::values::{environment, pairs};
use aether_core::Problem;
use aether_core::api::{AgentPatch, AgentUpdated, MapPatch, ResourcesPatch};
use http::header::IF_MATCH;
use std::collections::BTreeMap;

pub(super) async fn rename(context: &Context, args: RenameArgs) -> Result<u8, CliError> {
    let patch = AgentPatch { name: Some(args.name), ..AgentPatch::default() };
    send(context, &args.agent, patch, None).await
}

pub(super) async fn update(context: &Context, args: UpdateArgs) -> Result<u8, CliError> {
    let (agent, version) = (args.agent.clone(), args.if_version);
    let patch = patch_of(args)?;
    if patch == AgentPatch::default() {
        return Err(CliError::usage("nothing to change: give at least one of the options"));
    }
    send(context, &agent, patch, version).await
}

fn patch_of(args: UpdateArgs) -> Result<AgentPatch, CliError> {
    let env = environment(&args.env_file, &args.env, |name| std::env::var(name).ok())?;
    let resources = ResourcesPatch { cpu_count: args.cpu, memory_mb: args.memory, disk_mb: args.disk };
    Ok(AgentPatch {
        name: args.name,
        labels: map("--remove-label", pairs("--label", &args.label)?, &args.remove_label)?,
        metadata: map("--remove-metadata", pairs("--metadata", &args.metadata)?, &args.remove_metadata)?,
        env: map("--remove-env", env, &args.remove_env)?,
        resources: (resources != ResourcesPatch::default()).then_some(resources),
        process_restart: args.restart.map(Into::into),
        recovery: args.recovery.map(Into::into),
        ttl: args.ttl.map(|text| (text != "none").then_some(text)),
    })
}

fn map(flag: &str, set: BTreeMap<String, String>, remove: &[String]) -> Result<MapPatch, CliError> {
    let mut patch: MapPatch = set.into_iter().map(|(key, value)| (key, Some(value))).collect();
    for key in remove {
        if patch.insert(key.clone(), None).is_some_and(|value| value.is_some()) {
            return Err(CliError::usage(format!("{flag}: {key:?} is also set")));
        }
    }
    Ok(patch)
}

async fn send(context: &Context, agent: &str, patch: AgentPatch, version: Option<u64>) -> Result<u8, CliError> {
    patch.clone().check().map_err(|errors| CliError::Problem(Box::new(Problem::validation(errors))))?;
    let tag = version.map(|version| format!("\"{version}\""));
    let headers: Vec<_> = tag.iter().map(|tag| (IF_MATCH, tag.as_str())).collect();
    let updated: AgentUpdated = context.client.patch(&agent_path(agent, "")?, &patch, &headers).await?;
    context.printer.one(&updated, updated.agent.id.as_str(), people)?;
    Ok(0)
}

fn people(updated: &AgentUpdated) -> String {
    let agent = &updated.agent;
    let mut text = match updated.changed.as_slice() {
        [] => format!("{}: nothing to change\n", agent.name),
        changed => format!("{}: changed {}\n", agent.name, changed.join(", ")),
    };
    if !agent.pending_restart.is_empty() {
        text.push_str(&format!("From the next start on: {}\n", agent.pending_restart.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_and_removed_keys_make_one_patch() {
        let set = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let patch = map("--remove-label", set.clone(), &["b".to_owned()]).expect("fits");
        assert_eq!(patch, BTreeMap::from([("a".to_owned(), Some("1".to_owned())), ("b".to_owned(), None)]));
        assert!(map("--remove-label", set, &["a".to_owned()]).is_err());
    }
}

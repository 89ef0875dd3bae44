//! `aether quota … --label`: what the agents that carry a label may have.

use super::Context;
use super::tenant::{beside, quota_path};
use crate::args::LabelLimits;
use crate::client::encode;
use crate::error::CliError;
use crate::output::{fields, line};
use aether_core::api::{Budget, LabelBudget, Quota, QuotaReport};
use aether_core::tenant::{Limits, Tier};

fn path(tenant: Option<&str>, label: &str) -> Result<String, CliError> {
    if !label.contains('=') {
        return Err(CliError::usage(format!("--label: {label:?} is not KEY=VALUE")));
    }
    Ok(quota_path(tenant, &format!("/labels/{}", encode(label))))
}

async fn all(context: &Context, tenant: Option<&str>) -> Result<Vec<LabelBudget>, CliError> {
    context.client.get(&quota_path(tenant, "/labels")).await
}

/// Used / allowed.
fn amounts(label: &LabelBudget) -> [String; 4] {
    let Budget { max_agents, max_cpu_millicores, max_memory_mb, max_disk_mb } = label.budget;
    let limits = Limits {
        agents: max_agents,
        cpu_millicores: max_cpu_millicores,
        memory_mb: max_memory_mb,
        disk_mb: max_disk_mb,
        ..Limits::default()
    };
    beside(&QuotaReport { quota: Quota::new("", Tier::Unlimited, limits), usage: label.usage })
}

fn show(context: &Context, label: &LabelBudget) -> Result<u8, CliError> {
    context.printer.one(label, &label.label, |l| {
        let [agents, cpu, memory, disk] = amounts(l);
        fields(&[("Label", l.label.clone()), ("Agents", agents), ("CPU", cpu), ("Memory", memory), ("Disk", disk)])
    })?;
    Ok(0)
}

pub(super) async fn list(context: &Context, tenant: Option<String>) -> Result<u8, CliError> {
    let labels = all(context, tenant.as_deref()).await?;
    context.printer.list(
        &labels,
        &["LABEL", "AGENTS", "CPU", "MEMORY", "DISK"],
        |l| l.label.clone(),
        |l| [vec![l.label.clone()], amounts(l).to_vec()].concat(),
    )?;
    Ok(0)
}

pub(super) async fn get(context: &Context, tenant: Option<&str>, label: &str) -> Result<u8, CliError> {
    path(tenant, label)?;
    match all(context, tenant).await?.into_iter().find(|known| known.label == label) {
        Some(label) => show(context, &label),
        None => Err(CliError::failed(format!("the label {label} has no budget; `aether quota set --label` sets one"))),
    }
}

/// Those of the limits that are not named stay.
pub(super) async fn set(context: &Context, tenant: &str, label: &str, named: LabelLimits) -> Result<u8, CliError> {
    let route = path(Some(tenant), label)?;
    let present = all(context, Some(tenant)).await?.into_iter().find(|known| known.label == label);
    let present = present.map(|label| label.budget).unwrap_or_default();
    let of = |named: Option<crate::args::Limit>, present: Option<u64>| named.map_or(present, |limit| limit.0);
    let budget = Budget {
        max_agents: of(named.agents, present.max_agents),
        max_cpu_millicores: of(named.cpu, present.max_cpu_millicores),
        max_memory_mb: of(named.memory, present.max_memory_mb),
        max_disk_mb: of(named.disk, present.max_disk_mb),
    };
    let set: LabelBudget = context.client.put(&route, &budget).await?;
    show(context, &set)
}

pub(super) async fn lift(context: &Context, tenant: &str, label: &str) -> Result<u8, CliError> {
    context.client.delete(&path(Some(tenant), label)?).await?;
    line(label).map(|()| 0)
}

//! `aether tenant` and `aether quota`.

use super::{Context, budget, each};
use crate::args::{
    LabelLimits, Limit, OutputFormat, QuotaSetArgs, TenantCreateArgs, TenantDeleteArgs, TenantUpdateArgs,
};
use crate::client::{encode, query};
use crate::error::CliError;
use crate::output::{Spinner, confirmed, fields, line, mib};
use crate::values::pairs;
use aether_core::Code;
use aether_core::api::{
    Page, Quota, QuotaReport, QuotaRequest, TenantDeletion, TenantInfo, TenantRequest, TenantUpdate,
};
use aether_core::tenant::Tier;
use http::Method;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The end of its agents is waited for this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);

fn path(tenant: &str, rest: &str) -> Result<String, CliError> {
    if tenant.is_empty() {
        return Err(CliError::usage("the id of the tenant is empty"));
    }
    Ok(format!("/v1/tenants/{}{rest}", encode(tenant)))
}

fn tier(text: &str) -> Result<Tier, CliError> {
    let known = Tier::ALL.iter().map(|t| t.as_str()).collect::<Vec<_>>().join(", ");
    text.parse().map_err(|_| CliError::usage(format!("{text:?} is not a tier: {known}")))
}

pub(super) async fn create(context: &Context, args: TenantCreateArgs) -> Result<u8, CliError> {
    let metadata = pairs("--metadata", &args.metadata)?;
    let body = TenantRequest { id: args.id, name: args.name, tier: Some(tier(&args.tier)?), metadata };
    let (_, made): (_, TenantInfo) = context.client.post("/v1/tenants", &body, &[]).await?;
    show(context, &made)?;
    if context.printer.chatty() {
        context
            .printer
            .talk(&format!("Its first key: aether key create --tenant {} --name first --role admin", made.id));
    }
    Ok(0)
}

fn show(context: &Context, tenant: &TenantInfo) -> Result<(), CliError> {
    context.printer.one(tenant, &tenant.id, |t| {
        let metadata: Vec<String> = t.metadata.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut all = vec![
            ("Id", t.id.clone()),
            ("Name", t.name.clone()),
            ("Tier", t.tier.to_string()),
            ("Status", t.status.to_string()),
            ("Created", t.created_at.to_string()),
            ("Metadata", metadata.join(", ")),
        ];
        let [agents, cpu, memory, disk] = beside(&QuotaReport { quota: t.quota.clone(), usage: t.usage });
        all.extend([("Agents", agents), ("CPU", cpu), ("Memory", memory), ("Disk", disk)]);
        fields(&all)
    })
}

pub(super) fn bound(limit: Option<u64>, text: fn(u64) -> String) -> String {
    limit.map_or_else(|| "no limit".to_owned(), text)
}

pub(super) fn cores(millicores: u64) -> String {
    format!("{}.{}", millicores / 1000, millicores % 1000 / 100)
}

pub(super) fn number(n: u64) -> String {
    n.to_string()
}

/// Used / allowed.
pub(super) fn beside(r: &QuotaReport) -> [String; 4] {
    let (quota, usage) = (&r.quota, r.usage);
    let of = |used: u64, limit, text: fn(u64) -> String| format!("{} / {}", text(used), bound(limit, text));
    [
        of(usage.agents, quota.max_agents, number),
        of(usage.cpu_millicores, quota.max_cpu_millicores, cores),
        of(usage.memory_mb, quota.max_memory_mb, mib),
        of(usage.disk_mb, quota.max_disk_mb, mib),
    ]
}

/// Every page of a list.
async fn all<T: DeserializeOwned>(context: &Context, route: &str) -> Result<Vec<T>, CliError> {
    let (mut items, mut cursor) = (Vec::new(), None);
    loop {
        let parameters = [("per_page", Some("100".to_owned())), ("cursor", cursor)];
        let page: Page<T> = context.client.get(&format!("{route}{}", query(&parameters))).await?;
        items.extend(page.data);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(items);
        }
    }
}

pub(super) async fn list(context: &Context) -> Result<u8, CliError> {
    let tenants: Vec<TenantInfo> = all(context, "/v1/tenants").await?;
    context.printer.list(
        &tenants,
        &["ID", "NAME", "TIER", "STATUS", "AGENTS", "CPU", "MEMORY", "DISK"],
        |t| t.id.clone(),
        |t| {
            let used = beside(&QuotaReport { quota: t.quota.clone(), usage: t.usage });
            let mut row = vec![t.id.clone(), t.name.clone(), t.tier.to_string(), t.status.to_string()];
            row.extend(used);
            row
        },
    )?;
    Ok(0)
}

pub(super) async fn get(context: &Context, tenant: Option<String>) -> Result<u8, CliError> {
    let route = match tenant {
        Some(tenant) => path(&tenant, "")?,
        None => "/v1/tenants/me".to_owned(),
    };
    let tenant: TenantInfo = context.client.get(&route).await?;
    show(context, &tenant)?;
    Ok(0)
}

pub(super) async fn update(context: &Context, args: TenantUpdateArgs) -> Result<u8, CliError> {
    let metadata = pairs("--metadata", &args.metadata)?;
    let update = TenantUpdate {
        name: args.name,
        metadata: (!metadata.is_empty()).then_some(metadata),
        tier: args.tier.as_deref().map(tier).transpose()?,
    };
    if update.name.is_none() && update.metadata.is_none() && update.tier.is_none() {
        return Err(CliError::usage("nothing to change: give --name, --tier or --metadata"));
    }
    let tenant: TenantInfo = context.client.patch(&path(&args.tenant, "")?, &update, &[]).await?;
    show(context, &tenant)?;
    Ok(0)
}

/// `suspend` or `resume`.
pub(super) async fn set_active(context: &Context, tenants: &[String], verb: &str) -> Result<u8, CliError> {
    each(context, tenants, |tenant| async move {
        let route = path(&tenant, &format!("/{verb}"))?;
        context.client.send_whole(Method::POST, &route, &[], &[]).await?;
        line(&tenant)
    })
    .await
}

pub(super) async fn delete(context: &Context, args: TenantDeleteArgs) -> Result<u8, CliError> {
    let route = path(&args.tenant, "")?;
    let question = format!("Delete the tenant {} with all of its agents, keys and disks?", args.tenant);
    if !args.yes && context.printer.format == OutputFormat::Table && !confirmed(&question)? {
        return Err(CliError::failed("nothing was deleted"));
    }
    let first: TenantDeletion = context.client.delete_for(&route).await?;
    let agents = first.agents_left;
    let mut last = first.clone();
    if !args.no_wait {
        let spinner = Spinner::start(context.printer, &format!("ending {agents} agents"));
        loop {
            match context.client.delete_for::<TenantDeletion>(&route).await {
                Ok(now) => last.agents_left = now.agents_left,
                Err(CliError::Problem(problem)) if problem.code == Code::NotFound => break,
                Err(other) => return Err(other),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        drop(spinner);
        last = TenantDeletion { status: "erased".to_owned(), agents_left: 0, ..last };
    }
    context.printer.one(&last, &last.id, |d| {
        fields(&[
            ("Id", d.id.clone()),
            ("Status", d.status.clone()),
            ("Agents ended", (agents - d.agents_left.min(agents)).to_string()),
            ("Agents left", d.agents_left.to_string()),
            ("Keys revoked", d.keys_revoked.to_string()),
        ])
    })?;
    Ok(0)
}

pub(super) fn quota_path(tenant: Option<&str>, rest: &str) -> String {
    format!("/v1/quotas/{}{rest}", encode(tenant.unwrap_or("me")))
}

fn show_quota(context: &Context, report: &QuotaReport) -> Result<u8, CliError> {
    context.printer.one(report, &report.quota.tenant_id, |r| {
        let [agents, cpu, memory, disk] = beside(r);
        fields(&[
            ("Tenant", r.quota.tenant_id.clone()),
            ("Tier", r.quota.tier.to_string()),
            ("Agents", agents),
            ("CPU", cpu),
            ("Memory", memory),
            ("Disk", disk),
            ("Network", bound(r.quota.max_network_bandwidth_mbps, |n| format!("{n} Mbit/s"))),
            ("Requests", bound(r.quota.max_requests_per_minute, |n| format!("{n} per minute"))),
            ("Images", bound(r.quota.max_images, number)),
            ("Execs at once", bound(r.quota.max_exec_sessions, number)),
        ])
    })?;
    Ok(0)
}

pub(super) async fn quota_get(context: &Context, tenant: Option<String>, label: Option<&str>) -> Result<u8, CliError> {
    if let Some(label) = label {
        return budget::get(context, tenant.as_deref(), label).await;
    }
    let report: QuotaReport = context.client.get(&quota_path(tenant.as_deref(), "/usage")).await?;
    show_quota(context, &report)
}

pub(super) async fn quota_list(context: &Context) -> Result<u8, CliError> {
    let reports: Vec<QuotaReport> = all(context, "/v1/quotas").await?;
    context.printer.list(
        &reports,
        &["TENANT", "TIER", "AGENTS", "CPU", "MEMORY", "DISK", "REQUESTS/MIN"],
        |r| r.quota.tenant_id.clone(),
        |r| {
            let mut row = vec![r.quota.tenant_id.clone(), r.quota.tier.to_string()];
            row.extend(beside(r));
            row.push(bound(r.quota.max_requests_per_minute, number));
            row
        },
    )?;
    Ok(0)
}

pub(super) async fn quota_set(context: &Context, args: QuotaSetArgs) -> Result<u8, CliError> {
    if let Some(label) = &args.label {
        let QuotaSetArgs { agents, cpu, memory, disk, .. } = args;
        return budget::set(context, &args.tenant, label, LabelLimits { agents, cpu, memory, disk }).await;
    }
    let route = quota_path(Some(&args.tenant), "");
    let base: Option<Quota> = match &args.tier {
        Some(_) => None,
        None => Some(context.client.get(&route).await?),
    };
    // What is not named stays, where no tier is; else it is the tier's.
    let of = |named: Option<Limit>, present: fn(&Quota) -> Option<u64>| match (named, &base) {
        (Some(limit), _) => Some(limit.0),
        (None, Some(quota)) => Some(present(quota)),
        (None, None) => None,
    };
    let request = QuotaRequest {
        tenant_id: None,
        tier: args.tier.as_deref().map(tier).transpose()?,
        max_agents: of(args.agents, |q| q.max_agents),
        max_cpu_millicores: of(args.cpu, |q| q.max_cpu_millicores),
        max_cpu_cores: None,
        max_memory_mb: of(args.memory, |q| q.max_memory_mb),
        max_disk_mb: of(args.disk, |q| q.max_disk_mb),
        max_network_bandwidth_mbps: of(args.network, |q| q.max_network_bandwidth_mbps),
        max_requests_per_minute: of(args.requests_per_minute, |q| q.max_requests_per_minute),
        max_images: of(args.images, |q| q.max_images),
        max_exec_sessions: of(args.exec_sessions, |q| q.max_exec_sessions),
    };
    let _: Quota = context.client.put(&route, &request).await?;
    quota_get(context, Some(args.tenant), None).await
}

//! `aether apikey`.

use super::show::now;
use super::tenant::{bound, cores, number};
use super::{Context, each};
use crate::args::{BudgetArgs, KeyCreateArgs, KeyRotateArgs, KeyUpdateArgs};
use crate::client::{encode, query};
use crate::error::CliError;
use crate::output::{ago, fields, line, mib};
use crate::values::{duration, pairs};
use aether_core::Timestamp;
use aether_core::api::{Budget, KeyAllow, KeyCreated, KeyInfo, KeyPatch, KeyRequest, KeyRotation, Page, QuotaUsage};

impl BudgetArgs {
    /// None: no limit is named.
    fn budget(self) -> Option<Budget> {
        let budget = Budget {
            max_agents: self.max_agents,
            max_cpu_millicores: self.max_cpu,
            max_memory_mb: self.max_memory,
            max_disk_mb: self.max_disk,
        };
        (budget != Budget::default()).then_some(budget)
    }
}

fn path(key: &str, rest: &str) -> Result<String, CliError> {
    if key.is_empty() {
        return Err(CliError::usage("the id of the key is empty"));
    }
    Ok(format!("/v1/auth/keys/{}{rest}", encode(key)))
}

fn in_time(text: &str) -> Result<Timestamp, CliError> {
    Ok(now().plus(duration("--expires-in", text)?))
}

pub(super) async fn create(context: &Context, args: KeyCreateArgs) -> Result<u8, CliError> {
    let allow = KeyAllow { labels: pairs("--allow-label", &args.allow_label)?, images: args.allow_image };
    let body = KeyRequest {
        name: args.name,
        role: args.role,
        scopes: (!args.scope.is_empty()).then_some(args.scope),
        expires_at: args.expires_in.as_deref().map(in_time).transpose()?,
        allow: (allow != KeyAllow::default()).then_some(allow),
        budget: args.budget.budget(),
        service_account: args.service_account,
    };
    let (_, key): (_, KeyCreated) = context.client.post("/v1/auth/keys", &body, &[]).await?;
    show_secret(context, &key)
}

fn show_secret(context: &Context, key: &KeyCreated) -> Result<u8, CliError> {
    context.printer.one(key, &key.key, |k| {
        let mut all = described(&k.info);
        all.extend([("Key", k.key.clone()), ("For E2B's clients", k.e2b_key.clone())]);
        fields(&all)
    })?;
    if context.printer.chatty() {
        context.printer.talk("The key is shown this once only. Use it as AETHER_TOKEN.");
    }
    Ok(0)
}

/// Used / allowed, of what has a limit.
fn budget_text(budget: Budget, usage: Option<QuotaUsage>) -> String {
    let of = |what: &str, used: Option<u64>, limit: Option<u64>, text: fn(u64) -> String| {
        limit?;
        let used = used.map_or_else(String::new, |used| format!("{} / ", text(used)));
        Some(format!("{what} {used}{}", bound(limit, text)))
    };
    let parts = [
        of("agents", usage.map(|u| u.agents), budget.max_agents, number),
        of("CPU", usage.map(|u| u.cpu_millicores), budget.max_cpu_millicores, cores),
        of("memory", usage.map(|u| u.memory_mb), budget.max_memory_mb, mib),
        of("disk", usage.map(|u| u.disk_mb), budget.max_disk_mb, mib),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn reach_text(allow: &KeyAllow) -> String {
    let labels = allow.labels.iter().map(|(key, value)| format!("{key}={value}"));
    labels.chain(allow.images.iter().cloned()).collect::<Vec<_>>().join(", ")
}

fn described(k: &KeyInfo) -> Vec<(&'static str, String)> {
    let time = |t: Option<Timestamp>| t.map(|t| t.to_string()).unwrap_or_default();
    vec![
        ("Id", k.id.clone()),
        ("Name", k.name.clone()),
        ("Prefix", k.prefix.clone()),
        ("Role", k.role.clone()),
        ("Service account", k.service_account.clone().unwrap_or_default()),
        ("Scopes", k.scopes.as_ref().map(|s| s.join(", ")).unwrap_or_default()),
        ("Permissions", k.permissions.join(", ")),
        ("Narrowed to", k.allow.as_ref().map(reach_text).unwrap_or_default()),
        ("Budget", k.budget.map(|b| budget_text(b, k.usage)).unwrap_or_default()),
        ("Created", k.created_at.to_string()),
        ("Expires", time(k.expires_at)),
        ("Last used", time(k.last_used_at)),
        ("Rotated", time(k.rotated_at)),
        ("Old secret until", time(k.previous_until)),
        ("Revoked", time(k.revoked_at)),
    ]
}

fn show(context: &Context, key: &KeyInfo) -> Result<u8, CliError> {
    context.printer.one(key, &key.id, |k| fields(&described(k)))?;
    Ok(0)
}

pub(super) async fn get(context: &Context, key: &str) -> Result<u8, CliError> {
    let key: KeyInfo = context.client.get(&path(key, "")?).await?;
    show(context, &key)
}

pub(super) async fn update(context: &Context, args: KeyUpdateArgs) -> Result<u8, CliError> {
    let budget = args.budget.budget();
    let patch = KeyPatch {
        name: args.name,
        expires_at: match args.expires_in.as_deref() {
            None => None,
            Some("never") => Some(None),
            Some(text) => Some(Some(in_time(text)?)),
        },
        budget: if args.no_budget { Some(None) } else { budget.map(Some) },
    };
    if patch.name.is_none() && patch.expires_at.is_none() && patch.budget.is_none() {
        return Err(CliError::usage("nothing to change: give --name, --expires-in, --no-budget or a limit"));
    }
    let key: KeyInfo = context.client.patch(&path(&args.key, "")?, &patch, &[]).await?;
    show(context, &key)
}

pub(super) async fn rotate(context: &Context, args: KeyRotateArgs) -> Result<u8, CliError> {
    duration("--overlap", &args.overlap)?;
    let body = KeyRotation { overlap: Some(args.overlap) };
    let (_, key): (_, KeyCreated) = context.client.post(&path(&args.key, "/rotate")?, &body, &[]).await?;
    show_secret(context, &key)
}

pub(super) async fn list(context: &Context) -> Result<u8, CliError> {
    let mut keys: Vec<KeyInfo> = Vec::new();
    for page in 1u32.. {
        let parameters = [("page", Some(page.to_string())), ("per_page", Some("100".to_owned()))];
        let answer: Page<KeyInfo> = context.client.get(&format!("/v1/auth/keys{}", query(&parameters))).await?;
        let last = answer.data.is_empty() || keys.len() as u64 + answer.data.len() as u64 >= answer.total;
        keys.extend(answer.data);
        if last {
            break;
        }
    }
    let now = now();
    let time = |t: Option<Timestamp>, none: &str| t.map_or_else(|| none.to_owned(), |t| ago(t, now));
    context.printer.list(
        &keys,
        &["ID", "NAME", "PREFIX", "ROLE", "SCOPES", "NARROWED TO", "CREATED", "EXPIRES", "LAST USED"],
        |k| k.id.clone(),
        |k| {
            vec![
                k.id.clone(),
                k.name.clone(),
                k.prefix.clone(),
                k.service_account.as_ref().map_or_else(|| k.role.clone(), |account| format!("{} of {account}", k.role)),
                k.scopes.as_ref().map_or_else(|| "all of the role".to_owned(), |s| s.join(",")),
                k.allow.as_ref().map(reach_text).unwrap_or_default(),
                ago(k.created_at, now),
                match k.revoked_at {
                    Some(at) => format!("revoked {}", ago(at, now)),
                    None => time(k.expires_at, "never"),
                },
                time(k.last_used_at, "never"),
            ]
        },
    )?;
    Ok(0)
}

pub(super) async fn revoke(context: &Context, keys: &[String]) -> Result<u8, CliError> {
    each(context, keys, |key| async move {
        context.client.delete(&path(&key, "")?).await?;
        line(&key)
    })
    .await
}

//! `aether apikey`.

use super::show::now;
use super::{Context, each};
use crate::args::KeyCreateArgs;
use crate::client::{encode, query};
use crate::error::CliError;
use crate::output::{ago, fields, line};
use crate::values::duration;
use aether_core::Timestamp;
use aether_core::api::{KeyCreated, KeyInfo, KeyRequest, Page};

pub(super) async fn create(context: &Context, args: KeyCreateArgs) -> Result<u8, CliError> {
    let expires_at = match &args.expires_in {
        Some(text) => Some(now().plus(duration("--expires-in", text)?)),
        None => None,
    };
    let scopes = (!args.scope.is_empty()).then_some(args.scope);
    let body = KeyRequest { name: args.name, role: Some(args.role), scopes, expires_at };
    let (_, key): (_, KeyCreated) = context.client.post("/v1/auth/keys", &body, &[]).await?;
    context.printer.one(&key, &key.key, |k| {
        fields(&[
            ("Id", k.info.id.clone()),
            ("Name", k.info.name.clone()),
            ("Role", k.info.role.clone()),
            ("Scopes", k.info.scopes.as_ref().map(|s| s.join(", ")).unwrap_or_default()),
            ("Expires", k.info.expires_at.map(|t| t.to_string()).unwrap_or_default()),
            ("Key", k.key.clone()),
            ("For E2B's clients", k.e2b_key.clone()),
        ])
    })?;
    if context.printer.chatty() {
        context.printer.talk("The key is shown this once only. Use it as AETHER_TOKEN.");
    }
    Ok(0)
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
        &["ID", "NAME", "PREFIX", "ROLE", "SCOPES", "CREATED", "EXPIRES", "LAST USED"],
        |k| k.id.clone(),
        |k| {
            vec![
                k.id.clone(),
                k.name.clone(),
                k.prefix.clone(),
                k.role.clone(),
                k.scopes.as_ref().map_or_else(|| "all of the role".to_owned(), |s| s.join(",")),
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
        context.client.delete(&format!("/v1/auth/keys/{}", encode(&key))).await?;
        line(&key)
    })
    .await
}

//! `aether apikey`.

use super::node::Listing;
use super::show::now;
use super::{Context, each};
use crate::args::KeyCreateArgs;
use crate::client::encode;
use crate::error::CliError;
use crate::output::{ago, fields, line};
use crate::values::duration;
use aether_core::Timestamp;
use serde::{Deserialize, Serialize};

/// The part of a key that we show; the server may tell more.
#[derive(Debug, Serialize, Deserialize)]
struct Key {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// Only in the answer that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_used_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct NewKey {
    name: String,
    role: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scopes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

pub(super) async fn create(context: &Context, args: KeyCreateArgs) -> Result<u8, CliError> {
    let expires_at = match &args.expires_in {
        Some(text) => Some(now().plus(duration("--expires-in", text)?)),
        None => None,
    };
    let body = NewKey { name: args.name, role: args.role, scopes: args.scope, expires_at };
    let (_, key): (_, Key) = context.client.post("/v1/auth/keys", &body, &[]).await?;
    let secret = key.key.clone().unwrap_or_default();
    context.printer.one(&key, &secret, |k| {
        fields(&[("Id", k.id.clone()), ("Name", k.name.clone()), ("Role", k.role.clone()), ("Key", secret.clone())])
    })?;
    if context.printer.chatty() {
        context.printer.talk("The key is shown this once only. Use it as AETHER_TOKEN.");
    }
    Ok(0)
}

pub(super) async fn list(context: &Context) -> Result<u8, CliError> {
    let keys = context.client.get::<Listing<Key>>("/v1/auth/keys?per_page=100").await?.items();
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
                time(k.created_at, ""),
                time(k.expires_at, "never"),
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

//! `aether version`.

use super::Context;
use crate::error::CliError;
use crate::output::fields;
use crate::version::{COMMIT, VERSION};
use aether_core::api::VersionInfo;
use serde::Serialize;

#[derive(Serialize)]
struct Versions {
    client: VersionInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<VersionInfo>,
}

/// Without a server the client's own version is still an answer, and no error.
pub(crate) async fn version(context: Option<&Context>, printer: crate::output::Printer) -> Result<u8, CliError> {
    let client = VersionInfo { version: VERSION.to_owned(), commit: COMMIT.to_owned(), api: "v1".to_owned() };
    let (server, why) = match context {
        None => (None, String::new()),
        Some(context) => match context.client.get::<VersionInfo>("/v1/version").await {
            Ok(server) => (Some(server), String::new()),
            Err(CliError::Failed { detail, .. }) => (None, format!("not reached ({detail})")),
            Err(CliError::Problem(p)) => (None, format!("not reached ({})", p.detail)),
            Err(other) => return Err(other),
        },
    };
    let shown = |v: &VersionInfo| format!("{} ({}), API {}", v.version, v.commit, v.api);
    printer.one(&Versions { client, server }, VERSION, |v| {
        fields(&[("Client", shown(&v.client)), ("Server", v.server.as_ref().map(shown).unwrap_or(why))])
    })?;
    Ok(0)
}

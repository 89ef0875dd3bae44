//! `aether inspect`: agents and images in full, as documents.

use super::{Context, agent_path};
use crate::args::OutputFormat;
use crate::client::encode;
use crate::error::CliError;
use crate::output::Printer;
use aether_core::api::{AgentInfo, ImageInfo};
use serde::Serialize;

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Found {
    Agent(Box<AgentInfo>),
    Image(Box<ImageInfo>),
}

pub(super) async fn inspect(context: &Context, names: &[String]) -> Result<u8, CliError> {
    let json = context.printer.format != OutputFormat::Table;
    let (mut found, mut failed) = (Vec::new(), false);
    for name in names {
        match one(context, name).await {
            Ok(document) => found.push(document),
            Err(e) if names.len() == 1 => return Err(e),
            Err(e) => {
                failed = true;
                eprint!("{}", e.render(json));
            }
        }
    }
    // There is no table of everything: JSON unless YAML was asked for.
    let format = if json { context.printer.format } else { OutputFormat::Json };
    Printer { format, ..context.printer }.structured(&found)?;
    Ok(u8::from(failed))
}

/// An agent, else an image; the error of one that is neither is the agent's.
async fn one(context: &Context, name: &str) -> Result<Found, CliError> {
    match context.client.get::<AgentInfo>(&agent_path(name, "")?).await {
        Ok(agent) => Ok(Found::Agent(Box::new(agent))),
        Err(absent) if absent.is_not_found() => {
            match context.client.get::<ImageInfo>(&format!("/v1/images/{}", encode(name))).await {
                Ok(image) => Ok(Found::Image(Box::new(image))),
                Err(_) => Err(absent),
            }
        }
        Err(e) => Err(e),
    }
}

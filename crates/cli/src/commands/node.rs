//! `aether node`.

use super::Context;
use crate::error::CliError;
use crate::output::mib;
use aether_core::api::{NodeInfo, Page};
use serde::Deserialize;

/// The list comes bare or as a page.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Listing<T> {
    Page(Page<T>),
    Bare(Vec<T>),
}

impl<T> Listing<T> {
    pub(super) fn items(self) -> Vec<T> {
        match self {
            Self::Page(page) => page.data,
            Self::Bare(items) => items,
        }
    }
}

pub(super) async fn list(context: &Context) -> Result<u8, CliError> {
    let nodes = context.client.get::<Listing<NodeInfo>>("/v1/scheduler/nodes").await?.items();
    context.printer.list(
        &nodes,
        &["ID", "STATUS", "ENGINE", "ISOLATION", "CPU USED", "MEMORY USED", "SANDBOXES", "BOOTING", "VERSION"],
        |n| n.id.clone(),
        |n| {
            let cores = |m: u64| format!("{}.{}", m / 1000, m % 1000 / 100);
            vec![
                n.id.clone(),
                n.status.clone(),
                n.engine.clone(),
                n.isolation.clone(),
                format!("{} / {}", cores(n.reserved.cpu_millicores), cores(n.capacity.cpu_millicores)),
                format!("{} / {}", mib(n.reserved.memory_mb), mib(n.capacity.memory_mb)),
                n.sandboxes.to_string(),
                format!("{} (+{} queued)", n.boots_running, n.boots_queued),
                n.version.clone(),
            ]
        },
    )?;
    Ok(0)
}

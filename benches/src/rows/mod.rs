//! The rows, one file each.

mod boot;
mod cold;
mod convert;
mod exec;
mod guest;
mod idle;

use crate::Setup;
use crate::record::Record;

/// In the order in which they run: what must have the machine for itself first.
pub(crate) const NAMES: [&str; 6] = ["guest", "idle", "5", "7", "convert", "cold"];

/// The name that the demo's archive gives its image.
pub(crate) const IMAGE: &str = "python:3.11";

pub(crate) async fn run(name: &str, setup: &Setup) -> anyhow::Result<Vec<Record>> {
    match name {
        "guest" => guest::run(setup),
        "idle" => idle::run(setup).await,
        "5" => boot::run(setup).await,
        "7" => exec::run(setup).await,
        "convert" => convert::run(setup).await,
        "cold" => cold::run(setup).await,
        other => anyhow::bail!("no row {other}"),
    }
}

/// The demo's image as an archive.
fn archive(setup: &Setup) -> String {
    setup.demo.join("python.tar").display().to_string()
}

//! The rows, one file each.

mod boot;
mod cold;
mod convert;
mod create;
mod exec;
mod guest;
mod idle;
mod neighbour;
mod output;
mod read;
mod restart;
mod slot;

use crate::Setup;
use crate::record::Record;
use std::io::{Seek, Write};

/// In the order in which they run: what must have the machine for itself first.
pub(crate) const NAMES: [&str; 13] =
    ["guest", "idle", "1", "2a", "2b", "13", "14", "5", "7", "8", "neighbour", "convert", "cold"];

/// The name that the demo's archive gives its image.
pub(crate) const IMAGE: &str = "python:3.11";

/// Runs the peer of row 1 instead of a row.
pub(crate) const BARE_SERVER: &str = "bare-server";
pub(crate) use read::serve;

pub(crate) async fn run(name: &str, setup: &Setup) -> anyhow::Result<Vec<Record>> {
    match name {
        "guest" => guest::run(setup),
        "idle" => idle::run(setup).await,
        "1" => read::run(setup).await,
        "2a" => create::one_client(setup).await,
        "2b" => create::many_clients(setup).await,
        "13" => restart::run(setup).await,
        "14" => slot::run(setup).await,
        "5" => boot::run(setup).await,
        "7" => exec::run(setup).await,
        "8" => output::run(setup).await,
        "neighbour" => neighbour::run(setup).await,
        "convert" => convert::run(setup).await,
        "cold" => cold::run(setup).await,
        other => anyhow::bail!("no row {other}"),
    }
}

/// The demo's image as an archive.
fn archive(setup: &Setup) -> String {
    setup.demo.join("python.tar").display().to_string()
}

/// A page written over the beginning of a file and synced, in seconds: what
/// the disk takes for one commit.
fn synced_page(file: &mut std::fs::File) -> anyhow::Result<f64> {
    file.rewind()?;
    let began = tokio::time::Instant::now();
    file.write_all(&[7_u8; 4096])?;
    file.sync_data()?;
    Ok(began.elapsed().as_secs_f64())
}

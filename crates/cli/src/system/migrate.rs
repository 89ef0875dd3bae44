//! `aether migrate`.

use super::{folders, parts, server};
use crate::args::{Global, MigrateArgs, MigrateCommand};
use crate::error::CliError;
use crate::output::{Printer, fields};
use aether_core::source::{OsRng, SystemClock};
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
struct Versions {
    current: u32,
    newest: u32,
}

pub(crate) fn migrate(global: &Global, args: MigrateArgs, printer: Printer) -> Result<u8, CliError> {
    let loaded = crate::load(global, &args.set, Vec::new())?;
    for warning in &loaded.warnings {
        printer.talk(&format!("warning: {warning}"));
    }
    let config = &loaded.config;
    folders::make(config)?;
    // A running server on the embedded database would be pulled the ground
    // from under; PostgreSQL has locks of its own.
    let changes = !matches!(args.command, MigrateCommand::Version);
    let _lock = (changes && parts::is_embedded(config)).then(|| folders::lock(config)).transpose()?;
    crate::runtime()?.block_on(async {
        let store = server::connect_store(config, Arc::new(SystemClock::default()), Arc::new(OsRng)).await?;
        let failed = |e: aether_store::StoreError| CliError::failed(format!("the database cannot be migrated: {e}"));
        match args.command {
            MigrateCommand::Up => report(printer, "applied", &store.migrate_up().await.map_err(failed)?),
            MigrateCommand::Down { steps } => {
                report(printer, "taken back", &store.migrate_down(steps).await.map_err(failed)?);
            }
            MigrateCommand::Version => {}
        }
        let (current, newest) = store.schema_version().await.map_err(failed)?;
        store.close().await;
        printer.one(&Versions { current, newest }, &current.to_string(), |v| {
            fields(&[("Current", v.current.to_string()), ("Newest", v.newest.to_string())])
        })
    })?;
    Ok(0)
}

fn report(printer: Printer, what: &str, steps: &[u32]) {
    if steps.is_empty() {
        printer.talk("nothing to do");
    }
    for step in steps {
        printer.talk(&format!("{what}: {step}"));
    }
}

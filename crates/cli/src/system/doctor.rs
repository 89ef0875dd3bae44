//! `aether doctor`: what this machine needs, has and lacks.

use super::{parts, server};
use crate::args::{DoctorArgs, Global};
use crate::client::{Client, Endpoint};
use crate::config::{Config, Listen};
use crate::error::CliError;
use crate::output::{Printer, table, text};
use aether_core::api::VersionInfo;
use aether_core::source::{OsRng, SystemClock};
use aether_node::engine::doctor::{Check, Status, checks};
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
struct Line {
    name: String,
    status: Status,
    detail: String,
    remedy: String,
}

impl From<Check> for Line {
    fn from(c: Check) -> Self {
        Self { name: c.name.to_owned(), status: c.status, detail: c.detail, remedy: c.remedy }
    }
}

fn line(name: &str, status: Status, detail: impl Into<String>, remedy: &str) -> Line {
    let remedy = if status == Status::Ok { String::new() } else { remedy.to_owned() };
    Line { name: name.to_owned(), status, detail: detail.into(), remedy }
}

/// Exit code 1 when anything is missing.
pub(crate) fn doctor(global: &Global, args: DoctorArgs, printer: Printer) -> Result<u8, CliError> {
    let loaded = crate::load(global, &args.set, Vec::new())?;
    let lines = crate::runtime()?.block_on(all(&loaded.config, &loaded.warnings));
    let missing = lines.iter().filter(|l| l.status == Status::Missing).count();
    if printer.format == crate::args::OutputFormat::Table {
        show(&lines, printer.quiet)?;
        match missing {
            0 => printer.talk("Everything needed is here."),
            1 => printer.talk("1 thing is missing."),
            n => printer.talk(&format!("{n} things are missing.")),
        }
    } else {
        printer.structured(&lines)?;
    }
    Ok(u8::from(missing > 0))
}

fn show(lines: &[Line], quiet: bool) -> Result<(), CliError> {
    let shown = lines.iter().filter(|l| !quiet || l.status != Status::Ok);
    let rows = shown.map(|l| vec![word(l.status).to_owned(), l.name.clone(), l.detail.clone()]);
    text(&table(&["STATUS", "WHAT", "FOUND"], rows))?;
    let remedies: Vec<&Line> = lines.iter().filter(|l| !l.remedy.is_empty()).collect();
    if !remedies.is_empty() {
        text("\nWhat to do:\n")?;
    }
    for l in remedies {
        text(&format!("  {}: {}\n", l.name, l.remedy))?;
    }
    Ok(())
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Warn => "warning",
        Status::Missing => "missing",
    }
}

async fn all(config: &Config, warnings: &[String]) -> Vec<Line> {
    let mut lines = vec![root()];
    lines.extend(warnings.iter().map(|w| line("configuration", Status::Warn, w.clone(), "Correct the configuration.")));
    match parts::guest(config) {
        Ok(_) => lines.push(line("guest", Status::Ok, "the sandbox's first process is here", "")),
        Err(CliError::Failed { detail, remedy }) => {
            lines.push(line("guest", Status::Missing, detail, &remedy.unwrap_or_default()));
        }
        Err(e) => lines.push(line("guest", Status::Missing, e.to_string(), "")),
    }
    match parts::engine_to_check(config) {
        // Ours comes first, with the other half of why.
        Ok(engine) => {
            lines.extend(checks(&engine).await.into_iter().filter(|c| c.name != "root").map(Line::from));
        }
        Err(e) => lines.push(line("engine", Status::Missing, e.to_string(), "")),
    }
    let running = running_server(config).await;
    if running.is_none() {
        lines.push(port(config));
    }
    lines.push(store(config, running.is_some()).await);
    lines.push(match running {
        Some(version) => line("server", Status::Ok, format!("runs ({version}) on {}", config.socket().display()), ""),
        None => line("server", Status::Ok, "does not run yet: start it with `aether server`", ""),
    });
    lines
}

fn root() -> Line {
    if rustix::process::geteuid().is_root() {
        return line("root", Status::Ok, "yes", "");
    }
    line(
        "root",
        Status::Missing,
        "no: the server makes namespaces, network devices, control groups and users",
        "Run `sudo aether server`; the commands need no root, only the group `aether`.",
    )
}

fn port(config: &Config) -> Line {
    let Listen::On(addresses) = &config.server.address else {
        return line("port", Status::Ok, "none: the local socket alone", "");
    };
    for address in addresses {
        if let Err(e) = std::net::TcpListener::bind(address) {
            let remedy = "Stop what listens there, or set server.address.";
            return line("port", Status::Missing, format!("{address}: {e}"), remedy);
        }
    }
    let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    line("port", Status::Ok, format!("{list} is free"), "")
}

async fn running_server(config: &Config) -> Option<String> {
    let client = Client::new(Endpoint::Unix(config.socket()), None);
    client.get::<VersionInfo>("/v1/version").await.ok().map(|v| v.version)
}

/// Looks only: a database that is not there yet is not made here.
async fn store(config: &Config, running: bool) -> Line {
    if parts::is_embedded(config) {
        let path = config.server.state_dir.join("aether.db");
        let state = if path.exists() { "" } else { ", made at the first start" };
        return line("database", Status::Ok, format!("embedded, {}{state}", path.display()), "");
    }
    if running {
        return line("database", Status::Ok, "PostgreSQL, used by the running server", "");
    }
    let opened = server::connect_store(config, Arc::new(SystemClock::default()), Arc::new(OsRng)).await;
    let store = match opened {
        Ok(store) => store,
        Err(CliError::Failed { detail, remedy }) => {
            return line("database", Status::Missing, detail, &remedy.unwrap_or_default());
        }
        Err(e) => return line("database", Status::Missing, e.to_string(), ""),
    };
    let checked = store.check_schema().await;
    store.close().await;
    match checked {
        Ok(()) => line("database", Status::Ok, "PostgreSQL, up to date", ""),
        Err(e) => line("database", Status::Missing, e.to_string(), "Run `aether migrate up`."),
    }
}

//! SIGHUP: the configuration is read anew, and what can change of it while the
//! server runs is changed. What is wrong changes nothing at all.
//!
//! ```text
//! SIGHUP ─► load ─► plan ─► prepare (TLS files) ─► log, control, node
//!             └───────┴──────────┴─► an error: the running one stays
//! ```

use super::logging::LogFilter;
use super::{notify, parts};
use crate::config::{Loaded, Plan, Sources, load, plan};
use crate::error::CliError;
use aether_control::Reloader;
use aether_node::NodeReloader;
use std::io::IsTerminal;
use std::path::PathBuf;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A SIGHUP from here on ends nobody; it is looked at when the server runs.
pub(super) struct Hangups {
    signal: Signal,
    terminal: bool,
}

impl Hangups {
    pub(super) fn listen() -> Result<Self, CliError> {
        let signal = signal(SignalKind::hangup());
        let signal = signal.map_err(|e| CliError::failed(format!("cannot listen for signals: {e}")))?;
        Ok(Self { signal, terminal: std::io::stderr().is_terminal() })
    }

    /// The signal also comes when the terminal goes away.
    fn lost_terminal(&self) -> bool {
        self.terminal && !std::io::stderr().is_terminal()
    }
}

/// The running configuration, and whoever can be told of another.
pub(super) struct Reloads {
    pub(super) sources: Sources,
    pub(super) running: Loaded,
    pub(super) log: LogFilter,
    pub(super) exe: PathBuf,
    pub(super) control: Reloader,
    pub(super) node: NodeReloader,
}

impl Reloads {
    /// Until the runtime ends. A terminal that went away is a shutdown.
    pub(super) async fn run(mut self, mut hangups: Hangups, shutdown: CancellationToken) {
        while hangups.signal.recv().await.is_some() {
            if hangups.lost_terminal() {
                shutdown.cancel();
                return;
            }
            tracing::info!("SIGHUP: reading the configuration anew");
            if let Err(e) = self.reload().await {
                tracing::error!("the configuration was not reloaded, the running one stays: {e}");
            }
        }
    }

    async fn reload(&mut self) -> Result<(), CliError> {
        let sources = self.sources.clone();
        let loaded = tokio::task::spawn_blocking(move || load(&sources)).await;
        let loaded = loaded.map_err(|e| CliError::failed(format!("it was not read: {e}")))??;
        // What would keep the next start from its work is said now.
        parts::network(&loaded.config)?;
        let Plan { next, taken, waiting } = plan(&self.running, &loaded)?;
        let config = &next.config;
        // All that can fail comes first.
        let control = self.control.prepare(parts::control(config)?);
        let control = control.map_err(|e| CliError::failed(e.to_string()))?;
        self.log.set(config).map_err(CliError::failed)?;
        control.apply();
        self.node.apply(&parts::node(config), parts::images_with(config, self.exe.clone()));
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        if !waiting.is_empty() {
            tracing::warn!("changed, but taken at the next start only: {}", waiting.join(", "));
        }
        let changes = if taken.is_empty() { "no key that can change now".to_owned() } else { taken.join("; ") };
        tracing::info!("the configuration was reloaded; changed: {changes}");
        self.running = next;
        notify::notify("STATUS=The configuration was reloaded.");
        Ok(())
    }
}

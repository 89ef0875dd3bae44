//! The server's log, on standard error.

use crate::config::{Config, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::Subscriber;

/// Libraries that tell of every frame.
const CHATTY: &[&str] = &["h2", "hyper", "hyper_util", "tower", "tonic", "rustls", "sqlx", "reqwest", "netlink_proto"];

/// Changes the level of a log that runs.
pub(super) struct LogFilter(Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>);

impl LogFilter {
    pub(super) fn set(&self, config: &Config) -> Result<(), String> {
        (self.0)(EnvFilter::new(filter(config)))
    }
}

/// Ours at the level asked for, chatty libraries at `warn`.
pub(super) fn filter(config: &Config) -> String {
    let mut filter = config.observability.log_level.as_str().to_owned();
    for name in CHATTY {
        filter.push_str(&format!(",{name}=warn"));
    }
    filter
}

pub(super) fn is_json(config: &Config, terminal: bool) -> bool {
    match config.observability.log_format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    }
}

pub(super) fn start(config: &Config) -> LogFilter {
    let terminal = std::io::stderr().is_terminal();
    let json = is_json(config, terminal);
    let builder = Subscriber::builder()
        .with_env_filter(EnvFilter::new(filter(config)))
        .with_writer(std::io::stderr)
        // It would go to standard error, and panic where that is gone.
        .log_internal_errors(false)
        .with_ansi(terminal && !json);
    // A second start in one process would be refused; there is none.
    if json {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = tracing::subscriber::set_global_default(builder.finish());
        LogFilter(Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
    } else {
        let builder = builder.with_target(false).with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = tracing::subscriber::set_global_default(builder.finish());
        LogFilter(Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
    }
}

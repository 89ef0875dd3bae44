//! The server's log, on standard error.

use crate::config::{Config, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::Subscriber;

/// Libraries that tell of every frame.
const CHATTY: &[&str] = &["h2", "hyper", "hyper_util", "tower", "tonic", "rustls", "sqlx", "reqwest", "netlink_proto"];

pub(super) fn start(config: &Config) {
    let mut filter = config.observability.log_level.as_str().to_owned();
    for name in CHATTY {
        filter.push_str(&format!(",{name}=warn"));
    }
    let terminal = std::io::stderr().is_terminal();
    let json = match config.observability.log_format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let builder = Subscriber::builder()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(terminal && !json);
    // A second start in one process would be refused; there is none.
    let _ = if json {
        tracing::subscriber::set_global_default(builder.json().flatten_event(true).finish())
    } else {
        tracing::subscriber::set_global_default(builder.with_target(false).finish())
    };
}

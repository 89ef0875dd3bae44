//! The server's log, on standard error, written by a thread of its own: whoever
//! reads it slowly, or not at all, keeps no request waiting. Past
//! [`LINES_KEPT`] lines are lost, counted, and said to be.

use crate::config::{Config, LogFormat};
use std::io::{BufWriter, IsTerminal, Write};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::Subscriber;

/// Lines that wait to be written; some 2 MiB.
const LINES_KEPT: usize = 4_096;
/// Written at once where more than one waits.
const BUFFER: usize = 64 * 1024;
/// How long the thread rests when nothing waits any more: a request that logs
/// meanwhile has nobody to wake, which would cost it more than its line.
const REST: std::time::Duration = std::time::Duration::from_millis(5);

/// How often lost lines are looked for.
const WATCHED: std::time::Duration = std::time::Duration::from_secs(10);

/// Libraries that tell of every frame.
const CHATTY: &[&str] = &["h2", "hyper", "hyper_util", "tower", "tonic", "rustls", "sqlx", "reqwest", "netlink_proto"];

type Reload = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// Changes the level of a log that runs, and knows what it lost.
pub(super) struct LogFilter {
    reload: Reload,
    lost: ErrorCounter,
}

impl LogFilter {
    pub(super) fn set(&self, config: &Config) -> Result<(), String> {
        (self.reload)(EnvFilter::new(filter(config)))
    }

    /// Lines that were not written, since the start.
    pub(super) fn lost(&self) -> ErrorCounter {
        self.lost.clone()
    }
}

/// What its thread flushes whenever nothing waits, and not sooner.
struct Resting<W>(W);

impl<W: Write> Write for Resting<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()?;
        std::thread::sleep(REST);
        Ok(())
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

/// The guard writes what is left when it is dropped.
pub(super) fn start(config: &Config) -> (LogFilter, WorkerGuard) {
    let terminal = std::io::stderr().is_terminal();
    let json = is_json(config, terminal);
    let builder = NonBlockingBuilder::default().buffered_lines_limit(LINES_KEPT).lossy(true).thread_name("log");
    let (writer, guard) = builder.finish(Resting(BufWriter::with_capacity(BUFFER, std::io::stderr())));
    let lost = writer.error_counter();
    let builder = Subscriber::builder()
        .with_env_filter(EnvFilter::new(filter(config)))
        .with_writer(writer)
        // It would go to standard error, and panic where that is gone.
        .log_internal_errors(false)
        .with_ansi(terminal && !json);
    // A second start in one process would be refused; there is none.
    let reload: Reload = if json {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = tracing::subscriber::set_global_default(builder.finish());
        Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string()))
    } else {
        let builder = builder.with_target(false).with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = tracing::subscriber::set_global_default(builder.finish());
        Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string()))
    };
    (LogFilter { reload, lost }, guard)
}

/// Says from time to time how many lines were lost, for as long as it is
/// polled.
pub(super) async fn watch(lost: ErrorCounter) {
    let mut told = 0;
    loop {
        tokio::time::sleep(WATCHED).await;
        let now = lost.dropped_lines();
        if now > told {
            tracing::warn!(lines = now - told, "lines of this log were lost: it is read too slowly");
            told = now;
        }
    }
}

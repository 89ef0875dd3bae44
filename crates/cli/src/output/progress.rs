//! Progress for people who watch: never in a pipe, a file or with `-q`.

use super::Printer;
use crate::error::printable;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// A line that says what is waited for.
pub(crate) struct Spinner(Option<ProgressBar>);

impl Spinner {
    pub(crate) fn start(printer: Printer, text: &str) -> Self {
        Self(printer.chatty().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style("{spinner} {msg}"));
            bar.set_message(printable(text));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        }))
    }

    pub(crate) fn say(&self, text: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(printable(text));
        }
    }

    pub(crate) fn is_shown(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

/// Bytes that come or go.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    phase: String,
}

impl Progress {
    pub(crate) fn start(printer: Printer) -> Self {
        let bar = printer.chatty().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, phase: String::new() }
    }

    pub(crate) fn update(&mut self, phase: &str, done: u64, total: u64) {
        let Some(bar) = &self.bar else { return };
        if self.phase != phase {
            phase.clone_into(&mut self.phase);
            bar.reset();
            bar.set_message(printable(phase));
        }
        if total > 0 {
            bar.set_style(style("{spinner} {msg} [{bar:30}] {bytes} / {total_bytes} {bytes_per_sec}"));
            bar.set_length(total);
            bar.set_position(done.min(total));
        } else if done > 0 {
            bar.set_style(style("{spinner} {msg} {bytes}"));
            bar.set_position(done);
        } else {
            bar.set_style(style("{spinner} {msg}"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid() {
        for template in [
            "{spinner} {msg}",
            "{spinner} {msg} {bytes}",
            "{spinner} {msg} [{bar:30}] {bytes} / {total_bytes} {bytes_per_sec}",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}

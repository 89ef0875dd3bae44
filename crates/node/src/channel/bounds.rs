//! Limits on what a guest may say. Longer texts are cut, not refused: a guest
//! that lies about itself must not take its own agent out of view.

use super::wire;

pub(super) const TEXT: usize = 4096;
const NAME: usize = 128;
/// Arguments of one exec as a guest repeats them, in all.
const ARGV: usize = 64 * 1024;
/// The guest splits lines at 16 KiB.
pub(super) const LOG_LINE: usize = 64 * 1024;

/// At most `limit` bytes, control characters made visible.
pub(super) fn bounded_text(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for c in text.chars() {
        let width = if c.is_control() { c.escape_default().map(char::len_utf8).sum() } else { c.len_utf8() };
        if out.len() + width > limit {
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

fn cut(text: &mut String, limit: usize) {
    let needs = text.len() > limit || text.chars().any(char::is_control);
    if needs {
        *text = bounded_text(text, limit);
    }
}

pub(super) fn identify(mut answer: wire::IdentifyResponse) -> wire::IdentifyResponse {
    cut(&mut answer.kernel_release, NAME);
    cut(&mut answer.boot_id, NAME);
    cut(&mut answer.guest_version, NAME);
    cut(&mut answer.main_error, TEXT);
    answer
}

pub(super) fn health(mut answer: wire::HealthResponse) -> wire::HealthResponse {
    cut(&mut answer.message, TEXT);
    cut(&mut answer.probe, NAME);
    cut(&mut answer.probe_message, TEXT);
    answer
}

pub(super) fn stats(mut answer: wire::StatsResponse) -> wire::StatsResponse {
    if !answer.cpu_usage_percent.is_finite() {
        answer.cpu_usage_percent = 0.0;
    }
    answer
}

pub(super) fn shutdown(mut answer: wire::ShutdownResponse) -> wire::ShutdownResponse {
    if let Some(signal) = answer.main_signal.as_mut() {
        cut(signal, NAME);
    }
    answer
}

pub(super) fn exec_state(mut state: wire::ExecState) -> wire::ExecState {
    cut(&mut state.exec_id, NAME);
    if state.argv.iter().map(|word| word.len() + 1).sum::<usize>() > ARGV {
        state.argv = vec!["(too long)".to_owned()];
    }
    if let Some(exit) = state.exit.as_option_mut() {
        cut(&mut exit.error, TEXT);
        if let Some(signal) = exit.signal.as_mut() {
            cut(signal, NAME);
        }
    }
    state
}

pub(super) fn event(mut event: wire::Event) -> wire::Event {
    use super::EventKind;
    match event.event.as_mut() {
        Some(EventKind::Oom(oom)) => cut(&mut oom.process, NAME),
        Some(EventKind::MainExited(exited)) => {
            if let Some(signal) = exited.signal.as_mut() {
                cut(signal, NAME);
            }
        }
        _ => {}
    }
    event
}

pub(super) fn log_line(mut line: wire::LogLine) -> wire::LogLine {
    line.line.truncate(LOG_LINE);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_characters_and_escaped() {
        assert_eq!(bounded_text("häß", 2), "h");
        assert_eq!(bounded_text("a\x1b[31m\n", 100), "a\\u{1b}[31m\\n");
        assert_eq!(bounded_text(&"x".repeat(10_000), 10).len(), 10);
        assert_eq!(bounded_text("\n\n", 3), "\\n");
    }

    #[test]
    fn a_huge_command_line_is_not_repeated() {
        let state = wire::ExecState { argv: vec!["x".repeat(ARGV)], ..Default::default() };
        assert_eq!(exec_state(state).argv, ["(too long)"]);
    }
}

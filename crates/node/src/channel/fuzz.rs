//! What a guest answers, as the client decodes and bounds it.

use super::{ChannelError, EventKind, OutputKind, bounds, wire};
use buffa::Message;
use connectrpc::ErrorCode;

/// As the Connect client does it.
fn decoded<M: Message>(bytes: &[u8]) -> Option<M> {
    let options = buffa::DecodeOptions::new()
        .with_max_message_size(aether_proto::channel::MESSAGE_SIZE)
        .with_element_memory_limit(8 * aether_proto::channel::MESSAGE_SIZE);
    options.decode_from_slice(bytes).ok()
}

/// Short, and nothing that moves a terminal or begins a line.
fn tame(what: &str, text: &str) {
    assert!(text.len() <= bounds::TEXT, "{what} has {} bytes", text.len());
    assert!(!text.chars().any(char::is_control), "{what} holds control characters: {text:?}");
}

fn tame_exec(state: &wire::ExecState) {
    tame("exec_id", &state.exec_id);
    assert!(state.argv.iter().map(String::len).sum::<usize>() <= 64 << 10);
    if let Some(exit) = state.exit.as_option() {
        tame("error", &exit.error);
        tame("signal", exit.signal.as_deref().unwrap_or_default());
    }
}

fn tame_event(event: &wire::Event) {
    match &event.event {
        Some(EventKind::Oom(oom)) => tame("process", &oom.process),
        Some(EventKind::MainExited(exited)) => tame("signal", exited.signal.as_deref().unwrap_or_default()),
        _ => {}
    }
}

fn one(kind: u8, bytes: &[u8]) -> Option<()> {
    match kind % 9 {
        0 => {
            let answer = bounds::identify(decoded(bytes)?);
            for text in [&answer.kernel_release, &answer.boot_id, &answer.guest_version, &answer.main_error] {
                tame("identify", text);
            }
        }
        1 => {
            let answer = bounds::health(decoded(bytes)?);
            for text in [&answer.message, &answer.probe, &answer.probe_message] {
                tame("health", text);
            }
        }
        2 => tame_exec(&bounds::exec_state(decoded(bytes)?)),
        3 => tame_event(&bounds::event(decoded(bytes)?)),
        4 => assert!(bounds::log_line(decoded(bytes)?).line.len() <= bounds::LOG_LINE),
        5 => assert!(bounds::stats(decoded(bytes)?).cpu_usage_percent.is_finite()),
        6 => tame("signal", bounds::shutdown(decoded(bytes)?).main_signal.as_deref().unwrap_or_default()),
        7 => {
            let text = String::from_utf8_lossy(bytes);
            tame("an error", &ChannelError::remote(ErrorCode::Internal, &text).to_string());
            tame("an error", &ChannelError::protocol(&text).to_string());
        }
        _ => {
            let event = decoded::<wire::OutputEvent>(bytes)?;
            if let Some(OutputKind::Exited(state)) = event.event {
                tame_exec(&bounds::exec_state(*state));
            }
        }
    }
    Some(())
}

/// The first byte names the message.
#[test]
fn fuzz() {
    let words = &["\n\x05", "\x12\x7f", "\x1a\x02", "\u{1b}[31m", "\u{85}", "\u{ff}\u{ff}\u{ff}\u{ff}\x0f"];
    aether_fuzz::target("guest_answers").memory(8 << 20).words(words).run(|input| {
        if let Some((kind, bytes)) = input.split_first() {
            one(*kind, bytes);
        }
    });
}

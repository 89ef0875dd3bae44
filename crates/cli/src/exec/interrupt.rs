//! When a ctrl-C is the second one, which kills.

use std::time::Duration;
use tokio::time::Instant;

pub(super) const CTRL_C: u8 = 0x03;
const WINDOW: Duration = Duration::from_secs(2);
/// Enough to see how the answer to a ctrl-C ends.
const TAIL: usize = 64;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Press {
    First,
    Second,
}

/// Remembers the last ctrl-C. On a terminal, a shell that came back to its
/// prompt has dealt with the first one: hitting ctrl-C again there is habit,
/// not despair, and must not kill the shell.
#[derive(Debug, Default)]
pub(super) struct Interrupts {
    last: Option<Instant>,
    answer: Vec<u8>,
}

impl Interrupts {
    pub(super) fn press(&mut self, now: Instant, on_terminal: bool) -> Press {
        let soon = self.last.is_some_and(|last| now.saturating_duration_since(last) <= WINDOW);
        let at_prompt = on_terminal && ends_in_prompt(&self.answer);
        self.last = Some(now);
        self.answer.clear();
        if soon && !at_prompt { Press::Second } else { Press::First }
    }

    pub(super) fn saw_output(&mut self, bytes: &[u8]) {
        if self.last.is_some() {
            self.answer.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL)..]);
            let surplus = self.answer.len().saturating_sub(TAIL);
            self.answer.drain(..surplus);
        }
    }
}

/// Output that stops in mid-line, and is more than the terminal's own `^C`.
fn ends_in_prompt(answer: &[u8]) -> bool {
    let rest = answer.strip_prefix(b"^C").unwrap_or(answer);
    !matches!(rest.last(), None | Some(b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_press_within_two_seconds_kills() {
        let start = Instant::now();
        let mut presses = Interrupts::default();
        assert_eq!(presses.press(start, false), Press::First);
        assert_eq!(presses.press(start + Duration::from_secs(3), false), Press::First);
        assert_eq!(presses.press(start + Duration::from_secs(4), false), Press::Second);
    }

    #[test]
    fn a_shell_back_at_its_prompt_lives() {
        let start = Instant::now();
        for (answer, expected) in [
            (&b"^C"[..], Press::Second),
            (b"", Press::Second),
            (b"^Cnot now\r\n", Press::Second),
            (b"^C\r\nuser@agent:~$ ", Press::First),
            (b"\r\nKeyboardInterrupt\r\n>>> ", Press::First),
        ] {
            let mut presses = Interrupts::default();
            presses.press(start, true);
            presses.saw_output(answer);
            assert_eq!(presses.press(start + Duration::from_millis(300), true), expected, "{answer:?}");
        }
    }

    #[test]
    fn long_output_is_not_kept() {
        let mut presses = Interrupts::default();
        presses.press(Instant::now(), true);
        presses.saw_output(&[b'x'; 100_000]);
        assert_eq!(presses.answer.len(), TAIL);
    }
}

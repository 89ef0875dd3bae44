//! Server-sent events, as far as our server sends them: `id`, `event` and one
//! `data` line each.

use crate::error::CliError;
use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// The longest event we take.
const MAX_EVENT: usize = 4 * 1024 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    /// Empty where the event has none.
    pub(crate) id: String,
    /// Empty: only the place moved.
    pub(crate) data: String,
}

pub(crate) struct SseStream {
    body: Incoming,
    buffer: BytesMut,
}

impl SseStream {
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next event; none when the server has ended the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<SseEvent>, CliError> {
        loop {
            if let Some(event) = take_event(&mut self.buffer) {
                return Ok(Some(event));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(e)) => return Err(CliError::failed(format!("the stream broke off: {e}"))),
            }
            if self.buffer.len() > MAX_EVENT {
                return Err(CliError::failed("an event of the stream is too long"));
            }
        }
    }
}

/// Comments alone make no event.
fn take_event(buffer: &mut BytesMut) -> Option<SseEvent> {
    loop {
        let end = buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let block = buffer.split_to(end);
        buffer.advance(2);
        let text = String::from_utf8_lossy(&block);
        let mut event = SseEvent::default();
        for line in text.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => value.clone_into(&mut event.id),
                "data" if event.data.is_empty() => value.clone_into(&mut event.data),
                "data" => event.data.push_str(&format!("\n{value}")),
                _ => {}
            }
        }
        if event != SseEvent::default() {
            return Some(event);
        }
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_apart_wherever_they_are_cut() {
        let text = "retry: 1000\nid: 0-1\n\n: still here\n\nid: 0-2\nevent: a\ndata: {\"a\":\ndata: 1}\n\nid: 0-3\nda";
        for cut in 0..text.len() {
            let (mut buffer, mut events) = (BytesMut::new(), Vec::new());
            for part in [&text[..cut], &text[cut..]] {
                buffer.extend_from_slice(part.as_bytes());
                while let Some(event) = take_event(&mut buffer) {
                    events.push((event.id, event.data));
                }
            }
            let expected = [("0-1", ""), ("0-2", "{\"a\":\n1}")].map(|(a, b)| (a.to_owned(), b.to_owned()));
            assert_eq!(events, expected, "cut at {cut}");
        }
    }
}

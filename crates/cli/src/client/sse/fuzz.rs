//! A stream of events, from a server that need not be ours.

use super::*;

fn events(text: &[u8], step: usize) -> Vec<SseEvent> {
    let (mut buffer, mut events) = (BytesMut::new(), Vec::new());
    for part in text.chunks(step) {
        buffer.extend_from_slice(part);
        events.extend(std::iter::from_fn(|| take_event(&mut buffer)));
    }
    events
}

#[test]
fn fuzz() {
    let words = &["data: ", "id: ", "\n\n", "\r\n", ": ", "event: "];
    aether_fuzz::target("sse").max_len(8 << 10).memory(1 << 20).words(words).run(|input| {
        let whole = events(input, input.len().max(1));
        assert_eq!(events(input, 3), whole, "however it is cut");
        assert!(whole.iter().map(|event| event.id.len() + event.data.len()).sum::<usize>() <= 3 * input.len());
    });
}

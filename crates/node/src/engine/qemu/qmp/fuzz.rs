//! What a hostile VMM says on its control socket.

use super::{Guest, MAX_LINE};

#[test]
fn fuzz() {
    let words = &[
        "{\"event\": \"BLOCK_IO_ERROR\", \"data\": {\"action\": \"stop\"}}\n",
        "{\"event\": \"RESUME\"}\n",
        "{\"return\": {\"status\": \"io-error\"}}\n",
        "{\"return\": ",
        "[[[[[[[[",
    ];
    aether_fuzz::target("qmp").max_len(8 << 10).memory(1 << 20).words(words).run(|input| {
        let mut guest = Guest::default();
        for line in input.split_inclusive(|byte| *byte == b'\n').filter(|line| line.len() as u64 <= MAX_LINE) {
            let (was_held, was_tried) = (guest.held, guest.next_try.is_some());
            let new = guest.hears(line);
            assert!(!guest.held || guest.next_try.is_some(), "held, and nobody lets it go on");
            assert_eq!(new, guest.held && !was_held && !was_tried, "told once, when it is held");
            assert!(was_held || !new || guest.held);
        }
    });
}

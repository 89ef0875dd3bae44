//! Cursors, which clients send back, and may make up.

use super::*;
use crate::model::EventCursor;

#[test]
fn fuzz() {
    aether_fuzz::target("cursors").max_len(128).memory(16 << 10).words(&["-agtc0", "agtc0aaaaaaaaaaaaaaaa"]).run(
        |input| {
            let Ok(text) = std::str::from_utf8(input) else { return };
            if let Ok((created, id)) = parse_cursor(text) {
                let written = format!("{}-{id}", created.unix_ms());
                assert_eq!(parse_cursor(&written).ok(), Some((created, id)));
                assert!(text.bytes().next().is_some_and(|b| b.is_ascii_digit()), "{text:?} is no cursor of ours");
            }
            if let Ok(cursor) = text.parse::<EventCursor>() {
                assert!(i64::try_from(cursor.sequence).is_ok() && i64::try_from(cursor.transaction).is_ok());
                assert_eq!(cursor.to_string().parse::<EventCursor>().ok(), Some(cursor));
            }
        },
    );
}

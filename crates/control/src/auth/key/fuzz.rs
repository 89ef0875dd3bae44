//! What strangers present as an API key.

use super::*;

#[test]
fn fuzz() {
    aether_fuzz::target("api_key").max_len(256).memory(16 << 10).words(&["aether_sk_", "e2b_"]).run(|input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Some(key) = ApiKey::parse(text) else { return };
        // There are two spellings of each key, and no third.
        let (ours, e2b) = (key.text(), key.e2b_text());
        assert!(text == ours.expose() || text == e2b.expose(), "{text:?} is a key");
        for spelling in [&ours, &e2b] {
            assert_eq!(ApiKey::parse(spelling.expose()).expect("is one").0, key.0);
        }
        assert!(ours.expose().starts_with(&key.prefix()) && key.prefix().len() == PREFIX.len() + SHOWN_CHARS);
        assert!(!format!("{key:?}").contains(&text[text.len() - 8..]));
    });
}

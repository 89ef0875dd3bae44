//! Query strings on the data lane.

use super::*;

#[test]
fn fuzz() {
    let words = &["path=", "username=", "%2F", "%00", "%e9", "%", "+", "&", "mode="];
    aether_fuzz::target("guest_query").max_len(4096).memory(1 << 20).words(words).run(|input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Some(pairs) = parse_query(text) else { return };
        let held: usize = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(held <= text.len(), "longer than it was");
        let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        let again: Vec<String> =
            pairs.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
        assert_eq!(parse_query(&again.join("&")), Some(pairs));
    });
}

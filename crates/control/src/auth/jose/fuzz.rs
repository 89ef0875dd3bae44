//! What strangers present as a token.

use super::*;

#[test]
fn fuzz() {
    const WORDS: &[&str] = &["alg", "HS256", "none", "kid", ".", "eyJhbGciOiJIUzI1NiIsImtpZCI6ImsifQ", "e30"];
    let key = VerifyingKey::Secret(hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]));
    aether_fuzz::target("token").max_len(4096).memory(1 << 20).words(WORDS).run(|input| {
        if let Some(value) = strict(input) {
            assert!(strict(value.to_string().as_bytes()).is_some(), "what is read can be written and read again");
        }
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Some(token) = Compact::parse(text) else { return };
        // Its bytes have one spelling, so a token has one text for one signature.
        let (parts, again) = (text.split('.').collect::<Vec<_>>(), BASE64URL_NOPAD.encode(&token.signature));
        assert_eq!((parts.len(), parts[2]), (3, again.as_str()));
        assert_eq!(token.signed.len() + 1 + parts[2].len(), text.len());
        assert!(token.header.keys().all(|name| HEADER.contains(&name.as_str())) && token.kid.len() <= MAX_KID);
        // Nobody who fuzzes knows the key.
        assert!(!token.verified_by(&key));
    });
}

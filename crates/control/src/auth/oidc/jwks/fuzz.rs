//! What an issuer, or whoever answers for it, sends as its keys.

use super::*;

#[test]
fn fuzz() {
    const WORDS: &[&str] = &["keys", "kty", "RSA", "EC", "OKP", "P-256", "Ed25519", "kid", "use", "sig", "key_ops"];
    aether_fuzz::target("jwks").max_len(8192).memory(1 << 20).words(WORDS).run(|input| {
        let Some(set) = KeySet::parse(input) else { return };
        assert!(set.0.len() <= MOST_KEYS);
        for (kid, key) in &set.0 {
            assert!(!kid.is_empty() && kid.len() <= MAX_KID && key.algorithm() != Algorithm::Hs256);
            assert!(set.find(kid, key.algorithm()).is_some());
        }
    });
}

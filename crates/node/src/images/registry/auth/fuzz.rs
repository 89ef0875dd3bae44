//! What a registry answers to a request without a token.

use super::*;

#[test]
fn fuzz() {
    let words = &[
        "Bearer ",
        "basic",
        "realm=\"https://auth.example/token\"",
        "service=\"",
        "scope=\"",
        "\\\"",
        ",",
        "\"token\":\"",
    ];
    aether_fuzz::target("challenge").max_len(4096).memory(256 << 10).words(words).run(|input| {
        let [header, body] = aether_fuzz::parts(input);
        if let Some(token) = bearer(body) {
            assert!(token.is_sensitive() && token.as_bytes().starts_with(b"Bearer "));
        }
        let Ok(header) = std::str::from_utf8(header) else { return };
        let Some(Challenge::Bearer { realm, service, .. }) = parse_challenge(header) else { return };
        match token_url(&realm, service.as_deref(), "repository:a/b:pull") {
            Err(error) => assert!(error.to_string().len() <= 1024, "{error}"),
            Ok(url) => {
                let named = Url::parse(&realm).expect("as it was");
                assert_eq!((url.host(), url.port(), url.scheme()), (named.host(), named.port(), named.scheme()));
                let last = url.query_pairs().last().expect("a scope");
                assert_eq!((&*last.0, &*last.1), ("scope", "repository:a/b:pull"), "not the scope that we want");
            }
        }
    });
}

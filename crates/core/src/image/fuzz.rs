//! Image references: typed by clients, and found in archives.

use super::ImageRef;

#[test]
fn fuzz() {
    let words = &[
        "docker.io/",
        "index.docker.io/",
        "library/",
        "localhost",
        "@sha256:",
        ":latest",
        "ghcr.io/",
        "127.0.0.1:5000/",
    ];
    aether_fuzz::target("image_ref").max_len(700).memory(64 << 10).words(words).run(|input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Ok(image) = text.parse::<ImageRef>() else { return };
        assert!(
            text.len() <= 512 && image.repository.split('/').all(|part| !part.trim_matches('.').is_empty()),
            "{image:?}"
        );
        let canonical = image.to_string();
        assert_eq!(canonical.parse(), Ok(image.clone()), "the canonical form {canonical}");
        let familiar = image.familiar();
        assert_eq!(familiar.parse(), Ok(image.clone()), "the familiar form {familiar}");
        for spelling in image.spellings() {
            assert_eq!(spelling.parse(), Ok(image.clone()), "the spelling {spelling}");
        }
    });
}

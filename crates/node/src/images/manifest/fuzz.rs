//! Manifest and config as a registry or an archive gives them.

use super::*;

fn shown(error: &ImageError) {
    let text = error.to_string();
    assert!(text.len() <= 1024 && !text.chars().any(char::is_control), "{text:?}");
}

#[test]
fn fuzz() {
    let words = &[
        "\"schemaVersion\":2",
        "\"mediaType\":",
        OCI_INDEX,
        OCI_MANIFEST,
        DOCKER_LIST,
        DOCKER_MANIFEST,
        "\"layers\":[",
        "\"manifests\":[",
        "\"config\":{",
        "\"digest\":\"sha256:",
        "\"size\":",
        "\"platform\":{\"os\":\"linux\"",
        "\"diff_ids\":[",
        "\"rootfs\":{",
        "\"Env\":null",
        "\"Labels\":{",
        "null",
        "\n====\n",
        "\\u001b[31m",
    ];
    let host = Platform::parse(Some("linux/amd64/v2")).expect("a platform");
    aether_fuzz::target("manifest").memory(4 << 20).words(words).run(|input| {
        let [document, config] = aether_fuzz::parts(input);
        let manifest = match parse_document(document) {
            Err(error) => return shown(&error),
            Ok(Document::Index(index)) => {
                assert!(index.manifests.len() <= 1000);
                match host.choose(&index, "an/image") {
                    Ok(chosen) => assert!(is_digest(&chosen.digest)),
                    Err(error) => shown(&error),
                }
                return;
            }
            Ok(Document::Manifest(manifest)) => manifest,
        };
        assert!((1..=MAX_LAYERS).contains(&manifest.layers.len()) && manifest.config.size <= MAX_CONFIG);
        assert!(manifest.layers.iter().all(|layer| is_digest(&layer.digest)));
        if let Ok(total) = Manifest::check_total(&manifest.layers, 1 << 40) {
            assert!(total <= 1 << 40);
        }
        match manifest.resolve(sha256(document), config) {
            Err(error) => shown(&error),
            Ok(resolved) => {
                assert_eq!(resolved.diff_ids.len(), resolved.layers.len());
                assert!(resolved.diff_ids.iter().all(|digest| is_digest(digest)));
                assert!(resolved.os == "linux" && resolved.architecture.len() <= 64);
                assert!(resolved.device_key().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.'));
                if let Err(error) = resolved.check_platform(&host, "an/image") {
                    shown(&error);
                }
            }
        }
    });
}

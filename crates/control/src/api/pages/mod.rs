//! Pages of docs/ that are written from the code: `UPDATE_DOCS=1 cargo test
//! -p aether-control pages` renews them, and a test fails when one is stale.

mod errors;
mod reference;

use std::path::Path;

fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).expect("written");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = there.lines().zip(text.lines()).find(|(a, b)| a != b);
    assert!(
        there == text,
        "docs/{name} is stale: UPDATE_DOCS=1 cargo test -p aether-control pages\nfile, code: {differs:#?}"
    );
}

//! Pages of docs/ that are written from the code: `UPDATE_DOCS=1 cargo test
//! -p aether-control pages` renews them, and a test fails when one is stale.

mod errors;
mod operations;
mod reference;

use std::path::{Path, PathBuf};

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

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All code of these crates, without the tests in it.
fn sources(names: &[&str]) -> String {
    let mut all = String::new();
    let mut folders: Vec<PathBuf> = names.iter().map(|c| crates().join(c).join("src")).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a source folder").flatten() {
            let path = entry.path();
            let ours = path.ends_with("api/pages");
            if path.is_dir() && !ours {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("api/tests.rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                all.push_str(text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default());
            }
        }
    }
    all
}

/// docs/upgrade.md says of each route of the earlier version whether it is
/// here: whoever builds one meets this.
#[test]
fn the_upgrade_page_tells_which_routes_are_here() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/upgrade.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let table =
        page.split_once("| route | here |").expect("the table of routes").1.split("\n\n").next().unwrap_or_default();
    let served: Vec<String> = super::routes::table().iter().map(|e| super::document::documented(&e.path)).collect();
    let mut rows = 0;
    for row in table.lines().filter(|l| l.contains('/')) {
        let mut cells = row.trim_matches('|').split(" | ");
        let (routes, here) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        for quoted in routes.split('`').skip(1).step_by(2) {
            let Some(path) = quoted.split(' ').next_back().filter(|p| p.starts_with('/')) else { continue };
            let is_here = served.iter().any(|s| s == path || s.starts_with(&format!("{path}/")));
            assert_eq!(is_here, !here.contains("not built yet"), "{path}: {here}");
            rows += 1;
        }
    }
    assert!(rows > 20, "{rows}");
}

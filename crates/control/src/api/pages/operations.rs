//! docs/operations.md is written by hand; what it quotes is not.

use std::collections::BTreeSet;
use std::path::Path;

const TELEMETRY: &str = include_str!("../../telemetry.rs");

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    std::fs::read_to_string(path).expect("the page")
}

/// Words that begin as our metrics do.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let ours = words.filter(|w| w.starts_with("aether_") && !w.ends_with('_'));
    ours.map(|w| w.trim_end_matches("_bucket").to_owned()).collect()
}

#[test]
fn its_metrics_are_those_that_there_are() {
    let known: BTreeSet<String> =
        TELEMETRY.split('"').skip(1).step_by(2).flat_map(metrics).filter(|w| w.matches('_').count() > 1).collect();
    let mut told = metrics(&page());
    told.retain(|w| w.matches('_').count() > 1);
    assert_eq!(told, known);
}

#[test]
fn its_messages_are_those_that_there_are() {
    let page = page();
    let table =
        page.split_once("## When something fails").expect("the table").1.split("\n## ").next().unwrap_or_default();
    let code = super::sources(&["cli", "control", "node", "placement", "store"]);
    let mut count = 0;
    for row in table.lines().filter(|l| l.starts_with("| ")) {
        let seen = row.split(" | ").next().unwrap_or_default();
        for quoted in seen.split('`').skip(1).step_by(2).filter(|q| q.matches(' ').count() > 1) {
            // A number stands for a value.
            let text = quoted.split(char::is_numeric).collect::<Vec<_>>().join("{}");
            assert!(code.contains(&text), "nothing says {text:?}");
            count += 1;
        }
    }
    assert!(count > 10, "{count}");
}

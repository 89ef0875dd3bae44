//! Whole artefacts compared with a checked-in file; `UPDATE_DOCS=1` renews it.

use std::path::Path;

pub(crate) fn compare(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, text).expect("writes the file");
        return;
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    if there == text {
        return;
    }
    let at = there.lines().zip(text.lines()).position(|(a, b)| a != b);
    let at = at.unwrap_or_else(|| there.lines().count().min(text.lines().count()));
    let line = |t: &str| t.lines().nth(at).unwrap_or("(end)").to_owned();
    panic!(
        "{} is stale from line {}:\n  file: {}\n  code: {}\nRenew it: UPDATE_DOCS=1 cargo test -p aether",
        path.display(),
        at + 1,
        line(&there),
        line(text)
    );
}

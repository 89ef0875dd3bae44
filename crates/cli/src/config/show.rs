//! `aether config show`: each key with its value and where it comes from.

use super::keys::{KEYS, Key};
use super::load::Loaded;
use crate::error::CliError;
use crate::output::Printer;
use serde::Serialize;

const MASK: &str = "***";

#[derive(Serialize)]
struct Row {
    key: &'static str,
    value: String,
    source: String,
    default: &'static str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<String>,
    reload: &'static str,
    meaning: String,
}

pub(crate) fn show(printer: Printer, loaded: &Loaded, prefix: Option<&str>) -> Result<u8, CliError> {
    let rows: Vec<Row> =
        KEYS.iter().filter(|key| prefix.is_none_or(|p| key.name.starts_with(p))).map(|key| row(key, loaded)).collect();
    if rows.is_empty() {
        return Err(CliError::with_remedy(
            format!("no key begins with {:?}", prefix.unwrap_or_default()),
            "`aether config show` lists all.",
        ));
    }
    for warning in &loaded.warnings {
        printer.talk(&format!("warning: {warning}"));
    }
    printer.list(
        &rows,
        &["KEY", "VALUE", "SOURCE"],
        |r| format!("{}={}", r.key, r.value),
        |r| vec![r.key.to_owned(), r.value.clone(), r.source.clone()],
    )?;
    Ok(0)
}

fn row(key: &Key, loaded: &Loaded) -> Row {
    let (text, source) = loaded.values.effective(key);
    let value = if key.secret && !text.is_empty() { MASK.to_owned() } else { text.to_owned() };
    let meaning = key.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    Row {
        key: key.name,
        value,
        source: source.to_string(),
        default: key.default,
        kind: key.kind,
        limits: key.limits.map(|(least, most)| format!("{least} to {most}")),
        reload: key.reload.as_str(),
        meaning,
    }
}

#[cfg(test)]
#[path = "docs_test.rs"]
mod docs;

//! Printing: data on standard output in the form that was asked for, talk and
//! progress on standard error.

mod progress;
mod render;

pub(crate) use progress::{Progress, Spinner};
pub(crate) use render::{ago, bytes, duration, mib};

use crate::args::OutputFormat;
use crate::error::{CliError, printable};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write};

/// How this command prints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    pub(crate) format: OutputFormat,
    pub(crate) quiet: bool,
}

impl Printer {
    /// Whether people watch: progress and questions only then.
    pub(crate) fn chatty(self) -> bool {
        !self.quiet && self.format == OutputFormat::Table && std::io::stderr().is_terminal()
    }

    /// A remark, on standard error.
    pub(crate) fn talk(self, text: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{}", printable(text));
        }
    }

    /// One document: as it is in JSON and YAML, else by `people`; `-q` prints
    /// `short` alone.
    pub(crate) fn one<T: Serialize>(
        self,
        value: &T,
        short: &str,
        people: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        match self.format {
            OutputFormat::Table if self.quiet => line(short),
            OutputFormat::Table => text(&people(value)),
            _ => self.structured(value),
        }
    }

    /// One of a stream of documents, each a line so that a reader can take it as
    /// it comes (in YAML a document): `people` says it in one, `-q` prints
    /// `short` alone.
    pub(crate) fn item<T: Serialize>(
        self,
        value: &T,
        short: &str,
        people: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        match self.format {
            OutputFormat::Table if self.quiet => line(short),
            OutputFormat::Table => line(&people(value)),
            OutputFormat::Json => {
                let text = serde_json::to_string(value).map_err(|e| CliError::failed(e.to_string()))?;
                raw(format!("{text}\n").as_bytes())
            }
            OutputFormat::Yaml => {
                raw(b"---\n")?;
                self.structured(value)
            }
        }
    }

    /// A list: a table for people, ids alone with `-q`.
    pub(crate) fn list<T: Serialize>(
        self,
        items: &[T],
        header: &[&str],
        short: impl Fn(&T) -> String,
        row: impl Fn(&T) -> Vec<String>,
    ) -> Result<(), CliError> {
        match self.format {
            OutputFormat::Table if self.quiet => items.iter().try_for_each(|item| line(&short(item))),
            OutputFormat::Table => {
                let mut rows: Vec<Vec<String>> = items.iter().map(row).collect();
                // Scripts get every cell whole, whatever their terminal.
                if std::io::stdout().is_terminal() {
                    rows = fitted(header, rows, crate::exec::terminal_size().0 as usize);
                }
                text(&table(header, rows.into_iter()))
            }
            _ => self.structured(&items),
        }
    }

    pub(crate) fn structured<T: Serialize>(self, value: &T) -> Result<(), CliError> {
        let rendered = match self.format {
            OutputFormat::Yaml => serde_norway::to_string(value).map_err(|e| e.to_string()),
            _ => serde_json::to_string_pretty(value).map(|t| t + "\n").map_err(|e| e.to_string()),
        };
        raw(rendered.map_err(|e| CliError::failed(format!("cannot print the answer: {e}")))?.as_bytes())
    }
}

/// Between two columns.
const GAP: usize = 3;
/// No column is cut below this.
const NARROW: usize = 8;

/// The rows with cells cut, the widest column first, until a line fits. The
/// first column is what one copies: it stays whole.
fn fitted(header: &[&str], mut rows: Vec<Vec<String>>, width: usize) -> Vec<Vec<String>> {
    let of = |rows: &[Vec<String>], at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([header[at].chars().count()]).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..header.len()).map(|at| of(&rows, at)).collect();
    let total = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
    while total(&widths) > width {
        let least = |at: usize| header[at].chars().count().max(NARROW);
        let widest = (1..widths.len()).filter(|at| widths[*at] > least(*at)).max_by_key(|at| widths[*at]);
        let Some(widest) = widest else { break };
        widths[widest] -= 1;
    }
    for row in &mut rows {
        for (cell, most) in row.iter_mut().zip(&widths) {
            if cell.chars().count() > *most {
                *cell = cell.chars().take(most.saturating_sub(1)).chain(['…']).collect();
            }
        }
    }
    rows
}

/// A table as docker prints it: no borders, three spaces between columns.
pub(crate) fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell).replace(['\n', '\t'], " ")));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let mut out = String::new();
    for row in table.lines() {
        out.push_str(row.trim_end());
        out.push('\n');
    }
    out
}

/// `Key:   value` lines.
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 1;
    let mut out = String::new();
    for (key, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        let mut lines = value.lines();
        let first = lines.next().unwrap_or_default();
        out.push_str(&format!("{:width$}  {first}\n", format!("{key}:")));
        for more in lines {
            out.push_str(&format!("{:width$}  {more}\n", ""));
        }
    }
    out
}

/// One line of data.
pub(crate) fn line(content: &str) -> Result<(), CliError> {
    raw(format!("{}\n", printable(content)).as_bytes())
}

/// Text of ours; what came from elsewhere in it is made printable.
pub(crate) fn text(content: &str) -> Result<(), CliError> {
    raw(printable(content).as_bytes())
}

/// Asks people on a terminal; scripts are never asked.
pub(crate) fn confirmed(question: &str) -> Result<bool, CliError> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(true);
    }
    eprint!("{} [y/N] ", printable(question));
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.map_err(|e| CliError::failed(format!("cannot read the answer: {e}")))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Bytes as they are. A reader that has gone is no error, but the end.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(CliError::Silent(0)),
        Err(e) => Err(CliError::failed(format!("cannot write to standard output: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_look_like_dockers() {
        let rows = [vec!["a".to_owned(), "running".to_owned()], vec!["longer".to_owned(), "up\u{1b}[0m".to_owned()]];
        let text = table(&["NAME", "STATUS"], rows.into_iter());
        assert_eq!(text, "NAME     STATUS\na        running\nlonger   up\u{fffd}[0m\n");
    }

    #[test]
    fn a_table_fits_the_terminal_where_it_can() {
        let row = |id: &str| {
            vec![
                id.to_owned(),
                "a-long-name-of-an-agent".to_owned(),
                "docker.io/library/python:3.11".to_owned(),
                "up".to_owned(),
            ]
        };
        let header = ["ID", "NAME", "IMAGE", "STATUS"];
        let rows = vec![row("agtc0abcdefghijklmnop"), row("agtc0abcdefghijklmnoq")];
        let wide = table(&header, fitted(&header, rows.clone(), 200).into_iter());
        assert!(wide.contains("docker.io/library/python:3.11"));
        let narrow = table(&header, fitted(&header, rows.clone(), 60).into_iter());
        assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
        assert!(narrow.contains("agtc0abcdefghijklmnoq") && narrow.contains('…'), "{narrow}");
        let tiny = fitted(&header, rows, 10);
        assert_eq!(tiny[0][0], "agtc0abcdefghijklmnop", "an id is worthless in part");
    }

    #[test]
    fn empty_fields_are_left_out() {
        let text = fields(&[("Id", "x".into()), ("Error", String::new()), ("Labels", "a=1\nb=2".into())]);
        assert_eq!(text, "Id:      x\nLabels:  a=1\n         b=2\n");
    }
}

//! docs/cli.md is written from the command line's own help.

use super::Cli;
use clap::{Command, CommandFactory};
use std::fmt::Write as _;
use std::path::Path;

const HEAD: &str = "\
# Command line

<!-- Written from crates/cli/src/args. Renew: UPDATE_DOCS=1 cargo test -p aether docs -->

One binary, `aether`. Every user command talks to the server's HTTP API: by default over the local socket, else where
`--server` or `AETHER_SERVER` says. Data goes to standard output, everything else to standard error; a reader that
goes away is no error. Agents are named by id or by name.
";

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_page_is_up_to_date() {
    let mut page = HEAD.to_owned();
    let mut root = Cli::command().term_width(100);
    root.build();
    write_command(&mut page, &mut root, "aether");
    crate::golden::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md"), &page);
}

fn write_command(page: &mut String, command: &mut Command, name: &str) {
    let help = command.render_long_help().to_string();
    // The global options are told once, at the top.
    let help = match help.find("\nGlobal options:") {
        Some(at) if name != "aether" => help[..at].trim_end().to_owned(),
        _ => help.trim_end().to_owned(),
    };
    let lines = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    writeln!(page, "\n## {name}\n\n```text\n{lines}\n```").expect("writes to a string");
    let names: Vec<String> = command
        .get_subcommands()
        .filter(|c| !c.is_hide_set() && c.get_name() != "help")
        .map(|c| c.get_name().to_owned())
        .collect();
    for sub in names {
        if let Some(found) = command.find_subcommand_mut(&sub) {
            write_command(page, found, &format!("{name} {sub}"));
        }
    }
}

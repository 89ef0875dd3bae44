//! Every `aether …` line on the pages is a command that this program takes.

use super::Cli;
use clap::{CommandFactory, Parser};
use std::path::{Path, PathBuf};

/// Where pages are; docs/cli.md is written from the command line itself.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = vec![root.join("README.md"), root.join("SECURITY.md"), root.join("CONTRIBUTING.md")];
    let mut folders = vec![root.join("docs"), root.join("examples")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of pages").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md" || e == "sh") && !path.ends_with("docs/cli.md") {
                found.push(path);
            }
        }
    }
    found
}

/// The lines of fenced and indented blocks, and of scripts; a line that ends
/// with a backslash goes on.
fn code_lines(path: &Path, text: &str) -> Vec<String> {
    let script = path.extension().is_some_and(|e| e == "sh");
    let mut fenced = false;
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if !(script || fenced || line.starts_with("    ")) {
            continue;
        }
        match lines.last_mut() {
            Some(last) if last.ends_with('\\') => {
                last.pop();
                last.push_str(line);
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines
}

/// The `aether` commands of a line of shell, each as words. Enough of a shell
/// for pages: quotes, comments, `$(…)`, and what separates commands.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut all, mut words) = (Vec::new(), Vec::new());
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = line.trim_start().trim_start_matches("$ ").chars().peekable();
    let mut end = |words: &mut Vec<String>| all.push(std::mem::take(words));
    while let Some(c) = letters.next() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            (None, '&' | '|' | ';' | '(' | ')') => {
                words.extend(word.take());
                end(&mut words);
            }
            // What is read or written is no argument.
            (None, '<' | '>') => {
                word = None;
                while letters.next_if(|c| matches!(c, '<' | '>' | '&' | ' ')).is_some() {}
                while letters.next_if(|c| !matches!(c, ' ' | ')' | ';')).is_some() {}
            }
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    end(&mut words);
    all.retain(|words| words.first().is_some_and(|w| w == "aether"));
    all
}

#[test]
fn every_command_on_the_pages_is_one() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for path in pages() {
        let text = std::fs::read_to_string(&path).expect("a page");
        for line in code_lines(&path, &text) {
            for words in commands(&line) {
                // An array of a script stands for any number of flags.
                let words: Vec<&String> = words.iter().filter(|w| !w.starts_with("${") || !w.contains("[@]")).collect();
                count += 1;
                if let Err(e) = Cli::try_parse_from(&words)
                    && e.use_stderr()
                {
                    let why = e.to_string();
                    wrong.push(format!("{}: {line}\n  {}", path.display(), why.lines().next().unwrap_or_default()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 40, "only {count} commands were found");
}

/// docs/upgrade.md says of each command of the earlier version whether it is
/// here: whoever builds one meets this.
#[test]
fn the_upgrade_page_tells_which_commands_are_here() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/upgrade.md")).expect("the page");
    let table = page.split_once("| command | here |").expect("the table").1.split("\n\n").next().unwrap_or_default();
    let known = |words: &[&str]| {
        let first = Cli::command();
        words.iter().try_fold(first, |c, w| c.find_subcommand(w.split('\\').next()?).cloned()).is_some()
    };
    let mut count = 0;
    for row in table.lines().filter(|l| l.contains('`')) {
        let mut cells = row.trim_matches('|').split(" | ");
        let (commands, here) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        for quoted in commands.split('`').skip(1).step_by(2) {
            let words: Vec<&str> = quoted.split(' ').filter(|w| *w != "aether").collect();
            assert_eq!(known(&words), !here.contains("not built yet"), "{quoted}: {here}");
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

/// Of `[text](target)`, those that name a file of the repository.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|t| !t.contains("://") && !t.starts_with('#') && !t.is_empty()).collect()
}

#[test]
fn every_link_on_the_pages_leads_somewhere() {
    let mut wrong = Vec::new();
    for path in pages().into_iter().filter(|p| p.extension().is_some_and(|e| e == "md")) {
        let text = std::fs::read_to_string(&path).expect("a page");
        let folder = path.parent().expect("a file is in a folder");
        for link in links(&text) {
            let file = link.split('#').next().unwrap_or_default();
            if !folder.join(file).exists() {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_page_can_be_found_from_the_readme() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("the README");
    let linked = links(&readme);
    for entry in std::fs::read_dir(root.join("docs")).expect("the pages").flatten() {
        let name = format!("docs/{}", entry.file_name().to_string_lossy());
        assert!(linked.iter().any(|l| *l == name), "{name} is not linked from the README");
    }
}

#[test]
fn lines_are_taken_apart() {
    let found = |line| commands(line).iter().map(|words| words.join("|")).collect::<Vec<_>>();
    assert_eq!(found("$ aether run x -- sh -c 'a b' # why"), ["aether|run|x|--|sh|-c|a b"]);
    assert_eq!(found("aether a && aether b | head; echo aether"), ["aether|a", "aether|b"]);
    assert_eq!(
        found("job=$(aether ps -q) && tar c . | aether exec -i a -- tar x < f > g 2>&1"),
        ["aether|ps|-q", "aether|exec|-i|a|--|tar|x"]
    );
    assert!(found("the aether of old").is_empty());
}

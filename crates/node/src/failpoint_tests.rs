use super::armed::{Fault, parse};
use super::{POINTS, STEPS};
use std::time::Duration;

/// The files whose side effects are journaled.
const SOURCES: [(&str, &str); 5] = [
    ("runtime/boot.rs", include_str!("runtime/boot.rs")),
    ("runtime/end.rs", include_str!("runtime/end.rs")),
    ("runtime/sandbox.rs", include_str!("runtime/sandbox.rs")),
    ("images/mod.rs", include_str!("images/mod.rs")),
    ("data/exec.rs", include_str!("data/exec.rs")),
];

/// What is called on these changes something outside of the process …
const ACTORS: [&str; 10] = [
    "engine.",
    "network.",
    "images.",
    "journal.",
    "spares.",
    "catalogue.",
    "converter.",
    "registry.",
    "client.",
    "fs::",
];
/// … but for these, which only look, or undo nothing if they are forgotten.
const READS: [&str; 20] = [
    "engine.memory(",
    "engine.isolation(",
    "engine.kind(",
    "engine.adopt(",
    "engine.clone(",
    "network.ready_slots(",
    "images.resolve(",
    "catalogue.find(",
    "catalogue.by_digest(",
    "catalogue.digests_of(",
    "catalogue.device(",
    "registry.check_tenant(",
    "spares.refill(",
    "client.clone(",
    "client.wait_ready(",
    "client.exec_output(",
    "client.exec_get(",
    "client.exec_read(",
    "client.exec_list(",
    "catalogue.forget_missing(",
];
/// Functions of ours that do so.
const DOERS: [&str; 5] = ["self.save(", "remove_file(", "self.keep_logs(", "self.erase_logs(", "read_archive("];
/// Asked for by users or by the clock, each one transaction: there is nothing
/// between.
const WHOLE: [&str; 8] = [
    "catalogue.remove(",
    "catalogue.hold(",
    "catalogue.release(",
    "catalogue.retain_holds(",
    "catalogue.keep_reserve(",
    "converter.sweep(",
    "client.exec_signal(",
    "client.exec_resize(",
];
/// Their own definitions, and the calls of a step that has its points inside.
const ELSEWHERE: [&str; 6] = [
    "import::read_archive(",
    "images.pull(",
    "fnremove_file(",
    "fnread_archive(",
    "std::fs::remove_file(",
    // `save`, which is a step where it is called.
    "journal.put(&self.row).await?;self.tell();Ok(())",
];

/// Without comments, tests and white space: calls may be broken over lines.
fn bare(source: &str) -> String {
    let code = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.take_while(|line| !line.starts_with("#[cfg(test)]"))
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .collect()
}

/// The spans between the parentheses of each `step!`.
fn steps_in(code: &str) -> Vec<std::ops::Range<usize>> {
    let ends = |start: usize| {
        let mut depth = 0;
        code[start..].char_indices().find_map(|(at, c)| {
            depth += match c {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            (depth == 0 && c == ')').then_some(start + at)
        })
    };
    code.match_indices("step!(").filter_map(|(at, m)| Some(at..ends(at + m.len() - 1)?)).collect()
}

fn outside_steps(source: &str) -> Vec<String> {
    let code = bare(source);
    let inside = steps_in(&code);
    let excused = |at: usize, call: &str| {
        let near = |listed: &str| code[..at + call.len()].ends_with(listed) || code[at..].starts_with(listed);
        READS.iter().chain(&WHOLE).chain(&ELSEWHERE).any(|listed| near(listed))
    };
    let mut found = Vec::new();
    let actors = ACTORS.iter().flat_map(|actor| code.match_indices(actor).map(|(at, _)| (at, actor.len())));
    for (at, length) in actors {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let rest = &code[at + length..];
        let method = rest.split(|c| !word(c)).next().unwrap_or_default();
        let is_call = !method.is_empty() && rest[method.len()..].starts_with('(');
        let whole_word = !code[..at].ends_with(word);
        let call = &code[at..at + length + method.len() + usize::from(is_call)];
        if is_call && whole_word && !excused(at, call) && !inside.iter().any(|span| span.contains(&at)) {
            found.push(call.to_owned());
        }
    }
    for doer in DOERS {
        for (at, _) in code.match_indices(doer) {
            if !excused(at, doer) && !inside.iter().any(|span| span.contains(&at)) {
                found.push(doer.to_owned());
            }
        }
    }
    found
}

#[test]
fn every_side_effect_is_a_step() {
    for (name, source) in SOURCES {
        assert_eq!(outside_steps(source), [] as [String; 0], "{name}: wrap these in step!");
    }
    let broken = "self.host\n    .engine\n    .boot(x).await?; // engine.kill(y)\nself.save().await";
    assert_eq!(outside_steps(broken), ["engine.boot(", "self.save("]);
    assert_eq!(outside_steps("step!(\"a\", engine.boot((x)))\n;engine.reap(s)"), ["engine.reap("]);
}

#[test]
fn every_step_that_is_listed_is_taken_once() {
    let all: String = SOURCES.iter().map(|(_, source)| bare(source)).collect();
    for step in STEPS {
        assert_eq!(all.matches(&format!("step!(\"{step}\",")).count(), 1, "{step}");
    }
    assert_eq!(POINTS.len(), 2 * STEPS.len());
}

#[test]
fn points_are_armed_by_name() {
    let armed = parse("boot.start_vmm.after,end.kill.before=error,image.commit.after=hang:2").expect("parses");
    assert_eq!(armed["boot.start_vmm.after"], Fault::Crash);
    assert_eq!(armed["end.kill.before"], Fault::Error);
    assert_eq!(armed["image.commit.after"], Fault::Hang(Duration::from_secs(2)));
    assert!(parse("").expect("none").is_empty());
    assert_eq!(parse("end.reap=twice").expect("parses")["end.reap"], Fault::Twice);
    let wrong = ["boot.start_vmm", "end.kill.before=panic", "end.kill.before=hang:", "no.such.after"];
    for wrong in wrong.into_iter().chain(["end.reap.after=twice", "end.reap=error", "no.such=twice"]) {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

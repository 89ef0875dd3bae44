//! `aether audit verify`: files in, verdict out; no server and no clock.

use crate::args::{AuditVerifyArgs, OutputFormat};
use crate::error::CliError;
use crate::output::{Printer, fields, text};
use aether_core::audit::{PublicKey, Report, Verifier};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Longer lines are none of ours: a record's parts are bounded.
const MAX_LINE: u64 = 4 << 20;

/// Exit code 1 when anything is wrong.
pub(crate) fn audit_verify(printer: Printer, args: &AuditVerifyArgs) -> Result<u8, CliError> {
    let trusted = if args.public_key.is_empty() { None } else { Some(keys(&args.public_key)?) };
    let mut verifier = Verifier::new(trusted);
    if args.after_restore {
        verifier = verifier.knowing_restores();
    }
    for path in &args.anchor {
        let mut number = 0;
        lines(path, |line| {
            number += 1;
            verifier.anchor(number, line);
        })?;
    }
    lines(&args.file, |line| verifier.line(line))?;
    let report = verifier.finish();
    match printer.format {
        OutputFormat::Table => text(&people(&report, !args.anchor.is_empty()))?,
        _ => printer.structured(&report)?,
    }
    Ok(u8::from(!report.is_clean()))
}

fn keys(paths: &[PathBuf]) -> Result<BTreeSet<PublicKey>, CliError> {
    let mut found = BTreeSet::new();
    for path in paths {
        let mut wrong = None;
        lines(path, |line| match line.trim() {
            "" => {}
            key => match key.parse() {
                Ok(key) => drop(found.insert(key)),
                Err(_) => wrong = Some(()),
            },
        })?;
        if wrong.is_some() || found.is_empty() {
            return Err(CliError::with_remedy(
                format!("{} does not hold public keys of 64 hex digits, one a line", path.display()),
                "The server keeps its own as audit-signing.pub in server.state_dir.",
            ));
        }
    }
    Ok(found)
}

/// Each line without its end; what is no UTF-8 is passed on as what it is
/// not, so that the verifier names the line.
fn lines(path: &Path, mut each: impl FnMut(&str)) -> Result<(), CliError> {
    let cannot = |e: std::io::Error| CliError::failed(format!("cannot read {}: {e}", path.display()));
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path).map_err(cannot)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(cannot)? == 0 {
            return Ok(());
        }
        each(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
    }
}

fn people(report: &Report, anchored: bool) -> String {
    let span = match (report.first, report.last) {
        (Some(first), Some(last)) => format!("{}, positions {first} to {last}", report.records),
        _ => "none".to_owned(),
    };
    let unsealed = report
        .unsealed_from
        .map(|from| format!("{} from id {from} on: nothing proves them but the end of the file", report.unsealed));
    let keys: Vec<String> = report.keys.iter().map(ToString::to_string).collect();
    let mut out = fields(&[
        ("Tenant", report.tenant.clone().unwrap_or_else(|| "(the platform)".to_owned())),
        ("Records", span),
        ("Not linked yet", unsealed.unwrap_or_default()),
        ("Head", report.head.map(|h| h.to_string()).unwrap_or_default()),
        ("Digests", report.digests.to_string()),
        ("Anchored to", report.anchored_to.map(|n| format!("position {n}")).unwrap_or_default()),
        ("Signed by", keys.join("\n")),
    ]);
    if !report.keys_trusted {
        out.push_str("note: no --public-key was given: whoever wrote the file may have signed it\n");
    }
    if !anchored {
        out.push_str("note: no --anchor was given: records missing at the end, or a log signed again, are not seen\n");
    }
    if report.restores > 0 {
        let times = report.restores;
        out.push_str(&format!("note: backups were restored ({times}): what was lost with that is not judged\n"));
    }
    for finding in &report.findings {
        out.push_str(&format!("WRONG: {finding}\n"));
    }
    if report.more_findings > 0 {
        out.push_str(&format!("WRONG: and {} more\n", report.more_findings));
    }
    let verdict = if report.is_clean() { "The log is whole." } else { "The log is NOT what was written." };
    out + verdict + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printer() -> Printer {
        Printer { format: OutputFormat::Json, quiet: true }
    }

    fn args(file: PathBuf) -> AuditVerifyArgs {
        AuditVerifyArgs { file, anchor: Vec::new(), public_key: Vec::new(), after_restore: false }
    }

    #[test]
    fn what_is_no_log_is_an_error_or_a_finding() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        assert!(audit_verify(printer(), &args(path.clone())).is_err(), "there is no file");
        for bytes in [&b""[..], b"\xff\xfe\n", b"{}\n", b"not a log", &[b'x'; 100_000]] {
            std::fs::write(&path, bytes).expect("writes");
            assert_eq!(audit_verify(printer(), &args(path.clone())).ok(), Some(1));
        }
        let keys = AuditVerifyArgs { public_key: vec![path.clone()], ..args(path) };
        assert!(audit_verify(printer(), &keys).is_err(), "no key in it");
    }

    #[test]
    fn a_verdict_is_told_with_what_it_does_not_cover() {
        let report = Report {
            records: 3,
            first: Some(1),
            last: Some(3),
            unsealed: 1,
            unsealed_from: Some(9),
            ..Report::default()
        };
        let told = people(&report, false);
        assert!(told.contains("3, positions 1 to 3") && told.contains("1 from id 9 on"), "{told}");
        assert!(told.contains("no --public-key") && told.contains("no --anchor"), "{told}");
        assert!(told.ends_with("The log is whole.\n"));
        assert!(people(&Report { restores: 1, ..report.clone() }, true).contains("restored (1)"));
        assert!(!people(&Report { keys_trusted: true, ..report }, true).contains("note:"));
    }
}

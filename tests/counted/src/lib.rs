//! One line per counted test and run: what was tried, how often, what went
//! wrong. Printed, and appended to `SUITE.jsonl` in the folder that
//! `AETHER_RESULTS` names, where it does.

use std::io::Write;
use std::process::Command;

/// Counts while a test runs; its line is written when it is dropped, by a
/// panic too: that is a failure.
#[derive(Debug)]
pub struct Counted {
    suite: &'static str,
    test: u32,
    name: &'static str,
    /// What the random choices came from; 0 where there are none.
    seed: u64,
    /// Trials.
    pub n: u64,
    /// Faults injected into them.
    pub faults: u64,
    pub failures: u64,
    /// Figures beside the counts.
    figures: serde_json::Map<String, serde_json::Value>,
}

impl Counted {
    /// `test` is the number in the table of docs/reliability.md.
    pub fn new(suite: &'static str, test: u32, name: &'static str, seed: u64) -> Self {
        Self { suite, test, name, seed, n: 0, faults: 0, failures: 0, figures: serde_json::Map::new() }
    }

    /// A figure that the line names too; the last one of a name holds.
    pub fn tell(&mut self, name: &str, figure: impl Into<serde_json::Value>) {
        self.figures.insert(name.to_owned(), figure.into());
    }

    fn line(&self) -> String {
        let git =
            Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        let commit = git.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
        let mut line = serde_json::json!({
            "test": self.test, "name": self.name, "n": self.n, "faults": self.faults,
            "failures": self.failures, "seed": self.seed, "commit": commit,
        });
        if !self.figures.is_empty() {
            line["figures"] = self.figures.clone().into();
        }
        line.to_string()
    }
}

/// How many times a test tries: what the environment says, else what one run
/// of CI has time for.
pub fn trials(variable: &str, otherwise: u64) -> u64 {
    number(variable).unwrap_or(otherwise)
}

/// What the random choices come from: `AETHER_SEED`, else another one each
/// time; printed, so that a failing run can be repeated.
pub fn seed() -> u64 {
    let seed = number("AETHER_SEED").unwrap_or_else(|| {
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| u64::from(d.subsec_nanos()));
        now << 20 ^ u64::from(std::process::id())
    });
    println!("AETHER_SEED={seed}");
    seed
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// A cheap generator (xorshift) for choices that a seed can repeat.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds should not begin alike, and zero would stay zero.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    /// A number below `below`, which is not zero.
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.failures += 1;
        }
        let line = self.line();
        println!("counted: {line}");
        let Some(dir) = std::env::var_os("AETHER_RESULTS") else { return };
        let path = std::path::Path::new(&dir).join(format!("{}.jsonl", self.suite));
        let written = std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::File::options().create(true).append(true).open(&path))
            .and_then(|mut file| writeln!(file, "{line}"));
        if let Err(error) = written {
            eprintln!("cannot write {}: {error}", path.display());
        }
    }
}

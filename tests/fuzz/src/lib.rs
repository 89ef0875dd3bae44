//! One fuzz target, two ways to run it.
//!
//! A target is a unit test named `fuzz`, beside the private parser it feeds:
//!
//! ```text
//! cargo test        corpus, then random mutations of it for AETHER_FUZZ_SECONDS
//! make fuzz         the same test, built with coverage counters: libFuzzer
//!                   chooses the inputs for as long as it is told
//! ```
//!
//! Either way an input fails when the target panics, when it takes longer than
//! [`SLOW`], or when it holds more memory than the target allows. It is then
//! written to `target/fuzz/failures/`; the fix puts it into
//! `tests/fuzz/corpus/TARGET/`, where every later run begins.
//!
//! Not here: what is right. Each target asserts that itself.

#![allow(unexpected_cfgs, reason = "`fuzzing` is set by scripts/fuzz.sh alone")]

#[cfg(fuzzing)]
mod guided;
mod mutate;

use aether_counted::{Counted, Dice};
use mutate::Mutator;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

/// For any input of at most [`Target::max_len`] bytes, on a busy machine.
const SLOW: Duration = Duration::from_secs(20);
/// Tries at making a failing input smaller.
const SHRINKS: u32 = 400;

/// A parser under test. Made with [`target`].
#[derive(Debug)]
pub struct Target {
    name: &'static str,
    max_len: usize,
    memory: u64,
    words: &'static [&'static str],
}

/// `name` is its folder in the corpus, and what its counts are kept under.
pub fn target(name: &'static str) -> Target {
    Target { name, max_len: 16 << 10, memory: 16 << 20, words: &[] }
}

impl Target {
    /// The longest input tried; 16 KiB unless said.
    pub fn max_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes;
        self
    }

    /// What one input may hold at a time; 16 MiB unless said.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Words of the format, which random bytes would not find.
    pub fn words(mut self, words: &'static [&'static str]) -> Self {
        self.words = words;
        self
    }

    /// Runs `check` over as many inputs as there is time for.
    pub fn run(self, check: impl Fn(&[u8])) {
        quiet_when_told();
        let corpus = self.corpus();
        assert!(!corpus.is_empty(), "{} has no corpus", self.name);
        #[cfg(fuzzing)]
        guided::run(&self, |input| self.judge(&check, input));
        #[cfg(not(fuzzing))]
        self.mutated(&corpus, &check);
    }

    #[cfg_attr(fuzzing, allow(dead_code, reason = "libFuzzer chooses the inputs"))]
    fn mutated(&self, corpus: &[Vec<u8>], check: &impl Fn(&[u8])) {
        let seed = aether_counted::seed();
        let mut counted = Counted::new("fuzz", 28, self.name, seed);
        for input in corpus {
            self.one(check, input, &mut counted);
        }
        let mut mutator = Mutator::new(Dice::new(seed), self.words, self.max_len);
        let end = now() + Duration::from_millis(aether_counted::trials("AETHER_FUZZ_SECONDS", 2) * 1000);
        while now() < end {
            let input = mutator.next(corpus);
            self.one(check, &input, &mut counted);
        }
    }

    fn one(&self, check: &impl Fn(&[u8]), input: &[u8], counted: &mut Counted) {
        counted.n += 1;
        let Err(why) = self.judge(check, input) else { return };
        QUIET.set(true);
        let input = self.shrunk(check, input);
        QUIET.set(false);
        let path = self.keep(&input);
        // The count is written as this unwinds, with the failure in it.
        panic!("{}: {why}\n{} bytes, in {}: {:?}", self.name, input.len(), path.display(), shown(&input));
    }

    /// Why this input fails, if it does.
    fn judge(&self, check: &impl Fn(&[u8]), input: &[u8]) -> Result<(), String> {
        let begun = now();
        let mut done = Ok(());
        let used = allocation_counter::measure(|| done = catch_unwind(AssertUnwindSafe(|| check(input))));
        if let Err(panic) = done {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            return Err(text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned());
        }
        if used.bytes_max > self.memory {
            return Err(format!("{} bytes of memory at a time, more than {}", used.bytes_max, self.memory));
        }
        let took = begun.elapsed();
        if took > SLOW { Err(format!("took {took:?}")) } else { Ok(()) }
    }

    /// Cuts pieces out for as long as what is left still fails.
    fn shrunk(&self, check: &impl Fn(&[u8]), input: &[u8]) -> Vec<u8> {
        let mut best = input.to_vec();
        let (mut piece, mut tries) = (best.len().div_ceil(2), 0);
        while piece > 0 && tries < SHRINKS {
            let mut at = 0;
            while at < best.len() && tries < SHRINKS {
                let mut shorter = best.clone();
                shorter.drain(at..(at + piece).min(best.len()));
                tries += 1;
                if self.judge(check, &shorter).is_err() { best = shorter } else { at += piece }
            }
            piece /= 2;
        }
        best
    }

    fn keep(&self, input: &[u8]) -> PathBuf {
        let dir = work_dir("failures");
        let sum = input.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
        let path = dir.join(format!("{}-{sum:016x}", self.name));
        let written = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, input));
        if let Err(error) = written {
            eprintln!("cannot write {}: {error}", path.display());
        }
        path
    }

    fn corpus_dir(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }

    /// In the order of their names, so that a seed repeats a run.
    fn corpus(&self) -> Vec<Vec<u8>> {
        let dir = self.corpus_dir();
        let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("the corpus {}: {e}", dir.display()));
        let mut paths: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
        paths.sort();
        paths.iter().map(|path| std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).collect()
    }
}

thread_local! {
    /// Set while an input that fails is made smaller: each try panics again.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

fn quiet_when_told() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                tell(info);
            }
        }));
    });
}

/// Of what runs leave behind.
fn work_dir(what: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"));
    target.join("fuzz").join(what)
}

fn shown(input: &[u8]) -> String {
    String::from_utf8_lossy(&input[..input.len().min(400)]).into_owned()
}

#[allow(clippy::disallowed_methods, reason = "a test's budget is of real time")]
fn now() -> Instant {
    Instant::now()
}

/// Cuts an input into `N` parts at its first zero-delimited marks: for targets
/// that take several texts. Missing ones are empty.
pub fn parts<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut rest = input;
    std::array::from_fn(|n| {
        let at = if n + 1 == N { None } else { rest.windows(MARK.len()).position(|w| w == MARK) };
        let (part, left) = at.map_or((rest, &[][..]), |at| (&rest[..at], &rest[at + MARK.len()..]));
        rest = left;
        part
    })
}

const MARK: &[u8] = b"\n====\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(check: impl Fn(&[u8])) -> Result<(), String> {
        target("self").memory(1 << 20).judge(&check, b"input")
    }

    #[test]
    fn what_fails_an_input() {
        assert_eq!(failing(|_| ()), Ok(()));
        assert!(failing(|_| panic!("so")).expect_err("panics").contains("so"));
        assert!(failing(|_| drop(vec![0u8; 2 << 20])).expect_err("holds too much").contains("memory"));
        assert_eq!(failing(|_| (0..64).for_each(|_| drop(vec![0u8; 1 << 19]))), Ok(()), "at a time, not in all");
    }

    #[test]
    fn a_planted_word_is_found_and_cut_out() {
        let check = |input: &[u8]| assert!(!input.windows(4).any(|w| w == b"evil"));
        let target = target("self").words(&["evil"]);
        let mut mutator = Mutator::new(Dice::new(7), target.words, 256);
        let corpus = [vec![b'a'; 40]];
        let found = (0..10_000).map(|_| mutator.next(&corpus)).find(|input| target.judge(&check, input).is_err());
        assert_eq!(target.shrunk(&check, &found.expect("is found")), b"evil");
    }

    #[test]
    fn inputs_are_cut_at_marks() {
        assert_eq!(parts::<3>(b"a\n====\nb"), [&b"a"[..], b"b", b""]);
        assert_eq!(parts::<2>(b"a\n====\nb\n====\nc"), [&b"a"[..], b"b\n====\nc"]);
    }
}

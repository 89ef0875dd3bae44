//! Canaries: values that are handed to Aether as secrets and then looked for
//! where no secret may be: in clear, in base64 at any offset, in hex, and as
//! the list of numbers that a `Debug` makes of bytes.
//!
//! Each begins with the same rare word, so that a whole memory is searched for
//! a few forms and not for hundreds; what is found tells which one it is.
#![allow(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test harness: a failed expectation is a failed test"
)]

pub mod bao;

use aho_corasick::AhoCorasick;
use data_encoding::{BASE64, HEXLOWER, HEXUPPER};

/// In no dictionary, log or program; odd, so that two of them do not overlap.
const WORD: &str = "cNr9Qz7v";
/// Bytes around a find that are shown.
const AROUND: usize = 48;

/// A value of this test alone, for this path into the system.
pub fn canary(path: &str) -> String {
    let mut random = [0u8; 12];
    getrandom::fill(&mut random).expect("random bytes");
    format!("{WORD}{}{}", path.replace(|c: char| !c.is_ascii_alphanumeric(), ""), HEXLOWER.encode(&random))
}

/// What a text looks like in base64 wherever it begins: the characters that
/// only it decides, for each of the three places.
fn in_base64(bytes: &[u8]) -> Vec<Vec<u8>> {
    (0..3)
        .map(|before| {
            let padded = [&[0u8; 2][..before], bytes].concat();
            let encoded = BASE64.encode(&padded);
            let (first, last) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
            encoded.as_bytes()[first..last].to_vec()
        })
        .collect()
}

/// All forms of some values, to look for.
pub struct Search {
    forms: Vec<(String, Vec<u8>)>,
    finder: AhoCorasick,
}

impl Search {
    /// For every canary, by their word.
    pub fn for_canaries() -> Self {
        let nothing: [&[u8]; 0] = [];
        let finder = AhoCorasick::new(nothing).expect("builds");
        Self { forms: Vec::new(), finder }.and("a canary", WORD.as_bytes())
    }

    /// For a value that is none of ours: a key file, an API key.
    #[must_use]
    pub fn and(mut self, what: &str, value: &[u8]) -> Self {
        assert!(value.len() >= 8, "{what} is too short to be looked for");
        let mut forms = vec![value.to_vec(), HEXLOWER.encode(value).into_bytes(), HEXUPPER.encode(value).into_bytes()];
        forms.extend(in_base64(value));
        let numbers: Vec<String> = value.iter().map(u8::to_string).collect();
        forms.extend([", ", ","].map(|between| numbers.join(between).into_bytes()));
        self.forms.extend(forms.into_iter().map(|form| (what.to_owned(), form)));
        self.finder = AhoCorasick::new(self.forms.iter().map(|(_, form)| form)).expect("builds");
        self
    }

    /// What was found, each with what is around it.
    pub fn hits(&self, bytes: &[u8]) -> Vec<String> {
        let told = |found: aho_corasick::Match| {
            let around = &bytes[found.start().saturating_sub(AROUND / 4)..bytes.len().min(found.start() + AROUND)];
            format!("{}: {}", self.forms[found.pattern().as_usize()].0, around.escape_ascii())
        };
        // Twenty tell as much as a thousand.
        self.finder.find_iter(bytes).take(20).map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_found_at_any_offset() {
        let (search, value) = (Search::for_canaries(), canary("a path"));
        for before in 0..7 {
            let clear = [&b"xxxxxxxx"[..before], value.as_bytes(), b"yy"].concat();
            for form in [
                clear.clone(),
                BASE64.encode(&clear).into_bytes(),
                data_encoding::BASE64URL_NOPAD.encode(&clear).into_bytes(),
                HEXLOWER.encode(&clear).into_bytes(),
                HEXUPPER.encode(&clear).into_bytes(),
                format!("{clear:?}").into_bytes(),
            ] {
                assert!(!search.hits(&form).is_empty(), "{before}: {}", form.escape_ascii());
            }
        }
        assert!(search.hits(b"nothing of the kind, cNr9Qz7 and so on").is_empty());
        let key = [7u8, 250, 0, 1, 2, 3, 4, 5, 6];
        assert_eq!(Search::for_canaries().and("the key", &key).hits(&key).len(), 1);
    }
}

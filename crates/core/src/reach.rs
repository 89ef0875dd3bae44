//! How far a narrowed key reaches: the labels that an agent must carry, and
//! the images that it may run. What a key does not reach is as absent to it as
//! another tenant's.
//!
//! Pure: a row's labels and image in, yes or no out. The store asks here for
//! single rows and says the same in SQL for lists (`ops::reach`).

use crate::error::FieldError;
use crate::image::{ImageRef, is_digest};
use crate::spec::validate_pairs;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Of each kind, in one key: every list that the key asks for has them all.
const MOST: usize = 16;

/// Images by name. `python:3.11` is one reference in any spelling, `team/*`
/// and `python:3.*` are all that begin so, and a digest is itself. References
/// that name a digest are matched by that very pattern alone: whoever gives a
/// digest chooses what runs, whatever stands before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImagePattern {
    text: String,
    form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// Canonical.
    Is(String),
    /// How the canonical form begins.
    Begins(String),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is neither an image reference nor the beginning of one followed by *")]
pub struct PatternError(String);

/// The form in which references are compared; `None`: it is none.
pub fn canonical(image: &str) -> Option<String> {
    if is_digest(image) {
        return Some(image.to_owned());
    }
    image.parse::<ImageRef>().ok().map(|image| image.to_string())
}

/// How the canonical forms begin of all that begin with `start`.
fn beginning(start: &str) -> Option<String> {
    let last = start.rsplit('/').next().filter(|_| !start.is_empty() && !start.contains('@'))?;
    let full = canonical(&format!("{start}x"))?;
    let full = if last.contains(':') { full.as_str() } else { full.strip_suffix(":latest")? };
    full.strip_suffix('x').map(str::to_owned)
}

impl FromStr for ImagePattern {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, PatternError> {
        let form = match text.strip_suffix('*') {
            Some(start) => beginning(start).map(Form::Begins),
            None => canonical(text).map(Form::Is),
        };
        let form = form.ok_or_else(|| PatternError(text.chars().filter(|c| !c.is_control()).take(100).collect()))?;
        Ok(Self { text: text.to_owned(), form })
    }
}

impl ImagePattern {
    pub fn matches(&self, image: &str) -> bool {
        canonical(image).is_some_and(|image| match &self.form {
            Form::Is(own) => *own == image,
            Form::Begins(start) => image.starts_with(start) && !image.contains('@') && !is_digest(&image),
        })
    }

    /// For queries: the canonical form, and whether it is only how it begins.
    pub fn parts(&self) -> (&str, bool) {
        match &self.form {
            Form::Is(own) => (own, false),
            Form::Begins(start) => (start, true),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for ImagePattern {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for ImagePattern {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a narrowed key reaches: agents that carry all of the labels, and run
/// one of the images where any is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reach {
    pub labels: BTreeMap<String, String>,
    pub images: Vec<ImagePattern>,
}

impl Reach {
    /// From what a request names.
    pub fn check(labels: &BTreeMap<String, String>, images: &[String]) -> Result<Self, Vec<FieldError>> {
        let mut errors = validate_pairs("allow.labels", labels);
        if labels.is_empty() && images.is_empty() {
            errors.push(FieldError::new("allow", "must name a label or an image; leave it out for a key of all"));
        }
        if labels.len() > MOST || images.len() > MOST {
            errors.push(FieldError::new("allow", format!("at most {MOST} labels and {MOST} images")));
        }
        let mut patterns = Vec::new();
        for text in images.iter().take(MOST) {
            match text.parse::<ImagePattern>() {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => errors.push(FieldError::new("allow.images", error.to_string())),
            }
        }
        patterns.sort();
        patterns.dedup();
        if errors.is_empty() { Ok(Self { labels: labels.clone(), images: patterns }) } else { Err(errors) }
    }

    pub fn admits_image(&self, image: &str) -> bool {
        self.images.is_empty() || self.images.iter().any(|pattern| pattern.matches(image))
    }

    /// The first label that is missing or another.
    pub fn misses(&self, labels: &BTreeMap<String, String>) -> Option<(&str, &str)> {
        let missing = self.labels.iter().find(|(key, value)| labels.get(*key) != Some(value));
        missing.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub fn admits(&self, labels: &BTreeMap<String, String>, image: &str) -> bool {
        self.misses(labels).is_none() && self.admits_image(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> ImagePattern {
        text.parse().expect("a pattern")
    }

    #[test]
    fn patterns_match_what_they_name_in_any_spelling() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let by_digest = format!("python@{digest}");
        for (text, yes, no) in [
            ("python:3.11", &["docker.io/library/python:3.11", "python:3.11"][..], &["python", "python:3.110"][..]),
            ("python", &["python:latest"], &["python:3.11", "me/python"]),
            ("python:3.*", &["python:3.11", "library/python:3.9"], &["python:4", "python", "python3:3.1"]),
            ("python:*", &["python", "python:3"], &["pythons:3", "team/python:3", "python:5000/x"]),
            ("team/*", &["team/app", "docker.io/team/app:2"], &["steam/app", "team", "ghcr.io/team/app"]),
            ("ghcr.io/team/*", &["ghcr.io/team/app"], &["team/app", "ghcr.io/teams/app"]),
            ("localhost:5000/*", &["localhost:5000/a"], &["localhost:5001/a", "a"]),
            (digest.as_str(), &[digest.as_str()], &["python", &by_digest]),
            (by_digest.as_str(), &[by_digest.as_str()], &["python", &digest]),
        ] {
            for image in yes {
                assert!(pattern(text).matches(image), "{text} {image}");
            }
            for image in no {
                assert!(!pattern(text).matches(image), "{text} {image}");
            }
        }
    }

    #[test]
    fn a_digest_needs_its_own_pattern() {
        let digest = format!("sha256:{}", "b".repeat(64));
        for image in [format!("python:3.11@{digest}"), format!("python@{digest}"), digest] {
            assert!(!pattern("python:*").matches(&image), "{image}");
        }
        assert!(!pattern("sha256:*").matches(&format!("sha256:{}", "b".repeat(64))));
    }

    #[test]
    fn what_is_no_pattern() {
        for text in ["", "*", "a*b", "python:3.*.*", "UPPER/*", "python@*", "a b", "../*", &"a".repeat(600)] {
            assert!(text.parse::<ImagePattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_reach_is_bounded_and_says_something() {
        let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        assert!(Reach::check(&labels, &[]).is_ok());
        assert!(Reach::check(&BTreeMap::new(), &["team/*".to_owned()]).is_ok());
        let fields = |labels: &BTreeMap<String, String>, images: &[String]| {
            let errors = Reach::check(labels, images).expect_err("refused");
            errors.into_iter().map(|e| e.field).collect::<Vec<_>>()
        };
        assert_eq!(fields(&BTreeMap::new(), &[]), ["allow"]);
        assert_eq!(fields(&labels, &["A B".to_owned()]), ["allow.images"]);
        assert_eq!(fields(&labels, &vec!["a".to_owned(); MOST + 1]), ["allow"]);
        let long = BTreeMap::from([("team".to_owned(), "a".repeat(5000))]);
        assert_eq!(fields(&long, &[]), ["allow.labels"]);
    }

    #[test]
    fn all_labels_and_one_image() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let reach =
            Reach::check(&labels(&[("team", "a"), ("env", "ci")]), &["python".into(), "team/*".into()]).expect("valid");
        assert!(reach.admits(&labels(&[("team", "a"), ("env", "ci"), ("more", "x")]), "team/app"));
        assert!(!reach.admits(&labels(&[("team", "a")]), "team/app"));
        assert!(!reach.admits(&labels(&[("team", "a"), ("env", "prod")]), "team/app"));
        assert!(!reach.admits(&labels(&[("team", "a"), ("env", "ci")]), "node"));
        assert_eq!(reach.misses(&labels(&[("team", "b"), ("env", "ci")])), Some(("team", "a")));
        let json = serde_json::to_string(&reach).expect("serialises");
        assert_eq!(serde_json::from_str::<Reach>(&json).expect("parses"), reach);
    }

    proptest! {
        #[test]
        fn patterns_never_panic_and_prefixes_hold(text in ".{0,40}\\*?", image in "[a-z./:@-]{0,30}") {
            if let Ok(pattern) = text.parse::<ImagePattern>() {
                let (form, begins) = pattern.parts();
                let full = canonical(&image);
                if pattern.matches(&image) {
                    let full = full.expect("a match is a reference");
                    let fits = if begins { full.starts_with(form) } else { full == form };
                    prop_assert!(fits);
                }
            }
        }
    }
}

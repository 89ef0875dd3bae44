//! Image references as docker writes them, and their canonical form.

use std::fmt;
use std::str::FromStr;

/// `registry/repository[:tag][@digest]`, canonical: the registry and, where
/// there is no digest, the tag are always there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ImageRef {
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    /// `sha256:` and 64 hex digits.
    pub digest: Option<String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an image reference: {0}")]
pub struct ImageRefError(&'static str);

const DEFAULT_REGISTRY: &str = "docker.io";
/// As it is written, and in the canonical form.
const MAX_LEN: usize = 512;
const LENGTH: ImageRefError = ImageRefError("must have 1 to 512 characters, registry and tag included");

/// Whether this is `sha256:` with 64 lower-case hex digits.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|h| h.len() == 64 && h.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')))
}

impl FromStr for ImageRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        if text.is_empty() || text.len() > MAX_LEN {
            return Err(LENGTH);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, d)) if is_digest(d) => (rest, Some(d.to_owned())),
            Some(_) => return Err(ImageRefError("the digest must be sha256: and 64 hex digits")),
            None => (text, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            let ok = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
            let first = tag.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_');
            if tag.len() > 128 || !first || !tag.bytes().all(ok) {
                return Err(ImageRefError("the tag holds other than letters, digits, '_', '.', '-'"));
            }
        }
        let (registry, repository) = match rest.split_once('/') {
            Some((host, repo)) if host.contains(['.', ':']) || host == "localhost" => (host, repo.to_owned()),
            Some(_) => (DEFAULT_REGISTRY, rest.to_owned()),
            None => (DEFAULT_REGISTRY, rest.to_owned()),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
        let repository = if official { format!("library/{repository}") } else { repository };
        let edge = registry.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric());
        if !edge || !registry.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b':')) {
            return Err(ImageRefError("the registry is not a host[:port]"));
        }
        let component = |c: &str| {
            let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
            c.bytes().next().is_some_and(plain)
                && c.bytes().last().is_some_and(plain)
                && c.bytes().all(|c| plain(c) || matches!(c, b'.' | b'_' | b'-'))
        };
        if !repository.split('/').all(component) {
            return Err(ImageRefError("the name holds other than lower-case letters, digits, '.', '_', '-', '/'"));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        let image = Self { registry: registry.to_owned(), repository, tag, digest };
        // What is kept is this form: it must be one that can be read again.
        if image.to_string().len() > MAX_LEN { Err(LENGTH) } else { Ok(image) }
    }
}

impl ImageRef {
    /// The short form people write: docker.io and library/ left out, unless
    /// what is left would name something else (`docker.io/foo.bar/x`).
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(short) = full.strip_prefix("docker.io/") else { return full };
        let shortest = short.strip_prefix("library/").unwrap_or(short);
        let means_it = |text: &&str| text.parse().as_ref() == Ok(self);
        [shortest, short].into_iter().find(means_it).unwrap_or(&full).to_owned()
    }

    /// Every way to write this reference, to find it as somebody wrote it.
    pub fn spellings(&self) -> Vec<String> {
        let full = self.to_string();
        let mut all = vec![full.clone(), self.familiar()];
        all.extend(full.strip_prefix("docker.io/").map(str::to_owned));
        all.extend(full.strip_prefix("docker.io/").map(|rest| format!("index.docker.io/{rest}")));
        if self.digest.is_none() {
            let bare: Vec<String> =
                all.iter().filter_map(|text| text.strip_suffix(":latest")).map(str::to_owned).collect();
            all.extend(bare);
        }
        all.sort();
        all.dedup();
        all.retain(|text| text.parse().as_ref() == Ok(self));
        all
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_and_familiar() {
        for (text, canonical, familiar) in [
            ("python:3.11", "docker.io/library/python:3.11", "python:3.11"),
            ("python", "docker.io/library/python:latest", "python:latest"),
            ("me/tool", "docker.io/me/tool:latest", "me/tool:latest"),
            ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1", "localhost:5000/a/b:v1"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest", "127.0.0.1:5000/a:latest"),
            ("ghcr.io/x/y", "ghcr.io/x/y:latest", "ghcr.io/x/y:latest"),
            ("docker.io/python", "docker.io/library/python:latest", "python:latest"),
            ("docker.io/foo.bar/x", "docker.io/foo.bar/x:latest", "docker.io/foo.bar/x:latest"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ] {
            let parsed = text.parse::<ImageRef>().expect(text);
            assert_eq!((parsed.to_string().as_str(), parsed.familiar().as_str()), (canonical, familiar));
        }
        let by_digest = format!("python@sha256:{}", "a".repeat(64));
        assert_eq!(by_digest.parse::<ImageRef>().map(|r| r.tag), Ok(None));
    }

    #[test]
    fn bad_ones() {
        for bad in
            ["", "!!", "Python", "a//b", "a:b:c/d:!", "a@sha256:zz", "-a", "a/", "../x", "a:.", "a b", &"a".repeat(500)]
        {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn canonical_form_is_a_fixed_point(text in "[a-z0-9./:@_-]{1,60}") {
            if let Ok(r) = text.parse::<ImageRef>() {
                prop_assert_eq!(r.to_string().parse::<ImageRef>(), Ok(r));
            }
        }
    }

    #[test]
    fn every_spelling_means_the_same() {
        for text in ["python", "python:3.11", "ghcr.io/a/b:1", "team/tool"] {
            let image: ImageRef = text.parse().expect("parses");
            let spellings = image.spellings();
            assert!(spellings.iter().any(|s| s == text), "{text} in {spellings:?}");
            for spelling in spellings {
                assert_eq!(spelling.parse(), Ok(image.clone()), "{spelling}");
            }
        }
    }
}

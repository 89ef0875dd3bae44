//! Names that users give: unique among a tenant's live agents.

use crate::id::looks_like_id;
use crate::source::Rng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// 1–64 of a–z, 0–9, `-`, `_`, `.`; first and last a letter or digit; never
/// in the form of an id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AgentName(String);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("must have 1 to 64 characters")]
    Length,
    #[error("may hold only a-z, 0-9, '-', '_' and '.', and begins and ends with a letter or digit")]
    Characters,
    #[error("must not have the form of an id")]
    LooksLikeId,
}

const ADJECTIVES: [&str; 16] = [
    "amber", "brave", "calm", "deft", "eager", "fair", "glad", "keen", "lucid", "mild", "noble", "quick", "rapid",
    "sharp", "vivid", "wise",
];
const NOUNS: [&str; 16] = [
    "badger", "comet", "delta", "ember", "falcon", "grove", "heron", "ibis", "lynx", "maple", "otter", "pine",
    "quartz", "raven", "spruce", "tern",
];

impl AgentName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name for an agent that came without one: `quick-otter-3f9ac1`.
    pub fn make_up(rng: &dyn Rng) -> Self {
        let mut b = [0u8; 5];
        rng.fill(&mut b);
        let (adjective, noun) = (ADJECTIVES[usize::from(b[0] & 15)], NOUNS[usize::from(b[1] & 15)]);
        Self(format!("{adjective}-{noun}-{:02x}{:02x}{:02x}", b[2], b[3], b[4]))
    }
}

impl FromStr for AgentName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > 64 {
            return Err(NameError::Length);
        }
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let inner = text.bytes().all(|c| plain(c) || matches!(c, b'-' | b'_' | b'.'));
        let edges = text.bytes().next().is_some_and(plain) && text.bytes().last().is_some_and(plain);
        if !inner || !edges {
            return Err(NameError::Characters);
        }
        if looks_like_id(text) {
            return Err(NameError::LooksLikeId);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for AgentName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AgentName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert!("a".parse::<AgentName>().is_ok());
        assert!("my-first_agent.v2".parse::<AgentName>().is_ok());
        assert_eq!("".parse::<AgentName>(), Err(NameError::Length));
        assert_eq!("a".repeat(65).parse::<AgentName>(), Err(NameError::Length));
        for bad in ["-a", "a-", "A", "a b", "a/b", "é", "a\n"] {
            assert_eq!(bad.parse::<AgentName>(), Err(NameError::Characters), "{bad:?}");
        }
        assert_eq!("agtc0aaaaaaaaaaaaaaaa".parse::<AgentName>(), Err(NameError::LooksLikeId));
    }
}

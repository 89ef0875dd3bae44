//! Identifiers: type prefix, cell, 80 random bits in lower-case base 32.
//!
//! They are DNS labels, E2B sandbox ids and topic names, so: lower-case
//! letters and digits only, at most 50 characters. An id tells its type and
//! its cell and nothing else.

use crate::source::Rng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// RFC 4648's base-32 alphabet in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const RANDOM_CHARS: usize = 16;
const MAX_LEN: usize = 50;
/// The cell of a single-cell installation.
pub const DEFAULT_CELL: &str = "c0";

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a valid {kind} id")]
pub struct IdError {
    pub kind: &'static str,
}

fn generate(prefix: &str, cell: &str, rng: &dyn Rng) -> String {
    let mut bytes = [0u8; 10];
    rng.fill(&mut bytes);
    let mut bits = bytes.iter().fold(0u128, |acc, b| acc << 8 | u128::from(*b));
    let mut tail = [0u8; RANDOM_CHARS];
    for slot in tail.iter_mut().rev() {
        *slot = ALPHABET[(bits & 31) as usize];
        bits >>= 5;
    }
    let mut id = String::with_capacity(prefix.len() + cell.len() + RANDOM_CHARS);
    id.push_str(prefix);
    id.push_str(cell);
    id.extend(tail.iter().map(|b| char::from(*b)));
    id
}

fn well_formed(prefix: &str, text: &str) -> bool {
    text.len() <= MAX_LEN
        && text.len() > prefix.len() + RANDOM_CHARS
        && text.starts_with(prefix)
        && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            /// A new random id in `cell`.
            pub fn generate(cell: &str, rng: &dyn Rng) -> Self {
                Self(generate($prefix, cell, rng))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                if well_formed($prefix, text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError { kind: $kind })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(/// An agent.
    AgentId, "agt", "agent");
id!(/// A machine that runs sandboxes.
    NodeId, "nod", "node");
id!(/// An API key.
    KeyId, "key", "key");
id!(/// A principal of a tenant that is no person.
    ServiceAccountId, "sva", "service account");
id!(/// A person who logs in.
    UserId, "usr", "user");
id!(/// A login that can be refreshed.
    SessionId, "ses", "session");
id!(/// A token (its `jti`).
    TokenId, "tok", "token");
id!(/// One exec in an agent.
    ExecId, "exe", "exec");
id!(/// A request, for logs and problem documents.
    RequestId, "req", "request");
id!(/// An event in the outbox.
    EventId, "evt", "event");

/// A tenant: an operator's own slug (`default`, `acme-eu`), 1–50 of a–z, 0–9
/// and `-`, first and last a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TenantId(String);

impl TenantId {
    /// The tenant every installation begins with.
    pub fn default_tenant() -> Self {
        Self("default".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let inner = text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        if text.len() <= MAX_LEN && inner && edge(text.bytes().next()) && edge(text.bytes().last()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError { kind: "tenant" })
        }
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for TenantId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TenantId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether a text has the form of one of our ids: names must not.
pub fn looks_like_id(text: &str) -> bool {
    [
        AgentId::PREFIX,
        NodeId::PREFIX,
        KeyId::PREFIX,
        ServiceAccountId::PREFIX,
        ExecId::PREFIX,
        RequestId::PREFIX,
        EventId::PREFIX,
    ]
    .iter()
    .any(|prefix| well_formed(prefix, text))
}

#[cfg(all(test, feature = "system"))]
mod tests {
    use super::*;
    use crate::source::OsRng;
    use std::collections::BTreeSet;

    #[test]
    fn ten_thousand_ids_differ_and_are_dns_labels() {
        let ids: BTreeSet<_> = (0..10_000).map(|_| AgentId::generate(DEFAULT_CELL, &OsRng)).collect();
        assert_eq!(ids.len(), 10_000);
        for id in ids {
            assert!(id.as_str().len() <= 50 && looks_like_id(id.as_str()));
            assert_eq!(id.as_str().parse(), Ok(id.clone()));
        }
    }

    #[test]
    fn rejects_what_is_not_ours() {
        for bad in ["", "agt", "agtc0short", "AGTC0aaaaaaaaaaaaaaaa", "nodc0aaaaaaaaaaaaaaaa", "agtc0aaaaaaaaaaaaaaa-"]
        {
            assert!(bad.parse::<AgentId>().is_err(), "{bad}");
        }
        for bad in ["", "-a", "a-", "A", "a b", "a/b", &"a".repeat(51)] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad}");
        }
    }
}

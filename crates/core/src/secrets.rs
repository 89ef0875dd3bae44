//! A tenant's secrets as an agent names them: what a name looks like, and
//! where its value is put inside. Pure.
//!
//! Not here: values ([`crate::Secret`]), and where they are kept.

use crate::error::FieldError;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// A value: as much as Linux gives to one variable twice over.
pub const MAX_VALUE_BYTES: usize = 65_536;
pub const MAX_DESCRIPTION: usize = 256;
/// Of one agent.
pub const MAX_REFS: usize = 64;
/// What all secrets of one agent may hold together when they are handed out.
pub const MAX_DELIVERED_BYTES: usize = 1 << 20;
const MAX_NAME: usize = 128;
const MAX_ENV_NAME: usize = 128;
const MAX_PATH: usize = 1024;
/// Of a file that nobody gave a mode: its owner reads it.
pub const DEFAULT_MODE: u32 = 0o400;

/// 1–128 of letters, digits, `_`, `-` and `.`; the first a letter, digit or
/// `_`. Never a path, whatever store it becomes a part of one in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct SecretName(String);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be 1 to 128 letters, digits, '_', '-' and '.', the first a letter, digit or '_'")]
pub struct SecretNameError;

impl SecretName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = SecretNameError;
    fn from_str(text: &str) -> Result<Self, SecretNameError> {
        let first = text.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_');
        let rest = text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.'));
        if first && rest && text.len() <= MAX_NAME { Ok(Self(text.to_owned())) } else { Err(SecretNameError) }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A secret that an agent gets, and where: a variable or a file. A plain name
/// is a variable of that name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SecretRef {
    pub name: String,
    /// The variable that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// The file that holds it: an absolute path inside, in memory, never on a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Of the file, in octal; default 0400. Its owner is the agent's user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// What stands in a request.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum SecretForm {
    Name(String),
    Place(SecretPlace),
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretPlace {
    pub name: String,
    /// The variable that holds it.
    #[serde(default)]
    pub env: Option<String>,
    /// The file that holds it: an absolute path inside, in memory, never on a disk.
    #[serde(default)]
    pub file: Option<String>,
    /// Of the file, in octal; default 0400. Its owner is the agent's user.
    #[serde(default)]
    pub mode: Option<String>,
}

impl SecretRef {
    /// A variable of the secret's own name.
    pub fn named(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { env: Some(name.clone()), name, file: None, mode: None }
    }

    /// Of its file.
    pub fn mode(&self) -> u32 {
        self.mode.as_deref().and_then(parse_mode).unwrap_or(DEFAULT_MODE)
    }

    /// What is wrong with it by itself: the field within it, and how.
    fn wrong(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if let Err(error) = self.name.parse::<SecretName>() {
            wrong.push(("name", error.to_string()));
        }
        match (&self.env, &self.file) {
            (Some(env), None) if !valid_env_name(env) => {
                wrong.push(("env", "must be letters, digits and '_', and begin with no digit".to_owned()));
            }
            (None, Some(file)) if !valid_path(file) => wrong.push((
                "file",
                format!(
                    "must be an absolute path of at most {MAX_PATH} bytes, without '.' and '..', and outside /proc, \
                     /sys and /dev"
                ),
            )),
            (Some(_), Some(_)) => wrong.push(("file", "give env or file, not both".to_owned())),
            (None, None) => wrong.push(("env", "give env or file".to_owned())),
            _ => {}
        }
        match &self.mode {
            Some(_) if self.file.is_none() => wrong.push(("mode", "is of a file".to_owned())),
            Some(mode) if parse_mode(mode).is_none() => {
                wrong.push(("mode", "must be three octal digits, as 0400 or 640".to_owned()));
            }
            _ => {}
        }
        wrong
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = SecretRef;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a secret, or an object of name, env, file and mode")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<SecretRef, E> {
                Ok(SecretRef::named(name))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<SecretRef, A::Error> {
                let place = SecretPlace::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                // Said once more than needed: nothing else has its place.
                let env = if place.file.is_none() { place.env.or_else(|| Some(place.name.clone())) } else { place.env };
                Ok(SecretRef { name: place.name, env, file: place.file, mode: place.mode })
            }
        }
        d.deserialize_any(Either)
    }
}

fn valid_env_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_');
    first && name.len() <= MAX_ENV_NAME && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

fn valid_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let plain = rest.split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255);
    let kernel = ["/proc/", "/sys/", "/dev/"].iter().any(|own| path.starts_with(own));
    plain && !kernel && path.len() <= MAX_PATH && !path.bytes().any(|c| c.is_ascii_control())
}

fn parse_mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
    let octal = digits.len() == 3 && digits.bytes().all(|c| (b'0'..=b'7').contains(&c));
    if octal { u32::from_str_radix(digits, 8).ok() } else { None }
}

/// Everything wrong with an agent's secrets, one entry per field.
pub fn validate_refs(refs: &[SecretRef]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if refs.len() > MAX_REFS {
        errors.push(FieldError::new("secrets", format!("at most {MAX_REFS} entries")));
        return errors;
    }
    let (mut variables, mut files) = (BTreeSet::new(), BTreeSet::new());
    for (i, secret) in refs.iter().enumerate() {
        for (field, message) in secret.wrong() {
            errors.push(FieldError::new(format!("secrets[{i}].{field}"), message));
        }
        if secret.env.as_ref().is_some_and(|env| !variables.insert(env)) {
            errors.push(FieldError::new(format!("secrets[{i}].env"), "two secrets have this variable"));
        }
        if secret.file.as_ref().is_some_and(|file| !files.insert(file)) {
            errors.push(FieldError::new(format!("secrets[{i}].file"), "two secrets have this file"));
        }
    }
    for (i, file) in refs.iter().enumerate().filter_map(|(i, secret)| Some((i, secret.file.as_ref()?))) {
        let within = |other: &&String| file.strip_prefix(other.as_str()).is_some_and(|rest| rest.starts_with('/'));
        if files.iter().any(within) {
            errors.push(FieldError::new(format!("secrets[{i}].file"), "lies within another secret's file"));
        }
    }
    errors
}

/// A variable is the env's or a secret's.
pub fn validate_beside_env(refs: &[SecretRef], env: &BTreeMap<String, String>) -> Vec<FieldError> {
    let clash =
        |secret: &&SecretRef| secret.env.as_ref().is_some_and(|name| valid_env_name(name) && env.contains_key(name));
    let error = |secret: &SecretRef| {
        let name = secret.env.as_deref().unwrap_or_default();
        FieldError::new("env", format!("{name} is a secret's variable already"))
    };
    refs.iter().filter(clash).map(error).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Vec<String> {
        let refs: Vec<SecretRef> = serde_json::from_str(text).expect("parses");
        validate_refs(&refs).into_iter().map(|e| e.field).collect()
    }

    #[test]
    fn a_plain_name_is_a_variable() {
        let refs: Vec<SecretRef> =
            serde_json::from_str(r#"["TOKEN", {"name":"db","env":"DB"}, {"name":"KEY"}]"#).expect("parses");
        assert_eq!(refs[0], SecretRef::named("TOKEN"));
        assert_eq!((refs[1].env.as_deref(), refs[2].env.as_deref()), (Some("DB"), Some("KEY")));
        assert!(validate_refs(&refs).is_empty());
        // What is stored reads back as it was.
        let again: Vec<SecretRef> = serde_json::from_str(&serde_json::to_string(&refs).expect("JSON")).expect("parses");
        assert_eq!(again, refs);
        for bad in [r#"[1]"#, r#"[{"nam":"x"}]"#, r#"[{"env":"X"}]"#, r#"[{"name":"x","value":"y"}]"#] {
            assert!(serde_json::from_str::<Vec<SecretRef>>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_never_paths() {
        for good in ["a", "DB_PASSWORD", "db-password.v2", "_x", "9"] {
            assert!(good.parse::<SecretName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "-a", ".a", "a b", "é", "a\n", &"a".repeat(129)] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn each_wrong_field_is_named() {
        assert_eq!(fields(r#"["a/b"]"#), ["secrets[0].name", "secrets[0].env"]);
        assert_eq!(fields(r#"["db-password"]"#), ["secrets[0].env"], "no variable has such a name");
        assert_eq!(fields(r#"[{"name":"a","env":"A","file":"/a"}]"#), ["secrets[0].file"]);
        assert_eq!(fields(r#"[{"name":"a","mode":"0400"}]"#), ["secrets[0].mode"]);
        assert_eq!(fields(r#"["A",{"name":"b","env":"A"}]"#), ["secrets[1].env"]);
        assert_eq!(fields(r#"[{"name":"a","file":"/r/a"},{"name":"b","file":"/r/a"}]"#), ["secrets[1].file"]);
        assert_eq!(fields(r#"[{"name":"a","file":"/r/a"},{"name":"b","file":"/r/a/b"}]"#), ["secrets[1].file"]);
        for path in ["a", "/", "/a/", "/a//b", "/a/../b", "/./a", "/proc/a", "/dev/shm/a", "/sys/x", "/a\\u0007"] {
            assert_eq!(fields(&format!(r#"[{{"name":"a","file":"{path}"}}]"#)), ["secrets[0].file"], "{path}");
        }
        for mode in ["4", "888", "4755", "0o400", "-400", "00400"] {
            let text = format!(r#"[{{"name":"a","file":"/a","mode":"{mode}"}}]"#);
            assert_eq!(fields(&text), ["secrets[0].mode"], "{mode}");
        }
        let many = format!("[{}]", (0..=MAX_REFS).map(|i| format!("\"A{i}\"")).collect::<Vec<_>>().join(","));
        assert_eq!(fields(&many), ["secrets"]);
    }

    #[test]
    fn modes_are_octal() {
        let of = |mode: Option<&str>| {
            SecretRef { mode: mode.map(str::to_owned), file: Some("/a".into()), ..SecretRef::named("a") }.mode()
        };
        assert_eq!((of(None), of(Some("0440")), of(Some("640"))), (0o400, 0o440, 0o640));
    }

    #[test]
    fn a_variable_has_one_owner() {
        let env = BTreeMap::from([("A".to_owned(), String::new())]);
        assert_eq!(validate_beside_env(&[SecretRef::named("A")], &env).len(), 1);
        assert!(validate_beside_env(&[SecretRef::named("B")], &env).is_empty());
    }
}

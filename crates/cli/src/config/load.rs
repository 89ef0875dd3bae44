//! The four sources, and who wins.

use super::keys::{ALIASES, Config, KEYS, Key, NOT_USED, OTHER_VARIABLES};
use super::setting::Setting;
use crate::args::{Global, SetArgs};
use crate::error::CliError;
use serde_norway::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A configuration is a page or two.
const MAX_FILE: u64 = 1024 * 1024;
const STRUCTURED: &str = "security.oidc";
const SYSTEM_FILE: &str = "/etc/aether/config.yaml";

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Default,
    File(PathBuf),
    Environment(String),
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// What the configuration is read from; a value, so that tests need no
/// process environment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    pub(crate) file: Option<PathBuf>,
    pub(crate) environment: Vec<(String, String)>,
    /// Key, value, and the flag's name.
    pub(crate) flags: Vec<(String, String, String)>,
}

impl Sources {
    /// Those of this process: the file named or found, our variables, and the
    /// flags that set keys.
    pub(crate) fn of_process(
        global: &Global,
        set: &SetArgs,
        more: Vec<(String, String, String)>,
    ) -> Result<Self, CliError> {
        let ours = |name: &str| name.starts_with("AETHER_") || ALIASES.iter().any(|(alias, _)| *alias == name);
        let mut environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| ours(name))
            .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
            .collect();
        environment.sort();
        Ok(Self { file: find_file(global.config.as_deref()), environment, flags: flags(global, set, more)? })
    }
}

fn flags(
    global: &Global,
    set: &SetArgs,
    more: Vec<(String, String, String)>,
) -> Result<Vec<(String, String, String)>, CliError> {
    let mut flags = Vec::new();
    for item in &set.set {
        let Some((key, value)) = item.split_once('=') else {
            return Err(CliError::usage(format!("--set: {item:?} is not KEY=VALUE")));
        };
        flags.push((key.to_owned(), value.to_owned(), "--set".to_owned()));
    }
    let mut push = |key: &str, value: Option<String>, flag: &str| {
        flags.extend(value.map(|v| (key.to_owned(), v, flag.to_owned())));
    };
    let path = |p: &Option<PathBuf>| -> Result<Option<String>, CliError> {
        let Some(path) = p else { return Ok(None) };
        let whole = std::path::absolute(path).map_err(|e| CliError::failed(format!("{}: {e}", path.display())))?;
        Ok(Some(whole.to_string_lossy().into_owned()))
    };
    push("server.state_dir", path(&set.state_dir)?, "--state-dir");
    push("server.run_dir", path(&set.run_dir)?, "--run-dir");
    push("observability.log_level", global.log_level.clone(), "--log-level");
    flags.extend(more);
    Ok(flags)
}

fn find_file(named: Option<&Path>) -> Option<PathBuf> {
    if let Some(named) = named {
        return Some(named.to_owned());
    }
    ["config.yaml", "config/config.yaml", SYSTEM_FILE].iter().map(PathBuf::from).find(|p| p.is_file())
}

/// The texts of all keys that were given, with their sources.
#[derive(Debug, Default)]
pub(crate) struct Values(BTreeMap<String, (String, Source)>);

impl Values {
    pub(super) fn get<T: Setting>(
        &self,
        key: &str,
        default: &str,
        limits: Option<(&str, &str)>,
        errors: &mut Vec<String>,
    ) -> T {
        let own = |text: &str| T::parse(text).expect("defaults and limits are valid, and a test reads them all");
        let Some((text, source)) = self.0.get(key) else { return own(default) };
        let why = match T::parse(text.trim()) {
            Ok(value) => match limits {
                Some((least, most)) if !value.within(&own(least), &own(most)) => format!("must be {least} to {most}"),
                _ => return value,
            },
            Err(why) => match limits {
                Some((least, most)) => format!("{why} (and within {least} to {most})"),
                None => why,
            },
        };
        errors.push(if T::SECRET {
            format!("{key} (from {source}): {why}")
        } else {
            format!("{key} (from {source}): {text:?} {why}")
        });
        own(default)
    }

    /// The text and where it comes from; `None` where the default holds.
    #[cfg(test)]
    pub(super) fn text_of(&self, key: &str) -> Option<&(String, Source)> {
        self.0.get(key)
    }

    /// What is in force of a key.
    pub(super) fn effective(&self, key: &Key) -> (&str, Source) {
        match self.0.get(key.name) {
            Some((text, source)) => (text, source.clone()),
            None => (key.default, Source::Default),
        }
    }

    /// A key with its source, for messages.
    pub(super) fn named(&self, key: &str) -> String {
        let source = self.0.get(key).map_or(Source::Default, |(_, source)| source.clone());
        format!("{key} (from {source})")
    }

    /// Takes over what another has of a key, which may be nothing.
    pub(super) fn copy(&mut self, key: &str, from: &Values) {
        self.0.extend(from.0.get_key_value(key).map(|(key, value)| (key.clone(), value.clone())));
    }

    fn put(&mut self, key: &str, value: String, source: Source) {
        self.0.insert(key.to_owned(), (value, source));
    }
}

/// A configuration that was read and checked.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) values: Values,
    pub(crate) warnings: Vec<String>,
}

/// Reads all sources; the errors name all that is wrong.
pub(crate) fn load(sources: &Sources) -> Result<Loaded, CliError> {
    let mut values = Values::default();
    let mut warnings = Vec::new();
    let mut errors = Vec::new();
    if let Some(file) = &sources.file {
        for (key, value) in read_file(file)? {
            if values.0.contains_key(&key) {
                errors.push(format!("{key} stands twice in the file {}", file.display()));
                continue;
            }
            let source = Source::File(file.clone());
            accept(&mut values, &key, value, source, &mut warnings).unwrap_or_else(|e| errors.push(e));
        }
    }
    read_environment(&sources.environment, &mut values, &mut warnings);
    for (key, value, flag) in &sources.flags {
        let source = Source::Flag(flag.clone());
        accept(&mut values, key, value.clone(), source, &mut warnings).unwrap_or_else(|e| errors.push(e));
    }
    if !errors.is_empty() {
        return Err(CliError::with_remedy(errors.join("\n"), "`aether config show` lists every key."));
    }
    let config = Config::read(&values)?;
    warnings.extend(super::check::check(&config, &values)?);
    Ok(Loaded { config, values, warnings })
}

/// Takes a key from a file or flag, where an unknown one is an error.
fn accept(
    values: &mut Values,
    key: &str,
    value: String,
    source: Source,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    if KEYS.iter().any(|k| k.name == key) {
        values.put(key, value, source);
        return Ok(());
    }
    if NOT_USED.contains(&key) {
        warnings.push(format!("{key} (from {source}) is not used by this version"));
        return Ok(());
    }
    Err(match nearest(key) {
        Some(near) => format!("unknown key {key} (from {source}); did you mean {near}?"),
        None => format!("unknown key {key} (from {source})"),
    })
}

/// Orchestrators inject names of their own, so an unknown one is a warning.
fn read_environment(environment: &[(String, String)], values: &mut Values, warnings: &mut Vec<String>) {
    let long = |key: &str| format!("AETHER_{}", key.to_ascii_uppercase().replace('.', "_"));
    let get = |name: &str| environment.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    for key in KEYS.iter().map(|k| k.name).chain(NOT_USED.iter().copied()) {
        let short = ALIASES.iter().filter(|(_, of)| *of == key).find_map(|(alias, _)| Some((*alias, get(alias)?)));
        let (name, value) = match (get(&long(key)), short) {
            (Some(value), Some((alias, _))) => {
                warnings.push(format!("{alias} and {} are both set: the latter wins", long(key)));
                (long(key), value)
            }
            (Some(value), None) => (long(key), value),
            (None, Some((alias, value))) => (alias.to_owned(), value),
            (None, None) => continue,
        };
        if NOT_USED.contains(&key) {
            warnings.push(format!("{key} (from environment {name}) is not used by this version"));
        } else {
            values.put(key, value, Source::Environment(name));
        }
    }
    let known = |name: &str| {
        OTHER_VARIABLES.contains(&name)
            || ALIASES.iter().any(|(alias, _)| *alias == name)
            || KEYS.iter().map(|k| k.name).chain(NOT_USED.iter().copied()).any(|key| long(key) == name)
    };
    for (name, _) in environment.iter().filter(|(name, _)| !known(name)) {
        let near = KEYS.iter().map(|k| long(k.name)).min_by_key(|long| strsim::levenshtein(name, long));
        let near = near.filter(|long| strsim::levenshtein(name, long) <= 3);
        let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        warnings.push(format!("the variable {name} names no key and is ignored{hint}"));
    }
}

fn nearest(key: &str) -> Option<&'static str> {
    let names = KEYS.iter().map(|k| k.name);
    let scored = names.map(|name| (strsim::damerau_levenshtein(key, name), name));
    let near = scored.min().filter(|(distance, name)| *distance <= name.len().div_ceil(3));
    // A key without its group, or under the wrong one.
    let last = key.rsplit('.').next().unwrap_or(key);
    let same_end = || KEYS.iter().map(|k| k.name).find(|name| name.rsplit('.').next() == Some(last));
    near.map(|(_, name)| name).or_else(same_end)
}

/// The file's keys, dotted, with their values as text.
fn read_file(path: &Path) -> Result<Vec<(String, String)>, CliError> {
    let shown = path.display();
    let cannot = |e: std::io::Error| CliError::failed(format!("cannot read the configuration {shown}: {e}"));
    let file = std::fs::File::open(path).map_err(cannot)?;
    trusted(&file, path)?;
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > MAX_FILE {
        return Err(CliError::failed(format!("the configuration {shown} is larger than 1 MiB")));
    }
    read_text(&text).map_err(|e| CliError::failed(format!("the configuration {shown}{e}")))
}

fn read_text(text: &str) -> Result<Vec<(String, String)>, String> {
    let value: Value = serde_norway::from_str(text).map_err(|e| format!(" is not valid YAML: {e}"))?;
    let mut out = Vec::new();
    flatten(&value, &mut out).map_err(|e| format!(": {e}"))?;
    Ok(out)
}

/// Whoever can write the file decides what root runs.
fn trusted(file: &std::fs::File, path: &Path) -> Result<(), CliError> {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = file.metadata() else { return Ok(()) };
    let own = rustix::process::geteuid().as_raw();
    if (metadata.uid() == 0 || metadata.uid() == own) && metadata.mode() & 0o002 == 0 {
        return Ok(());
    }
    Err(CliError::with_remedy(
        format!("the configuration {} can be written by others", path.display()),
        "It must belong to you or root and not be writable for all: `chown` and `chmod o-w` it.",
    ))
}

fn flatten(value: &Value, out: &mut Vec<(String, String)>) -> Result<(), String> {
    let groups = match value {
        Value::Null => return Ok(()),
        Value::Mapping(groups) => groups,
        _ => return Err("must be groups of keys".to_owned()),
    };
    for (group, keys) in groups {
        let group = group.as_str().ok_or("the name of a group must be text")?;
        let keys = match keys {
            Value::Null => continue,
            Value::Mapping(keys) => keys,
            // Also accepted: `server.address: …` in one line.
            scalar if group.contains('.') => {
                out.extend(scalar_text(group, scalar)?.map(|text| (group.to_owned(), text)));
                continue;
            }
            _ => return Err(format!("{group} must be a group of keys")),
        };
        for (key, value) in keys {
            let key = key.as_str().ok_or_else(|| format!("a key of {group} is not text"))?;
            let name = format!("{group}.{key}");
            out.extend(scalar_text(&name, value)?.map(|text| (name, text)));
        }
    }
    Ok(())
}

/// A scalar or a list of them as the text that the other sources would have.
fn scalar_text(name: &str, value: &Value) -> Result<Option<String>, String> {
    Ok(Some(match value {
        Value::Null => return Ok(None),
        Value::String(text) => text.clone(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        // The one key with entries of its own: as the text of a flag.
        Value::Sequence(items) if name == STRUCTURED && items.iter().any(Value::is_mapping) => {
            serde_json::to_string(value).map_err(|_| format!("{name}: the names of its entries must be text"))?
        }
        Value::Sequence(items) => {
            let mut texts = Vec::new();
            for item in items {
                match scalar_text(name, item)? {
                    Some(text) if !text.contains(',') => texts.push(text),
                    _ => return Err(format!("{name}: a list holds single values without commas")),
                }
            }
            texts.join(",")
        }
        Value::Mapping(_) | Value::Tagged(_) => return Err(format!("{name} must be a single value or a list")),
    }))
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;

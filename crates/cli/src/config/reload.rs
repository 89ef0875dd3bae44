//! What a reload may change of a running configuration: pure, so that every
//! key can be tried. Who applies it is `system::reload`.

use super::check::check;
use super::keys::{Config, KEYS, Key, Reload};
use super::load::{Loaded, Values};
use crate::error::CliError;

/// A reload that may be applied.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What is in force after it: changed where a key allows it, else as the
    /// server was started.
    pub(crate) next: Loaded,
    /// The keys that change, with their old and new values.
    pub(crate) taken: Vec<String>,
    /// Changed in the sources, and only a new start takes them.
    pub(crate) waiting: Vec<&'static str>,
}

/// Sets `new` beside `running`. The mixture of old and new values is checked
/// again: each may be sound alone and together open a door.
pub(crate) fn plan(running: &Loaded, new: &Loaded) -> Result<Plan, CliError> {
    let mut values = Values::default();
    let (mut taken, mut waiting) = (Vec::new(), Vec::new());
    let changed = |key: &Key| running.values.effective(key).0 != new.values.effective(key).0;
    // From plain HTTP to HTTPS and back is a change of what listens.
    let tls_switched = running.config.server.tls_cert.is_some() != new.config.server.tls_cert.is_some();
    for key in KEYS {
        let held = tls_switched && matches!(key.name, "server.tls_cert" | "server.tls_key");
        let live = key.reload == Reload::Live && !held;
        if changed(key) && live {
            taken.push(told(key, running, new));
        } else if changed(key) {
            waiting.push(key.name);
        }
        let from = if live { new } else { running };
        values.copy(key.name, &from.values);
    }
    let fit = Config::read(&values).and_then(|config| Ok((check(&config, &values)?, config)));
    match fit {
        Ok((warnings, config)) => Ok(Plan { next: Loaded { config, values, warnings }, taken, waiting }),
        Err(e) => Err(CliError::failed(format!(
            "it does not fit the values that hold until the next start (of {}): {e}",
            if waiting.is_empty() { "no key".to_owned() } else { waiting.join(", ") },
        ))),
    }
}

fn told(key: &Key, running: &Loaded, new: &Loaded) -> String {
    let (before, _) = running.values.effective(key);
    let (after, source) = new.values.effective(key);
    if key.secret {
        return format!("{} (from {source})", key.name);
    }
    format!("{} {after:?}, was {before:?} (from {source})", key.name)
}

#[cfg(test)]
#[path = "reload_tests.rs"]
mod tests;

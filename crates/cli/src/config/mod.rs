//! Configuration: defaults, then a file, then the environment, then flags.
//! Read and checked whole before anything is opened.
//!
//! - `keys`: every key with its type, default and meaning, in one table
//! - `setting`: how a value is read from text, whatever it comes from
//! - `load`: the four sources, and who wins
//! - `check`: what single values cannot tell
//! - `reload`: what of it may change while a server runs
//! - `show`: `aether config show`, and the page docs/configuration.md

mod check;
mod keys;
mod load;
mod oidc;
#[cfg(feature = "server")]
mod reload;
#[cfg(test)]
pub(crate) mod samples;
mod setting;
mod show;

#[cfg(feature = "server")]
pub(crate) use keys::Config;
#[cfg(all(test, feature = "server"))]
pub(crate) use keys::KEYS;
pub(crate) use load::{Loaded, Sources, load};
#[cfg(feature = "server")]
pub(crate) use reload::{Plan, plan};
#[cfg(feature = "server")]
pub(crate) use setting::{AccelKind, EngineKind, HostPort, Listen, LogFormat, StrategyKind};
pub(crate) use show::show;

use crate::args::{Global, SetArgs};
use crate::client::{Client, Endpoint};
use crate::error::CliError;
use crate::profiles::{Profile, Profiles, default_path};
use aether_core::Secret;

/// Where the server is and who we are: flag, environment, profile, else the
/// local socket of the configuration. A profile's key goes to that profile's
/// server alone.
pub(crate) fn client_settings(global: &Global) -> Result<Client, CliError> {
    let given = global.server.as_deref().filter(|s| !s.is_empty());
    let named = global.profile.as_deref().filter(|s| !s.is_empty());
    if let (Some(_), Some(name)) = (given, named) {
        return Err(CliError::usage(format!("both a server and the profile {name:?} are named: give one")));
    }
    let profile = match given {
        Some(_) => None,
        None => profile(named)?,
    };
    let endpoint = match (given, &profile) {
        (Some(text), _) => Endpoint::parse(text)?,
        (None, Some(profile)) => Endpoint::parse(&profile.server)?,
        (None, None) => Endpoint::Unix(local_socket(global)?),
    };
    let token = global.token.clone().filter(|t| !t.is_empty());
    let token = token.or_else(|| std::env::var("AETHER_API_KEY").ok().filter(|t| !t.is_empty()));
    let kept = profile.and_then(|p| p.token()).map(|t| t.expose().to_owned());
    let token = token.or(kept);
    if let Some(token) = &token
        && !token.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(CliError::usage("the API key has characters that no key has"));
    }
    if token.is_some() && endpoint.exposes_tokens() {
        eprintln!("warning: the API key travels unencrypted to {endpoint}; use https");
    }
    let tenant = global.acting_for.as_deref().filter(|t| !t.is_empty());
    if tenant.is_some_and(|t| t.parse::<aether_core::TenantId>().is_err()) {
        return Err(CliError::usage("--tenant: 1 to 50 of a-z, 0-9 and -, first and last a letter or digit"));
    }
    Ok(Client::new(endpoint, token.map(Secret::new)).acting_for(tenant))
}

fn profile(named: Option<&str>) -> Result<Option<Profile>, CliError> {
    match default_path() {
        Some(path) => Ok(Profiles::read(&path)?.pick(named)?.cloned()),
        None => Profiles::default().pick(named).map(|found| found.cloned()),
    }
}

/// A client needs one path of the configuration. A file that it was not
/// pointed at must not keep it from working: `config.yaml` in the working
/// folder may be another program's.
fn local_socket(global: &Global) -> Result<std::path::PathBuf, CliError> {
    let sources = Sources::of_process(global, &SetArgs::default(), Vec::new())?;
    match load(&sources) {
        Ok(loaded) => Ok(loaded.config.socket()),
        Err(e) if global.config.is_some() => Err(e),
        Err(_) => Ok(load(&Sources { file: None, ..sources })?.config.socket()),
    }
}

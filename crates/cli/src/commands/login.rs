//! `aether login`, `aether logout`, `aether profile`: which server commands
//! talk to, and with which key.

use super::Context;
use crate::args::{LoginArgs, LogoutArgs, ProfileCommand};
use crate::client::{Client, Endpoint};
use crate::error::CliError;
use crate::exec::{read_password, stdin_is_terminal};
use crate::output::{Printer, fields, line};
use crate::profiles::{Profile, Profiles, checked_name, default_path};
use aether_core::Secret;
use aether_core::api::{AgentInfo, LoginInfo, LoginRequest, Page};
use serde::Serialize;
use std::io::Read;
use std::path::PathBuf;

const MAX_KEY: u64 = 16 * 1024;

fn path() -> Result<PathBuf, CliError> {
    default_path().ok_or_else(|| {
        CliError::with_remedy("there is no folder for profiles", "Set HOME or XDG_CONFIG_HOME to an absolute path.")
    })
}

/// A profile as it may be shown.
#[derive(Serialize)]
struct Shown {
    name: String,
    server: String,
    has_key: bool,
    current: bool,
}

/// `tenant`: of the user who logs in.
pub(crate) async fn login(printer: Printer, args: LoginArgs, tenant: Option<String>) -> Result<u8, CliError> {
    let (path, name) = (path()?, checked_name(&args.name)?.to_owned());
    let endpoint = Endpoint::parse(&args.url)?;
    let profiles = Profiles::read(&path)?;
    if endpoint.exposes_tokens() && !args.no_token {
        printer.talk(&format!("warning: the API key travels unencrypted to {endpoint}; use https"));
    }
    if let Some(user) = args.user {
        let password = super::user::password(args.token_stdin, false)?;
        let body = LoginRequest {
            user: Some(user),
            password: Some(password.expose().to_owned()),
            tenant,
            ..LoginRequest::default()
        };
        let (_, login): (_, LoginInfo) = Client::new(endpoint, None).post("/v1/auth/login", &body, &[]).await?;
        let profile = Profile::of_login(args.url.clone(), login, super::show::now());
        return kept(printer, profiles, (name, args.url), profile);
    }
    let token = if args.no_token { None } else { Some(key(args.token_stdin)?) };
    // Asked once, so that what is kept works.
    let context = Context { client: Client::new(endpoint, token.clone()), printer };
    let asked = context.client.get::<Page<AgentInfo>>("/v1/agents?per_page=1").await;
    match asked {
        Ok(_) => {}
        // A key that may do other things is a key.
        Err(e) if e.is_forbidden() => {}
        Err(e) => return Err(e),
    }
    let profile = Profile::new(args.url.clone(), token);
    kept(printer, profiles, (name, args.url), profile)
}

fn kept(
    printer: Printer,
    mut profiles: Profiles,
    (name, server): (String, String),
    profile: Profile,
) -> Result<u8, CliError> {
    let path = path()?;
    let shown = Shown { name: name.clone(), server, has_key: profile.token().is_some(), current: true };
    profiles.profiles.insert(name.clone(), profile);
    profiles.current = Some(name);
    profiles.write(&path)?;
    printer.one(&shown, &shown.name, |s| {
        fields(&[("Profile", s.name.clone()), ("Server", s.server.clone()), ("Kept in", path.display().to_string())])
    })?;
    Ok(0)
}

fn key(from_stdin: bool) -> Result<Secret, CliError> {
    let text = if from_stdin {
        let mut text = String::new();
        let read = std::io::stdin().take(MAX_KEY).read_to_string(&mut text);
        read.map_err(|e| CliError::failed(format!("cannot read the key: {e}")))?;
        text.trim().to_owned()
    } else if stdin_is_terminal() {
        let read = read_password("API key: ");
        read.map_err(|e| CliError::failed(format!("cannot read the key: {e}")))?.trim().to_owned()
    } else {
        return Err(CliError::usage("in a script give the key with --token-stdin"));
    };
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(CliError::usage("the API key is empty or has characters that no key has"));
    }
    Ok(Secret::new(text))
}

pub(crate) async fn logout(printer: Printer, args: LogoutArgs) -> Result<u8, CliError> {
    let path = path()?;
    let mut profiles = Profiles::read(&path)?;
    let Some(name) = args.name.or_else(|| profiles.current.clone()) else {
        return Err(CliError::failed("there is no current profile"));
    };
    profiles.pick(Some(&name))?;
    let login = profiles.profiles.remove(&name).filter(|profile| profile.refresh_token().is_some());
    if profiles.current.as_ref() == Some(&name) {
        profiles.current = None;
    }
    profiles.write(&path)?;
    match login {
        None => printer.talk("The key is forgotten here, not revoked: `aether key revoke` does that."),
        Some(login) => {
            if let Err(e) = super::renew::end(login).await {
                printer.talk(&format!("warning: the login is forgotten here, but was not ended on the server: {e}"));
            }
        }
    }
    line(&name)?;
    Ok(0)
}

pub(crate) fn profile(printer: Printer, command: ProfileCommand) -> Result<u8, CliError> {
    let path = path()?;
    let mut profiles = Profiles::read(&path)?;
    match command {
        ProfileCommand::List => {
            let all: Vec<Shown> = profiles
                .profiles
                .iter()
                .map(|(name, profile)| Shown {
                    name: name.clone(),
                    server: profile.server.clone(),
                    has_key: profile.token().is_some(),
                    current: profiles.current.as_ref() == Some(name),
                })
                .collect();
            let row = |s: &Shown| {
                let yes = |b: bool, word: &str| if b { word.to_owned() } else { String::new() };
                vec![s.name.clone(), s.server.clone(), yes(s.has_key, "yes"), yes(s.current, "*")]
            };
            printer.list(&all, &["NAME", "SERVER", "KEY", "CURRENT"], |s| s.name.clone(), row)?;
        }
        ProfileCommand::Use { name } => {
            profiles.pick(Some(&name))?;
            profiles.current = Some(name.clone());
            profiles.write(&path)?;
            line(&name)?;
        }
        ProfileCommand::Clear => {
            profiles.current = None;
            profiles.write(&path)?;
        }
    }
    Ok(0)
}

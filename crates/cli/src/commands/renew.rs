//! Logins of profiles, renewed before a command when their token is about to
//! end. One command does it while the others wait: a refresh token that is
//! used twice ends the login.

use super::show::now;
use crate::args::Global;
use crate::client::{Client, Endpoint};
use crate::error::CliError;
use crate::profiles::{Profile, Profiles, default_path};
use aether_core::api::{LoginInfo, RefreshRequest};

/// Does nothing where another credential is given, or nothing is due. A server
/// that does not answer is the command's to meet.
pub(crate) async fn renew(global: &Global) -> Result<(), CliError> {
    let given = |text: Option<&str>| text.is_some_and(|t| !t.is_empty());
    let another = given(global.server.as_deref())
        || given(global.token.as_deref())
        || std::env::var("AETHER_API_KEY").is_ok_and(|t| !t.is_empty());
    let Some(path) = default_path().filter(|_| !another) else { return Ok(()) };
    let named = global.profile.as_deref().filter(|name| !name.is_empty());
    if !Profiles::read(&path)?.pick(named)?.is_some_and(|profile| profile.is_due(now())) {
        return Ok(());
    }
    let _lock = Profiles::lock(&path)?;
    let mut profiles = Profiles::read(&path)?;
    let Some(profile) = profiles.pick(named)?.filter(|profile| profile.is_due(now())).cloned() else { return Ok(()) };
    let next = match refreshed(&profile).await {
        Ok(next) => next,
        Err(e) if e.is_unauthorized() => {
            return Err(CliError::with_remedy(
                "the login has ended",
                format!("Log in again: `aether login {} --user NAME`.", profile.server),
            ));
        }
        Err(e) => {
            eprintln!("warning: the login was not renewed: {e}");
            return Ok(());
        }
    };
    let name = named.map(str::to_owned).or_else(|| profiles.current.clone()).unwrap_or_default();
    profiles.profiles.insert(name, next);
    profiles.write(&path)
}

async fn refreshed(profile: &Profile) -> Result<Profile, CliError> {
    let body = RefreshRequest { refresh_token: profile.refresh_token().unwrap_or_default().to_owned() };
    let client = Client::new(Endpoint::parse(&profile.server)?, None);
    let (_, login): (_, LoginInfo) = client.post("/v1/auth/refresh", &body, &[]).await?;
    Ok(Profile::of_login(profile.server.clone(), login, now()))
}

/// On the server: its token is dead, and so is every other one of the login.
pub(super) async fn end(profile: Profile) -> Result<(), CliError> {
    let profile = if profile.is_due(now()) { refreshed(&profile).await? } else { profile };
    Client::new(Endpoint::parse(&profile.server)?, profile.token()).post_empty("/v1/auth/logout").await
}

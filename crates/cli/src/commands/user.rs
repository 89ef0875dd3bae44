//! `aether user` and `aether token`.

use super::show::now;
use super::{Context, each};
use crate::args::{TokenArgs, UserCommand, UserCreateArgs};
use crate::client::{encode, query};
use crate::error::CliError;
use crate::exec::{read_password, stdin_is_terminal};
use crate::output::{ago, fields, line};
use aether_core::Secret;
use aether_core::api::{Page, TokenInfo, TokenRequest, UserInfo, UserPatch, UserRequest};
use std::io::Read;

const MAX_PASSWORD: u64 = 4096;

pub(super) async fn user(context: &Context, command: UserCommand) -> Result<u8, CliError> {
    match command {
        UserCommand::Create(args) => create(context, args).await,
        UserCommand::List => list(context).await,
        UserCommand::Get { user } => {
            let found: UserInfo = context.client.get(&path(&user)?).await?;
            show(context, &found)
        }
        UserCommand::Update { user, role } => {
            change(context, &user, UserPatch { role: Some(role), ..UserPatch::default() }).await?;
            line(&user)?;
            Ok(0)
        }
        UserCommand::Passwd { user, password_stdin } => {
            let password = Some(password(password_stdin, true)?.expose().to_owned());
            change(context, &user, UserPatch { password, ..UserPatch::default() }).await?;
            line(&user)?;
            Ok(0)
        }
        UserCommand::Disable { users } => set_disabled(context, &users, true).await,
        UserCommand::Enable { users } => set_disabled(context, &users, false).await,
        UserCommand::Delete { users } => {
            each(context, &users, |user| async move {
                context.client.delete(&path(&user)?).await?;
                line(&user)
            })
            .await
        }
    }
}

fn path(user: &str) -> Result<String, CliError> {
    if user.is_empty() {
        return Err(CliError::usage("the name or id of the user is empty"));
    }
    Ok(format!("/v1/users/{}", encode(user)))
}

async fn change(context: &Context, user: &str, patch: UserPatch) -> Result<UserInfo, CliError> {
    context.client.patch(&path(user)?, &patch, &[]).await
}

async fn set_disabled(context: &Context, users: &[String], disabled: bool) -> Result<u8, CliError> {
    each(context, users, |user| async move {
        change(context, &user, UserPatch { disabled: Some(disabled), ..UserPatch::default() }).await?;
        line(&user)
    })
    .await
}

async fn create(context: &Context, args: UserCreateArgs) -> Result<u8, CliError> {
    let password = if args.no_password { None } else { Some(password(args.password_stdin, true)?) };
    let password = password.map(|password| password.expose().to_owned());
    let body = UserRequest { name: args.name, role: Some(args.role), password };
    let (_, made): (_, UserInfo) = context.client.post("/v1/users", &body, &[]).await?;
    show(context, &made)
}

async fn list(context: &Context) -> Result<u8, CliError> {
    let mut users: Vec<UserInfo> = Vec::new();
    for page in 1u32.. {
        let parameters = [("page", Some(page.to_string())), ("per_page", Some("100".to_owned()))];
        let answer: Page<UserInfo> = context.client.get(&format!("/v1/users{}", query(&parameters))).await?;
        let last = answer.data.is_empty() || users.len() as u64 + answer.data.len() as u64 >= answer.total;
        users.extend(answer.data);
        if last {
            break;
        }
    }
    let now = now();
    let row = |u: &UserInfo| {
        vec![
            u.id.clone(),
            u.name.clone(),
            u.role.clone(),
            status(u).to_owned(),
            ago(u.created_at, now),
            u.last_login_at.map_or_else(|| "never".to_owned(), |t| ago(t, now)),
        ]
    };
    let header = ["ID", "NAME", "ROLE", "STATUS", "CREATED", "LAST LOGIN"];
    context.printer.list(&users, &header, |u| u.name.clone(), row)?;
    Ok(0)
}

fn status(user: &UserInfo) -> &'static str {
    match (user.disabled, user.has_password) {
        (true, _) => "disabled",
        (false, true) => "active",
        (false, false) => "no password",
    }
}

fn show(context: &Context, user: &UserInfo) -> Result<u8, CliError> {
    context.printer.one(user, &user.id, |u| {
        fields(&[
            ("Id", u.id.clone()),
            ("Name", u.name.clone()),
            ("Role", u.role.clone()),
            ("Status", status(u).to_owned()),
            ("Created", u.created_at.to_string()),
            ("Last login", u.last_login_at.map(|t| t.to_string()).unwrap_or_default()),
        ])
    })?;
    Ok(0)
}

/// From the terminal, where a new one is asked for twice, or from standard
/// input.
pub(super) fn password(from_stdin: bool, new: bool) -> Result<Secret, CliError> {
    let failed = |e: std::io::Error| CliError::failed(format!("cannot read the password: {e}"));
    let text = if from_stdin {
        let mut text = String::new();
        std::io::stdin().take(MAX_PASSWORD).read_to_string(&mut text).map_err(failed)?;
        text.trim_end_matches(['\r', '\n']).to_owned()
    } else if stdin_is_terminal() {
        let text = read_password("Password: ").map_err(failed)?;
        if new && read_password("The same again: ").map_err(failed)? != text {
            return Err(CliError::failed("the two passwords are not the same"));
        }
        text
    } else {
        return Err(CliError::usage("in a script give the password with --password-stdin"));
    };
    if text.is_empty() {
        return Err(CliError::usage("the password is empty"));
    }
    Ok(Secret::new(text))
}

pub(super) async fn token(context: &Context, args: TokenArgs) -> Result<u8, CliError> {
    let Some(key) = context.client.token() else {
        return Err(CliError::with_remedy(
            "there is no API key to exchange",
            "Give one as AETHER_TOKEN, or keep one with `aether login`.",
        ));
    };
    if key.expose().contains('.') {
        return Err(CliError::with_remedy(
            "what is in use is a token already, and a token makes no other",
            "Give an API key as AETHER_TOKEN.",
        ));
    }
    let scopes = (!args.scope.is_empty()).then_some(args.scope);
    let body = TokenRequest { api_key: key.expose().to_owned(), scopes };
    let (_, made): (_, TokenInfo) = context.client.post("/v1/auth/token", &body, &[]).await?;
    context.printer.one(&made, &made.token, |t| format!("{}\n", t.token))?;
    Ok(0)
}

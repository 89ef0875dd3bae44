//! `aether service-account` and `aether role`.

use super::{Context, each};
use crate::args::{RoleArgs, RoleCommand, ServiceAccountCommand};
use crate::client::encode;
use crate::error::CliError;
use crate::output::{ago, fields, line};
use aether_core::api::{RoleInfo, RolePatch, RoleRequest, ServiceAccountInfo, ServiceAccountRequest};
use http::Method;

fn account_path(account: &str, rest: &str) -> Result<String, CliError> {
    if account.is_empty() {
        return Err(CliError::usage("the name of the service account is empty"));
    }
    Ok(format!("/v1/service-accounts/{}{rest}", encode(account)))
}

fn state(account: &ServiceAccountInfo) -> String {
    if account.enabled { "enabled" } else { "disabled" }.to_owned()
}

fn show_account(context: &Context, account: &ServiceAccountInfo) -> Result<u8, CliError> {
    context.printer.one(account, &account.id, |a| {
        fields(&[
            ("Id", a.id.clone()),
            ("Name", a.name.clone()),
            ("Role", a.role.clone()),
            ("State", state(a)),
            ("Keys", a.keys.to_string()),
            ("Created", a.created_at.to_string()),
        ])
    })?;
    Ok(0)
}

pub(super) async fn service_account(context: &Context, command: ServiceAccountCommand) -> Result<u8, CliError> {
    match command {
        ServiceAccountCommand::Create { name, role } => {
            let body = ServiceAccountRequest { name, role: Some(role) };
            let (_, made): (_, ServiceAccountInfo) = context.client.post("/v1/service-accounts", &body, &[]).await?;
            show_account(context, &made)?;
            if context.printer.chatty() {
                let name = &made.name;
                context.printer.talk(&format!("A key for it: aether key create --service-account {name} --name first"));
            }
            Ok(0)
        }
        ServiceAccountCommand::List => list_accounts(context).await,
        ServiceAccountCommand::Get { account } => {
            let account: ServiceAccountInfo = context.client.get(&account_path(&account, "")?).await?;
            show_account(context, &account)
        }
        ServiceAccountCommand::Disable { accounts } => switch(context, &accounts, "/disable").await,
        ServiceAccountCommand::Enable { accounts } => switch(context, &accounts, "/enable").await,
        ServiceAccountCommand::Delete { accounts } => {
            each(context, &accounts, |account| async move {
                context.client.delete(&account_path(&account, "")?).await?;
                line(&account)
            })
            .await
        }
    }
}

async fn list_accounts(context: &Context) -> Result<u8, CliError> {
    let accounts: Vec<ServiceAccountInfo> = context.client.get("/v1/service-accounts").await?;
    let now = super::show::now();
    context.printer.list(
        &accounts,
        &["ID", "NAME", "ROLE", "STATE", "KEYS", "CREATED"],
        |a| a.id.clone(),
        |a| {
            let keys = a.keys.to_string();
            vec![a.id.clone(), a.name.clone(), a.role.clone(), state(a), keys, ago(a.created_at, now)]
        },
    )?;
    Ok(0)
}

async fn switch(context: &Context, accounts: &[String], verb: &str) -> Result<u8, CliError> {
    each(context, accounts, |account| async move {
        context.client.send_whole(Method::POST, &account_path(&account, verb)?, &[], &[]).await?;
        line(&account)
    })
    .await
}

fn role_path(role: &str) -> Result<String, CliError> {
    if role.is_empty() {
        return Err(CliError::usage("the name of the role is empty"));
    }
    Ok(format!("/v1/roles/{}", encode(role)))
}

fn kind(role: &RoleInfo) -> String {
    if role.built_in { "built in" } else { "own" }.to_owned()
}

fn show_role(context: &Context, role: &RoleInfo) -> Result<u8, CliError> {
    context.printer.one(role, &role.name, |r| {
        fields(&[("Name", r.name.clone()), ("Kind", kind(r)), ("Permissions", r.permissions.join(", "))])
    })?;
    Ok(0)
}

pub(super) async fn role(context: &Context, command: RoleCommand) -> Result<u8, CliError> {
    match command {
        RoleCommand::Create(RoleArgs { name, permissions }) => {
            let body = RoleRequest { name, permissions };
            let (_, made): (_, RoleInfo) = context.client.post("/v1/roles", &body, &[]).await?;
            show_role(context, &made)
        }
        RoleCommand::List => {
            let roles: Vec<RoleInfo> = context.client.get("/v1/roles").await?;
            context.printer.list(
                &roles,
                &["NAME", "KIND", "PERMISSIONS"],
                |r| r.name.clone(),
                |r| vec![r.name.clone(), kind(r), r.permissions.join(",")],
            )?;
            Ok(0)
        }
        RoleCommand::Get { role } => {
            let role: RoleInfo = context.client.get(&role_path(&role)?).await?;
            show_role(context, &role)
        }
        RoleCommand::Update(RoleArgs { name, permissions }) => {
            let patch = RolePatch { permissions };
            let role: RoleInfo = context.client.patch(&role_path(&name)?, &patch, &[]).await?;
            show_role(context, &role)
        }
        RoleCommand::Delete { roles } => {
            each(context, &roles, |role| async move {
                context.client.delete(&role_path(&role)?).await?;
                line(&role)
            })
            .await
        }
    }
}

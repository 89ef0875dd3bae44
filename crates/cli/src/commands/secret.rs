//! `aether secret`.

use super::show::now;
use super::{Context, each};
use crate::args::{MasterStep, RotateMasterArgs, SecretCommand, SecretRemoveArgs, SecretRotateArgs, SecretSetArgs};
use crate::client::{encode, query};
use crate::error::CliError;
use crate::exec::{read_password, stdin_is_terminal};
use crate::output::{Spinner, ago, confirmed, fields, line};
use aether_core::api::{
    MasterKeyRequest, MasterKeyState, MasterKeyStep, Page, SecretInfo, SecretRequest, SecretRotation,
};
use aether_core::secrets::MAX_VALUE_BYTES;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io::Read;
use std::path::Path;
use std::time::Duration;
use zeroize::Zeroizing;

/// How often the sealing anew is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const MASTER: &str = "/v1/system/master-key";

pub(super) async fn secret(context: &Context, command: SecretCommand) -> Result<u8, CliError> {
    match command {
        SecretCommand::Set(args) => set(context, args).await,
        SecretCommand::List => list(context).await,
        SecretCommand::Get { secret } => get(context, &secret).await,
        SecretCommand::Rotate(args) => rotate(context, args).await,
        SecretCommand::Rm(args) => remove(context, args).await,
        SecretCommand::RotateMaster(args) => rotate_master(context, args).await,
    }
}

fn path(secret: &str, rest: &str) -> Result<String, CliError> {
    if secret.is_empty() {
        return Err(CliError::usage("the name of the secret is empty"));
    }
    Ok(format!("/v1/secrets/{}{rest}", encode(secret)))
}

async fn set(context: &Context, args: SecretSetArgs) -> Result<u8, CliError> {
    let path = path(&args.name, "")?;
    let value = value(args.from_file.as_deref())?;
    let mut body = SecretRequest { description: args.description, ..SecretRequest::default() };
    match std::str::from_utf8(&value) {
        Ok(text) => body.value = Some(text.to_owned()),
        Err(_) => body.value_base64 = Some(STANDARD.encode(&*value)),
    }
    let set: SecretInfo = context.client.put(&path, &body).await?;
    show(context, &set)
}

/// What was typed or piped ends with a newline that nobody meant; a file is
/// taken as it is.
fn value(file: Option<&Path>) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let mut value = Zeroizing::new(Vec::new());
    let most = MAX_VALUE_BYTES as u64 + 2;
    let cannot = |e: std::io::Error| CliError::failed(format!("cannot read the value: {e}"));
    match file {
        Some(path) => {
            let mut open = std::fs::File::open(path)
                .map_err(|e| CliError::failed(format!("cannot read {}: {e}", path.display())))?
                .take(most);
            open.read_to_end(&mut value).map_err(cannot)?;
        }
        None if stdin_is_terminal() => {
            let typed = Zeroizing::new(read_password("Value: ").map_err(cannot)?);
            value.extend_from_slice(typed.trim_end_matches(['\r', '\n']).as_bytes());
        }
        None => {
            std::io::stdin().take(most).read_to_end(&mut value).map_err(cannot)?;
            if value.last() == Some(&b'\n') {
                value.pop();
            }
        }
    }
    if value.is_empty() || value.len() > MAX_VALUE_BYTES {
        return Err(CliError::usage(format!("the value must be 1 to {MAX_VALUE_BYTES} bytes")));
    }
    Ok(value)
}

async fn list(context: &Context) -> Result<u8, CliError> {
    let mut all: Vec<SecretInfo> = Vec::new();
    for page in 1u32.. {
        let parameters = [("page", Some(page.to_string())), ("per_page", Some("100".to_owned()))];
        let answer: Page<SecretInfo> = context.client.get(&format!("/v1/secrets{}", query(&parameters))).await?;
        let last = answer.data.is_empty() || all.len() as u64 + answer.data.len() as u64 >= answer.total;
        all.extend(answer.data);
        if last {
            break;
        }
    }
    let now = now();
    context.printer.list(
        &all,
        &["NAME", "VERSION", "BACKEND", "UPDATED", "BY", "DESCRIPTION"],
        |s| s.name.clone(),
        |s| {
            vec![
                s.name.clone(),
                s.version.to_string(),
                s.backend.clone(),
                ago(s.updated_at, now),
                s.updated_by.clone(),
                s.description.clone().unwrap_or_default(),
            ]
        },
    )?;
    Ok(0)
}

async fn get(context: &Context, secret: &str) -> Result<u8, CliError> {
    let found: SecretInfo = context.client.get(&path(secret, "")?).await?;
    show(context, &found)
}

async fn rotate(context: &Context, args: SecretRotateArgs) -> Result<u8, CliError> {
    let body = SecretRotation { bytes: Some(args.bytes) };
    let (_, made): (_, SecretInfo) = context.client.post(&path(&args.secret, "/rotate")?, &body, &[]).await?;
    show(context, &made)
}

fn show(context: &Context, secret: &SecretInfo) -> Result<u8, CliError> {
    context.printer.one(secret, &secret.name, |s| {
        let version = |v: &aether_core::api::SecretVersionInfo| {
            format!("{}: {} bytes, {}, {} by {}", v.version, v.bytes, v.backend, v.created_at, v.created_by)
        };
        let versions: Vec<String> = s.versions.iter().map(version).collect();
        fields(&[
            ("Name", s.name.clone()),
            ("Description", s.description.clone().unwrap_or_default()),
            ("Version", s.version.to_string()),
            ("Backend", s.backend.clone()),
            ("Created", format!("{} by {}", s.created_at, s.created_by)),
            ("Updated", format!("{} by {}", s.updated_at, s.updated_by)),
            ("Versions", versions.join("\n")),
        ])
    })?;
    Ok(0)
}

async fn remove(context: &Context, args: SecretRemoveArgs) -> Result<u8, CliError> {
    let question = format!("Delete {} with all versions?", args.secrets.join(", "));
    if !args.yes && stdin_is_terminal() && !confirmed(&question)? {
        return Ok(1);
    }
    each(context, &args.secrets, |secret| async move {
        context.client.delete(&path(&secret, "")?).await?;
        line(&secret)
    })
    .await
}

async fn rotate_master(context: &Context, args: RotateMasterArgs) -> Result<u8, CliError> {
    let step = |step| async move {
        let answer = context.client.post(MASTER, &MasterKeyRequest { step }, &[]).await;
        answer.map(|(_, state): (_, MasterKeyState)| state)
    };
    let state = match args.step {
        Some(MasterStep::Status) => context.client.get(MASTER).await?,
        Some(MasterStep::Add) => step(MasterKeyStep::Add).await?,
        Some(MasterStep::Activate) => step(MasterKeyStep::Activate).await?,
        Some(MasterStep::Drop) => step(MasterKeyStep::Drop).await?,
        None => {
            step(MasterKeyStep::Add).await?;
            let mut state = step(MasterKeyStep::Activate).await?;
            let spinner = Spinner::start(context.printer, "sealing anew");
            while state.left > 0 {
                spinner.say(&format!("sealing anew: {} left", state.left));
                tokio::time::sleep(LOOK_EVERY).await;
                state = context.client.get(MASTER).await?;
            }
            drop(spinner);
            step(MasterKeyStep::Drop).await?
        }
    };
    context.printer.one(&state, &state.left.to_string(), |s| {
        let key = |k: &aether_core::api::MasterKey| format!("{}{}", k.id, if k.active { " (seals)" } else { "" });
        let keys: Vec<String> = s.keys.iter().map(key).collect();
        fields(&[("Keys", keys.join("\n")), ("Sealed with others", s.left.to_string())])
    })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_as_it_is_and_bounded() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("value");
        std::fs::write(&path, b"a\xff\n").expect("writes");
        assert_eq!(value(Some(&path)).expect("read").as_slice(), b"a\xff\n");
        for wrong in [Vec::new(), vec![b'x'; MAX_VALUE_BYTES + 1]] {
            std::fs::write(&path, wrong).expect("writes");
            assert!(value(Some(&path)).is_err());
        }
        assert!(value(Some(&dir.path().join("none"))).is_err());
    }
}

//! Profiles: servers with the keys for them, in the user's config folder.
//!
//! The file has mode 0600 and is refused when others can read it: keys stand
//! in it. It is replaced whole, so that a crash leaves the old one. A key of
//! a profile goes to the server of that profile and to no other.

use crate::client::Endpoint;
use crate::error::CliError;
use aether_core::api::LoginInfo;
use aether_core::{Secret, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MAX_FILE: u64 = 1024 * 1024;
const MAX_NAME: usize = 64;

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Profiles {
    /// Used where the command line names neither a profile nor a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    pub(crate) profiles: BTreeMap<String, Profile>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    pub(crate) server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// Of a login: for the next token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// When the next one is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renew_at: Option<Timestamp>,
}

impl Profile {
    pub(crate) fn new(server: String, token: Option<Secret>) -> Self {
        Self { server, token: token.map(|t| t.expose().to_owned()), refresh_token: None, renew_at: None }
    }

    /// A login that is renewed in the last quarter of its token's time.
    pub(crate) fn of_login(server: String, login: LoginInfo, now: Timestamp) -> Self {
        let renew_at = now.plus(Duration::from_secs(login.expires_in) * 3 / 4);
        Self { server, token: Some(login.token), refresh_token: Some(login.refresh_token), renew_at: Some(renew_at) }
    }

    pub(crate) fn refresh_token(&self) -> Option<&str> {
        self.refresh_token.as_deref()
    }

    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        self.refresh_token.is_some() && self.renew_at.is_none_or(|at| at <= now)
    }

    pub(crate) fn token(&self) -> Option<Secret> {
        self.token.clone().map(Secret::new)
    }
}

/// `$XDG_CONFIG_HOME/aether/profiles.yaml`, else below `~/.config`.
pub(crate) fn default_path() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
    Some(folder.join("aether").join("profiles.yaml"))
}

/// Letters, digits, `-`, `_`, `.`.
pub(crate) fn checked_name(name: &str) -> Result<&str, CliError> {
    let fine = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(fine) {
        return Err(CliError::usage(format!(
            "the name of a profile has 1 to {MAX_NAME} letters, digits, '-', '_' or '.', not {name:?}"
        )));
    }
    Ok(name)
}

impl Profiles {
    /// No file is no profile.
    pub(crate) fn read(path: &Path) -> Result<Self, CliError> {
        let wrong = |why: String| {
            CliError::with_remedy(
                format!("{}: {why}", path.display()),
                "Correct the file, or remove it and log in again with `aether login`.",
            )
        };
        let metadata = match std::fs::metadata(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            other => other.map_err(|e| wrong(format!("cannot be read: {e}")))?,
        };
        if metadata.mode() & 0o077 != 0 {
            return Err(CliError::with_remedy(
                format!("{}: others can read it, and it holds API keys or logins", path.display()),
                format!("Run `chmod 600 {}`; revoke the keys if they may have been read.", path.display()),
            ));
        }
        if metadata.len() > MAX_FILE {
            return Err(wrong("is larger than 1 MiB".to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        // Not the parser's own message: it repeats what stands in the file.
        let parsed: Self =
            serde_norway::from_str(&text).map_err(|e| wrong(format!("is not a file of profiles{}", place(&e))))?;
        for profile in parsed.profiles.values() {
            Endpoint::parse(&profile.server)?;
        }
        Ok(parsed)
    }

    /// Held while a login is renewed: two commands with one refresh token would
    /// end it.
    pub(crate) fn lock(path: &Path) -> Result<std::fs::File, CliError> {
        let beside = path.with_extension("lock");
        let failed = |e: std::io::Error| CliError::failed(format!("cannot lock {}: {e}", beside.display()));
        let file = std::fs::File::options().write(true).create(true).truncate(false).mode(0o600).open(&beside);
        let file = file.map_err(failed)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        Ok(file)
    }

    /// Beside it first, then in its place.
    pub(crate) fn write(&self, path: &Path) -> Result<(), CliError> {
        let failed = |e: std::io::Error| CliError::failed(format!("cannot write {}: {e}", path.display()));
        let folder = path.parent().unwrap_or(Path::new("/"));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let text = serde_norway::to_string(self).map_err(|e| CliError::failed(e.to_string()))?;
        let beside = path.with_extension(format!("new.{}", std::process::id()));
        let written = (|| {
            let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, path)
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        written.map_err(failed)
    }

    /// The profile of this name, or the current one where none is named.
    pub(crate) fn pick(&self, name: Option<&str>) -> Result<Option<&Profile>, CliError> {
        let Some(name) = name.or(self.current.as_deref()) else { return Ok(None) };
        self.profiles.get(name).map(Some).ok_or_else(|| {
            CliError::with_remedy(
                format!("there is no profile {name:?}"),
                "`aether profile list` shows what there is; `aether login --profile NAME` makes one.",
            )
        })
    }
}

fn place(error: &serde_norway::Error) -> String {
    error.location().map(|at| format!(" (line {})", at.line())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn some() -> Profiles {
        let profile = Profile::new("https://a.example".into(), Some(Secret::new("aether_sk_x".to_owned())));
        Profiles { current: Some("prod".into()), profiles: BTreeMap::from([("prod".to_owned(), profile)]) }
    }

    #[test]
    fn what_is_written_is_private_and_read_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a/b/profiles.yaml");
        assert!(Profiles::read(&path).expect("none").profiles.is_empty());
        some().write(&path).expect("writes");
        some().write(&path).expect("writes over it");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(Profiles::read(&path).expect("reads") == some());
        assert_eq!(std::fs::read_dir(path.parent().expect("a folder")).expect("reads").count(), 1);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        let refused = Profiles::read(&path).err().expect("refused").to_string();
        assert!(refused.contains("chmod 600") && !refused.contains("aether_sk_x"), "{refused}");
    }

    #[test]
    fn a_login_is_due_in_its_last_quarter() {
        let (now, text) = (Timestamp::from_unix_ms(1_000_000), |t: &str| t.to_owned());
        let login = LoginInfo { token: text("a.b.c"), refresh_token: text("aether_rt_x"), expires_in: 100 };
        let profile = Profile::of_login("https://a.example".into(), login, now);
        assert!(
            !profile.is_due(now.plus(Duration::from_secs(74))) && profile.is_due(now.plus(Duration::from_secs(75)))
        );
        let key = Profile::new("https://a.example".into(), Some(Secret::new("aether_sk_x")));
        assert!(!key.is_due(now.plus(Duration::from_secs(1 << 30))), "a key is not renewed");
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("profiles.yaml");
        let all = Profiles { current: None, profiles: BTreeMap::from([("a".to_owned(), profile)]) };
        all.write(&path).expect("writes");
        assert!(Profiles::read(&path).expect("reads") == all);
        let held = Profiles::lock(&path).expect("locks");
        drop(held);
        Profiles::lock(&path).expect("locks again");
    }

    #[test]
    fn a_damaged_file_is_refused_without_repeating_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("profiles.yaml");
        for text in [
            "profiles:\n  a:\n    server: x\n    token: s3cr3t\n    more: 1\n",
            "profiles: [s3cr3t]\n",
            "profiles:\n  a:\n    server: \"ftp://x\"\n    token: s3cr3t\n",
        ] {
            std::fs::write(&path, text).expect("writes");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
            let refused = Profiles::read(&path).err().expect("refused").to_string();
            assert!(!refused.contains("s3cr3t"), "{refused}");
        }
    }

    #[test]
    fn the_named_one_wins_over_the_current_one() {
        let all = some();
        assert!(all.pick(None).expect("fine").is_some_and(|p| p.server == "https://a.example"));
        assert!(all.pick(Some("absent")).is_err());
        assert!(Profiles::default().pick(None).expect("fine").is_none());
        assert!(checked_name("a.b-c_1").is_ok());
        for bad in ["", "a b", "a/b", "é", &"a".repeat(65)] {
            assert!(checked_name(bad).is_err(), "{bad}");
        }
    }
}

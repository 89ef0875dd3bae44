//! What the host told us that we are, and what follows from it for each
//! process: environment and folder.

use crate::process::StartError;
use crate::process::users::Account;
use aether_proto::guest::aether::guest::v1::IdentifyResponse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Default)]
pub struct Identity {
    pub agent_id: String,
    pub env: BTreeMap<String, String>,
    pub image_env: BTreeMap<String, String>,
    pub image_workdir: String,
    pub image_user: String,
    /// E2B's token. Kept for those who ask; only the host speaks to us, and
    /// its edge has checked it.
    pub access_token: String,
    pub gateway: Option<std::net::Ipv4Addr>,
    pub interface: String,
    /// The answer given, for a repeat of the same request.
    pub answered: Option<IdentifyResponse>,
}

/// What a process gets.
pub struct Wanted {
    pub env: BTreeMap<String, String>,
    pub cwd: PathBuf,
}

/// `KEY=VALUE`; entries without a key are dropped, as docker does.
pub fn split_env(entries: &[String]) -> BTreeMap<String, String> {
    entries
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Later sources win: defaults, the image, the agent, the request.
pub fn environment(
    identity: &Identity,
    account: &Account,
    request: &BTreeMap<String, String>,
    terminal: bool,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let mut set = |key: &str, value: &str| env.insert(key.to_owned(), value.to_owned());
    set("PATH", PATH);
    set("HOME", &account.home.to_string_lossy());
    set("USER", &account.name);
    set("LOGNAME", &account.name);
    if terminal {
        set("TERM", "xterm-256color");
    }
    for source in [&identity.image_env, &identity.env, request] {
        env.extend(source.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    env
}

/// Whether the account may enter a folder: it and all above it, by their
/// permission bits.
fn may_enter(account: &Account, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let searchable = |dir: &Path| {
        std::fs::metadata(dir).is_ok_and(|found| {
            let bit = if found.uid() == account.uid {
                0o100
            } else if found.gid() == account.gid || account.groups.contains(&found.gid()) {
                0o010
            } else {
                0o001
            };
            found.is_dir() && found.mode() & bit != 0
        })
    };
    account.uid == 0 || path.ancestors().all(searchable)
}

/// The folder asked for, which the user must be able to enter; else the
/// image's, else home, else the root: the first that it can.
pub fn folder(identity: &Identity, account: &Account, asked: Option<&str>) -> Result<PathBuf, StartError> {
    let default = || {
        let workdir = Path::new(&identity.image_workdir);
        if workdir.is_absolute() && workdir.is_dir() && may_enter(account, workdir) {
            workdir.to_owned()
        } else if account.home.is_dir() && may_enter(account, &account.home) {
            account.home.clone()
        } else {
            PathBuf::from("/")
        }
    };
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return Ok(default()) };
    let path = match asked.strip_prefix('~') {
        Some("") => account.home.clone(),
        Some(rest) if rest.starts_with('/') => account.home.join(rest.trim_start_matches('/')),
        _ => default().join(asked),
    };
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() && !may_enter(account, &path) => {
            Err(StartError::Invalid(format!("cwd {asked:?} may not be entered by user {}", account.name)))
        }
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => Err(StartError::Invalid(format!("cwd {asked:?} is not a directory"))),
        Err(_) => Err(StartError::Invalid(format!("cwd {asked:?} does not exist"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_that_the_user_cannot_enter_is_passed_over() {
        use std::os::unix::fs::PermissionsExt;
        let shut = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(shut.path(), std::fs::Permissions::from_mode(0o700)).expect("chmod");
        let home = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let workdir = shut.path().to_string_lossy().into_owned();
        let identity = Identity { image_workdir: workdir.clone(), ..Default::default() };
        let account = Account { name: "x".into(), uid: 4242, gid: 4242, groups: vec![4242], home: home.path().into() };
        assert_eq!(folder(&identity, &account, None), Ok(home.path().into()));
        assert!(matches!(folder(&identity, &account, Some(&workdir)), Err(StartError::Invalid(_))));
        assert_eq!(folder(&identity, &Account::root(), None), Ok(shut.path().into()));
    }

    #[test]
    fn later_sources_win() {
        let identity = Identity {
            image_env: split_env(&["PATH=/image".into(), "A=image".into(), "=x".into(), "broken".into()]),
            env: BTreeMap::from([("A".into(), "agent".into()), ("B".into(), "agent".into())]),
            ..Default::default()
        };
        let request = BTreeMap::from([("B".into(), "request".into())]);
        let env = environment(&identity, &Account::root(), &request, true);
        let got: Vec<&str> = ["PATH", "A", "B", "HOME", "USER", "TERM"].map(|key| env[key].as_str()).to_vec();
        assert_eq!(got, ["/image", "agent", "request", "/root", "root", "xterm-256color"]);
        assert_eq!(env.len(), 7);
    }

    #[test]
    fn a_missing_folder_is_an_error_and_home_expands() {
        let home = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(home.path().join("sub")).expect("mkdir");
        std::fs::write(home.path().join("file"), "").expect("write");
        let account = Account { home: home.path().into(), ..Account::root() };
        let identity = Identity::default();
        assert_eq!(folder(&identity, &account, None), Ok(home.path().into()));
        assert_eq!(folder(&identity, &account, Some("~/sub")), Ok(home.path().join("sub")));
        assert_eq!(folder(&identity, &account, Some("sub")), Ok(home.path().join("sub")));
        for wrong in ["/no/such", "~/file"] {
            assert!(matches!(folder(&identity, &account, Some(wrong)), Err(StartError::Invalid(_))), "{wrong}");
        }
    }
}

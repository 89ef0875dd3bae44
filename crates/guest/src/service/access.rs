//! Whose hands file work is done with: the user's own, by the file-system
//! identity of the one thread that does it.

use crate::identity::Identity;
use crate::process::StartError;
use crate::process::users::{self, Account};
use crate::sys;
use base64::Engine as _;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Restores root's identity on the thread, which goes back to a pool.
struct Borrowed;

impl Drop for Borrowed {
    fn drop(&mut self) {
        if sys::thread_identity(0, 0, &[0]).is_err() {
            // A pool thread with a stranger's identity must not live on.
            std::process::abort();
        }
    }
}

/// Runs `work` on the current thread as `account`. For blocking threads only.
pub fn act_as<T>(account: &Account, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let change = account.uid != 0 && nix::unistd::geteuid().is_root();
    let _borrowed = if change {
        let guard = Borrowed;
        sys::thread_identity(account.uid, account.gid, &account.groups)?;
        Some(guard)
    } else {
        None
    };
    work()
}

/// Like [`act_as`], on a blocking thread of its own.
pub async fn blocking_as<T: Send + 'static>(
    account: Account,
    work: impl FnOnce(&Account) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let task = tokio::task::spawn_blocking(move || act_as(&account, || work(&account)));
    task.await.unwrap_or_else(|_| Err(io::Error::other("the work was interrupted")))
}

/// The user of `authorization: Basic base64("user:")`, as E2B's clients send.
pub fn basic_user(header: Option<&http::HeaderValue>) -> Option<String> {
    let value = header?.to_str().ok()?;
    let (scheme, coded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(coded.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let user = text.split_once(':').map_or(text.as_str(), |(user, _)| user);
    Some(user.to_owned()).filter(|user| !user.is_empty())
}

/// The account named, else the image's, else E2B's `user` if there is one,
/// else root.
pub fn account(identity: &Identity, named: Option<&str>) -> Result<Account, StartError> {
    let root = Path::new("/");
    match named {
        Some(name) => users::find(root, name),
        None if !identity.image_user.is_empty() => users::find(root, &identity.image_user),
        None => users::find(root, "user").or_else(|_| users::find(root, "root")),
    }
}

/// Absolute; from the user's home (or the image's workdir) when relative;
/// `~` expands. `..` is taken literally by the kernel, as the user.
pub fn resolve(identity: &Identity, account: &Account, path: &str) -> io::Result<PathBuf> {
    if path.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path holds a NUL"));
    }
    let base = || {
        let workdir = Path::new(&identity.image_workdir);
        if workdir.is_absolute() { workdir.to_owned() } else { account.home.clone() }
    };
    let full = match path.strip_prefix('~') {
        Some("") => account.home.clone(),
        Some(rest) if rest.starts_with('/') => account.home.join(rest.trim_start_matches('/')),
        _ => base().join(path),
    };
    // Without `.` and doubled slashes, so that answers show one spelling.
    Ok(full.components().filter(|part| !matches!(part, Component::CurDir)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_from_headers() {
        let header = |text: &str| http::HeaderValue::from_str(text).ok();
        assert_eq!(basic_user(header("Basic cm9vdDo=").as_ref()), Some("root".into()));
        assert_eq!(basic_user(header("basic dXNlcg==").as_ref()), Some("user".into()));
        for wrong in ["Bearer x", "Basic !!", "Basic Og=="] {
            assert_eq!(basic_user(header(wrong).as_ref()), None, "{wrong}");
        }
    }

    #[test]
    fn paths() {
        let identity = Identity::default();
        let account = Account { home: "/home/user".into(), ..Account::root() };
        let shown = |path: &str| resolve(&identity, &account, path).map(|path| path.display().to_string()).ok();
        assert_eq!(shown("/a//b/./c").as_deref(), Some("/a/b/c"));
        assert_eq!(shown("x").as_deref(), Some("/home/user/x"));
        assert_eq!(shown("~").as_deref(), Some("/home/user"));
        assert_eq!(shown("~/y").as_deref(), Some("/home/user/y"));
        assert_eq!(shown("a\0b"), None);
    }
}

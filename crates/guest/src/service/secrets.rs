//! Secrets as files: in a memory filesystem of their own, bound over the paths
//! that the agent's spec names. Nothing of them comes to the disk but empty
//! files where the image has none.

use crate::process::users::{self, Account};
use aether_proto::guest::aether::guest::v1::SecretFile;
use nix::mount::{MsFlags, mount};
use nix::unistd::{Gid, Uid, fchown};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Under `/run`, which is memory already; of root alone.
const STORE: &str = "/run/.aether-secrets";

/// Writes the files, each for its owner, and puts them in their places.
pub(super) fn place(files: &[SecretFile], image_user: &str) -> io::Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(STORE)?;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), STORE, Some("tmpfs"), plain, Some("mode=700,size=4m"))?;
    for (number, file) in files.iter().enumerate() {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.path));
        let held = Path::new(STORE).join(number.to_string());
        let owner = if file.owner.is_empty() { image_user } else { &file.owner };
        let account = users::find(Path::new("/"), owner);
        let account = account.map_err(|error| named(io::Error::other(error.to_string())))?;
        write(&held, file, &account).map_err(named)?;
        let target = Path::new(&file.path);
        make_room(target).map_err(named)?;
        mount(Some(&held), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|e| named(e.into()))?;
    }
    Ok(())
}

/// Readable by nobody else at any moment: its mode comes last.
fn write(path: &Path, file: &SecretFile, account: &Account) -> io::Result<()> {
    let mut made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    made.write_all(&file.data)?;
    fchown(&made, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))?;
    made.set_permissions(fs::Permissions::from_mode(file.mode & 0o777))
}

/// A file to mount over, and the folders above it.
fn make_room(target: &Path) -> io::Result<()> {
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::metadata(target) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "something that is no file is there")),
        Err(_) => fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(target).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_owner_and_mode() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("0");
        let file = SecretFile { data: b"x".to_vec(), mode: 0o4440, ..Default::default() };
        let own =
            Account { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw(), ..Account::root() };
        write(&path, &file, &own).expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"x");
        assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o7777, 0o440);
        assert!(write(&path, &file, &own).is_err(), "never over another");
    }

    #[test]
    fn room_is_made_and_folders_are_not_covered() {
        let dir = tempfile::tempdir().expect("a folder");
        let target = dir.path().join("a/b/secret");
        make_room(&target).expect("made");
        make_room(&target).expect("is there");
        assert_eq!(fs::metadata(&target).expect("is there").len(), 0);
        assert!(make_room(&dir.path().join("a/b")).is_err());
    }
}

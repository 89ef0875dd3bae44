//! Users and groups of the image, read from its own files: a static
//! executable has no NSS.

use super::StartError;
use std::path::{Path, PathBuf};

/// Whom a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, the primary one included.
    pub groups: Vec<u32>,
    pub home: PathBuf,
}

impl Account {
    pub fn root() -> Self {
        Self { name: "root".into(), uid: 0, gid: 0, groups: vec![0], home: "/root".into() }
    }
}

/// Larger files are not read: the image is not ours.
const FILE_LIMIT: u64 = 4 * 1024 * 1024;

fn read(root: &Path, name: &str) -> String {
    use std::io::Read;
    let Ok(file) = std::fs::File::open(root.join(name)) else { return String::new() };
    let mut bytes = Vec::new();
    let _ = file.take(FILE_LIMIT).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Finds `name`, `uid`, `name:group` or `uid:gid`; empty means root.
pub fn find(root: &Path, spec: &str) -> Result<Account, StartError> {
    let spec = if spec.is_empty() { "root" } else { spec };
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let passwd = read(root, "etc/passwd");
    let groups = read(root, "etc/group");
    let mut account = find_user(&passwd, user).ok_or_else(|| StartError::Invalid(format!("unknown user {user:?}")))?;
    match group {
        Some(group) => {
            account.gid =
                find_group(&groups, group).ok_or_else(|| StartError::Invalid(format!("unknown group {group:?}")))?;
            account.groups = vec![account.gid];
        }
        None => account.groups = memberships(&groups, &account),
    }
    Ok(account)
}

/// The name of a uid, or its number.
pub fn user_name(root: &Path, uid: u32) -> String {
    entries(&read(root, "etc/passwd"), 3)
        .find(|fields| fields[2].parse() == Ok(uid))
        .map_or_else(|| uid.to_string(), |fields| fields[0].to_owned())
}

pub fn group_name(root: &Path, gid: u32) -> String {
    entries(&read(root, "etc/group"), 3)
        .find(|fields| fields[2].parse() == Ok(gid))
        .map_or_else(|| gid.to_string(), |fields| fields[0].to_owned())
}

fn entries(text: &str, at_least: usize) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(move |fields| fields.len() >= at_least)
}

fn find_user(passwd: &str, user: &str) -> Option<Account> {
    let number = user.parse::<u32>().ok();
    let named = entries(passwd, 6)
        .find(|fields| fields[0] == user)
        .or_else(|| entries(passwd, 6).find(|fields| number.is_some() && fields[2].parse().ok() == number));
    if let Some(fields) = named {
        let home = if fields[5].is_empty() { "/" } else { fields[5] };
        return Some(Account {
            name: fields[0].to_owned(),
            uid: fields[2].parse().ok()?,
            gid: fields[3].parse().ok()?,
            groups: Vec::new(),
            home: home.into(),
        });
    }
    if user == "root" {
        // An image without /etc/passwd (scratch) still has a root.
        return Some(Account { groups: Vec::new(), home: "/".into(), ..Account::root() });
    }
    // A number needs no entry; it has no name and no home. The last two mean
    // "leave alone" to the kernel.
    let uid = number.filter(|uid| *uid < u32::MAX - 1)?;
    Some(Account { name: user.to_owned(), uid, gid: 0, groups: Vec::new(), home: "/".into() })
}

fn find_group(groups: &str, group: &str) -> Option<u32> {
    entries(groups, 3)
        .find(|fields| fields[0] == group)
        .and_then(|fields| fields[2].parse().ok())
        .or_else(|| group.parse().ok().filter(|gid| *gid < u32::MAX - 1))
}

fn memberships(groups: &str, account: &Account) -> Vec<u32> {
    let mut found = vec![account.gid];
    for fields in entries(groups, 4) {
        let member = fields[3].split(',').any(|name| name.trim() == account.name);
        if let (true, Ok(gid)) = (member, fields[2].parse::<u32>())
            && !found.contains(&gid)
            && found.len() < 64
        {
            found.push(gid);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(dir.path().join("etc")).expect("mkdir");
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\nuser:x:1000:1001:,,,:/home/user:/bin/bash\n";
        std::fs::write(dir.path().join("etc/passwd"), passwd).expect("write");
        let group = "root:x:0:\nuser:x:1001:\nsudo:x:27:user,other\ndocker:x:99:other\n";
        std::fs::write(dir.path().join("etc/group"), group).expect("write");
        dir
    }

    #[test]
    fn by_name_by_number_and_with_groups() {
        let dir = image();
        let user = find(dir.path(), "user").expect("user");
        assert_eq!((user.uid, user.gid, user.groups.as_slice()), (1000, 1001, &[1001, 27][..]));
        assert_eq!(user.home, Path::new("/home/user"));
        assert_eq!(find(dir.path(), "1000").expect("number").name, "user");
        let other = find(dir.path(), "user:docker").expect("with group");
        assert_eq!((other.gid, other.groups), (99, vec![99]));
        let free = find(dir.path(), "4242:4343").expect("numbers");
        assert_eq!((free.uid, free.gid, free.home.as_path()), (4242, 4343, Path::new("/")));
        assert_eq!(find(dir.path(), "").expect("default").uid, 0);
    }

    #[test]
    fn unknown_ones_are_named() {
        let dir = image();
        assert_eq!(find(dir.path(), "ghost"), Err(StartError::Invalid("unknown user \"ghost\"".into())));
        assert_eq!(find(dir.path(), "user:ghost"), Err(StartError::Invalid("unknown group \"ghost\"".into())));
        assert!(find(dir.path(), "4294967295").is_err());
        assert!(find(dir.path(), "-1").is_err());
    }

    #[test]
    fn an_empty_image_has_a_root() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(find(dir.path(), "root").expect("root").uid, 0);
        assert_eq!(user_name(dir.path(), 7), "7");
    }
}

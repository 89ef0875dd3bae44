use super::*;
use proptest::prelude::*;

/// Writes the name and the link's target raw, as an attacker would.
fn entry(builder: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o640);
    header.set_size(data.len() as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000);
    let bytes = header.as_old_mut();
    bytes.name[..name.len()].copy_from_slice(name.as_bytes());
    bytes.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, data).expect("appended");
}

fn archive(entries: &[(EntryType, &str, &str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, link, data) in entries {
        entry(&mut builder, *kind, name, link, data);
    }
    builder.into_inner().expect("finished")
}

fn account() -> Account {
    Account { uid: nix::unistd::geteuid().as_raw(), ..Account::root() }
}

const FILE: EntryType = EntryType::Regular;
const LINK: EntryType = EntryType::Symlink;
const FOLDER: EntryType = EntryType::Directory;

#[test]
fn out_and_in_again() {
    let from = tempfile::tempdir().expect("a temporary folder");
    let top = from.path().join("top");
    fs::create_dir_all(top.join("a/b")).expect("mkdir");
    fs::write(top.join("a/b/file"), b"hello").expect("write");
    fs::set_permissions(top.join("a/b/file"), fs::Permissions::from_mode(0o750)).expect("chmod");
    fs::set_permissions(top.join("a/b"), fs::Permissions::from_mode(0o555)).expect("chmod");
    std::os::unix::fs::symlink("b/file", top.join("a/link")).expect("symlink");
    std::os::unix::fs::symlink("/usr/bin/python3", top.join("a/python")).expect("symlink");
    std::os::unix::fs::symlink("../../../up", top.join("a/up")).expect("symlink");
    fs::write(top.join("x".repeat(180)), b"long").expect("write");
    let (sender, mut receiver) = mpsc::channel(1024);
    pack(&top, &root_name(&top), &sender).expect("packed");
    drop(sender);
    let mut bytes = Vec::new();
    while let Some(piece) = receiver.blocking_recv() {
        bytes.extend_from_slice(&piece.expect("a piece"));
    }
    let to = tempfile::tempdir().expect("a temporary folder");
    unpack(to.path(), &account(), &bytes[..]).expect("unpacked");
    let copy = to.path().join("top");
    assert_eq!(fs::read(copy.join("a/link")).expect("through the link"), b"hello");
    for (link, target) in [("a/python", "/usr/bin/python3"), ("a/up", "../../../up")] {
        assert_eq!(fs::read_link(copy.join(link)).expect("a link"), Path::new(target));
    }
    assert_eq!(fs::metadata(copy.join("a/b/file")).expect("stat").mode() & 0o7777, 0o750);
    assert_eq!(fs::metadata(copy.join("a/b")).expect("stat").mode() & 0o7777, 0o555);
    assert_eq!(fs::read(copy.join("x".repeat(180))).expect("long name"), b"long");
    fs::set_permissions(copy.join("a/b"), fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::set_permissions(top.join("a/b"), fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn nothing_leads_out() {
    let outside = tempfile::tempdir().expect("a temporary folder");
    let secret = outside.path().join("secret");
    fs::write(&secret, b"untouched").expect("write");
    let out = outside.path().to_string_lossy().into_owned();
    let (absolute, below) = (format!("{out}/secret"), format!("d{out}/secret"));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("absolute name", archive(&[(FILE, &absolute, "", b"evil")])),
        ("dot dot", archive(&[(FILE, "a/../../evil", "", b"evil")])),
        ("absolute link", archive(&[(LINK, "l", &out, b""), (FILE, "l/secret", "", b"evil")])),
        ("relative link", archive(&[(LINK, "l", "../..", b""), (FILE, "l/evil", "", b"evil")])),
        ("folder at a link", archive(&[(LINK, "l", &out, b""), (FOLDER, "l", "", b""), (FILE, "l/secret", "", b"")])),
        ("hard link through a link", archive(&[(LINK, "l", &out, b""), (EntryType::Link, "h", "l/secret", b"")])),
        (
            "link of a link",
            archive(&[(LINK, "l", &out, b""), (EntryType::Link, "h", "l", b""), (FILE, "h/x", "", b"")]),
        ),
        ("hard link out", archive(&[(EntryType::Link, "h", &absolute, b"")])),
        ("hard link up", archive(&[(EntryType::Link, "h", "../secret", b"")])),
        ("device", archive(&[(EntryType::Char, "null", "", b"")])),
        ("fifo", archive(&[(EntryType::Fifo, "fifo", "", b"")])),
        ("a link that was there", archive(&[(FILE, &below, "", b"evil")])),
        ("a hard link to what a link that was there leads to", archive(&[(EntryType::Link, "h", &below, b"")])),
    ];
    for (what, bytes) in cases {
        let root = tempfile::tempdir().expect("a temporary folder");
        std::os::unix::fs::symlink("/", root.path().join("d")).expect("symlink");
        let error = unpack(root.path(), &account(), &bytes[..]).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{what}: {error}");
        assert_eq!(fs::read(&secret).expect("read"), b"untouched", "{what}");
        assert_eq!(fs::read_dir(outside.path()).expect("list").count(), 1, "{what}");
    }
}

#[test]
fn a_link_in_the_way_is_replaced_not_followed() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let outside = tempfile::NamedTempFile::new().expect("a temporary file");
    std::os::unix::fs::symlink(outside.path(), root.path().join("f")).expect("symlink");
    unpack(root.path(), &account(), &archive(&[(FILE, "f", "", b"new")])[..]).expect("unpacked");
    assert!(fs::symlink_metadata(root.path().join("f")).expect("stat").is_file());
    assert_eq!(fs::read(outside.path()).expect("read"), b"");
}

#[test]
fn links_that_were_there_are_followed_inside_and_the_archives_own_never() {
    let root = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir_all(root.path().join("usr/lib")).expect("mkdir");
    std::os::unix::fs::symlink("usr/lib", root.path().join("lib")).expect("symlink");
    let bytes = archive(&[
        (FILE, "lib/file", "", b"x"),
        (EntryType::Link, "hard", "lib/file", b""),
        (LINK, "a/l", "b", b""),
        (FILE, "a/l", "", b"no link any more"),
        (FILE, "a/b/file", "", b"y"),
        (LINK, "a/up", "../a/b", b""),
    ]);
    unpack(root.path(), &account(), &bytes[..]).expect("unpacked");
    assert_eq!(fs::read(root.path().join("usr/lib/file")).expect("read"), b"x");
    assert_eq!(fs::metadata(root.path().join("hard")).expect("stat").nlink(), 2);
    assert_eq!(fs::read(root.path().join("a/up/file")).expect("read"), b"y");
    let bytes = archive(&[(LINK, "a/in", "b", b""), (FILE, "a/in/second", "", b"z")]);
    let error = unpack(root.path(), &account(), &bytes[..]).expect_err("through its own link");
    assert_eq!(error.to_string(), "a/in/second: a link of the archive is on the way");
    assert!(!root.path().join("a/b/second").exists());
}

#[test]
fn a_truncated_archive_is_an_error() {
    let whole = archive(&[(FILE, "f", "", &[7; 3000])]);
    let root = tempfile::tempdir().expect("a temporary folder");
    assert!(unpack(root.path(), &account(), &whole[..1000]).is_err());
}

proptest! {
    #[test]
    fn any_name_and_any_link_stay_beneath(
        entries in proptest::collection::vec((0usize..4, "[a-c./]{1,12}", "[a-c./]{0,12}"), 1..12),
    ) {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let root = parent.path().join("root");
        fs::create_dir(&root).expect("mkdir");
        fs::write(parent.path().join("a"), b"witness").expect("write");
        let kinds = [FILE, LINK, EntryType::Link, FOLDER];
        for (kind, name, link) in &entries {
            let bytes = archive(&[(kinds[*kind], name, link, b"")]);
            let _ = unpack(&root, &account(), &bytes[..]);
        }
        let left: Vec<_> = fs::read_dir(parent.path()).expect("list").flatten().map(|entry| entry.file_name()).collect();
        prop_assert_eq!(left.len(), 2);
        prop_assert_eq!(fs::read(parent.path().join("a")).expect("read"), b"witness");
        prop_assert_eq!(fs::metadata(parent.path().join("a")).expect("stat").nlink(), 1);
    }

    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let root = tempfile::tempdir().expect("a temporary folder");
        let _ = unpack(root.path(), &account(), &bytes[..]);
    }
}

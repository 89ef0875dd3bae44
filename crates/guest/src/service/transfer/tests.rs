use super::*;
use nix::mount::{MsFlags, mount};
use std::os::unix::fs::FileExt;

/// A folder and one on another file system.
fn two() -> (tempfile::TempDir, tempfile::TempDir) {
    let here = tempfile::tempdir().expect("a folder");
    let there = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let device = |dir: &tempfile::TempDir| fs::metadata(dir.path()).expect("stat").dev();
    assert_ne!(device(&here), device(&there), "two file systems");
    (here, there)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .expect("list")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("stat").mode() & 0o7777
}

#[test]
fn a_tree_arrives_whole_and_is_gone_from_where_it_was() {
    let (here, there) = two();
    let top = here.path().join("top");
    fs::create_dir_all(top.join("a/b")).expect("mkdir");
    fs::write(top.join("a/file"), b"hello").expect("write");
    fs::hard_link(top.join("a/file"), top.join("a/b/same")).expect("link");
    symlink("/nowhere", top.join("a/link")).expect("symlink");
    nix::unistd::mkfifo(&top.join("fifo"), Mode::S_IRUSR).expect("mkfifo");
    fs::set_permissions(top.join("fifo"), fs::Permissions::from_mode(0o620)).expect("chmod");
    xattr::set(top.join("a"), "user.e2b.key", b"value")
        .expect("tests need extended attributes in the temporary folder");
    let root = nix::unistd::geteuid().is_root();
    if root {
        fs::set_permissions(top.join("a/file"), fs::Permissions::from_mode(0o755)).expect("chmod");
        std::os::unix::fs::chown(top.join("a/file"), Some(4242), Some(4343)).expect("chown");
        lchown(top.join("a/link"), Some(4242), Some(4343)).expect("chown");
    }
    fs::set_permissions(top.join("a/file"), fs::Permissions::from_mode(0o4751)).expect("chmod");
    let old = TimeSpec::new(1_000_000, 500);
    let at = |path: &Path| {
        utimensat(nix::fcntl::AT_FDCWD, path, &old, &old, UtimensatFlags::NoFollowSymlink).expect("times");
    };
    for path in ["a/file", "a/link", "fifo", "a/b"] {
        at(&top.join(path));
    }
    fs::set_permissions(top.join("a/b"), fs::Permissions::from_mode(0o1500)).expect("chmod");

    let to = there.path().join("moved");
    rename(&top, &to).expect("moved");
    assert!(!top.exists(), "gone");
    assert_eq!(names(there.path()), ["moved"], "no other name is left");
    assert_eq!(fs::read(to.join("a/b/same")).expect("read"), b"hello");
    let stat = |path: &str| fs::symlink_metadata(to.join(path)).expect("stat");
    assert_eq!((stat("a/file").ino(), stat("a/file").nlink()), (stat("a/b/same").ino(), 2), "one file, two names");
    assert_eq!(fs::read_link(to.join("a/link")).expect("a link"), Path::new("/nowhere"));
    assert!(stat("fifo").file_type().is_fifo());
    assert_eq!((mode(&to.join("fifo")), mode(&to.join("a/b"))), (0o620, 0o1500));
    assert_eq!(mode(&to.join("a/file")), 0o4751);
    for path in ["a/file", "a/link", "fifo", "a/b"] {
        assert_eq!((stat(path).mtime(), stat(path).mtime_nsec()), (1_000_000, 500), "{path}");
    }
    if root {
        for path in ["a/file", "a/link"] {
            assert_eq!((stat(path).uid(), stat(path).gid()), (4242, 4343), "{path}");
        }
    }
    // To memory and back: where the kernel keeps them there, attributes come along.
    if xattr::set(&to, "user.probe", b"").is_ok() {
        assert_eq!(xattr::get(to.join("a"), "user.e2b.key").expect("read").as_deref(), Some(&b"value"[..]));
    }
    fs::set_permissions(to.join("a/b"), fs::Permissions::from_mode(0o700)).expect("chmod");
}

#[test]
fn holes_stay_holes() {
    let (here, there) = two();
    let file = File::create(here.path().join("sparse")).expect("create");
    file.write_all_at(b"middle", 64 << 20).expect("write");
    file.set_len(256 << 20).expect("extend");
    let to = there.path().join("sparse");
    rename(&here.path().join("sparse"), &to).expect("moved");
    let moved = fs::metadata(&to).expect("stat");
    assert_eq!(moved.len(), 256 << 20);
    assert!(moved.blocks() * 512 < 1 << 20, "{} blocks", moved.blocks());
    let mut bytes = [0; 6];
    File::open(&to).expect("open").read_exact_at(&mut bytes, 64 << 20).expect("read");
    assert_eq!(&bytes, b"middle");
}

#[test]
fn what_rename_refuses_is_refused_and_nothing_is_changed() {
    let (here, there) = two();
    fs::write(here.path().join("file"), b"new").expect("write");
    fs::create_dir_all(here.path().join("folder/sub")).expect("mkdir");
    fs::write(there.path().join("file"), b"old").expect("write");
    fs::create_dir_all(there.path().join("full/sub")).expect("mkdir");
    fs::create_dir(there.path().join("empty")).expect("mkdir");
    let moved =
        |from: &str, to: &str| rename(&here.path().join(from), &there.path().join(to)).map_err(|error| error.kind());
    assert_eq!(moved("file", "full"), Err(ErrorKind::IsADirectory));
    assert_eq!(moved("folder", "file"), Err(ErrorKind::NotADirectory));
    assert_eq!(moved("folder", "full"), Err(ErrorKind::DirectoryNotEmpty));
    assert_eq!(moved("missing", "x"), Err(ErrorKind::NotFound));
    assert_eq!(
        (names(here.path()), names(there.path())),
        (vec!["file".to_owned(), "folder".to_owned()], vec!["empty".to_owned(), "file".to_owned(), "full".to_owned()])
    );
    // And what it allows is done.
    assert_eq!(moved("file", "file"), Ok(()));
    assert_eq!(fs::read(there.path().join("file")).expect("read"), b"new");
    assert_eq!(moved("folder", "empty"), Ok(()));
    assert_eq!(names(&there.path().join("empty")), ["sub"]);
    assert_eq!(names(here.path()), [""; 0]);
}

#[test]
fn a_copy_that_fails_leaves_the_source_and_no_rest() {
    let (here, there) = two();
    let mut deep = here.path().join("top");
    for _ in 0..=DEPTH {
        deep.push("d");
    }
    fs::create_dir_all(&deep).expect("mkdir");
    let error = rename(&here.path().join("top"), &there.path().join("top")).expect_err("too deep");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(deep.exists());
    assert_eq!(names(there.path()), [""; 0]);
}

/// In a mount namespace of its own: needs root, as the guest itself.
#[test]
fn a_folder_of_the_image_moves_under_an_overlay() {
    let work = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a namespace: tests of mounts need root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private");
        let dir = tempfile::tempdir().expect("a folder");
        let base = dir.path();
        mount(Some("tmpfs"), base, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a tmpfs");
        for folder in ["lower/lib/sub", "upper", "work", "root"] {
            fs::create_dir_all(base.join(folder)).expect("mkdir");
        }
        fs::write(base.join("lower/lib/sub/file"), b"of the image").expect("write");
        let layers = format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", base.display());
        let root = base.join("root");
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str())).expect("an overlay");
        let (from, to) = (root.join("lib"), root.join("usr"));
        assert_eq!(fs::rename(&from, &to).map_err(|error| error.kind()), Err(ErrorKind::CrossesDevices), "as it is");
        rename(&from, &to).expect("moved");
        assert_eq!(fs::read(to.join("sub/file")).expect("read"), b"of the image");
        assert_eq!(names(&root), ["usr"]);
        // A mount inside stays where it is, and so does all around it.
        fs::create_dir(to.join("mnt")).expect("mkdir");
        mount(Some("tmpfs"), &to.join("mnt"), Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a tmpfs");
        let error = rename(&to, &base.join("elsewhere")).expect_err("a mount inside");
        assert!(error.to_string().contains("another file system is mounted at"), "{error}");
        let error = rename(&to, &to.join("mnt/self")).expect_err("into itself");
        assert!(error.to_string().contains("into itself"), "{error}");
        assert_eq!(names(&to), ["mnt", "sub"]);
    };
    std::thread::Builder::new().spawn(work).expect("a thread").join().expect("it holds");
}

use super::*;
use std::os::unix::fs::PermissionsExt;

const CREATE: EventType = EventType::EVENT_TYPE_CREATE;
const WRITE: EventType = EventType::EVENT_TYPE_WRITE;
const REMOVE: EventType = EventType::EVENT_TYPE_REMOVE;
const RENAME: EventType = EventType::EVENT_TYPE_RENAME;
const CHMOD: EventType = EventType::EVENT_TYPE_CHMOD;

fn watched(recursive: bool) -> (tempfile::TempDir, Tree) {
    let dir = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(dir.path().join("sub/deep")).expect("mkdir");
    let options = Options { recursive, include_entry: false };
    let tree = Tree::open(dir.path().to_owned(), options).expect("watched");
    (dir, tree)
}

fn seen(tree: &mut Tree) -> Vec<(String, EventType)> {
    assert!(tree.take().expect("taken"), "all of it");
    let known = |event: FilesystemEvent| (event.name, event.r#type.as_known().expect("a known kind"));
    std::mem::take(&mut tree.ready).into_iter().map(known).collect()
}

fn told(events: &[(&str, EventType)]) -> Vec<(String, EventType)> {
    events.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect()
}

#[test]
fn each_kind_of_event_is_told_by_a_relative_name() {
    let (dir, mut tree) = watched(false);
    let path = |name: &str| dir.path().join(name);
    assert_eq!(seen(&mut tree), []);
    fs::write(path("a"), b"x").expect("write");
    assert_eq!(seen(&mut tree), told(&[("a", CREATE), ("a", WRITE)]));
    fs::set_permissions(path("a"), fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::rename(path("a"), path("b")).expect("rename");
    fs::remove_file(path("b")).expect("remove");
    assert_eq!(seen(&mut tree), told(&[("a", CHMOD), ("a", RENAME), ("b", CREATE), ("b", REMOVE)]));
    fs::write(path("sub/inner"), b"").expect("write");
    assert_eq!(seen(&mut tree), [], "not beneath it");
}

#[test]
fn entries_come_with_events_when_asked_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = Options { include_entry: true, ..Default::default() };
    let mut tree = Tree::open(dir.path().to_owned(), options).expect("watched");
    fs::write(dir.path().join("a"), b"four").expect("write");
    assert!(tree.take().expect("taken"));
    fs::remove_file(dir.path().join("a")).expect("remove");
    assert!(tree.take().expect("taken"));
    let sizes: Vec<_> = tree.ready.iter().map(|event| event.entry.as_option().map(|entry| entry.size)).collect();
    assert_eq!(sizes, [Some(4), Some(4), None]);
}

#[test]
fn folders_beneath_are_followed_as_they_come_and_go() {
    let (dir, mut tree) = watched(true);
    let outside = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    fs::write(path("sub/deep/file"), b"").expect("write");
    assert_eq!(seen(&mut tree), told(&[("sub/deep/file", CREATE)]));
    // Made before anyone could watch it: found, and told once.
    fs::create_dir_all(path("new/er")).expect("mkdir");
    fs::write(path("new/er/file"), b"").expect("write");
    assert_eq!(seen(&mut tree), told(&[("new", CREATE), ("new/er", CREATE), ("new/er/file", CREATE)]));
    fs::remove_file(path("new/er/file")).expect("remove");
    fs::write(path("new/er/file"), b"").expect("write");
    assert_eq!(seen(&mut tree), told(&[("new/er/file", REMOVE), ("new/er/file", CREATE)]));
    // Renamed: known by its new name.
    fs::rename(path("new"), path("sub/old")).expect("rename");
    assert_eq!(seen(&mut tree), told(&[("new", RENAME), ("sub/old", CREATE)]));
    fs::write(path("sub/old/er/more"), b"").expect("write");
    assert_eq!(seen(&mut tree), told(&[("sub/old/er/more", CREATE)]));
    // Moved out: not ours any more.
    let left = outside.path().join("left");
    fs::rename(path("sub/old"), &left).expect("rename");
    assert_eq!(seen(&mut tree), told(&[("sub/old", RENAME)]));
    fs::write(left.join("er/unseen"), b"").expect("write");
    assert_eq!(seen(&mut tree), []);
    fs::remove_dir_all(path("sub")).expect("remove");
    let mut last = seen(&mut tree);
    last.retain(|(_, kind)| *kind == REMOVE);
    assert_eq!(last, told(&[("sub/deep/file", REMOVE), ("sub/deep", REMOVE), ("sub", REMOVE)]));
    assert_eq!(tree.folders.len(), 1, "the root alone");
}

#[test]
fn a_link_is_not_followed_beneath() {
    let outside = tempfile::tempdir().expect("a folder");
    let (dir, mut tree) = watched(true);
    std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).expect("symlink");
    assert_eq!(seen(&mut tree), told(&[("link", CREATE)]));
    fs::write(outside.path().join("unseen"), b"").expect("write");
    assert_eq!(seen(&mut tree), []);
}

#[test]
fn what_is_no_folder_is_refused() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let open = |path: &Path| Tree::open(path.to_owned(), Options::default()).map(drop).map_err(|error| error.kind());
    assert_eq!(open(file.path()), Err(ErrorKind::NotADirectory));
    assert_eq!(open(Path::new("/no/such")), Err(ErrorKind::NotFound));
}

/// More than the kernel keeps, before anybody reads.
#[test]
fn an_overflow_is_said() {
    let (dir, mut tree) = watched(false);
    let most: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("read").trim().parse().expect("a number");
    for n in 0..=most / 2 + 1 {
        let file = dir.path().join(n.to_string());
        fs::write(&file, b"").expect("write");
        fs::remove_file(&file).expect("remove");
    }
    let lost = loop {
        match tree.take() {
            Ok(false) => tree.ready.clear(),
            other => break other,
        }
    };
    assert!(matches!(lost, Err(Ended::Lost)), "{lost:?}");
}

#[tokio::test]
async fn a_watcher_waits_and_ends_with_its_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().join("root");
    fs::create_dir(&root).expect("mkdir");
    let mut watcher = Watcher::open(Account::root(), root.clone(), Options::default()).await.expect("watched");
    let short = std::time::Duration::from_millis(100);
    assert!(tokio::time::timeout(short, watcher.ready()).await.is_err(), "nothing yet");
    fs::write(root.join("a"), b"").expect("write");
    watcher.ready().await;
    assert_eq!(watcher.take().await.expect("taken").len(), 1);
    assert!(tokio::time::timeout(short, watcher.ready()).await.is_err(), "nothing more");
    fs::remove_dir_all(&root).expect("remove");
    let mut last = Vec::new();
    let end = async {
        loop {
            watcher.ready().await;
            match watcher.take().await {
                Ok(events) => last.extend(events.into_iter().map(|event| event.name)),
                Err(ended) => return ended,
            }
        }
    };
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), end).await.expect("it ends");
    assert!(matches!(ended, Ended::Gone), "{ended:?}");
    assert_eq!(last, ["a", "."]);
}
